"""The auditor: records what clients must not do.

A client is blamed only for what it knew. All events therefore have a position in one order: when a
request was sent, and when its answer was received or lost.
"""

import json
from collections.abc import Hashable, Mapping
from datetime import UTC
from email.utils import parsedate_to_datetime
from itertools import count
from types import MappingProxyType
from typing import Any, TypeAlias

from attrs import frozen

from itwin_export_async._protocol.messages import Response
from itwin_export_async.emulator._audit.duplicates import (
    DuplicateConnectionDetector,
    DuplicateRunDetector,
)
from itwin_export_async.emulator._audit.violations import ViolationLog
from itwin_export_async.emulator._handlers.validation import RUN_MEMBERS
from itwin_export_async.emulator._http.exchange import Exchange
from itwin_export_async.emulator._http.messages import header_of
from itwin_export_async.emulator._state.platform import Platform

_Cause: TypeAlias = tuple[Hashable, ...]

_TOLERANCE = 0.05  # seconds; the accuracy of a client's timers
_PRUNE_FROM = 1000  # entries

_MEMBERS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "create_run": RUN_MEMBERS,
        "create_connection": {
            name: {} for name in ("iModelId", "displayName", "authenticationType")
        },
    }
)


@frozen(kw_only=True)
class RequestedPause:
    """A pause that the service requested.

    `order` and `at` are when the client received the request, `until` is when the pause ends.
    `since` is when the first of several pauses in a row began.
    """

    order: int
    at: float
    until: float
    since: float


class Auditor:
    """Watches all exchanges and records violations."""

    def __init__(self, platform: Platform) -> None:
        self.log = ViolationLog()
        self._platform = platform
        self._order = count(1)
        self._runs = DuplicateRunDetector(self.log, platform)
        self._connections = DuplicateConnectionDetector(self.log, platform)
        self._pauses: dict[_Cause, RequestedPause] = {}
        self._refused_tokens: dict[str, tuple[int, float]] = {}
        self._crowded_until = 0.0
        self._crowded_since = 0.0

    def next_order(self) -> int:
        """Return the position of an event that happens now."""
        return next(self._order)

    def arrived(self, exchange: Exchange) -> None:
        """A request has arrived; its handler has not been called."""
        self._check_request(exchange)
        if exchange.service != "api":
            return
        token = exchange.token
        refused = self._refused_tokens.get(token)
        if refused and _had_received(exchange, *refused):
            message = "its token had been refused with a 401 before"
            self.log.record("refused token used again", exchange, message, token)
        if not self._pauses:
            return
        for cause in ((token,), _same_request(exchange)):
            pause = self._pauses.get(cause)
            if pause and _had_received(exchange, pause.order, pause.at):
                self._check_pause(exchange, pause, cause)

    def over_limit(self, exchange: Exchange, wait: float) -> None:
        """A request exceeds the rate limit; it would fit `wait` seconds later."""
        if exchange.at >= self._crowded_until:
            self._crowded_since = exchange.at
        self._crowded_until = exchange.at + wait
        message = f"more calls than the tier allows: the next one fits in {wait:.1f} s"
        self.log.record("over the limit", exchange, message, self._crowded_since)

    def handled(self, exchange: Exchange) -> None:
        """The handler has been called, or a fault prevented it."""
        self._runs.handled(exchange)
        self._connections.handled(exchange, self.next_order())

    def delivered(self, exchange: Exchange) -> None:
        """The client has the answer."""
        order = self.next_order()
        if exchange.is_unaltered:
            self._runs.delivered(exchange, order)
            self._connections.delivered(exchange, order)
        else:
            self._lose(exchange, order)
        answer = exchange.answer
        if exchange.service != "api" or answer is None or answer.status < 400:
            return
        at = self._platform.clock.now()
        if answer.status == 401 and exchange.token:
            self._refuse_token(exchange.token, order, at)
        seconds = _retry_after(answer)
        if seconds is None:
            return
        if answer.status == 429:
            self._pause((exchange.token,), order, at, at + seconds)
        elif answer.status == 503 and exchange.caller is not None:
            self._pause(_same_request(exchange), order, at, at + seconds)

    def lost(self, exchange: Exchange) -> None:
        """The client will not get the answer."""
        self._lose(exchange, self.next_order())

    def unread(self, exchange: Exchange) -> None:
        """The client has not read a body to its end."""
        message = "the body of the answer was not read: the connection cannot be reused"
        self.log.record("body left unread", exchange, message, exchange.operation)

    def _lose(self, exchange: Exchange, order: int) -> None:
        self._runs.lost(exchange)
        self._connections.lost(exchange, order)

    def _refuse_token(self, token: str, order: int, at: float) -> None:
        if len(self._refused_tokens) >= _PRUNE_FROM:
            del self._refused_tokens[next(iter(self._refused_tokens))]
        self._refused_tokens.setdefault(token, (order, at))

    def _pause(self, cause: _Cause, order: int, at: float, until: float) -> None:
        if len(self._pauses) > _PRUNE_FROM:
            self._pauses = {c: pause for c, pause in self._pauses.items() if pause.until > at}
        before = self._pauses.get(cause)
        since = before.since if before and at < before.until else at
        self._pauses[cause] = RequestedPause(order=order, at=at, until=until, since=since)

    def _check_pause(self, exchange: Exchange, pause: RequestedPause, cause: _Cause) -> None:
        early = pause.until - exchange.at
        if early > _TOLERANCE:
            message = f"{early:.2f} s sooner than the Retry-After of an earlier answer allows"
            self.log.record("called too soon", exchange, message, *cause, pause.since)

    def _check_request(self, exchange: Exchange) -> None:
        """Record what is wrong with the headers, the body and the host of a request."""
        if exchange.service == "api":
            self._check_headers(exchange)
            if exchange.operation in _MEMBERS:
                self._check_members(exchange)
        else:
            self._check_token_host(exchange)

    def _check_headers(self, exchange: Exchange) -> None:
        if not header_of(exchange.request, "User-Agent"):
            message = "there is no User-Agent header"
            self.log.record("no User-Agent", exchange, message)
        if exchange.context is not None and exchange.context.would_match_with_accept:
            accept = header_of(exchange.request, "Accept")
            expected = exchange.context.would_match_with_accept
            actual = f"Accept is {accept!r}" if accept else "there is no Accept header"
            message = f"{actual}, so that the request does not match {expected}"
            self.log.record("wrong Accept", exchange, message, expected)

    def _check_members(self, exchange: Exchange) -> None:
        try:
            body = json.loads(exchange.request.body or b"")
        except (ValueError, RecursionError):
            return
        for name, problem in _odd_members(body, _MEMBERS[exchange.operation]):
            message = f"its body has {name}, which is {problem}"
            self.log.record(f"{problem} member", exchange, message, name, problem)

    def _check_token_host(self, exchange: Exchange) -> None:
        header = header_of(exchange.request, "Authorization")
        if not header or (exchange.service == "identity" and not exchange.token):
            return
        context = exchange.context
        if exchange.operation == "get_blob" and context and context.query.get("sp") == "r":
            message = "the redirect of a download was followed with the token of the API"
            self.log.record("redirect with token", exchange, message)
            return
        host = exchange.request.url.partition("://")[2].partition("/")[0]
        message = f"an Authorization header went to {host}"
        self.log.record("token to a foreign host", exchange, message, host)


def _odd_members(body: Any, known: Mapping[str, Any], path: str = "") -> list[tuple[str, str]]:
    """Return the members that are unknown or null, at any depth."""
    if not isinstance(body, dict):
        return []
    found = []
    for name, value in body.items():
        if name not in known:
            found.append((path + name, "unknown"))
        elif value is None:
            found.append((path + name, "null"))
        else:
            found += _odd_members(value, known[name], f"{path}{name}.")
    return found


def _had_received(exchange: Exchange, order: int, at: float) -> bool:
    """Whether the client had the answer at this position when it sent the request."""
    return exchange.sent > order and exchange.at - at >= exchange.leeway


def _same_request(exchange: Exchange) -> _Cause:
    """Return what is equal in a request and its repetitions by the same caller."""
    request = exchange.request
    return exchange.caller, request.method, request.url, request.body


def _retry_after(answer: Response) -> float | None:
    """Return the seconds of a `Retry-After` with a number or a date, None without one."""
    value = answer.headers.get("Retry-After", "")
    if value.isdecimal():
        return float(value)
    try:
        until, now = (
            parsedate_to_datetime(date).replace(tzinfo=UTC)  # -0000 has no zone
            if date.endswith("-0000")
            else parsedate_to_datetime(date)
            for date in (value, answer.headers["Date"])
        )
        return (until - now).total_seconds()
    except (TypeError, ValueError, OverflowError):
        return None
