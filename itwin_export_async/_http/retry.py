"""When a request is sent again, and after what wait.

The service documents no retry policy; the statuses are those its own clients repeat. A request that
does harm when it is done twice is repeated only if the service surely did not take it. A
`Retry-After` (RFC 9110, section 10.2.3) is a lower bound: it is neither shortened nor jittered.
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
from itwin_export_async._protocol.headers import RETRY_AFTER, TRANSIENT, retry_after
from itwin_export_async._protocol.messages import Request, Response
from itwin_export_async._redaction import without_query

Outcome = Response | TransportError


def dated(response: Response, *, now: datetime) -> Response:
    """The answer with a `Date`: where the service tells none, an asked wait counts from `now`."""
    if RETRY_AFTER not in response.headers or "Date" in response.headers:
        return response
    return evolve(response, headers={**response.headers, "Date": format_datetime(now, usegmt=True)})


def was_not_processed(outcome: Outcome) -> bool:
    """Whether the service certainly did nothing with the request."""
    if isinstance(outcome, TransportError):
        return not outcome.may_have_been_processed
    return outcome.status == 429 or (outcome.status == 503 and "Retry-After" in outcome.headers)


def should_retry(request: Request, outcome: Outcome) -> bool:
    """Whether sending the request once more can help and does no harm."""
    if was_not_processed(outcome):
        return True
    if not request.repeatable:
        return False
    return isinstance(outcome, TransportError) or outcome.status in TRANSIENT


def may_have_been_processed(outcome: Outcome) -> bool:
    """Whether the service may have done what was asked although it did not say so."""
    if was_not_processed(outcome):
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


def is_failure(outcome: Outcome) -> bool:
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

    attempts: int = field(default=5, validator=[instance_of(int), ge(1)])
    initial: float = field(default=0.5, validator=[instance_of(Real), gt(0)])
    maximum: float = field(default=60.0, validator=[instance_of(Real), gt(0)])
    max_retry_after: float = field(default=300.0, validator=[instance_of(Real), ge(0)])
    jitter: Callable[[float], float] = field(default=backoff.full_jitter, repr=False)

    def bound(self, attempt: int) -> float:
        """The longest wait after this attempt, in seconds."""
        waits = backoff.expo(base=2, factor=self.initial, max_value=self.maximum)
        return float(next(islice(waits, attempt, None)))  # the generator's first item is no wait

    def next_wait(
        self, request: Request, outcome: Outcome, attempt: int, *, now: datetime
    ) -> float | None:
        """Seconds to wait before the request is sent again, None when it is not."""
        if attempt >= self.attempts or not should_retry(request, outcome):
            return None
        asked = None
        if isinstance(outcome, Response):
            asked = retry_after(outcome.headers, now=now)
        if asked is None:
            return self.jitter(self.bound(attempt))
        # kept to the letter: an asked wait has no jitter
        return asked if asked <= self.max_retry_after else None


def settled(outcome: Outcome, doubt: float | None) -> Response:
    """The answer, or the error that there was none. `doubt`: see `Response.uncertain_for`."""
    if isinstance(outcome, TransportError):
        raise (
            outcome if doubt is None else evolve(outcome, may_have_been_processed=True)
        )  # an earlier sending was
    return outcome if doubt is None else evolve(outcome, uncertain_for=doubt)


def described(outcome: Outcome) -> str:
    """What came of a request, for a log: nothing secret."""
    if isinstance(outcome, TransportError):
        return str(outcome)
    return f"{outcome.status} for {outcome.method} {without_query(outcome.url)}"
