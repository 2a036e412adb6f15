"""What a look at a run means, and how long looks may fail."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from itwin_export_async._errors import (
    AuthenticationFailed,
    AuthorizationRequired,
    Conflict,
    ErrorDetail,
    ExportError,
    InvalidRequest,
    NotFound,
    PermissionDenied,
    ProtocolError,
    RateLimited,
    RequestTimeout,
    ResponseError,
    ServerError,
    TokenError,
    TransportError,
)
from itwin_export_async._models import ExecutionState, Job, Run, StateChange, Task
from itwin_export_async._polling.state import Course, changes, is_regression
from tests.support.samples import finals, job, run, runs, states, task

Shown = tuple[ExecutionState, object]


def course(*, fresh: bool = False, seen: Run | None = None) -> Course:
    start = Course(began=0.0, followed=0.0, changed=0.0, fresh=fresh)
    return start if seen is None else start.seen(seen, age=None, now=0.0)


def shown(seen: Run | None) -> dict[tuple[str, str], Shown]:
    """The state and result of each part, told apart by level and id."""
    if seen is None:
        return {}
    parts: list[tuple[str, Run | Job | Task]] = [("run", seen)]
    parts += [("job", j) for j in seen.jobs] + [("task", t) for t in seen.tasks]
    return {(level, part.id): (part.state, part.result) for level, part in parts}


@given(st.none() | runs(), runs())
def test_changes_applied_to_the_old_give_the_new(old: Run | None, new: Run) -> None:
    after = shown(old)
    for change in changes(old, new):
        assert change.old == (
            after[change.level, change.id][0] if (change.level, change.id) in after else None
        )
        after[change.level, change.id] = (change.new, change.result)
    assert {part: after[part] for part in shown(new)} == shown(new)


@given(st.none() | runs(), runs())
def test_no_change_is_lost_and_none_told_twice(old: Run | None, new: Run) -> None:
    before, after = shown(old), shown(new)
    told = [(change.level, change.id) for change in changes(old, new)]
    assert len(told) == len(set(told))
    assert set(told) == {part for part in after if before.get(part) != after[part]}


@given(runs())
def test_a_run_that_stays_as_it_is_brings_no_news(seen: Run) -> None:
    assert changes(seen, seen) == ()


@given(runs())
def test_the_run_is_told_first(seen: Run) -> None:
    told = changes(None, seen)
    assert (told[0].level, told[0].id, told[0].old) == ("run", seen.id, None)


def test_a_task_that_ends_is_one_change() -> None:
    old = run(job(task("t1", None, "Executing")), state="Executing", result=None)
    new = run(job(task("t1", "Error")), state="Executing", result=None)
    assert changes(old, new) == (
        StateChange(
            level="task",
            id="t1",
            old=ExecutionState.EXECUTING,
            new=ExecutionState.COMPLETED,
            result=new.tasks[0].result,
        ),
    )


@given(st.none() | runs(), runs())
def test_a_look_keeps_what_it_saw(old: Run | None, new: Run) -> None:
    after = course(seen=old).seen(new, age=12.0, now=100.0)
    assert after.run == new
    assert after.looks == course(seen=old).looks + 1
    assert after.began == 88.0
    assert after.brought_news == bool(changes(old, new))
    assert after.changed == (100.0 if after.brought_news else 0.0)


def test_an_untold_age_leaves_the_beginning_as_it_was() -> None:
    assert course().seen(run(), age=None, now=50.0).began == 0.0


@given(finals, st.lists(st.floats(0, 1e6), max_size=5))
def test_a_final_state_stays_final(final: Run, failures: list[float]) -> None:
    after = course(seen=final)
    for now in sorted(failures):
        assert after.is_over
        after = after.missed(now=now).seen(final, age=None, now=now)
    assert after.is_over


@given(runs())
def test_a_course_is_over_at_once_only_for_a_final_run(seen: Run) -> None:
    assert course(seen=seen).is_over == seen.is_final


def test_nothing_is_over_before_the_first_look() -> None:
    assert not course().is_over


@pytest.mark.parametrize("result", ["Undetermined", None])
def test_an_undecided_end_gets_five_further_looks(result: str | None) -> None:
    undecided = run(result=result)
    after = course(seen=undecided)
    for _ in range(4):
        after = after.seen(undecided, age=None, now=1.0)
        assert not after.is_over
    assert after.seen(undecided, age=None, now=1.0).is_over
    assert after.seen(run(result="Success"), age=None, now=1.0).is_over


def test_a_run_that_goes_on_has_its_undecided_looks_back() -> None:
    undecided, going = run(result="Undetermined"), run(state="Executing", result=None)
    after = course(seen=undecided)
    for seen in [undecided] * 3 + [going] + [undecided] * 5:
        after = after.seen(seen, age=None, now=1.0)
    assert not after.is_over


def test_an_outage_counts_from_its_first_failure_and_ends_with_a_look() -> None:
    failing = course(seen=run(state="Executing")).missed(now=10.0).missed(now=70.0)
    assert failing.outage(now=100.0) == 90.0
    assert failing.seen(run(), age=None, now=110.0).outage(now=200.0) == 0.0
    assert course().outage(now=50.0) == 0.0


def test_a_look_that_failed_forgets_nothing() -> None:
    before = course(seen=run(state="Executing"))
    after = before.missed(now=9.0)
    assert (after.run, after.looks, after.changed) == (before.run, 1, 0.0)


@pytest.mark.parametrize(
    "error",
    [
        TransportError(message="reset"),
        RequestTimeout(message="slow"),
        ServerError(status=503),
        ServerError(status=500),
        RateLimited(status=429),
        ResponseError(status=408),
        TokenError(message="later", is_transient=True),
        ProtocolError(message="the answer is not JSON", is_transient=True),
    ],
)
def test_what_is_passing_is_waited_out(error: ExportError) -> None:
    assert course().may_pass(error, now=1e9)


@pytest.mark.parametrize(
    "error",
    [
        AuthenticationFailed(status=401),
        PermissionDenied(status=403),
        InvalidRequest(status=422),
        Conflict(status=409),
        ResponseError(status=413),
        TokenError(message="wrong secret"),
        AuthorizationRequired(),
        ProtocolError(message="is missing", path="run.state"),
        ProtocolError(message="answered 302, which this operation never does"),
    ],
)
def test_what_waiting_cannot_cure_ends_it_at_once(error: ExportError) -> None:
    assert not course(fresh=True, seen=run(state="Executing")).may_pass(error, now=0.0)


@pytest.mark.parametrize(
    ("fresh", "now", "passing"),
    [(True, 0.0, True), (True, 59.9, True), (True, 60.0, False), (False, 0.0, False)],
)
def test_a_run_just_created_may_be_unknown_for_a_minute(
    fresh: bool, now: float, passing: bool
) -> None:
    missing = NotFound(status=404, code="ConnectionRunNotFound")
    assert course(fresh=fresh).may_pass(missing, now=now) is passing


@pytest.mark.parametrize(("seen", "passing"), [(None, False), (run(state="Executing"), True)])
@pytest.mark.parametrize("now", [1.0, 1000.0])
def test_the_gateways_404_is_an_outage_once_the_run_was_seen(
    seen: Run | None, passing: bool, now: float
) -> None:
    detail = ErrorDetail(code="OperationNotFound", message="Unable to match")
    gateway = NotFound(status=404, code="ResourceNotFound", details=(detail,))
    assert course(fresh=True, seen=seen).may_pass(gateway, now=now) is passing


@given(states, states)
def test_no_two_states_both_go_backwards(one: ExecutionState, other: ExecutionState) -> None:
    assert not (is_regression(one, other) and is_regression(other, one))
    assert not is_regression(one, one)


@pytest.mark.parametrize(
    ("old", "new", "backwards"),
    [
        ("Completed", "Executing", True),
        ("Executing", "Queued", True),
        ("Finalizing", "Executing", True),
        ("Queued", "Executing", False),
        ("Executing", "WaitingToRetry", False),
        ("WaitingToRetry", "Executing", False),
        ("Completed", "Paused", False),
        ("Paused", "NotStarted", False),
    ],
)
def test_a_run_should_not_go_backwards(old: str, new: str, backwards: bool) -> None:
    assert is_regression(ExecutionState(old), ExecutionState(new)) is backwards
