"""The gate that every request of a session goes through: the rate limit, and the pause after a 429.

A 429 means everybody: after it all requests wait, then one goes ahead as a probe, and the rest
follow once that was not refused too.
"""

import asyncio
import logging
from math import inf
from typing import Protocol, TypeAlias, runtime_checkable

from itwin_export_async._http.rate_limit import Line, RateLimit, Windows

log = logging.getLogger(__name__)


class Places(Protocol):
    """What there is room for, as `Windows` tells it."""

    def free_at(self, now: float) -> float | None: ...
    def begin(self) -> None: ...
    def end(self, now: float, *, counted: bool = True) -> None: ...
    def rate(self, now: float) -> float: ...
    def room(self, now: float) -> int | None: ...


class RequestLimiter:
    """Lets requests through as soon as the rate limit and the service allow, polls more rarely."""

    def __init__(self, windows: Places, at_once: int) -> None:
        self._loop = asyncio.get_running_loop()
        self._free = at_once  # how many more may be under way
        self._windows = windows
        self._line: Line[asyncio.Future[bool | None]] = Line()
        self._patience: dict[asyncio.Future[bool | None], float] = {}  # of those in the line
        self._paused_until = 0.0
        self._probing = False
        self._is_clear = True  # False from a 429 until a probe was not refused
        self._alarm: asyncio.TimerHandle | None = None

    @property
    def pause_left(self) -> float:
        """Seconds until the pause after a 429 is over; 0 when there is none."""
        left = self._paused_until - self._loop.time()
        return left if left > 0 else 0.0

    @property
    def rate(self) -> float:
        """Calls a second that may be spent, as things stand now; infinite without a limit."""
        return self._windows.rate(self._loop.time())

    @property
    def room(self) -> int | None:
        """How many calls may go now, None without a limit."""
        return self._windows.room(self._loop.time())

    def pause(self, seconds: float) -> None:
        """After a 429: nobody goes for so long, and then one alone."""
        until = self._loop.time() + seconds
        if until > self._paused_until:
            log.warning("the service refuses calls (429): pausing all for %.1f s", seconds)
            self._paused_until = until
        self._is_clear = False
        self._send_away()
        self._admit()

    async def enter(self, *, is_poll: bool, patience: float = inf) -> bool | None:
        """Wait for the turn to go, and say whether it goes as a probe. `leave` has to follow.

        None, and nothing to leave, where a pause after a 429 has more than `patience` seconds left.
        """
        if not self._line and self._may_go():
            return self._begin()
        if self.pause_left > patience:
            return None
        turn: asyncio.Future[bool | None] = self._loop.create_future()
        self._patience[turn] = patience
        self._line.join(turn, is_poll=is_poll)
        self._admit()
        try:
            return await turn
        except asyncio.CancelledError:
            self._line.leave(turn)
            is_probe = None if turn.cancelled() or turn.exception() else turn.result()
            if is_probe is not None:  # it was let in, but it is gone
                self.leave(is_probe=is_probe, counted=False, clears=False)
            raise
        finally:
            del self._patience[turn]

    def leave(self, *, is_probe: bool, counted: bool, clears: bool) -> None:
        """A request has come to its end.

        `counted`: the service may have counted it. `clears`: it was answered, and not with a 429.
        """
        self._free += 1
        self._windows.end(self._loop.time(), counted=counted)
        if is_probe:
            self._probing = False
            self._is_clear = self._is_clear or clears
        self._admit()

    async def close(self) -> None:
        """Turn away whoever waits."""
        self._turn_away()
        if self._alarm is not None:
            self._alarm.cancel()

    def _send_away(self) -> None:
        """Whoever has less patience than the pause lasts leaves the line."""
        left = self.pause_left
        for turn in [turn for turn in self._line if self._patience[turn] < left]:
            self._line.leave(turn)
            if not turn.done():
                turn.set_result(None)

    def _turn_away(self) -> None:
        for turn in self._line:
            if not turn.done():
                turn.set_exception(self._refusal())
        self._line = Line()

    def _refusal(self) -> RuntimeError:
        return RuntimeError("the client was closed")

    def _begin(self) -> bool:
        self._free -= 1
        self._windows.begin()
        self._probing = not self._is_clear
        return self._probing

    def _may_go(self) -> bool:
        now = self._loop.time()
        if self._probing or not self._free or now < self._paused_until:
            return False
        return self._windows.free_at(now) == now

    def _admit(self) -> None:
        """Let in whoever may go, and look again when the next may."""
        if not self._line:
            return
        while self._line and self._may_go():
            turn = self._line.next()
            if not turn.done():
                turn.set_result(self._begin())
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None
        if not self._line or self._probing or not self._free:
            return  # whoever leaves looks again
        free = self._windows.free_at(self._loop.time())
        if free is not None:
            self._alarm = self._loop.call_at(max(free, self._paused_until), self._admit)


@runtime_checkable
class SharedRateLimit(Protocol):
    """A rate limit that several clients keep together."""

    def create_limiter(self, at_once: int) -> RequestLimiter:
        """The gate of one of them; it is closed by who opened it."""


RateLimitLike: TypeAlias = RateLimit | SharedRateLimit


def create_limiter(limit: RateLimitLike, at_once: int) -> RequestLimiter:
    """The gate of a session that has at most so many requests under way."""
    if isinstance(limit, RateLimit):
        return RequestLimiter(Windows(limit), at_once)
    return limit.create_limiter(at_once)
