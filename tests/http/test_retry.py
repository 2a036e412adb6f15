"""When a request is sent again, and after what wait."""

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from itwin_export_async._errors import RequestTimeout, TransportError
from itwin_export_async._http.retry import (
    Outcome,
    RetryPolicy,
    may_have_been_processed,
    should_retry,
    was_not_processed,
)
from itwin_export_async._protocol.headers import retry_after, service_time
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


def test_an_asked_wait_is_never_shortened() -> None:
    answer = Response(status=429, headers={"Retry-After": "17"})
    assert RetryPolicy(jitter=lambda s: 0.0).next_wait(POST, answer, 1, now=NOW) == 17


@pytest.mark.parametrize("status", TRANSIENT)
@pytest.mark.parametrize("request_", [GET, REPEATABLE_POST])
def test_a_passing_refusal_is_repeated_where_that_does_no_harm(
    request_: Request, status: int
) -> None:
    assert should_retry(request_, at(status))


@pytest.mark.parametrize("status", DEFINITE)
@pytest.mark.parametrize("request_", [GET, POST, REPEATABLE_POST])
def test_a_definite_answer_is_never_asked_for_again(request_: Request, status: int) -> None:
    assert not should_retry(request_, at(status))
    assert RetryPolicy().next_wait(request_, at(status), 1, now=NOW) is None


@pytest.mark.parametrize("status", [s for s in TRANSIENT if s != 429])
def test_what_must_not_be_done_twice_is_not_repeated_in_doubt(status: int) -> None:
    assert not should_retry(POST, at(status))


@pytest.mark.parametrize(
    ("outcome", "taken_for_sure_not"),
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
def test_what_must_not_be_done_twice_is_repeated_if_it_was_surely_not_taken(
    outcome: Outcome, taken_for_sure_not: bool
) -> None:
    assert was_not_processed(outcome) is taken_for_sure_not
    assert should_retry(POST, outcome) is taken_for_sure_not
    assert should_retry(GET, outcome)
    assert may_have_been_processed(outcome) is not taken_for_sure_not


@pytest.mark.parametrize("status", DEFINITE)
def test_a_definite_answer_leaves_no_doubt(status: int) -> None:
    assert not may_have_been_processed(at(status))


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("17", 17.0),
        ("0", 0.0),
        (" 5 ", 5.0),
        ("1.5", 1.5),
        ("251635075199", 251635075199.0),  # to the end of what dates can tell
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
def test_nonsense_counts_as_not_having_said(text: str) -> None:
    assert retry_after(at(429, Retry_After=text).headers, now=NOW) is None


@given(st.text() | st.text("0123456789.e+-: GMTSatMarOct,"))
def test_whatever_retry_after_says_is_a_wait_or_nothing(text: str) -> None:
    wait = retry_after({"Retry-After": text}, now=NOW)
    assert wait is None or 0 <= wait < float("inf")


def test_nothing_said_is_none() -> None:
    assert retry_after(at(429).headers, now=NOW) is None


@given(st.integers(-(10**6), 10**6))
def test_a_skewed_clock_does_not_change_an_asked_wait(skew: int) -> None:
    headers = {"Retry-After": "Sat, 01 Mar 2025 12:00:30 GMT",
               "Date": "Sat, 01 Mar 2025 12:00:00 GMT"}  # fmt: skip
    assert retry_after(headers, now=NOW + timedelta(seconds=skew)) == 30.0
    assert retry_after(headers, now=None) == 30.0


def test_a_date_cannot_be_read_without_any_clock() -> None:
    assert retry_after({"Retry-After": "Sat, 01 Mar 2025 12:00:30 GMT"}, now=None) is None


@pytest.mark.parametrize(
    ("headers", "time"),
    [({"Date": "Sat, 01 Mar 2025 12:00:00 GMT"}, NOW), ({"Date": "noon"}, None), ({}, None)],
)
def test_the_services_clock_is_the_date_of_its_answer(
    headers: dict[str, str], time: object
) -> None:
    assert service_time(headers) == time


@given(policies, attempts, st.integers(0, 300))
def test_no_wait_is_below_what_was_asked(policy: RetryPolicy, attempt: int, asked: int) -> None:
    wait = policy.next_wait(GET, at(503, Retry_After=str(asked)), attempt, now=NOW)
    assert wait is None if attempt >= policy.attempts else wait == asked


@given(policies, attempts)
def test_no_wait_is_above_its_bound(policy: RetryPolicy, attempt: int) -> None:
    wait = policy.next_wait(GET, at(503), attempt, now=NOW)
    assert wait is None if attempt >= policy.attempts else 0 <= (wait or 0) <= policy.bound(attempt)


@given(policies, attempts)
def test_the_bound_grows_up_to_the_cap(policy: RetryPolicy, attempt: int) -> None:
    bound, following = policy.bound(attempt), policy.bound(attempt + 1)
    assert policy.bound(1) == policy.initial
    assert bound < following or bound == following == policy.maximum
    assert following <= 2 * bound
    assert policy.bound(200) == policy.maximum


@given(policies)
def test_attempts_count_all_sendings(policy: RetryPolicy) -> None:
    outcome = TransportError(message="reset")
    repeats = [policy.next_wait(GET, outcome, n, now=NOW) for n in range(1, policy.attempts + 3)]
    assert sum(wait is not None for wait in repeats) == policy.attempts - 1
    assert repeats[policy.attempts - 1] is None


def test_waits_are_spread_over_the_whole_bound() -> None:
    waits = [RetryPolicy().next_wait(GET, at(500), 4, now=NOW) or 0.0 for _ in range(500)]
    assert 0 <= min(waits) < 0.5
    assert 3.5 < max(waits) <= 4.0


@pytest.mark.parametrize(("asked", "wait"), [("300", 300.0), ("301", None), ("0", 0.0)])
def test_a_wait_asked_too_long_is_not_waited(asked: str, wait: float | None) -> None:
    assert RetryPolicy().next_wait(GET, at(429, Retry_After=asked), 1, now=NOW) == wait


@pytest.mark.parametrize(
    ("field", "value"),
    [("attempts", 0), ("attempts", -1), ("initial", 0), ("maximum", -1.0), ("max_retry_after", -1)],
)
def test_a_policy_that_cannot_work_is_named(field: str, value: int) -> None:
    with pytest.raises(ValueError, match=field):
        RetryPolicy(**{field: value})  # type: ignore[arg-type]
