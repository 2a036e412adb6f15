"""QuirkSet around documents: errors in other forms, Location headers, and the older 429."""

import json
from collections.abc import Callable, Mapping
from datetime import timedelta
from email.utils import format_datetime, parsedate_to_datetime
from types import MappingProxyType
from typing import Any, TypeAlias
from urllib.parse import urlsplit

from attrs import evolve

from itwin_export_async._protocol.messages import Response

_Change: TypeAlias = Callable[[Response], Response]

_OLDER_MESSAGE = "More requests were received than the subscription rate-limit allows."


def _flat(answer: Response) -> Response:
    said = _error_in(answer)
    return answer if said is None else _document(answer, said)


def _by_status(answer: Response) -> Response:
    said = _error_in(answer)
    if said is None:
        return answer
    return _document(answer, {"statusCode": answer.status, "message": said["message"]})


def _empty(answer: Response) -> Response:
    headers = {n: text for n, text in answer.headers.items() if n.lower() != "content-type"}
    return evolve(answer, headers=headers, body=b"")


def _page(answer: Response) -> Response:
    body = f"<html><body><h1>{answer.status}</h1><hr>gateway</body></html>".encode()
    return evolve(answer, headers={**answer.headers, "Content-Type": "text/html"}, body=body)


def _null_members(answer: Response) -> Response:
    said = _error_in(answer)
    if said is None:
        return answer
    nulls = {"message": None, "target": None, "details": None}
    return _document(answer, {"error": said | nulls})


def _relative(answer: Response) -> Response:
    return _located(answer, urlsplit(answer.headers["Location"]).path)


def _lower_case(answer: Response) -> Response:
    return _located(answer, answer.headers["Location"], name="location")


def _with_query(answer: Response) -> Response:
    return _located(answer, f"{answer.headers['Location']}/?api-version=1")


def _absent(answer: Response) -> Response:
    return _located(answer, None)


ERRORS: Mapping[str, tuple[str, _Change]] = MappingProxyType(
    {
        "flat_errors": ("errors without their wrapping", _flat),
        "status_errors": ("errors of statusCode and message alone", _by_status),
        "null_errors": ("errors with null for all but their code", _null_members),
        "empty_errors": ("errors without a body", _empty),
        "html_errors": ("errors as web pages", _page),
    }
)

LOCATIONS: Mapping[str, tuple[str, _Change]] = MappingProxyType(
    {
        "relative_location": ("Location without a host", _relative),
        "lower_location": ("Location in lower case", _lower_case),
        "query_location": ("Location with a slash and a query at its end", _with_query),
        "absent_location": ("no Location", _absent),
    }
)


def as_older_rate_limit(answer: Response) -> Response:
    """A 429 with the code and the headers that the platform had before."""
    kept = {
        name: text
        for name, text in answer.headers.items()
        if not name.lower().startswith("itwinplatform-")
    }
    older = {
        "iTwinPlatform-RateLimit-RemainingCalls": "0",
        "iTwinPlatform-RateLimit-Retry-After-Seconds": answer.headers.get("Retry-After", "0"),
        "iTwinPlatform-Tier": answer.headers.get("ITwinPlatform-RateLimited-Tier", "Basic"),
    }
    said = {"code": "TooManyRequests", "message": _OLDER_MESSAGE}
    return _document(evolve(answer, headers=kept | older), said)


def with_retry_date(answer: Response) -> Response:
    """The same answer, with a date for the seconds of its `Retry-After`, if it has any."""
    seconds = answer.headers.get("Retry-After", "")
    if not seconds.isdecimal():
        return answer
    then = parsedate_to_datetime(answer.headers["Date"]) + timedelta(seconds=int(seconds))
    headers = dict(answer.headers) | {"Retry-After": format_datetime(then, usegmt=True)}
    return evolve(answer, headers=headers)


def with_run_in_short(answer: Response) -> Response:
    """The answer that names a run by its Location, with a body that tells of it."""
    run_id = answer.headers["Location"].rpartition("/")[2]
    return _document(answer, {"run": {"id": run_id, "state": "Queued"}})


def _located(answer: Response, location: str | None, *, name: str = "Location") -> Response:
    headers = {n: text for n, text in answer.headers.items() if n.lower() != "location"}
    if location is not None:
        headers[name] = location
    return evolve(answer, headers=headers)


def _error_in(answer: Response) -> dict[str, Any] | None:
    try:
        said = json.loads(answer.body)
    except ValueError:
        return None
    error = said.get("error") if isinstance(said, dict) else None
    return error if isinstance(error, dict) else None


def _document(answer: Response, said: dict[str, Any]) -> Response:
    headers = dict(answer.headers) | {"Content-Type": "application/json"}
    return evolve(answer, headers=headers, body=json.dumps(said).encode())
