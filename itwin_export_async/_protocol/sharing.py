"""One process's part of a rate limit that several share, and what it does while it is on its own.

What all have in common is kept elsewhere, by one clock. A process tells it what has become of its
calls, asks for places for the next ones, and hears what is left. It also hears how many calls it
may make at once should it hear no more: these are set aside for it, so that nobody else is given
them meanwhile. On its own, it makes no more calls than these until all that was known to the others
has left the windows; and from then on no more than its share, which the others leave to it. So all
that were ever heard stay inside the limit together, whoever cannot hear whom. The exceptions are a
process that starts where it cannot be heard, and one that is lost for longer than is remembered:
nobody leaves it anything, and it spends its share all the same.
"""

import json
from collections import deque
from collections.abc import Iterator
from math import inf
from typing import Any

from attrs import define, field

from itwin_export_async._http.rate_limit import RateLimit, SlidingWindow, sustainable_rate
from itwin_export_async._protocol.telling import News, Pace, Reply


@define(eq=False)
class Part:
    """The part of one process, called `name`, of a limit that at most so many `processes` share.

    To a gate it is the windows of a limit: places that were granted, or those of its own.
    """

    name: str
    limit: RateLimit
    processes: int
    pace: Pace
    is_alone: bool = False
    ask_at: float = 0.0  # before that there will be no places
    _windows: list[tuple[float, int]] = field(init=False)
    _alone: list[SlidingWindow] = field(init=False)  # the calls that nobody granted
    _alone_numbers: set[int] = field(factory=set)
    _granted: deque[int] = field(factory=deque)
    _under_way: deque[int] = field(factory=deque)
    _ended: deque[tuple[int, float]] = field(factory=deque)
    _next: int = 1
    _asked: int = 0
    _news: News = field(factory=News)
    _telling: News = field(factory=News)
    _tells_all: bool = True
    _is_back: bool = False  # after words that may not have been heard: all will have to be told
    _renew_at: float = 0.0
    _heard_at: float = -inf
    _heard: Reply | None = None  # the first, and then the latest of a time when all was settled

    def __attrs_post_init__(self) -> None:
        self._windows = self.pace.windows_of(self.limit)
        self._alone = self._own_windows()

    def _own_windows(self) -> list[SlidingWindow]:
        return [SlidingWindow(seconds, calls // self.processes) for seconds, calls in self._windows]

    def next_free_at(self, now: float) -> float | None:
        """When the next call may go: `now`, or later; None when only an answer can make room."""
        if self._granted:
            return now
        if not self.is_alone:
            return None
        latest = now
        for window, since in self._own(now):
            moment = window.next_free_at(now)
            if since > now:
                moment = since if moment is None else min(moment, since)
            if moment is None:
                return None
            latest = max(latest, moment)
        return latest

    def _own(self, now: float) -> Iterator[tuple[SlidingWindow, float]]:
        """The windows of the calls that nobody granted, and since when a whole share is ours."""
        for place, window in enumerate(self._alone):
            share = self._windows[place][1] // self.processes
            since = self._heard_at + window.seconds + 2 * self.pace.silence
            is_set_aside = self._heard is not None and now < since
            window.limit = self._heard.spare[place] if self._heard and is_set_aside else share
            yield window, since if is_set_aside else now

    def start_call(self) -> None:
        """A call goes."""
        if self._granted:
            self._under_way.append(self._granted.popleft())
            return
        self._under_way.append(self._next)
        self._alone_numbers.add(self._next)
        self._next += 1
        for window in self._alone:
            window.in_flight += 1

    def finish_call(self, now: float, *, counted: bool = True) -> None:
        """A call has its answer, or will have none. Not `counted`: it surely never went out.

        Which one does not matter: they are alike.
        """
        number = self._under_way.popleft()
        if number in self._alone_numbers:
            self._alone_numbers.remove(number)
            for window in self._alone:
                window.in_flight -= 1
                if counted:
                    window.finished_at.append(now)
        if counted:
            self._ended.append((number, now))
            self._news.ended.append((number, now))
        else:
            self._news.returned.append(number)

    def tell_pause(self, until: float) -> None:
        """The service has refused a call: nobody goes until then."""
        self._news.pause_until = max(until, self._news.pause_until or until)

    def tell_probe(self, *, clears: bool) -> None:
        """Our probe has come to its end."""
        self._news.probe = "clear" if clears else "lost"

    @property
    def has_pause_to_tell(self) -> bool:
        return self._news.pause_until is not None

    @property
    def is_urgent(self) -> bool:
        """Whether something has not been told yet that others wait for."""
        news = self._news
        return bool(news.returned or news.probe or news.room or news.pause_until is not None)

    def sustainable_rate(self, now: float) -> float:
        """Calls a second that this process may spend; infinite without a limit."""
        heard, rates = self._heard, []
        if self.is_alone or heard is None:
            own = zip(self._windows, self._own(now), strict=True)
            for (seconds, calls), (window, _) in own:
                rates.append(sustainable_rate(seconds, calls // self.processes, window.remaining(now)))
        else:
            for (seconds, calls), room in zip(self._windows, heard.room, strict=True):
                rates.append(sustainable_rate(seconds, calls, room) / heard.live)
        return min(rates, default=inf)

    def remaining(self, now: float) -> int | None:
        """How many calls may go now, for all that was heard; None without a limit."""
        return min(self._rooms(now), default=None)

    def _rooms(self, now: float) -> list[int]:
        """How many calls may go now, in each window; the minute's is the first."""
        if self.is_alone or self._heard is None:
            return [window.remaining(now) for window, _ in self._own(now)]
        return [max(0, room) for room in self._heard.room]

    def message(
        self, now: float, *, wanted: int = 0, is_probing: bool = False, is_last: bool = False
    ) -> str:
        """What to tell, and how many places to ask for; `heard` or `missed` has to follow."""
        self._forget(now)
        news = self._telling = self._news
        self._news = News()
        self._asked = 0 if self.is_alone else wanted
        tells_all = self._tells_all and not self._is_back
        renews = tells_all or now >= self._renew_at
        if renews:
            self._renew_at = now + self.pace.lease / 6
        told: dict[str, Any] = {
            "process": self.name,
            "processes": self.processes,
            "windows": [[_ms(seconds), calls] for seconds, calls in self._windows],
            "beat": _ms(self.pace.beat),
            "silence": _ms(self.pace.silence),
            "lease": _ms(self.pace.lease),
            "memory": _ms(self.pace.memory),
            "first": self._next,
            "wanted": self._asked,
            "spare": self._spare(now),
            "tells_all": self._tells_all,
            "is_back": self._is_back,
            "ended": [
                [number, _ms(now - at)] for number, at in (self._ended if tells_all else news.ended)
            ],
            "returned": news.returned,
            "under_way": list(self._under_way) if renews or self.is_alone else [],
            "others": self._others(now) if tells_all else [],
            "is_probing": is_probing,
            "is_last": is_last,
        }
        if news.pause_until is not None:
            told["pause"] = _ms(max(0.0, news.pause_until - now))
        if news.probe is not None:
            told["probe"] = news.probe
        if news.room is not None:
            told["room"] = [news.room[0], _ms(now - news.room[1])]
        return json.dumps(told)

    def _spare(self, now: float) -> list[int]:
        if self._heard is not None and not self.is_alone:
            return list(self._heard.spare)
        return [window.remaining(now) for window, _ in self._own(now)]

    def _others(self, now: float) -> list[tuple[str, int]]:
        heard = self._heard.others if self._heard else ()
        return [(name, _ms(silent + now - self._heard_at)) for name, silent in heard]

    def _forget(self, now: float) -> None:
        longest = max((seconds for seconds, _ in self._windows), default=0.0)
        while self._ended and self._ended[0][1] + longest <= now:
            self._ended.popleft()

    def heard(self, reply: Reply, now: float) -> None:
        """Take what is told in answer to the message."""
        if not reply.is_known:  # and so nothing that was told has been taken in
            self._take_back()
            self._is_back, self._tells_all = False, True
            self.ask_at = now
            return
        self._telling, self._asked = News(), 0
        self._tells_all = False
        self._granted.extend(range(self._next, self._next + reply.granted))
        self._next += reply.granted
        self.ask_at = now + reply.wait
        if not reply.is_settled:
            self.is_alone = True
            if self._heard is None:  # others may have been there, and gone
                self._heard, self._heard_at = reply, now
            return
        if self.is_alone:
            self.is_alone = False
            self._alone, self._alone_numbers = self._own_windows(), set()
        self._heard, self._heard_at = reply, now

    def missed(self) -> None:
        """No answer came: the message may have been read, or not."""
        self._telling.returned.extend(range(self._next, self._next + self._asked))
        self._next += self._asked
        self._take_back()
        self.is_alone = self._is_back = True

    def _take_back(self) -> None:
        self._news = self._telling.before(self._news)
        self._news.ended.clear()  # all that ended will be told again
        self._telling, self._asked = News(), 0

    def give_back(self) -> None:
        """Places that were granted, and that nobody wants any more."""
        self._news.returned.extend(self._granted)
        self._granted.clear()


def _ms(seconds: float) -> int:
    return round(seconds * 1000)
