"""ViolationLog that show in a single request: its headers, its body, and where its token goes."""

import json
from collections.abc import Mapping
from typing import Any

from itwin_export_async.emulator._audit.violations import ViolationLog
from itwin_export_async.emulator._handlers.run_validation import MEMBERS as RUN_MEMBERS
from itwin_export_async.emulator._http.exchange import Exchange
from itwin_export_async.emulator._http.messages import header_of

_MEMBERS: Mapping[str, Mapping[str, Any]] = {
    "create_run": RUN_MEMBERS,
    "create_connection": {name: {} for name in ("iModelId", "displayName", "authenticationType")},
}


def check_request(violations: ViolationLog, exchange: Exchange, service: str) -> None:
    """Record what is wrong with a request that came to this service: "api", "blobs", ..."""
    if service == "api":
        _check_headers(violations, exchange)
        if exchange.operation in _MEMBERS:
            _check_members(violations, exchange)
    else:
        _check_token(violations, exchange, service)


def _check_headers(violations: ViolationLog, exchange: Exchange) -> None:
    if not header_of(exchange.request, "User-Agent"):
        violations.record(
            "no User-Agent", exchange, "it does not say who asks: no User-Agent header"
        )
    if exchange.call is not None and exchange.call.unaccepted:
        asked = header_of(exchange.request, "Accept")
        meant = exchange.call.unaccepted
        words = f"Accept is {asked!r}" if asked else "there is no Accept header"
        violations.record(
            "wrong Accept", exchange, f"{words}, so that it cannot mean {meant}", meant
        )


def _check_members(violations: ViolationLog, exchange: Exchange) -> None:
    try:
        body = json.loads(exchange.request.body or b"")
    except ValueError:
        return
    for name, fault in _odd_members(body, _MEMBERS[exchange.operation]):
        violations.record(
            f"{fault} member", exchange, f"its body has {name}, which is {fault}", name, fault
        )


def _odd_members(body: Any, known: Mapping[str, Any], path: str = "") -> list[tuple[str, str]]:
    """The members of an object, and of those in it, that are unknown or null."""
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


def _check_token(violations: ViolationLog, exchange: Exchange, service: str) -> None:
    header = header_of(exchange.request, "Authorization")
    if not header or (service == "identity" and not exchange.token):
        return
    if exchange.operation == "get_blob" and exchange.call and exchange.call.query.get("sp") == "r":
        words = "the redirect of a download was followed with the token of the API"
        violations.record("redirect with token", exchange, words)
        return
    host = exchange.request.url.partition("://")[2].partition("/")[0]
    words = f"an Authorization header went to {host}"
    violations.record("token to a foreign host", exchange, words, host)
