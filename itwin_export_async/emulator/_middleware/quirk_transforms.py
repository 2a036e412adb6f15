"""Quirks within JSON documents: other names and values of members, and absent members."""

import re
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Any, TypeAlias

Change: TypeAlias = Callable[[Any], Any]
Rewrite: TypeAlias = Callable[[str], str]

_STATES = {"WaitingToExecute": "Provisioning", "Finalizing": "Publishing"}
_YEAR_ONE = "0001-01-01T00:00:00"
_STAMP = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(\.\d+)?(Z|\+00:00)")
_NEEDED = frozenset({"folder", "uploadUrl", "completeUrl"})  # nothing replaces them
_OPTIONAL = frozenset(
    {
        "connectionId",
        "iTwinId",
        "retryAttempts",
        "description",
        "lastModifiedByDisplayName",
        "kbArticleLink",
        "bridgeExitCode",
    }
)


def _objects(value: Any) -> Iterator[dict[str, Any]]:
    """Yield all objects of a document, the inner ones first."""
    if isinstance(value, dict):
        for inner in tuple(value.values()):
            yield from _objects(inner)
        yield value
    elif isinstance(value, list):
        for inner in value:
            yield from _objects(inner)


def _for_each_object(change: Callable[[dict[str, Any]], None]) -> Change:
    def apply(document: Any) -> Any:
        for item in _objects(document):
            change(item)
        return document

    return apply


def _cancelled(item: dict[str, Any]) -> None:
    if item.get("result") == "Canceled":
        item["result"] = "Cancelled"


def _unknown_states(item: dict[str, Any]) -> None:
    if item.get("state") in _STATES:
        item["state"] = _STATES[item["state"]]


def _unknown_results(item: dict[str, Any]) -> None:
    if item.get("result") == "Undetermined":
        item["result"] = "Pending"


def _letter_case(item: dict[str, Any]) -> None:
    for name in ("state", "result"):
        if isinstance(item.get(name), str):
            item[name] = item[name].lower()


def _unknown_members(item: dict[str, Any]) -> None:
    if "href" not in item:
        item["introducedLater"] = {"of": ["a", "newer", None, 1]}


def _missing_members(item: dict[str, Any]) -> None:
    for name in _OPTIONAL & item.keys():
        del item[name]
    if item.get("result") == "Undetermined":
        del item["result"]


def _null_lists(item: dict[str, Any]) -> None:
    for name, value in item.items():
        if value == []:
            item[name] = None
    if "state" in item and "retryAttempts" not in item and "storageFileId" not in item:
        within = "jobs" if "connectionId" in item or "jobs" in item else "tasks"
        item.setdefault(within, None)


def _has_needed_links(item: dict[str, Any]) -> bool:
    links = item["_links"] or {}
    return (
        item.get("isUserAuthorized") is False
        or not _NEEDED.isdisjoint(links)
        or "continuationToken" in str(links.get("next"))
    )


def _null_links(item: dict[str, Any]) -> None:
    if "_links" in item and not _has_needed_links(item):
        item["_links"] = None


def _absent_links(item: dict[str, Any]) -> None:
    if "_links" in item and not _has_needed_links(item):
        del item["_links"]


def _project_link(item: dict[str, Any]) -> None:
    if "iTwin" in item and "iModel" in item:
        item["project"] = item.pop("iTwin")


def _year_one(item: dict[str, Any]) -> None:
    if "startDateTime" in item:
        item.setdefault("endDateTime", _YEAR_ONE)


def _digits(count: int) -> Rewrite:
    def rewrite(stamp: str) -> str:
        found = _STAMP.fullmatch(stamp)
        if found is None:
            return stamp
        second, fraction, zone = found.groups(default="")
        digits = fraction.lstrip(".").ljust(count, "0")[:count]
        return f"{second}{'.' if count else ''}{digits}{zone}"

    return rewrite


def _offset(stamp: str) -> str:
    return stamp.removesuffix("Z") + "+00:00" if stamp.endswith("Z") else stamp


ITEMS: Mapping[str, tuple[str, Change]] = MappingProxyType(
    {
        "cancelled": ("Cancelled for Canceled", _for_each_object(_cancelled)),
        "unknown_states": ("states that no page documents", _for_each_object(_unknown_states)),
        "unknown_results": ("Pending for Undetermined", _for_each_object(_unknown_results)),
        "unknown_members": ("members that no page documents", _for_each_object(_unknown_members)),
        "null_lists": ("null for an empty or missing list", _for_each_object(_null_lists)),
        "missing_members": ("optional members are left out", _for_each_object(_missing_members)),
        "year_one": ("a date of the year 1 for none", _for_each_object(_year_one)),
        "project_link": ("a link project for iTwin", _for_each_object(_project_link)),
        "null_links": ("null for links that are not needed", _for_each_object(_null_links)),
        "absent_links": ("links that are not needed are left out", _for_each_object(_absent_links)),
        "letter_case": ("states and results in lower case", _for_each_object(_letter_case)),
    }
)
"""What each quirk does, and how; they are applied in this order."""

DATES: Mapping[str, tuple[str, Rewrite]] = MappingProxyType(
    {
        "dates_0": ("dates without a fraction", _digits(0)),
        "dates_6": ("dates with 6 digits", _digits(6)),
        "dates_7": ("dates with 7 digits", _digits(7)),
        "dates_offset": ("dates with an offset", _offset),
    }
)


def with_dates(document: Any, rewrites: Iterator[Rewrite]) -> Any:
    """Return the document with each date in the next of these forms."""
    for item in _objects(document):
        for name, value in item.items():
            if name.endswith("DateTime") and isinstance(value, str) and value != _YEAR_ONE:
                item[name] = next(rewrites)(value)
    return document


def unwrapped(document: Any) -> Any:
    """Return authorization information without its wrapping, other documents unchanged."""
    if not isinstance(document, dict):
        return document
    return document.get("authorizationInformation", document)
