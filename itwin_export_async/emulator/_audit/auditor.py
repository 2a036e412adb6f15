"""Sees what clients must not do.

What a client does can be held against it only if it knew better. So everything has its place in one
order: when a request was sent, and when its answer was had or lost.
"""

from collections.abc import Hashable
from email.utils import parsedate_to_datetime
from itertools import count
from typing import TypeAlias

from attrs import frozen

from itwin_export_async._protocol.messages import Response
from itwin_export_async.emulator._audit.duplicates import (
    DuplicateConnectionDetector,
    DuplicateRunDetector,
)
from itwin_export_async.emulator._audit.request_checks import check_request
from itwin_export_async.emulator._audit.violations import ViolationLog
from itwin_export_async.emulator._http.exchange import Exchange
from itwin_export_async.emulator._state.platform import Platform

_Cause: TypeAlias = tuple[Hashable, ...]

_TOLERANCE = 0.05  # seconds; a client's timers are no better than that
_MANY = 1000


@frozen(kw_only=True)
class _Asked:
    """A wait that the service asked for: told at `order` and `at`, over at `until`.

    `since` is when the first of several such waits in a row was asked for.
    """

    order: int
    at: float
    until: float
    since: float


class Auditor:
    """Watches all exchanges, and records violations."""

    def __init__(self, world: Platform) -> None:
        self.violations = ViolationLog()
        self._world = world
        self._order = count(1)
        self._runs = DuplicateRunDetector(self.violations, world)
        self._connections = DuplicateConnectionDetector(self.violations, world)
        self._pauses: dict[_Cause, _Asked] = {}
        self._refused: dict[str, tuple[int, float]] = {}
        self._crowded_until = 0.0
        self._crowded_since = 0.0

    def next_order(self) -> int:
        """The place of what happens now in the order of events."""
        return next(self._order)

    def arrived(self, exchange: Exchange) -> None:
        """A request has come, and nothing has been done yet."""
        check_request(self.violations, exchange, exchange.service)
        if exchange.service != "api":
            return
        token = exchange.token
        refused = self._refused.get(token)
        if refused and _knew(exchange, *refused):
            words = "its token had been refused with a 401 before"
            self.violations.record("refused token used again", exchange, words, token)
        if not self._pauses:
            return
        for cause in ((token,), _repeated(exchange)):
            pause = self._pauses.get(cause)
            if pause and _knew(exchange, pause.order, pause.at):
                self._check_pause(exchange, pause, cause)

    def over_limit(self, exchange: Exchange, wait: float) -> None:
        """A request does not fit into the tier's windows; `wait` seconds later it would."""
        if exchange.at >= self._crowded_until:
            self._crowded_since = exchange.at
        self._crowded_until = exchange.at + wait
        words = f"more calls than the tier allows: there is no room for another {wait:.1f} s"
        self.violations.record("over the limit", exchange, words, self._crowded_since)

    def done(self, exchange: Exchange) -> None:
        """The services have done what they do."""
        self._runs.done(exchange)
        self._connections.done(exchange, self.next_order())

    def delivered(self, exchange: Exchange) -> None:
        """The client has the answer."""
        order = self.next_order()
        if exchange.is_true:
            self._runs.delivered(exchange, order)
            self._connections.delivered(exchange, order)
        else:
            self._lose(exchange, order)
        answer = exchange.answer
        if exchange.service != "api" or answer is None or answer.status < 400:
            return
        at = self._world.clock.now()
        if answer.status == 401 and exchange.token:
            self._refused.setdefault(exchange.token, (order, at))
        seconds = _retry_after(answer)
        if seconds is None:
            return
        if answer.status == 429:
            self._pause((exchange.token,), order, at, at + seconds)
        elif answer.status == 503 and exchange.caller is not None:
            self._pause(_repeated(exchange), order, at, at + seconds)

    def lost(self, exchange: Exchange) -> None:
        """The client will never have the answer."""
        self._lose(exchange, self.next_order())

    def unread(self, exchange: Exchange) -> None:
        """The client has left a body before its end, for no reason that is known."""
        words = "the answer's body was left unread: the connection cannot be used again"
        self.violations.record("body left unread", exchange, words, exchange.operation)

    def _lose(self, exchange: Exchange, order: int) -> None:
        self._runs.lost(exchange)
        self._connections.lost(exchange, order)

    def _pause(self, cause: _Cause, order: int, at: float, until: float) -> None:
        if len(self._pauses) > _MANY:
            self._pauses = {c: p for c, p in self._pauses.items() if p.until > at}
        before = self._pauses.get(cause)
        since = before.since if before and at < before.until else at
        self._pauses[cause] = _Asked(order=order, at=at, until=until, since=since)

    def _check_pause(self, exchange: Exchange, pause: _Asked, cause: _Cause) -> None:
        early = pause.until - exchange.at
        if early > _TOLERANCE:
            words = f"sooner than the Retry-After of an answer before allowed, by {early:.2f} s"
            self.violations.record("called too soon", exchange, words, *cause, pause.since)


def _knew(exchange: Exchange, order: int, at: float) -> bool:
    """Whether the request was sent when its client had been told, at this place and time."""
    return exchange.sent > order and exchange.at - at >= exchange.leeway


def _repeated(exchange: Exchange) -> _Cause:
    """What is the same in a request that its caller repeats; others may ask for the same."""
    asked = exchange.request
    return exchange.caller, asked.method, asked.url, asked.body


def _retry_after(answer: Response) -> float | None:
    """Seconds, by a number or a date, or None."""
    told = answer.headers.get("Retry-After", "")
    if told.isdecimal():
        return float(told)
    try:
        then, now = parsedate_to_datetime(told), parsedate_to_datetime(answer.headers["Date"])
    except ValueError:
        return None
    return (then - now).total_seconds()
