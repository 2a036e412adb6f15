"""An event loop in which waiting takes no time.

Whenever nothing is left to do but to wait for a timer, the loop's clock jumps to that timer. What
goes on outside of the loop takes real time, and meanwhile the clock stands still: a job in a
thread, as by `asyncio.to_thread`, or a socket that may become readable. Even then a timer that is
really reached goes off, so that a limit on such a wait holds.
"""

import asyncio
import selectors
from collections.abc import Callable, Coroutine
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import suppress
from typing import Any, TypeVar

T = TypeVar("T")


class _JumpingSelector(selectors.DefaultSelector):
    """A selector that moves the time on instead of waiting.

    `outside` is what the loop waits for beside its timers and sockets.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.outside: set[object] = set()

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """What is ready, now or once the time has moved on."""
        may_be_woken = bool(self.outside) or len(self.get_map()) > 1  # one is the loop's own
        ready = super().select(timeout if may_be_woken else 0)
        if not ready:
            if timeout is None and not may_be_woken:
                raise RuntimeError("deadlock: every task waits, and nothing is left to wake one")
            self.now += timeout or 0.0
        return ready


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """An event loop whose time starts at 0 and jumps to the next timer when nothing is ready.

    Raises `RuntimeError` instead of waiting for ever when nothing can wake it again.
    """

    def __init__(self) -> None:
        self._waits = _JumpingSelector()
        self._threads: Executor | None = None
        super().__init__(self._waits)

    def time(self) -> float:
        """Seconds of virtual time since the loop was made."""
        return self._waits.now

    def run_in_executor(  # type: ignore[override]
        self, executor: Executor | None, func: Callable[..., T], *args: Any
    ) -> asyncio.Future[T]:
        """As in every loop; until the job is done the time stands still."""
        job = (executor or self._default_threads()).submit(func, *args)
        self._waits.outside.add(job)
        future = asyncio.wrap_future(job, loop=self)
        job.add_done_callback(self._job_done)  # after the future's own, which delivers the result
        return future

    def set_default_executor(  # type: ignore[override]
        self, executor: ThreadPoolExecutor
    ) -> None:
        """As in every loop."""
        self._threads = executor
        super().set_default_executor(executor)

    async def shutdown_default_executor(self, timeout: float | None = None) -> None:
        """As in every loop; takes the time its jobs need, whatever `timeout` says."""
        self._waits.outside.add(self)
        try:
            await super().shutdown_default_executor()
        finally:
            self._waits.outside.discard(self)

    def _default_threads(self) -> Executor:
        if self._threads is None:
            self.set_default_executor(ThreadPoolExecutor(thread_name_prefix="virtual-time"))
        assert self._threads is not None
        return self._threads

    def _job_done(self, job: Future[Any]) -> None:
        with suppress(RuntimeError):  # the loop was closed while the job went on
            self.call_soon_threadsafe(self._waits.outside.discard, job)


def run_virtual(main: Coroutine[Any, Any, T]) -> T:
    """What the coroutine returns, run in a virtual-time loop of its own."""
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        return runner.run(main)
