"""An event loop with virtual time.

When only timers are left to wait for, the loop's clock jumps to the next timer. Work outside of the
loop takes real time, and the clock stands still meanwhile: a job in a thread, as by
`asyncio.to_thread`, or a socket that may become readable. A timer that is reached in real time
fires even then, so that a timeout on such a wait holds.
"""

import asyncio
import selectors
from collections.abc import Callable, Coroutine
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import suppress
from typing import Any, TypeVar

T = TypeVar("T")


class _JumpingSelector(selectors.DefaultSelector):
    """A selector that advances the time instead of waiting.

    `outside` holds the jobs that the loop waits for besides its timers and sockets.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.outside: set[object] = set()

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """Return what is ready, now or after the time was advanced."""
        may_be_woken = bool(self.outside) or len(self.get_map()) > 1  # one is the loop's own
        ready = super().select(timeout if may_be_woken else 0)
        if not ready:
            if timeout is None and not may_be_woken:
                raise RuntimeError(
                    "deadlock: all tasks wait, and nothing is left that can wake one"
                )
            self.now += timeout or 0.0
        return ready


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """An event loop whose time starts at 0 and jumps to the next timer when nothing is ready.

    Raises `RuntimeError` for a deadlock: nothing is left that can wake a task. For pytest-asyncio,
    let a loop factory return it.
    """

    def __init__(self) -> None:
        self._waits = _JumpingSelector()
        self._threads: Executor | None = None
        super().__init__(self._waits)

    def time(self) -> float:
        """Return the seconds of virtual time since the loop was created."""
        return self._waits.now

    def run_in_executor(  # type: ignore[override]
        self, executor: Executor | None, func: Callable[..., T], *args: Any
    ) -> asyncio.Future[T]:
        """As in every loop. Time stands still until the job is done."""
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
        """As in every loop, but waits for all jobs: `timeout` is ignored."""
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
        with suppress(RuntimeError):  # the loop was closed before the job ended
            self.call_soon_threadsafe(self._waits.outside.discard, job)


def run_virtual(main: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine in a virtual-time loop of its own and return its result.

    Raises `RuntimeError` in a running loop, as in an async test, and closes the coroutine.
    """
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        pass  # none is running
    else:
        main.close()
        raise RuntimeError(
            "virtual time needs a loop of its own, and a loop is running: write the test as a "
            "plain `def`, or await the coroutine with `emulator.run_seconds = 0`"
        )
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        return runner.run(main)
