"""PollState: what the result of a poll means, and how long polls may fail."""

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
from itwin_export_async._polling.state import PollState, diff, is_regression
from tests.support.samples import finals, job, run, runs, states, task

Shown = tuple[ExecutionState, object]


def state(
    *, just_created: bool = False, was_seen: bool = False, seen: Run | None = None
) -> PollState:
    first = PollState(
        started_at=0.0,
        polling_since=0.0,
        changed_at=0.0,
        just_created=just_created,
        was_seen=was_seen,
    )
    return first if seen is None else first.with_snapshot(seen, age=None, now=0.0)


def items(seen: Run | None) -> dict[tuple[str, str], Shown]:
    """The state and result of each item, by level and id."""
    if seen is None:
        return {}
    found: list[tuple[str, Run | Job | Task]] = [("run", seen)]
    found += [("job", j) for j in seen.jobs] + [("task", t) for t in seen.tasks]
    return {(level, item.id): (item.state, item.result) for level, item in found}


@given(st.none() | runs(), runs())
def test_diff_applied_to_the_old_snapshot_gives_the_new_one(old: Run | None, new: Run) -> None:
    after = items(old)
    for change in diff(old, new):
        assert change.old == (
            after[change.level, change.id][0] if (change.level, change.id) in after else None
        )
        after[change.level, change.id] = (change.new, change.result)
    assert {item: after[item] for item in items(new)} == items(new)


@given(st.none() | runs(), runs())
def test_diff_names_each_changed_item_once(old: Run | None, new: Run) -> None:
    before, after = items(old), items(new)
    changed = [(change.level, change.id) for change in diff(old, new)]
    assert len(changed) == len(set(changed))
    assert set(changed) == {item for item in after if before.get(item) != after[item]}


@given(runs())
def test_diff_of_equal_snapshots_is_empty(seen: Run) -> None:
    assert diff(seen, seen) == ()


@given(runs())
def test_diff_begins_with_the_run(seen: Run) -> None:
    first = diff(None, seen)[0]
    assert (first.level, first.id, first.old) == ("run", seen.id, None)


def test_diff_of_a_finished_task_is_one_change() -> None:
    old = run(job(task("t1", None, "Executing")), state="Executing", result=None)
    new = run(job(task("t1", "Error")), state="Executing", result=None)
    assert diff(old, new) == (
        StateChange(
            level="task",
            id="t1",
            old=ExecutionState.EXECUTING,
            new=ExecutionState.COMPLETED,
            result=new.tasks[0].result,
        ),
    )


@given(st.none() | runs(), runs())
def test_poll_state_keeps_the_latest_snapshot(old: Run | None, new: Run) -> None:
    after = state(seen=old).with_snapshot(new, age=12.0, now=100.0)
    assert after.run == new
    assert after.polls == state(seen=old).polls + 1
    assert after.started_at == 88.0
    assert after.has_changes == bool(diff(old, new))
    assert after.changed_at == (100.0 if after.has_changes else 0.0)


def test_poll_state_without_an_age_keeps_the_start() -> None:
    assert state().with_snapshot(run(), age=None, now=50.0).started_at == 0.0


@given(finals, st.lists(st.floats(0, 1e6), max_size=5))
def test_poll_state_of_a_final_run_stays_done(final: Run, failures: list[float]) -> None:
    after = state(seen=final)
    for now in sorted(failures):
        assert after.is_done
        after = after.with_failure(now=now).with_snapshot(final, age=None, now=now)
    assert after.is_done


@given(runs())
def test_poll_state_is_done_at_once_only_for_a_final_run(seen: Run) -> None:
    assert state(seen=seen).is_done == seen.is_final


def test_poll_state_is_not_done_before_the_first_poll() -> None:
    assert not state().is_done


@pytest.mark.parametrize("result", ["Undetermined", None])
def test_undetermined_run_gets_five_further_polls(result: str | None) -> None:
    undetermined = run(result=result)
    after = state(seen=undetermined)
    for _ in range(4):
        after = after.with_snapshot(undetermined, age=None, now=1.0)
        assert not after.is_done
    assert after.with_snapshot(undetermined, age=None, now=1.0).is_done
    assert after.with_snapshot(run(result="Success"), age=None, now=1.0).is_done


def test_undetermined_polls_are_counted_again_after_another_state() -> None:
    undetermined, active = run(result="Undetermined"), run(state="Executing", result=None)
    after = state(seen=undetermined)
    for seen in [undetermined] * 3 + [active] + [undetermined] * 5:
        after = after.with_snapshot(seen, age=None, now=1.0)
    assert not after.is_done


def test_outage_counts_from_its_first_failure_to_the_next_snapshot() -> None:
    failing = state(seen=run(state="Executing")).with_failure(now=10.0).with_failure(now=70.0)
    assert failing.outage_seconds(now=100.0) == 90.0
    assert failing.with_snapshot(run(), age=None, now=110.0).outage_seconds(now=200.0) == 0.0
    assert failing.with_throttle().outage_seconds(now=200.0) == 0.0
    assert state().outage_seconds(now=50.0) == 0.0


def test_failed_poll_leaves_the_snapshot_as_it_was() -> None:
    before = state(seen=run(state="Executing"))
    after = before.with_failure(now=9.0)
    assert (after.run, after.polls, after.changed_at) == (before.run, 1, 0.0)


TRANSIENT = [
    TransportError(message="reset"),
    RequestTimeout(message="slow"),
    ServerError(status=503),
    ServerError(status=500),
    RateLimited(status=429),
    ResponseError(status=408),
    Conflict(status=409, code="Busy"),
    ResponseError(status=423, code="Locked"),
    ResponseError(status=425, code="TooEarly"),
    TokenError(message="later", is_transient=True),
    ProtocolError(message="the answer is not JSON", is_transient=True),
]
OF_THE_API = [
    AuthenticationFailed(status=401),
    AuthenticationFailed(status=401, code="HeaderNotFound"),
    PermissionDenied(status=403, code="InsufficientPermissions"),
    InvalidRequest(status=422, code="InvalidExportRequest"),
    NotFound(status=404, code="ConnectionRunNotFound"),
    ResponseError(status=413, code="RequestTooLarge"),
    TokenError(message="wrong secret"),
    AuthorizationRequired(),
]
ODD = [
    PermissionDenied(status=403),
    PermissionDenied(status=403, code="Blocked", is_from_api=False),
    InvalidRequest(status=400, message="<html>"),
    NotFound(status=404),
    ResponseError(status=418),
    NotFound(
        status=404,
        code="ResourceNotFound",
        details=(ErrorDetail(code="OperationNotFound", message="no match"),),
    ),
    ProtocolError(message="is missing", path="run.state"),
    ProtocolError(message="answered 302, which this operation never does"),
]


@pytest.mark.parametrize("error", TRANSIENT)
@pytest.mark.parametrize("seen", [None, run(state="Executing")])
def test_transient_error_is_waited_out(error: ExportError, seen: Run | None) -> None:
    assert state(seen=seen).is_transient(error, now=1e9)


@pytest.mark.parametrize("error", OF_THE_API)
@pytest.mark.parametrize("seen", [None, run(state="Executing")])
def test_error_of_the_api_ends_polling(error: ExportError, seen: Run | None) -> None:
    assert not state(seen=seen).is_transient(error, now=1e9)


@pytest.mark.parametrize("error", ODD)
def test_odd_answer_is_an_outage_once_the_run_was_seen(error: ExportError) -> None:
    for seen in (state(seen=run(state="Executing")), state(was_seen=True)):
        assert seen.is_transient(error, now=1e9)
        assert seen.is_outage(error, now=1e9)
    assert not state().is_transient(error, now=1e9)


@pytest.mark.parametrize("error", TRANSIENT)
def test_outage_is_any_transient_error_but_the_rate_limit(error: ExportError) -> None:
    is_outage = state(seen=run(state="Executing")).is_outage(error, now=1e9)
    assert is_outage is not isinstance(error, RateLimited)


@pytest.mark.parametrize(
    ("just_created", "now", "is_transient"),
    [(True, 0.0, True), (True, 59.9, True), (True, 60.0, False), (False, 0.0, False)],
)
def test_new_run_may_be_unknown_for_a_minute(
    just_created: bool, now: float, is_transient: bool
) -> None:
    missing = NotFound(status=404, code="ConnectionRunNotFound")
    new = state(just_created=just_created)
    assert new.is_transient(missing, now=now) is is_transient
    assert new.is_outage(missing, now=now) is not is_transient


@pytest.mark.parametrize(("age", "is_transient"), [(0.0, True), (59.0, True), (60.0, False)])
def test_young_run_that_was_read_may_be_unknown_to_the_next_poll(
    age: float, is_transient: bool
) -> None:
    missing = NotFound(status=404, code="ConnectionRunNotFound")
    young = state().with_snapshot(run(state="Executing"), age=age, now=1000.0)
    assert young.is_transient(missing, now=1000.0) is is_transient
    assert young.is_outage(missing, now=1000.0) is not is_transient


@pytest.mark.parametrize(("seen", "is_transient"), [(None, False), (run(state="Executing"), True)])
@pytest.mark.parametrize("now", [1.0, 1000.0])
def test_gateways_404_is_an_outage_once_the_run_was_seen(
    seen: Run | None, is_transient: bool, now: float
) -> None:
    detail = ErrorDetail(code="OperationNotFound", message="Unable to match")
    gateway = NotFound(status=404, code="ResourceNotFound", details=(detail,))
    new = state(just_created=True, seen=seen)
    assert new.is_transient(gateway, now=now) is is_transient
    assert new.is_outage(gateway, now=now)


@given(states, states)
def test_regression_has_one_direction(one: ExecutionState, other: ExecutionState) -> None:
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
def test_regression_follows_the_order_of_states(old: str, new: str, backwards: bool) -> None:
    assert is_regression(ExecutionState(old), ExecutionState(new)) is backwards
