"""The service's dates: ISO 8601 with 0 to 9 digits after the second, in UTC where nothing is said.

One that cannot be read, and one of year 1 (the service's "none"), is None; the former is logged.
"""

import logging
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

log = logging.getLogger(__name__)


@lru_cache(maxsize=4096)  # each look at a run tells the same few times again
def moment(text: str) -> datetime | None:
    """An aware UTC time, None for year 1 and for what cannot be read."""
    try:
        time = datetime.fromisoformat(text)
        if time.tzinfo is not UTC:
            time = time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)
    except (ValueError, OverflowError):
        _report_date(text)
        return None
    return None if time.year == 1 else time


@lru_cache(maxsize=256)  # the cache makes it once per value, and bounds what is remembered
def _report_date(text: str) -> None:
    if text:  # an empty one stands for "none"
        log.warning("the service sent %r where a date belongs", text[:40])


def date_or_none(value: Any, _: Any) -> datetime | None:
    """What stands where a date belongs, as the codec reads it."""
    if type(value) is str:
        return moment(value)
    _report_date(repr(value))
    return None
