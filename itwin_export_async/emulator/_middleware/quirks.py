"""Quirks: odd forms of the service's answers, each by its name.

A quirk changes the form of an answer and keeps its meaning. Of quirks that exclude each other (the
forms of errors, of `Location` headers and of dates) the enabled ones take turns.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, timedelta
from email.utils import format_datetime, parsedate_to_datetime
from itertools import cycle
from types import MappingProxyType
from typing import Any, TypeAlias, TypeVar
from urllib.parse import urlsplit

from attrs import evolve

from itwin_export_async._protocol.messages import Response
from itwin_export_async.emulator._http.router import Route
from itwin_export_async.emulator._middleware.quirk_transforms import (
    DATES,
    ITEMS,
    unwrapped,
    with_dates,
)

T = TypeVar("T")

_Change: TypeAlias = Callable[[Response], Response]
_MAX_SECONDS_DIGITS = 9  # of a Retry-After that becomes a date
_OLD_MESSAGE = "More requests were received than the subscription rate-limit allows."


def _flat_error(answer: Response) -> Response:
    error = _error_in(answer)
    return answer if error is None else _document(answer, error)


def _status_error(answer: Response) -> Response:
    error = _error_in(answer)
    if error is None:
        return answer
    return _document(answer, {"statusCode": answer.status, "message": error["message"]})


def _null_members(answer: Response) -> Response:
    error = _error_in(answer)
    if error is None:
        return answer
    nulls = {"message": None, "target": None, "details": None}
    return _document(answer, {"error": error | nulls})


def _empty_error(answer: Response) -> Response:
    headers = {n: value for n, value in answer.headers.items() if n.lower() != "content-type"}
    return evolve(answer, headers=headers, body=b"")


def _html_error(answer: Response) -> Response:
    body = f"<html><body><h1>{answer.status}</h1><hr>gateway</body></html>".encode()
    return evolve(answer, headers={**answer.headers, "Content-Type": "text/html"}, body=body)


def _relative_location(answer: Response) -> Response:
    return _with_location(answer, urlsplit(answer.headers["Location"]).path)


def _lower_case_location(answer: Response) -> Response:
    return _with_location(answer, answer.headers["Location"], name="location")


def _location_with_query(answer: Response) -> Response:
    return _with_location(answer, f"{answer.headers['Location']}/?api-version=1")


def _absent_location(answer: Response) -> Response:
    return _with_location(answer, None)


ERRORS: Mapping[str, tuple[str, _Change]] = MappingProxyType(
    {
        "flat_errors": ("errors without their wrapping", _flat_error),
        "status_errors": ("errors of statusCode and message alone", _status_error),
        "null_errors": ("errors with null for all but their code", _null_members),
        "empty_errors": ("errors without a body", _empty_error),
        "html_errors": ("errors as HTML pages", _html_error),
    }
)

LOCATIONS: Mapping[str, tuple[str, _Change]] = MappingProxyType(
    {
        "relative_location": ("Location without a host", _relative_location),
        "lower_location": ("Location in lower case", _lower_case_location),
        "query_location": ("Location with a slash and a query at its end", _location_with_query),
        "absent_location": ("no Location", _absent_location),
    }
)

QUIRKS: Mapping[str, str] = MappingProxyType(
    {
        **{name: description for name, (description, _) in ITEMS.items()},
        **{name: description for name, (description, _) in DATES.items()},
        **{name: description for name, (description, _) in ERRORS.items()},
        **{name: description for name, (description, _) in LOCATIONS.items()},
        "unwrapped_authorization": "authorization information without its wrapping",
        "accepted_body": "202 and 303 have a body with a summary of the run",
        "old_rate_limit": "429 with the older code, without its wrapping, and the older headers",
        "retry_date": "Retry-After of a 429 as a date",
    }
)
"""The names of all quirks, and what each does."""


def parse_quirks(quirks: str | Iterable[str]) -> frozenset[str]:
    """Return the names of the quirks; "all" stands for every one. Raises `ValueError`."""
    if quirks == "all":
        return frozenset(QUIRKS)
    names = frozenset({quirks} if isinstance(quirks, str) else quirks)
    unknown = ", ".join(sorted(map(str, names - QUIRKS.keys())))
    if unknown:
        raise ValueError(f"unknown quirk {unknown}: use all or any of {', '.join(QUIRKS)}")
    return names


class QuirkSet:
    """The enabled quirks."""

    def __init__(self, names: frozenset[str] = frozenset()) -> None:
        self.names = names
        self._items = [change for name, (_, change) in ITEMS.items() if name in names]
        self._dates = _round_robin(DATES, names)
        self._errors = _round_robin(ERRORS, names)
        self._locations = _round_robin(LOCATIONS, names)

    def apply(self, answer: Response, route: Route) -> Response:
        """Return the answer in its odd form. Only answers of the APIs have one."""
        if not self.names or route.service != "api":
            return answer
        if answer.status == 429:
            return self._rate_limit(answer)
        if answer.status >= 400:
            change = next(self._errors, None)
            return answer if change is None else change(answer)
        if answer.status in (202, 303) and "Location" in answer.headers:
            return self._start(answer)
        if answer.headers.get("Content-Type") == "application/json":
            return self._json(answer)
        return answer

    def _rate_limit(self, answer: Response) -> Response:
        if "old_rate_limit" in self.names:
            answer = _old_rate_limit(answer)
        return _with_retry_date(answer) if "retry_date" in self.names else answer

    def _start(self, answer: Response) -> Response:
        if "accepted_body" in self.names:
            answer = _with_run_summary(answer)
        change = next(self._locations, None)
        return answer if change is None else change(answer)

    def _json(self, answer: Response) -> Response:
        try:
            document = json.loads(answer.body)
        except (ValueError, RecursionError):  # an injected answer
            return answer
        for change in self._items:
            document = change(document)
        if self.names & DATES.keys():
            document = with_dates(document, self._dates)
        if "unwrapped_authorization" in self.names:
            document = unwrapped(document)
        return evolve(answer, body=json.dumps(document).encode())


def _old_rate_limit(answer: Response) -> Response:
    """Return a 429 with the code and the headers of before November 2024."""
    kept = {
        name: value
        for name, value in answer.headers.items()
        if not name.lower().startswith("itwinplatform-")
    }
    old = {
        "iTwinPlatform-RateLimit-RemainingCalls": "0",
        "iTwinPlatform-RateLimit-Retry-After-Seconds": answer.headers.get("Retry-After", "0"),
        "iTwinPlatform-Tier": answer.headers.get("ITwinPlatform-RateLimited-Tier", "Basic"),
    }
    error = {"code": "TooManyRequests", "message": _OLD_MESSAGE}
    return _document(evolve(answer, headers=kept | old), error)


def _with_retry_date(answer: Response) -> Response:
    """Return the answer with a date in `Retry-After` instead of seconds."""
    seconds = answer.headers.get("Retry-After", "")
    if not seconds.isdecimal() or len(seconds) > _MAX_SECONDS_DIGITS:
        return answer
    try:
        then = parsedate_to_datetime(answer.headers["Date"]) + timedelta(seconds=int(seconds))
    except (ValueError, OverflowError):  # the date of an injected answer
        return answer
    headers = dict(answer.headers) | {
        "Retry-After": format_datetime(then.astimezone(UTC), usegmt=True)
    }
    return evolve(answer, headers=headers)


def _with_run_summary(answer: Response) -> Response:
    """Return an answer that names a run by its Location with a body that describes the run."""
    run_id = answer.headers["Location"].rpartition("/")[2]
    return _document(answer, {"run": {"id": run_id, "state": "Queued"}})


def _with_location(answer: Response, location: str | None, *, name: str = "Location") -> Response:
    headers = {n: value for n, value in answer.headers.items() if n.lower() != "location"}
    if location is not None:
        headers[name] = location
    return evolve(answer, headers=headers)


def _error_in(answer: Response) -> dict[str, Any] | None:
    try:
        document = json.loads(answer.body)
    except (ValueError, RecursionError):
        return None
    error = document.get("error") if isinstance(document, dict) else None
    return error if isinstance(error, dict) and "message" in error else None


def _document(answer: Response, document: dict[str, Any]) -> Response:
    headers = dict(answer.headers) | {"Content-Type": "application/json"}
    return evolve(answer, headers=headers, body=json.dumps(document).encode())


def _round_robin(known: Mapping[str, tuple[str, T]], names: frozenset[str]) -> Iterator[T]:
    """Yield the changes with these names in turn, without end; nothing if there are none."""
    return cycle([change for name, (_, change) in known.items() if name in names])
