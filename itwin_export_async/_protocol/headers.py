"""Response headers: `Date` and `Retry-After`, and the statuses that may be transient."""

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from multidict import istr

RETRY_AFTER = istr("Retry-After")  # prepared once, because every response is searched for it
_OLDER_RETRY_AFTER = istr("iTwinPlatform-RateLimit-Retry-After-Seconds")  # July to November 2024
_SECONDS = re.compile(r"\d{1,12}(\.\d*)?", re.ASCII)
TRANSIENT = frozenset({408, 429, 500, 502, 503, 504, 521, 522, 524})


def service_time(headers: Mapping[str, str]) -> datetime | None:
    """The service's own clock: the `Date` of its answer, None when it has none that can be read."""
    return _http_date(headers.get("Date"))


def retry_after(headers: Mapping[str, str], *, now: datetime | None) -> float | None:
    """Seconds the server asked us to wait, or None when it did not say.

    Reads both forms of RFC 9110, section 10.2.3; nonsense counts as not having said. A date is
    held against the answer's own `Date`, so that skewed clocks do no harm, and only without one
    against `now` (None where that is not known).
    """
    asked = (headers.get(RETRY_AFTER) or headers.get(_OLDER_RETRY_AFTER) or "").strip()
    if not asked:
        return None
    if _SECONDS.fullmatch(asked):
        seconds = float(asked)
    else:
        until, now = _http_date(asked), service_time(headers) or now
        if until is None or now is None:
            return None
        seconds = max(0.0, (until - now).total_seconds())
    return seconds


def _http_date(text: str | None) -> datetime | None:
    if not text:
        return None
    try:
        moment = parsedate_to_datetime(text)
    except (ValueError, OverflowError):
        return None
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment
