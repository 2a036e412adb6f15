"""Response headers `Date` and `Retry-After`, and the statuses that may be transient."""

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from multidict import istr

# as istr, because multidict takes these without folding their case on every request
ACCEPT = istr("Accept")
AUTHORIZATION = istr("Authorization")
CORRELATION_ID = istr("X-Correlation-Id")
USER_AGENT = istr("User-Agent")
REQUEST_IDS = frozenset({"x-correlation-id", "x-request-id", "request-id", "x-ms-request-id"})
RETRY_AFTER = istr("Retry-After")
DATE = istr("Date")
JSON_BODY = {"Content-Type": "application/json"}  # of a request
TRANSIENT = frozenset({408, 429, 500, 502, 503, 504, 521, 522, 524})
MAX_RETRY_AFTER = 24 * 3600.0  # seconds; a longer one is an error, such as one in milliseconds

_OLDER_RETRY_AFTER = istr("iTwinPlatform-RateLimit-Retry-After-Seconds")  # July to November 2024
_SECONDS = re.compile(r"\d{1,12}(\.\d*)?", re.ASCII)
_YEARS = range(2000, 9000)  # in others, adding or subtracting seconds may overflow


def service_time(headers: Mapping[str, str]) -> datetime | None:
    """The service's clock: the `Date` of its response, None if it has no readable one."""
    time = _http_date(headers.get(DATE))
    return time if time is not None and time.year in _YEARS else None


def retry_after(headers: Mapping[str, str], *, now: datetime | None) -> float | None:
    """Seconds that the service asks to wait, at most a day; None without a readable value.

    Reads both forms of RFC 9110, section 10.2.3. A date is compared with the response's own `Date`,
    so that skewed clocks do no harm, and only without one with `now` (None if not known).
    """
    value = (headers.get(RETRY_AFTER) or headers.get(_OLDER_RETRY_AFTER) or "").strip()
    if not value:
        return None
    if _SECONDS.fullmatch(value):
        seconds = float(value)
    else:
        until, now = _http_date(value), service_time(headers) or now
        if until is None or now is None:
            return None
        seconds = (until - now).total_seconds()
    return min(max(0.0, seconds), MAX_RETRY_AFTER)


def _http_date(text: str | None) -> datetime | None:
    if not text:
        return None
    try:
        time = parsedate_to_datetime(text)
    except (ValueError, OverflowError):
        return None
    return time.replace(tzinfo=UTC) if time.tzinfo is None else time
