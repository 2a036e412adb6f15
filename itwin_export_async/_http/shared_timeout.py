"""Time limits of many requests, with one timer for all of them.

A timer of its own costs each request 13 us of CPU, a twelfth of what aiohttp costs
(benchmarks/request_cpu.py). Few requests reach their limit, so one timer waits for the earliest
deadline, and finds most of its requests finished.
"""

import asyncio


class SharedTimeout:
    """Ends blocks of `asyncio.timeout(None)` at their deadlines."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._deadlines: dict[asyncio.Timeout, float] = {}
        self._timer: asyncio.TimerHandle | None = None

    def add(self, timeout: asyncio.Timeout, deadline: float) -> None:
        """End the block at `deadline`, in the loop's time. `remove` has to follow."""
        self._deadlines[timeout] = deadline
        if self._timer is None or deadline < self._timer.when():
            self._schedule(deadline)

    def remove(self, timeout: asyncio.Timeout) -> None:
        """The block is left. The timer stays: the next request would need it again."""
        self._deadlines.pop(timeout, None)

    def close(self) -> None:
        """Cancel the timer."""
        if self._timer is not None:
            self._timer.cancel()

    def _schedule(self, deadline: float) -> None:
        self.close()
        self._timer = self._loop.call_at(deadline, self._on_timer)

    def _on_timer(self) -> None:
        self._timer, now = None, self._loop.time()
        for timeout in [t for t, deadline in self._deadlines.items() if deadline <= now]:
            self.remove(timeout)
            timeout.reschedule(now)
        if self._deadlines:
            self._schedule(min(self._deadlines.values()))
