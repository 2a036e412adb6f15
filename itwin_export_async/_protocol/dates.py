"""The service's dates: ISO 8601 with 0 to 9 digits after the second, UTC without an offset.

A date that cannot be read, and one of year 1 (the service's "none"), is None; the former is logged.
"""

import logging
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

from itwin_export_async._redaction import safe_repr

log = logging.getLogger("itwin_export_async.http")

_MAX_DATE = 64  # characters; a longer text is no date, and is not cached
_MAX_LOGGED = 40  # characters of an unreadable date in the log


@lru_cache(maxsize=4096)  # each poll of a run repeats the same few dates
def _parse(text: str) -> datetime | None:
    if not text:  # stands for "none"
        return None
    try:
        time = datetime.fromisoformat(text)
        if time.tzinfo is not UTC:
            time = time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)
    except (ValueError, OverflowError):
        _log_bad_date_once(safe_repr(text, limit=_MAX_LOGGED))
        return None
    return None if time.year == 1 else time


@lru_cache(maxsize=256)  # logs each value once, and bounds the memory of them
def _log_bad_date_once(shown: str) -> None:
    log.warning("the service sent %s instead of a date", shown)


def structure_datetime(value: Any, _: Any) -> datetime | None:
    """A date of the service as an aware UTC time, None for year 1 and what cannot be read."""
    if type(value) is str:
        return _parse(value[:_MAX_DATE])
    _log_bad_date_once(safe_repr(value, limit=_MAX_LOGGED))
    return None
