"""When a request is sent again, and after what wait.

The service documents no retry policy; the statuses are those its own clients repeat. A request that
does harm when it is done twice is repeated only if the service surely did not take it. A
`Retry-After` (RFC 9110, section 10.2.3) is a lower bound: it is neither shortened nor jittered.
"""

import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from email.utils import format_datetime, parsedate_to_datetime
from itertools import islice
from numbers import Real

import backoff
from attrs import evolve, field, frozen
from attrs.validators import ge, gt
from multidict import istr

from itwin_export_async._errors import TransportError
from itwin_export_async._models.checks import of_type
from itwin_export_async._protocol.http import Request, Response
from itwin_export_async._secrets import without_query

Outcome = Response | TransportError

_RETRY_AFTER = istr("Retry-After")  # looked up in each answer: no new text each time
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
    asked = (headers.get(_RETRY_AFTER) or headers.get(_OLDER_RETRY_AFTER) or "").strip()
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


def dated(response: Response, *, now: datetime) -> Response:
    """The answer with a `Date`: where the service tells none, an asked wait counts from `now`."""
    if _RETRY_AFTER not in response.headers or "Date" in response.headers:
        return response
    return evolve(response, headers={**response.headers, "Date": format_datetime(now, usegmt=True)})


def _http_date(text: str | None) -> datetime | None:
    if not text:
        return None
    try:
        moment = parsedate_to_datetime(text)
    except (ValueError, OverflowError):
        return None
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment


def surely_not_taken(outcome: Outcome) -> bool:
    """Whether the service certainly did nothing with the request."""
    if isinstance(outcome, TransportError):
        return not outcome.sent
    return outcome.status == 429 or (outcome.status == 503 and "Retry-After" in outcome.headers)


def may_retry(request: Request, outcome: Outcome) -> bool:
    """Whether sending the request once more can help and does no harm."""
    if surely_not_taken(outcome):
        return True
    if not request.repeatable:
        return False
    return isinstance(outcome, TransportError) or outcome.status in TRANSIENT


def leaves_doubt(outcome: Outcome) -> bool:
    """Whether the service may have done what was asked although it did not say so."""
    if surely_not_taken(outcome):
        return False
    return isinstance(outcome, TransportError) or outcome.status in TRANSIENT


@frozen
class RetryBudget:
    """What a session may still spend on repeating requests, so that no outage is amplified.

    A repetition costs 1, unless the service itself asked for it; an answer that was none of its
    troubles earns a fifth back. An empty budget leaves every request its first sending.
    """

    left: float = 100.0
    most: float = 100.0

    def spent(self) -> "RetryBudget":
        """After one repetition."""
        return evolve(self, left=max(0.0, self.left - 1.0))

    def earned(self) -> "RetryBudget":
        """After an answer."""
        return (
            self if self.left >= self.most else evolve(self, left=min(self.left + 0.2, self.most))
        )

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing left for another repetition."""
        return self.left < 1.0


def is_trouble(outcome: Outcome) -> bool:
    """Whether the service, or the way to it, is in trouble."""
    return isinstance(outcome, TransportError) or outcome.status in TRANSIENT


@frozen(kw_only=True)
class RetryPolicy:
    """How often and how patiently a request is repeated.

    `attempts` counts all sendings, the first included: 1 never repeats. The waits between them are
    drawn between zero and a bound that starts at `initial` seconds and doubles up to `maximum`,
    unless the service asks for a wait of its own. If it asks for more than `max_retry_after`
    seconds the refusal is raised at once. `jitter` draws a wait from its bound.
    """

    attempts: int = field(default=5, validator=[of_type(int), ge(1)])
    initial: float = field(default=0.5, validator=[of_type(Real), gt(0)])
    maximum: float = field(default=60.0, validator=[of_type(Real), gt(0)])
    max_retry_after: float = field(default=300.0, validator=[of_type(Real), ge(0)])
    jitter: Callable[[float], float] = field(default=backoff.full_jitter, repr=False)

    def bound(self, attempt: int) -> float:
        """The longest wait after this attempt, in seconds."""
        waits = backoff.expo(base=2, factor=self.initial, max_value=self.maximum)
        return float(next(islice(waits, attempt, None)))  # the generator's first item is no wait

    def next_wait(
        self, request: Request, outcome: Outcome, attempt: int, *, now: datetime
    ) -> float | None:
        """Seconds to wait before the request is sent again, None when it is not."""
        if attempt >= self.attempts or not may_retry(request, outcome):
            return None
        asked = None
        if isinstance(outcome, Response):
            asked = retry_after(outcome.headers, now=now)
        if asked is None:
            return self.jitter(self.bound(attempt))
        # kept to the letter: an asked wait has no jitter
        return asked if asked <= self.max_retry_after else None


def settled(outcome: Outcome, doubt: float | None) -> Response:
    """The answer, or the error that there was none. `doubt`: see `Response.doubt`."""
    if isinstance(outcome, TransportError):
        raise outcome if doubt is None else evolve(outcome, sent=True)  # an earlier sending was
    return outcome if doubt is None else evolve(outcome, doubt=doubt)


def described(outcome: Outcome) -> str:
    """What came of a request, for a log: nothing secret."""
    if isinstance(outcome, TransportError):
        return str(outcome)
    return f"{outcome.status} for {outcome.method} {without_query(outcome.url)}"
