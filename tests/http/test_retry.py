"""Whether a request is sent again, and after which delay."""

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from itwin_export_async._errors import RequestTimeout, TransportError
from itwin_export_async._http.retry import (
    Outcome,
    RetryBudget,
    RetryPolicy,
    may_have_been_processed,
    should_retry,
    was_not_processed,
)
from itwin_export_async._protocol.headers import MAX_RETRY_AFTER, retry_after, service_time
from itwin_export_async._protocol.messages import Request, Response
from tests.support.samples import NOW

GET = Request(method="GET", url="/export/connections/c1")
POST = Request(method="POST", url="/export/connections")
REPEATABLE_POST = Request(method="POST", url="/export/connections/c1/runs", retryable=True)
TRANSIENT = [408, 429, 500, 502, 503, 504, 521, 522, 524]
DEFINITE = [200, 202, 303, 400, 401, 403, 404, 409, 413, 422, 501, 505]

attempts = st.integers(1, 60)
policies = st.builds(
    RetryPolicy,
    attempts=st.integers(1, 60),
    initial=st.floats(0.001, 10),
    maximum=st.floats(10, 1000),
    jitter=st.sampled_from([lambda s: 0.0, lambda s: s / 2, lambda s: s]),
)


def at(status: int, **headers: str) -> Response:
    return Response(
        status=status, headers={name.replace("_", "-"): v for name, v in headers.items()}
    )


def test_retry_never_shortens_a_retry_after() -> None:
    answer = Response(status=429, headers={"Retry-After": "17"})
    assert RetryPolicy(jitter=lambda s: 0.0).next_delay(POST, answer, 1, now=NOW) == 17


@pytest.mark.parametrize("status", TRANSIENT)
@pytest.mark.parametrize("request_", [GET, REPEATABLE_POST])
def test_transient_error_is_retried_if_that_does_no_harm(request_: Request, status: int) -> None:
    assert should_retry(request_, at(status))


@pytest.mark.parametrize("status", DEFINITE)
@pytest.mark.parametrize("request_", [GET, POST, REPEATABLE_POST])
def test_definite_response_is_never_retried(request_: Request, status: int) -> None:
    assert not should_retry(request_, at(status))
    assert RetryPolicy().next_delay(request_, at(status), 1, now=NOW) is None


@pytest.mark.parametrize("status", [s for s in TRANSIENT if s != 429])
def test_unsafe_request_is_not_retried_after_an_uncertain_outcome(status: int) -> None:
    assert not should_retry(POST, at(status))


@pytest.mark.parametrize(
    ("outcome", "not_processed"),
    [
        (at(429), True),
        (at(503, Retry_After="3"), True),
        (at(503), False),
        (at(502, Retry_After="3"), False),
        (TransportError(message="refused", may_have_been_processed=False), True),
        (TransportError(message="reset", may_have_been_processed=True), False),
        (RequestTimeout(message="slow"), False),
    ],
)
def test_unsafe_request_is_retried_if_it_was_not_processed(
    outcome: Outcome, not_processed: bool
) -> None:
    assert was_not_processed(outcome) is not_processed
    assert should_retry(POST, outcome) is not_processed
    assert should_retry(GET, outcome)
    assert may_have_been_processed(outcome) is not not_processed


@pytest.mark.parametrize("status", DEFINITE)
def test_definite_response_is_not_uncertain(status: int) -> None:
    assert not may_have_been_processed(at(status))


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("17", 17.0),
        ("0", 0.0),
        (" 5 ", 5.0),
        ("1.5", 1.5),
        ("86401", 86400.0),  # a day at most
        ("999999999999", 86400.0),
        ("Sat, 01 Mar 3025 12:00:30 GMT", 86400.0),
        ("Sat, 01 Mar 2025 12:00:30 GMT", 30.0),
        ("Sat, 01 Mar 2025 11:59:00 GMT", 0.0),
        ("Sat, 01 Mar 2025 14:00:30 +0200", 30.0),
        ("Sat, 01 Mar 2025 12:00:30 -0000", 30.0),
        ("Saturday, 01-Mar-25 12:00:30 GMT", 30.0),
        ("Sat Mar  1 12:00:30 2025", 30.0),
    ],
)
def test_retry_after_is_read_in_both_forms(text: str, seconds: float) -> None:
    assert retry_after(at(429, Retry_After=text).headers, now=NOW) == seconds


@pytest.mark.parametrize(
    "text",
    ["", "soon", "-1", "nan", "inf", "-inf", "1e999", "17 s", "12:00:30", "Sat, 32 Mar 2025",
     "Sat, 01 Mar 99999999999999999999 12:00:30 GMT", "Sat, 01 Mar 2025 12:00:30 +999999"],
)  # fmt: skip
def test_unreadable_retry_after_is_none(text: str) -> None:
    assert retry_after(at(429, Retry_After=text).headers, now=NOW) is None


@given(st.text() | st.text("0123456789.e+-: GMTSatMarOct,"))
def test_retry_after_of_any_text_is_a_bounded_delay_or_none(text: str) -> None:
    delay = retry_after({"Retry-After": text}, now=NOW)
    assert delay is None or 0 <= delay <= MAX_RETRY_AFTER


def test_missing_retry_after_is_none() -> None:
    assert retry_after(at(429).headers, now=NOW) is None


@given(st.integers(-(10**6), 10**6))
def test_skewed_clock_does_not_change_a_retry_after(skew: int) -> None:
    headers = {"Retry-After": "Sat, 01 Mar 2025 12:00:30 GMT",
               "Date": "Sat, 01 Mar 2025 12:00:00 GMT"}  # fmt: skip
    assert retry_after(headers, now=NOW + timedelta(seconds=skew)) == 30.0
    assert retry_after(headers, now=None) == 30.0


def test_retry_after_date_needs_a_clock() -> None:
    assert retry_after({"Retry-After": "Sat, 01 Mar 2025 12:00:30 GMT"}, now=None) is None


@pytest.mark.parametrize(
    ("headers", "time"),
    [
        ({"Date": "Sat, 01 Mar 2025 12:00:00 GMT"}, NOW),
        ({"Date": "noon"}, None),
        ({"Date": "Fri, 31 Dec 9999 23:59:59 GMT"}, None),  # no second could be added to it
        ({}, None),
    ],
)
def test_service_time_is_the_date_of_the_response(headers: dict[str, str], time: object) -> None:
    assert service_time(headers) == time


@given(policies, attempts, st.integers(0, 300))
def test_delay_is_at_least_the_retry_after(
    policy: RetryPolicy, attempt: int, requested: int
) -> None:
    response = at(503, Retry_After=str(requested))
    delay = policy.next_delay(GET, response, attempt, now=NOW)
    if attempt >= policy.attempts:
        assert delay is None
    else:
        assert delay is not None
        assert requested <= delay <= max(requested, policy.max_delay(attempt))


@pytest.mark.parametrize("value", ["0", "Sat, 01 Mar 2025 11:59:00 GMT"])
def test_retry_after_of_zero_does_not_shorten_the_backoff(value: str) -> None:
    policy = RetryPolicy(jitter=lambda bound: bound)
    delays = [policy.next_delay(GET, at(429, Retry_After=value), n, now=NOW) for n in (1, 2, 3)]
    assert delays == [0.5, 1.0, 2.0]


@pytest.mark.parametrize(
    ("outcome", "is_free"),
    [
        (at(429, Retry_After="0"), False),
        (at(429, Retry_After="1"), False),
        (at(429, Retry_After="2"), True),
        (at(503, Retry_After="Sat, 01 Mar 2025 12:01:00 GMT"), True),
        (at(503), False),
        (TransportError(message="reset"), False),
    ],
)
def test_retry_is_free_only_if_the_service_asks_for_a_long_enough_delay(
    outcome: Outcome, is_free: bool
) -> None:
    assert RetryPolicy().is_free(outcome, 3, now=NOW) is is_free


@given(policies, attempts)
def test_delay_is_at_most_max_delay(policy: RetryPolicy, attempt: int) -> None:
    delay = policy.next_delay(GET, at(503), attempt, now=NOW)
    if attempt >= policy.attempts:
        assert delay is None
    else:
        assert delay is not None
        assert 0 <= delay <= policy.max_delay(attempt)
    assert 0 <= policy.backoff(attempt) <= policy.max_delay(attempt)


@given(st.lists(st.booleans(), max_size=200))
def test_retry_budget_is_a_token_bucket(retries: list[bool]) -> None:
    budget, spent, earned = RetryBudget(level=5.0, capacity=10.0), 0, 0
    for is_retry in retries:
        if not is_retry:
            budget, earned = budget.credit(), earned + 1
        elif not budget.is_empty:
            budget, spent = budget.debit(), spent + 1
        assert 0 <= budget.level <= budget.capacity
    assert spent <= 5 + 0.2 * earned


@given(policies, attempts)
def test_max_delay_doubles_up_to_the_maximum(policy: RetryPolicy, attempt: int) -> None:
    delay, following = policy.max_delay(attempt), policy.max_delay(attempt + 1)
    assert policy.max_delay(1) == policy.initial
    assert delay < following or delay == following == policy.maximum
    assert following <= 2 * delay
    assert policy.max_delay(200) == policy.maximum


@given(policies)
def test_attempts_count_all_sendings(policy: RetryPolicy) -> None:
    outcome = TransportError(message="reset")
    repeats = [policy.next_delay(GET, outcome, n, now=NOW) for n in range(1, policy.attempts + 3)]
    assert sum(wait is not None for wait in repeats) == policy.attempts - 1
    assert repeats[policy.attempts - 1] is None


def test_delays_are_spread_from_zero_to_max_delay() -> None:
    delays = [RetryPolicy().next_delay(GET, at(500), 4, now=NOW) or 0.0 for _ in range(500)]
    assert 0 <= min(delays) < 0.5
    assert 3.5 < max(delays) <= 4.0


@pytest.mark.parametrize(("requested", "delay"), [("300", 300.0), ("301", None)])
def test_retry_after_above_the_maximum_is_not_waited_for(
    requested: str, delay: float | None
) -> None:
    assert RetryPolicy().next_delay(GET, at(429, Retry_After=requested), 1, now=NOW) == delay


@pytest.mark.parametrize(
    ("field", "value"),
    [("attempts", 0), ("attempts", -1), ("initial", 0), ("maximum", -1.0), ("max_retry_after", -1)],
)
def test_invalid_policy_is_named(field: str, value: int) -> None:
    with pytest.raises(ValueError, match=field):
        RetryPolicy(**{field: value})  # type: ignore[arg-type]
