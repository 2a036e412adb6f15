"""The rate limit: how many calls may be made now, and which waiting request goes next.

The platform counts the calls of a subscription in sliding windows (Community: 500 a minute and
5,000 an hour; all others 5,000 a minute, https://developer.bentley.com/apis/overview/rate-limits/).
It counts a call at some moment between sending and response. So a call takes a slot of a window
from its sending until a whole window after its response: then no window of the service can hold
more calls than allowed, however long the network takes.
"""

from collections import OrderedDict, deque
from collections.abc import Iterator
from itertools import chain
from math import inf
from typing import ClassVar, Generic, TypeVar

from attrs import define, field, frozen
from attrs.validators import ge, optional

from itwin_export_async._models.validators import instance_of

MINUTE_WINDOW, HOUR_WINDOW = 60.1, 3600.1  # seconds; 0.1 s margin for clock differences
CALLS_PER_POLL = 4  # other requests that go before each poll

T = TypeVar("T")

_limit = optional([instance_of(int), ge(1)])


@frozen(kw_only=True)
class RateLimit:
    """How many calls the subscription allows in any minute and in any hour.

    None means no limit. `RateLimit.COMMUNITY` and `RateLimit.STANDARD` are the platform's tiers.
    """

    COMMUNITY: ClassVar["RateLimit"]
    STANDARD: ClassVar["RateLimit"]

    per_minute: int | None = field(default=None, validator=_limit)
    per_hour: int | None = field(default=None, validator=_limit)


RateLimit.COMMUNITY = RateLimit(per_minute=500, per_hour=5000)
RateLimit.STANDARD = RateLimit(per_minute=5000)


@frozen(kw_only=True)
class RequestStats:
    """What a session has sent: `calls` in all, `polls` and `retries` among them."""

    calls: int = 0
    polls: int = 0
    retries: int = 0


@define
class SlidingWindow:
    """The calls of one window: how many are in flight, and when the others finished."""

    seconds: float
    limit: int
    in_flight: int = 0
    finished_at: deque[float] = field(factory=deque)

    def next_free_at(self, now: float) -> float | None:
        """When the next call may start: `now` or later; None if a call has to finish first."""
        if self.in_flight + len(self.finished_at) < self.limit:
            return now
        self._forget(now)
        excess = self.in_flight + len(self.finished_at) - self.limit
        if excess < 0:
            return now
        return self.finished_at[excess] + self.seconds if excess < len(self.finished_at) else None

    def remaining(self, now: float) -> int:
        """How many calls may start now."""
        self._forget(now)
        return max(0, self.limit - self.in_flight - len(self.finished_at))

    def sustainable_rate(self, now: float) -> float:
        """Calls per second that may be made."""
        return sustainable_rate(self.seconds, self.limit, self.remaining(now))

    def _forget(self, now: float) -> None:
        while self.finished_at and self.finished_at[0] + self.seconds <= now:
            self.finished_at.popleft()


class SlidingWindows:
    """All windows of a rate limit, which apply together."""

    def __init__(self, limit: RateLimit) -> None:
        limits = ((MINUTE_WINDOW, limit.per_minute), (HOUR_WINDOW, limit.per_hour))
        self._windows = [
            SlidingWindow(seconds, calls) for seconds, calls in limits if calls is not None
        ]

    def next_free_at(self, now: float) -> float | None:
        """When the next call may start: `now` or later; None if a call has to finish first."""
        latest = now
        for window in self._windows:
            free_at = window.next_free_at(now)
            if free_at is None:
                return None
            latest = max(latest, free_at)
        return latest

    def start_call(self) -> None:
        """A call starts."""
        for window in self._windows:
            window.in_flight += 1

    def finish_call(self, now: float, *, counted: bool = True) -> None:
        """A call has finished. `counted`: the service may have counted it."""
        for window in self._windows:
            window.in_flight -= 1
            if counted:
                window.finished_at.append(now)

    def sustainable_rate(self, now: float) -> float:
        """Calls per second that may be made; infinite without a limit."""
        return min((window.sustainable_rate(now) for window in self._windows), default=inf)

    def remaining(self, now: float) -> int | None:
        """How many calls may start now; None without a limit."""
        return min((window.remaining(now) for window in self._windows), default=None)


def sustainable_rate(seconds: float, limit: int, remaining: int) -> float:
    """Calls per second that may be made in a window with so many calls remaining.

    The remaining calls may be used within a sixth of the window, so that short work is not slowed
    down to save an hour that it does not need. An exhausted minute is full again before that
    matters. An exhausted hour has to last until its first calls leave it, so that only a quarter of
    its average is spent.
    """
    floor = limit if seconds <= MINUTE_WINDOW else limit / 4
    return max(floor, 6 * remaining) / seconds


class RequestQueue(Generic[T]):
    """The waiting requests. Polls yield to all others.

    A poll goes if nothing else waits, and after every `CALLS_PER_POLL` other requests. So polls
    hardly delay the others, and no poll starves. Requests of one kind go in the order in which they
    came.
    """

    def __init__(self) -> None:
        self._calls: OrderedDict[T, None] = OrderedDict()
        self._polls: OrderedDict[T, None] = OrderedDict()
        self._since_poll = 0  # other requests that went while a poll waited

    def __bool__(self) -> bool:
        return bool(self._calls or self._polls)

    def __iter__(self) -> Iterator[T]:
        return chain(self._calls, self._polls)

    def push(self, item: T, *, is_poll: bool) -> None:
        """Add a request behind all others of its kind."""
        (self._polls if is_poll else self._calls)[item] = None

    def remove(self, item: T) -> None:
        """Remove a request, if it is still in the queue."""
        self._calls.pop(item, None)
        self._polls.pop(item, None)

    def pop(self) -> T:
        """Remove and return the request that goes next."""
        if self._polls and (not self._calls or self._since_poll >= CALLS_PER_POLL):
            self._since_poll = 0
            return self._polls.popitem(last=False)[0]
        self._since_poll = self._since_poll + 1 if self._polls else 0
        return self._calls.popitem(last=False)[0]
