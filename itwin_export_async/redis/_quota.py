"""The share of one process in a rate limit: what it reports, and what it may call on its own.

`_messages.py` describes the protocol. While Redis replies, only granted calls start. Without a
reply the process is offline: at first it makes no more calls than were reserved for it, because
other processes may use all else. After `call_lease` and a whole window, the calls that others made
before have left the window, and the process keeps all its own calls within its share.
"""

import json
from collections import deque
from math import inf
from operator import le
from typing import Any

from attrs import define, field

from itwin_export_async._http.rate_limit import RateLimit, SlidingWindow, sustainable_rate
from itwin_export_async.redis._messages import InvalidReply, Reply, Report, Timing


@define(eq=False)
class QuotaShare:
    """The share of the process `name` in a limit of at most so many `processes`.

    A limiter uses it as it uses the windows of a limit.
    """

    name: str
    limit: RateLimit
    processes: int
    timing: Timing
    is_offline: bool = False
    ask_at: float = 0.0  # before that no calls will be granted
    _windows: list[tuple[float, int]] = field(init=False)
    _own: list[SlidingWindow] = field(init=False)  # all calls of this process
    _offline: list[SlidingWindow] = field(init=False)  # those that were not granted
    _offline_numbers: set[int] = field(factory=set)
    _granted: deque[int] = field(factory=deque)
    _in_flight: deque[int] = field(factory=deque)
    _finished: deque[tuple[int, float]] = field(factory=deque)
    _next: int = 1
    _wanted: int = 0
    _report: Report = field(factory=Report)
    _in_flight_report: Report = field(factory=Report)
    _full_report: bool = True
    _resync: bool = False  # the last message may have been lost: a full report has to follow
    _renew_at: float = 0.0
    _replied_at: float = -inf
    _reply: Reply | None = None  # the first, then the latest after all have reported

    def __attrs_post_init__(self) -> None:
        self._windows = self.timing.windows_of(self.limit)
        self._own, self._offline = self._new_windows(), self._new_windows()

    def _new_windows(self) -> list[SlidingWindow]:
        return [SlidingWindow(seconds, calls) for seconds, calls in self.shares]

    @property
    def shares(self) -> list[tuple[float, int]]:
        """Seconds and calls of each window that this process has for itself when offline."""
        return [(seconds, calls // self.processes) for seconds, calls in self._windows]

    def next_free_at(self, now: float) -> float | None:
        """When the next call may start: `now`, or later; None if only a reply can make room."""
        if self._granted:
            return now
        if not self.is_offline:
            return None
        latest = now
        for window, until in self._offline_windows(now):
            moment = window.next_free_at(now)
            if until > now:
                moment = until if moment is None else min(moment, until)
            if moment is None:
                return None
            latest = max(latest, moment)
        return latest

    def _offline_windows(self, now: float) -> list[tuple[SlidingWindow, float]]:
        """What limits offline calls, and until when: the reserved calls, then the share."""
        timing, windows = self.timing, []
        for number, window in enumerate(self._offline):
            until = self._replied_at + timing.call_lease + window.seconds + 2 * timing.peer_timeout
            if self._reply is not None and now < until:
                window.limit = self._reply.reserved[number]
                windows.append((window, until))
            else:
                windows.append((self._own[number], now))
        return windows

    def start_call(self) -> None:
        """A call starts."""
        for window in self._own:
            window.in_flight += 1
        if self._granted:
            self._in_flight.append(self._granted.popleft())
            return
        self._in_flight.append(self._next)
        self._offline_numbers.add(self._next)
        self._next += 1
        for window in self._offline:
            window.in_flight += 1

    def finish_call(self, now: float, *, counted: bool = True) -> None:
        """A call has finished; which one does not matter. Not `counted`: it was never sent."""
        number = self._in_flight.popleft()
        windows = list(self._own)
        if number in self._offline_numbers:
            self._offline_numbers.remove(number)
            windows += self._offline
        for window in windows:
            window.in_flight -= 1
            if counted:
                window.finished_at.append(now)
        if counted:
            self._finished.append((number, now))
            self._report.finished.append((number, now))
        else:
            self._report.released.append(number)

    def report_pause(self, until: float) -> None:
        """A 429 pauses all processes until then."""
        self._report.paused_until = max(until, self._report.paused_until or until)

    def report_probe(self, *, succeeded: bool) -> None:
        """The probe of this process has finished."""
        self._report.probe = "succeeded" if succeeded else "failed"

    @property
    def has_unreported_pause(self) -> bool:
        return self._report.paused_until is not None

    @property
    def has_urgent_report(self) -> bool:
        """Whether something is unreported that other processes wait for."""
        report = self._report
        return bool(report.released or report.probe or report.paused_until is not None)

    def sustainable_rate(self, now: float) -> float:
        """Calls a second that this process may spend; infinite without a limit."""
        reply, rates = self._reply, []
        if self.is_offline or reply is None:
            offline = zip(self.shares, self._offline_windows(now), strict=True)
            for (seconds, calls), (window, _) in offline:
                rates.append(sustainable_rate(seconds, calls, window.remaining(now)))
        else:
            for (seconds, calls), room in zip(self._windows, reply.remaining, strict=True):
                rates.append(sustainable_rate(seconds, calls, room) / reply.live_peers)
        return min(rates, default=inf)

    def remaining(self, now: float) -> int | None:
        """How many calls may start now, by the last reply; None without a limit."""
        if self.is_offline or self._reply is None:
            return min(
                (window.remaining(now) for window, _ in self._offline_windows(now)), default=None
            )
        return max(0, min(self._reply.remaining)) if self._windows else None

    def build_message(
        self, now: float, *, wanted: int = 0, is_probing: bool = False, is_last: bool = False
    ) -> str:
        """The next message, which asks for `wanted` calls.

        `on_reply` or `on_timeout` has to follow.
        """
        self._forget(now)
        report = self._in_flight_report = self._report
        self._report = Report()
        self._wanted = 0 if self.is_offline else wanted
        full_report = self._full_report and not self._resync
        renews = full_report or now >= self._renew_at
        if renews:
            self._renew_at = now + self.timing.call_lease / 6
        finished = self._finished if full_report else report.finished
        windows = [[_ms(seconds), calls] for seconds, calls in self._windows]
        message: dict[str, Any] = {
            "process": self.name,
            "processes": self.processes,
            "limit": json.dumps([*windows, self.processes]),
            "windows": windows,
            "heartbeat": _ms(self.timing.heartbeat),
            "peer_timeout": _ms(self.timing.peer_timeout),
            "lease": _ms(self.timing.call_lease),
            "retention": _ms(self.timing.peer_retention),
            "first": self._next,
            "wanted": self._wanted,
            "reserved": self._reserved(now),
            "full_report": self._full_report,
            "resync": self._resync,
            "finished": [[number, _ms(now - at)] for number, at in finished],
            "released": report.released,
            "in_flight": list(self._in_flight) if renews or self.is_offline else [],
            "peers": self._peers(now) if full_report else [],
            "is_probing": is_probing,
            "is_last": is_last,
        }
        if report.paused_until is not None:
            message["pause"] = _ms(max(0.0, report.paused_until - now))
        if report.probe is not None:
            message["probe"] = report.probe
        return json.dumps(message)

    def _reserved(self, now: float) -> list[int]:
        if self._reply is not None and not self.is_offline:
            return list(self._reply.reserved)
        return [window.remaining(now) for window, _ in self._offline_windows(now)]

    def _peers(self, now: float) -> list[tuple[str, int]]:
        peers = self._reply.peers if self._reply else ()
        return [(name, _ms(silent + now - self._replied_at)) for name, silent in peers]

    def _forget(self, now: float) -> None:
        longest = max((seconds for seconds, _ in self._windows), default=0.0)
        while self._finished and self._finished[0][1] + longest <= now:
            self._finished.popleft()

    def on_reply(self, reply: Reply, now: float) -> None:
        """Take in the reply to the message; `InvalidReply` if it cannot be one to it."""
        if not reply.known:  # and so nothing of the message was taken in
            if self._full_report and not self._resync:
                raise InvalidReply("a full report was not taken in")
            self._restore()
            self._resync, self._full_report = False, True
            self.ask_at = now
            return
        if self._resync or not self._fits(reply):
            raise InvalidReply("not the reply to this message")
        pause = 0.0 if reply.granted == self._wanted else self.timing.heartbeat / 50
        self.ask_at = now + max(reply.wait, pause)
        self._in_flight_report, self._wanted = Report(), 0
        self._full_report = False
        self._granted.extend(range(self._next, self._next + reply.granted))
        self._next += reply.granted
        if not reply.all_reported:
            self.is_offline = True
            if self._reply is None:  # others may have been there, and gone
                self._reply, self._replied_at = reply, now
            return
        if self.is_offline:
            self.is_offline = False
            self._offline, self._offline_numbers = self._new_windows(), set()
        self._reply, self._replied_at = reply, now

    def _fits(self, reply: Reply) -> bool:
        most = [calls for _, calls in self._windows]
        return (
            reply.granted <= self._wanted
            and len(most) == len(reply.reserved) == len(reply.remaining)
            and all(map(le, reply.reserved + reply.remaining, most + most))
        )

    def on_timeout(self) -> None:
        """No reply arrived: the message may have been taken in, or not."""
        self._report.released.extend(range(self._next, self._next + self._wanted))
        self._next += self._wanted
        self._restore()
        self.is_offline = self._resync = True

    def _restore(self) -> None:
        self._report = self._in_flight_report.followed_by(self._report)
        self._report.finished.clear()  # the full report has all of them
        self._in_flight_report, self._wanted = Report(), 0

    def release_unused(self) -> None:
        """Give granted calls back that no request needs any more."""
        self._report.released.extend(self._granted)
        self._granted.clear()


def _ms(seconds: float) -> int:
    return round(seconds * 1000)
