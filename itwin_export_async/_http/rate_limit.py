"""The rate limit: how many calls may be made, and whose turn it is.

The platform counts calls per subscription in sliding windows (Community: 500 a minute and 5,000 an
hour; all others 5,000 a minute, https://developer.bentley.com/apis/overview/rate-limits/). When a
call is counted there lies somewhere between its sending and its answer, so that here a call fills
its place from the one until a whole window after the other: then no window of the service can hold
more than allowed, however the network dawdles.
"""

import re
from collections import OrderedDict, deque
from collections.abc import Iterator, Mapping
from itertools import chain
from math import inf
from typing import ClassVar, Generic, TypeVar

from attrs import define, field, frozen
from attrs.validators import ge, optional
from multidict import istr

from itwin_export_async._models.validators import instance_of

MINUTE, HOUR = 60.1, 3600.1  # a breath longer, for the edges of the service's own windows
CALLS_FIRST = 4  # other calls that go before each poll

T = TypeVar("T")

_REMAINING = istr("iTwinPlatform-RateLimit-RemainingCalls")

_limit = optional([instance_of(int), ge(1)])


@frozen(kw_only=True)
class RateLimit:
    """How many calls the subscription allows, in any minute and in any hour.

    None is no limit. `RateLimit.COMMUNITY` and `RateLimit.STANDARD` are those of the platform.
    """

    COMMUNITY: ClassVar["RateLimit"]
    STANDARD: ClassVar["RateLimit"]

    per_minute: int | None = field(default=None, validator=_limit)
    per_hour: int | None = field(default=None, validator=_limit)


RateLimit.COMMUNITY = RateLimit(per_minute=500, per_hour=5000)
RateLimit.STANDARD = RateLimit(per_minute=5000)


@frozen(kw_only=True)
class RequestStats:
    """What a session has sent so far: `calls` in all, `polls` and `retries` among them."""

    calls: int = 0
    polls: int = 0
    retries: int = 0


@define
class Window:
    """The calls of one sliding window: how many are under way, and when the others ended."""

    seconds: float
    limit: int
    under_way: int = 0
    ended: deque[float] = field(factory=deque)

    def free_at(self, now: float) -> float | None:
        """When the next call may go: `now`, or later; None when only an answer can make room."""
        self._forget(now)
        over = self.under_way + len(self.ended) - self.limit
        if over < 0:
            return now
        return self.ended[over] + self.seconds if over < len(self.ended) else None

    def tell_room(self, room: int, now: float) -> None:
        """Take the service's word for how few calls are left, where that is fewer than we think."""
        self._forget(now)
        missing = self.limit - room - self.under_way - len(self.ended)
        self.ended.extend([now] * missing)

    def rate(self, now: float) -> float:
        """Calls a second that may be spent."""
        return pace(self.seconds, self.limit, self.room(now))

    def room(self, now: float) -> int:
        """How many calls may go now."""
        self._forget(now)
        return max(0, self.limit - self.under_way - len(self.ended))

    def _forget(self, now: float) -> None:
        while self.ended and self.ended[0] + self.seconds <= now:
            self.ended.popleft()


class Windows:
    """All windows of a rate limit; they hold at once."""

    def __init__(self, limit: RateLimit) -> None:
        told = ((MINUTE, limit.per_minute), (HOUR, limit.per_hour))
        self._windows = [Window(seconds, calls) for seconds, calls in told if calls is not None]

    def free_at(self, now: float) -> float | None:
        """When the next call may go: `now`, or later; None when only an answer can make room."""
        latest = now
        for window in self._windows:
            moment = window.free_at(now)
            if moment is None:
                return None
            latest = max(latest, moment)
        return latest

    def begin(self) -> None:
        """A call goes."""
        for window in self._windows:
            window.under_way += 1

    def end(self, now: float, *, counted: bool = True) -> None:
        """A call has its answer, or will have none. Not `counted`: it surely never went out."""
        for window in self._windows:
            window.under_way -= 1
            if counted:
                window.ended.append(now)

    def tell_room(self, room: int, now: float) -> None:
        """Take the service's word for how many calls are left in this minute."""
        for window in self._windows:
            if window.seconds <= MINUTE:
                window.tell_room(room, now)

    def rate(self, now: float) -> float:
        """Calls a second that may be spent, as things stand now; infinite without a limit."""
        return min((window.rate(now) for window in self._windows), default=inf)

    def room(self, now: float) -> int | None:
        """How many calls may go now, None without a limit."""
        return min((window.room(now) for window in self._windows), default=None)


def pace(seconds: float, limit: int, room: int) -> float:
    """Calls a second that may be spent of a window.

    Room may be used up within a sixth of the window, so that work which ends soon is not slowed
    down for the sake of an hour that it does not need. A minute that is used up is as good as new
    before that matters; an hour has to last until the first calls leave it, so that only a quarter
    of what it sustains is spent.
    """
    least = limit if seconds <= MINUTE else limit / 4
    return max(least, 6 * room) / seconds


def remaining_calls(headers: Mapping[str, str]) -> int | None:
    """How many calls the service says are left in this minute, None where it does not say."""
    told = headers.get(_REMAINING)
    if told is None or not re.fullmatch(r"\s*[0-9]{1,9}\s*", told):
        return None
    return int(told)


class Line(Generic[T]):
    """Who waits for a turn. What moves work on goes before the polls that watch it.

    A poll has its turn when nothing else waits, and after every `CALLS_FIRST` other calls: so calls
    are hardly held up, however many polls there are, and polls go while calls keep coming. Each
    kind goes in the order in which it came.
    """

    def __init__(self) -> None:
        self._calls: OrderedDict[T, None] = OrderedDict()
        self._polls: OrderedDict[T, None] = OrderedDict()
        self._ahead = 0  # calls that have gone since a poll could have

    def __bool__(self) -> bool:
        return bool(self._calls or self._polls)

    def __iter__(self) -> Iterator[T]:
        return chain(self._calls, self._polls)

    def join(self, one: T, *, is_poll: bool) -> None:
        """Wait behind all of its kind."""
        (self._polls if is_poll else self._calls)[one] = None

    def leave(self, one: T) -> None:
        """Wait no more."""
        self._calls.pop(one, None)
        self._polls.pop(one, None)

    def next(self) -> T:
        """Whose turn it is; it has left."""
        if self._polls and (not self._calls or self._ahead >= CALLS_FIRST):
            self._ahead = 0
            return self._polls.popitem(last=False)[0]
        self._ahead = self._ahead + 1 if self._polls else 0
        return self._calls.popitem(last=False)[0]
