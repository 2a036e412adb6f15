"""QuirkSet of the service's answers, each by its name: what a client must put up with.

They say the same in other words. Of those that exclude each other (the forms of errors, of Location
headers and of dates) the ones that are switched on take turns.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from itertools import cycle
from types import MappingProxyType
from typing import TypeVar

from attrs import evolve

from itwin_export_async._protocol.messages import Response
from itwin_export_async.emulator._http.routes import Route
from itwin_export_async.emulator._middleware.quirk_responses import (
    ERRORS,
    LOCATIONS,
    as_older_rate_limit,
    with_retry_date,
    with_run_in_short,
)
from itwin_export_async.emulator._middleware.quirk_transforms import (
    DATES,
    ITEMS,
    unwrapped,
    with_dates,
)

T = TypeVar("T")

QUIRKS: Mapping[str, str] = MappingProxyType(
    {
        **{name: told for name, (told, _) in ITEMS.items()},
        **{name: told for name, (told, _) in DATES.items()},
        **{name: told for name, (told, _) in ERRORS.items()},
        **{name: told for name, (told, _) in LOCATIONS.items()},
        "unwrapped_authorization": "authorization information without its wrapping",
        "accepted_body": "202 and 303 have a body, with the run in short",
        "old_rate_limit": "429 with the older code, without its wrapping, and the older headers",
        "retry_date": "Retry-After of a 429 as a date",
    }
)
"""The names of all quirks, and what each does."""


def checked_quirks(quirks: str | Iterable[str]) -> frozenset[str]:
    """The names that are meant: those given, or every one for "all"."""
    if quirks == "all":
        return frozenset(QUIRKS)
    names = frozenset({quirks} if isinstance(quirks, str) else quirks)
    unknown = ", ".join(sorted(names - QUIRKS.keys()))
    if unknown:
        raise ValueError(f"no quirk {unknown}, only all, {', '.join(QUIRKS)}")
    return names


class QuirkSet:
    """Answers as odd as the quirks make them."""

    def __init__(self, quirks: str | Iterable[str] = ()) -> None:
        self.names = checked_quirks(quirks)
        self._items = [change for name, (_, change) in ITEMS.items() if name in self.names]
        self._dates = _in_turn(DATES, self.names)
        self._errors = _in_turn(ERRORS, self.names)
        self._locations = _in_turn(LOCATIONS, self.names)

    def applied(self, answer: Response, found: Route) -> Response:
        """The answer to this operation as an odd service gives it. Only the APIs are odd."""
        if not self.names or found.service != "api":
            return answer
        if answer.status == 429:
            return self._odd_rate_limit(answer)
        if answer.status >= 400:
            return self._odd_refusal(answer)
        if answer.status in (202, 303) and "Location" in answer.headers:
            return self._odd_start(answer)
        if answer.headers.get("Content-Type") == "application/json":
            return self._odd_document(answer)
        return answer

    def _odd_rate_limit(self, answer: Response) -> Response:
        if "old_rate_limit" in self.names:
            answer = as_older_rate_limit(answer)
        return with_retry_date(answer) if "retry_date" in self.names else answer

    def _odd_refusal(self, answer: Response) -> Response:
        change = next(self._errors, None)
        return answer if change is None else change(answer)

    def _odd_start(self, answer: Response) -> Response:
        if "accepted_body" in self.names:
            answer = with_run_in_short(answer)
        change = next(self._locations, None)
        return answer if change is None else change(answer)

    def _odd_document(self, answer: Response) -> Response:
        document = json.loads(answer.body)
        for change in self._items:
            document = change(document)
        if self.names & DATES.keys():
            document = with_dates(document, self._dates)
        if "unwrapped_authorization" in self.names:
            document = unwrapped(document)
        return evolve(answer, body=json.dumps(document).encode())


def _in_turn(known: Mapping[str, tuple[str, T]], names: frozenset[str]) -> Iterator[T]:
    """What these names stand for, again and again; nothing where none of them is known."""
    return cycle([change for name, (_, change) in known.items() if name in names])
