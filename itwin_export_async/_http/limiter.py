"""The limiter that every API request of a session passes: the rate limit, and pauses after a 429.

A 429 pauses all requests. After the pause one probe is sent; the others resume unless it is refused
too. A pause is waited for here and nowhere else.
"""

import asyncio
import logging
from math import inf
from typing import Protocol, TypeAlias, runtime_checkable

from attrs import frozen

from itwin_export_async._http.rate_limit import (
    RateLimit,
    RequestQueue,
    SlidingWindows,
)

log = logging.getLogger("itwin_export_async.http")

LONG_WAIT = 10.0  # seconds in the queue after which a warning is due
WARNING_INTERVAL = 60.0  # seconds between two such warnings


class Quota(Protocol):
    """The calls that may be made, such as those of `SlidingWindows`."""

    def next_free_at(self, now: float) -> float | None: ...
    def start_call(self) -> None: ...
    def finish_call(self, now: float, *, counted: bool = True) -> None: ...
    def sustainable_rate(self, now: float) -> float: ...
    def remaining(self, now: float) -> int | None: ...


@frozen
class _Waiter:
    """What the limiter knows of a waiting request."""

    max_pause: float
    queued_at: float


class RequestLimiter:
    """Admits requests as the quota and pauses allow, at most `max_concurrent` at once."""

    def __init__(self, quota: Quota, max_concurrent: int) -> None:
        self._loop = asyncio.get_running_loop()
        self._quota = quota
        self._free_slots = max_concurrent
        self._queue: RequestQueue[asyncio.Future[bool | None]] = RequestQueue()
        self._waiters: dict[asyncio.Future[bool | None], _Waiter] = {}
        self._paused_until = 0.0
        self._probing = False
        self._recovered = True  # False from a 429 until a probe has succeeded
        self._timer: asyncio.TimerHandle | None = None
        self._warning_timer: asyncio.TimerHandle | None = None
        self._warned_at = -inf

    @property
    def pause_left(self) -> float:
        """Seconds until the pause after a 429 ends; 0 without one."""
        if not self._paused_until:
            return 0.0
        left = self._paused_until - self._loop.time()
        return left if left > 0 else 0.0

    @property
    def sustainable_rate(self) -> float:
        """Calls per second that may be made; infinite without a limit."""
        return self._quota.sustainable_rate(self._loop.time())

    @property
    def remaining(self) -> int | None:
        """How many calls may start now; None without a limit."""
        return self._quota.remaining(self._loop.time())

    def pause(self, seconds: float) -> None:
        """After a 429: admit no request for so many seconds, and then one probe."""
        until = self._loop.time() + seconds
        if until > self._paused_until:
            self._paused_until = until
        self._recovered = False
        self._reject_impatient()
        self._admit_waiters()

    def acquire_now(self) -> bool | None:
        """Take a slot if one is free and no request waits. Returns as `acquire`; None without."""
        if self._waiters or not self._has_capacity():
            return None
        return self._take_slot()

    async def acquire(self, *, is_poll: bool, max_pause: float = inf) -> bool | None:
        """Wait for a slot; returns whether the request is a probe. `release` has to follow.

        Returns None, without a slot, if a pause after a 429 has more than `max_pause` seconds left.
        """
        is_probe = self.acquire_now()
        if is_probe is not None:
            return is_probe
        if self.pause_left > max_pause:
            return None
        waiter: asyncio.Future[bool | None] = self._loop.create_future()
        self._waiters[waiter] = _Waiter(max_pause, self._loop.time())
        self._queue.push(waiter, is_poll=is_poll)
        self._admit_waiters()
        if self._warning_timer is None:
            self._warning_timer = self._loop.call_later(LONG_WAIT, self._warn_of_long_wait)
        try:
            return await waiter
        except asyncio.CancelledError:
            self._queue.remove(waiter)
            is_probe = None if waiter.cancelled() or waiter.exception() else waiter.result()
            if is_probe is not None:  # admitted and cancelled at the same moment
                self.release(is_probe=is_probe, counted=False, succeeded=False)
            raise
        finally:
            del self._waiters[waiter]
            if not self._waiters:
                assert self._warning_timer is not None  # since the first of them came
                self._warning_timer.cancel()
                self._warning_timer = None

    def release(self, *, is_probe: bool, counted: bool, succeeded: bool) -> None:
        """Return the slot of a request that has finished.

        `counted`: the service may have counted it. `succeeded`: it got a response, and no 429.
        """
        self._free_slots += 1
        self._quota.finish_call(self._loop.time(), counted=counted)
        if is_probe:
            self._probing = False
            # a success during a later pause says nothing about the time after it
            self._recovered = self._recovered or (succeeded and not self.pause_left)
        self._admit_waiters()

    async def close(self) -> None:
        """Reject all waiters."""
        self._reject_all()
        self._cancel_timer()

    def _reject_impatient(self) -> None:
        """Reject waiters whose `max_pause` is shorter than the pause."""
        left = self.pause_left
        for waiter in [w for w in self._queue if self._waiters[w].max_pause < left]:
            self._queue.remove(waiter)
            if not waiter.done():
                waiter.set_result(None)

    def _reject_all(self) -> None:
        for waiter in self._queue:
            if not waiter.done():
                waiter.set_exception(self._closed_error())
        self._queue = RequestQueue()

    def _closed_error(self) -> RuntimeError:
        return RuntimeError("the client was closed")

    def _take_slot(self) -> bool:
        self._free_slots -= 1
        self._quota.start_call()
        self._probing = not self._recovered
        return self._probing

    def _has_capacity(self) -> bool:
        now = self._loop.time()
        if self._probing or not self._free_slots or now < self._paused_until:
            return False
        return self._quota.next_free_at(now) == now

    def _admit_waiters(self) -> None:
        """Admit as many waiters as there is capacity for, and schedule the next check."""
        if not self._waiters:
            return
        while self._queue and self._has_capacity():
            waiter = self._queue.pop()
            if not waiter.done():
                waiter.set_result(self._take_slot())
        self._cancel_timer()
        if not self._queue or self._probing or not self._free_slots:
            return  # the next `release` checks again
        free_at = self._quota.next_free_at(self._loop.time())
        if free_at is not None:
            free_at = max(free_at, self._paused_until)
            self._timer = self._loop.call_at(free_at, self._admit_waiters)

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _warn_of_long_wait(self) -> None:
        """Warn if requests wait long for the quota. A pause has had a warning of its own."""
        now = self._loop.time()
        since = max(next(iter(self._waiters.values())).queued_at, self._paused_until)
        due_at = max(since + LONG_WAIT, self._warned_at + WARNING_INTERVAL)
        if due_at <= now:
            if self._quota.next_free_at(now) != now:
                self._warned_at = now
                log.warning(
                    "%d requests wait for the rate limit, the first for %.0f s",
                    len(self._waiters),
                    now - since,
                )
            due_at = now + LONG_WAIT
        self._warning_timer = self._loop.call_at(due_at, self._warn_of_long_wait)


@runtime_checkable
class SharedRateLimit(Protocol):
    """A rate limit that several clients share."""

    def create_limiter(self, max_concurrent: int) -> RequestLimiter:
        """Create the limiter of one client, in the running event loop. The caller closes it."""


RateLimitLike: TypeAlias = RateLimit | SharedRateLimit


def create_limiter(limit: RateLimitLike, max_concurrent: int) -> RequestLimiter:
    """Create the limiter of a session with at most so many requests at once."""
    if isinstance(limit, RateLimit):
        return RequestLimiter(SlidingWindows(limit), max_concurrent)
    return limit.create_limiter(max_concurrent)
