"""Whether a request is sent again, and after which delay.

The service documents no retry policy; the statuses are those that its own clients retry. A request
that does harm when it is processed twice is retried only if the service certainly did not process
it. A `Retry-After` (RFC 9110, section 10.2.3) is a lower bound: never shortened, without jitter,
and no reason to wait less than the client's own backoff.
"""

from collections.abc import Callable
from datetime import datetime
from email.utils import format_datetime
from itertools import islice
from numbers import Real

import backoff
from attrs import evolve, field, frozen
from attrs.validators import ge, gt

from itwin_export_async._errors import TransportError
from itwin_export_async._models.validators import instance_of
from itwin_export_async._protocol.headers import DATE, RETRY_AFTER, TRANSIENT, retry_after
from itwin_export_async._protocol.messages import Request, Response
from itwin_export_async._redaction import without_query

Outcome = Response | TransportError
"""What came of sending a request once."""


def with_date(response: Response, *, now: datetime) -> Response:
    """The response with a `Date`, so that its `Retry-After` can be read later as well."""
    if RETRY_AFTER not in response.headers or DATE in response.headers:
        return response
    return evolve(response, headers={**response.headers, DATE: format_datetime(now, usegmt=True)})


def was_not_processed(outcome: Outcome) -> bool:
    """Whether the service certainly did nothing with the request."""
    if isinstance(outcome, TransportError):
        return not outcome.may_have_been_processed
    return is_429(outcome) or (outcome.status == 503 and RETRY_AFTER in outcome.headers)


def may_have_been_processed(outcome: Outcome) -> bool:
    """Whether the service may have processed the request although the outcome is a failure."""
    return is_failure(outcome) and not was_not_processed(outcome)


def is_failure(outcome: Outcome) -> bool:
    """Whether the outcome is a transient failure of the service or of the network."""
    return isinstance(outcome, TransportError) or outcome.status in TRANSIENT


def is_429(outcome: Outcome) -> bool:
    """Whether the service refused the request because of the rate limit."""
    return isinstance(outcome, Response) and outcome.status == 429


def should_retry(request: Request, outcome: Outcome) -> bool:
    """Whether sending the request again can help and does no harm."""
    if not is_failure(outcome):
        return False
    return request.retryable or was_not_processed(outcome)


@frozen
class RetryBudget:
    """A token bucket for the retries of one session, so that an outage is not amplified.

    A retry costs 1, a request without a failure earns 0.2. While the bucket is empty, requests are
    not retried.
    """

    level: float = 100.0
    capacity: float = 100.0

    def debit(self) -> "RetryBudget":
        """The budget after a retry."""
        return evolve(self, level=max(0.0, self.level - 1.0))

    def credit(self) -> "RetryBudget":
        """The budget after a request without a failure."""
        if self.level >= self.capacity:
            return self
        return evolve(self, level=min(self.level + 0.2, self.capacity))

    @property
    def is_empty(self) -> bool:
        """Whether it does not allow another retry."""
        return self.level < 1.0


@frozen(kw_only=True)
class RetryPolicy:
    """How often and after which delays a request is retried.

    `attempts` counts all sendings, the first included: 1 never retries. The delay after attempt `n`
    is `jitter(max_delay(n))`, where `max_delay` starts at `initial` seconds and doubles up to
    `maximum`; or the service's `Retry-After`, if that is longer. A `Retry-After` of more than
    `max_retry_after` seconds is not waited for: the error is raised at once.
    """

    attempts: int = field(default=5, validator=[instance_of(int), ge(1)])
    initial: float = field(default=0.5, validator=[instance_of(Real), gt(0)])
    maximum: float = field(default=60.0, validator=[instance_of(Real), gt(0)])
    max_retry_after: float = field(default=300.0, validator=[instance_of(Real), ge(0)])
    jitter: Callable[[float], float] = field(default=backoff.full_jitter, repr=False)

    def max_delay(self, attempt: int) -> float:
        """The longest backoff after this attempt, in seconds."""
        delays = backoff.expo(base=2, factor=self.initial, max_value=self.maximum)
        return float(next(islice(delays, attempt, None)))  # the generator's first item is no delay

    def backoff(self, attempt: int) -> float:
        """The backoff after this attempt, in seconds."""
        return self.jitter(self.max_delay(attempt))

    def next_delay(
        self, request: Request, outcome: Response | TransportError, attempt: int, *, now: datetime
    ) -> float | None:
        """Seconds to wait before the next attempt; None if there is none."""
        if attempt >= self.attempts or not should_retry(request, outcome):
            return None
        requested = requested_delay(outcome, now=now) or 0.0
        return max(requested, self.backoff(attempt)) if requested <= self.max_retry_after else None

    def is_free(self, outcome: Response | TransportError, attempt: int, *, now: datetime) -> bool:
        """Whether the next attempt costs no budget: the service asks for a long enough delay."""
        requested = requested_delay(outcome, now=now)
        return requested is not None and requested >= self.max_delay(attempt)


def requested_delay(outcome: Outcome, *, now: datetime) -> float | None:
    """Seconds that the service asks to wait; None if it does not."""
    return retry_after(outcome.headers, now=now) if isinstance(outcome, Response) else None


def unwrap(outcome: Outcome, uncertain_for: float | None) -> Response:
    """Return the response or raise the error. `uncertain_for`: see `Response.uncertain_for`."""
    if isinstance(outcome, TransportError):
        if uncertain_for is not None:  # an earlier sending may have been processed
            outcome = evolve(outcome, may_have_been_processed=True)
        raise outcome
    return outcome if uncertain_for is None else evolve(outcome, uncertain_for=uncertain_for)


def describe(outcome: Outcome) -> str:
    """The outcome in a few words for a log, without secrets."""
    if isinstance(outcome, TransportError):
        return str(outcome)
    return f"{outcome.status} for {outcome.method} {without_query(outcome.url)}"
