"""Decisions of a start: which run is ours, and what the next request may assume."""

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from itwin_export_async._models import Run
from itwin_export_async._protocol.urls import RunAddress
from itwin_export_async._runs.start_state import StartState, StartWindow, match_runs
from tests.support.samples import NOW, run


def left(key: str, seconds: float, until: float | None = None) -> tuple[str, StartWindow]:
    last = None if until is None else NOW + timedelta(seconds=until)
    return key, StartWindow(since=NOW + timedelta(seconds=seconds), until=last)


def began(id: str, seconds: float, result: str | None = "Success") -> Run:
    state = "Executing" if result is None else "Completed"
    moment = NOW + timedelta(seconds=seconds)
    return run(id=id, state=state, result=result, start_date_time=moment)


def whose(
    entries: list[tuple[str, StartWindow]], runs: list[Run], owned: set[str] | None = None
) -> dict[str, str]:
    return {key: run.id for key, run in match_runs(entries, runs, owned or set()).items()}


@pytest.mark.parametrize("result", [None, "Success", "Skipped"])
def test_run_that_started_in_the_window_is_matched(result: str | None) -> None:
    assert whose([left("a", 0)], [began("old", -60), began("new", 1, result)]) == {"a": "new"}


def test_window_tolerates_clock_differences() -> None:
    assert whose([left("a", 0)], [began("r", -4)]) == {"a": "r"}
    assert whose([left("a", 0)], [began("r", -6)]) == {}


def test_first_run_of_the_window_is_matched() -> None:
    runs = [began("later", 900), began("before", -1), began("first", 2)]
    assert whose([left("a", 0)], runs) == {"a": "first"}
    assert whose([left("a", 0)], runs, {"first", "later"}) == {"a": "before"}
    waiting = run(id="waiting", state="Queued", result=None)
    assert whose([left("a", 0)], [*runs, waiting], {"first", "later"}) == {"a": "waiting"}


@pytest.mark.parametrize("result", ["Error", "Canceled", "PartialSuccess"])
def test_failed_run_is_not_matched(result: str) -> None:
    assert whose([left("a", 0)], [began("r", 1, result)]) == {}


def test_run_of_another_request_is_not_matched() -> None:
    assert whose([left("a", 0)], [began("r", 1)], {"r"}) == {}


def test_interrupted_starts_get_a_run_each() -> None:
    entries = [left("early", 0), left("late", 100)]
    assert whose(entries, [began("r1", 1), began("r2", 101)]) == {"late": "r2", "early": "r1"}
    assert whose(entries, [began("r1", 1)]) == {"early": "r1"}
    assert whose(entries, [began("r2", 101)]) == {"late": "r2"}


@given(st.lists(st.floats(-50, 50), max_size=4), st.lists(st.floats(-50, 50), max_size=4))
def test_no_run_has_two_owners_and_none_started_before_its_window(
    moments: list[float], starts: list[float]
) -> None:
    windows = dict(left(str(n), at) for n, at in enumerate(moments))
    runs = [began(str(n), at) for n, at in enumerate(starts)]
    matches = match_runs(windows.items(), runs, set())
    assert len({mine.id for mine in matches.values()}) == len(matches)
    for key, mine in matches.items():
        assert mine.start_date_time is not None
        assert mine.start_date_time >= windows[key].since - timedelta(seconds=5)


def test_window_ends_when_its_last_request_cannot_be_processed_any_more() -> None:
    assert whose([left("a", 0, 10)], [began("r", 70)]) == {"a": "r"}
    assert whose([left("a", 0, 10)], [began("r", 80)]) == {}
    waiting = run(id="waiting", state="Queued", result=None)
    assert whose([left("a", 0, 10)], [waiting]) == {"a": "waiting"}


def test_window_is_settled_once_lists_must_show_its_runs() -> None:
    _, window = left("a", 0, 10)
    assert not window.is_settled(NOW + timedelta(seconds=120))
    assert window.is_settled(NOW + timedelta(seconds=131))
    assert not left("a", 0)[1].is_settled(NOW + timedelta(days=1))


ADDRESS = RunAddress(connection_id="c1", run_id="r1")


def test_state_remembers_the_first_uncertain_request() -> None:
    state = StartState().with_request(1.0).with_uncertainty(1.0)
    state = state.with_request(5.0).with_uncertainty(5.0).with_request(9.0)
    assert state.is_uncertain
    assert state.first_sent_at == 1.0


def test_state_after_a_202_without_a_run_knows_when_it_was_sent() -> None:
    state = StartState().with_request(3.0).with_acceptance().with_request(8.0)
    assert (state.is_uncertain, state.first_sent_at) == (True, 3.0)


def test_active_run_of_another_request_ends_the_uncertainty() -> None:
    state = StartState(earlier=left("a", 0)[1]).with_uncertainty(1.0).with_active_run(ADDRESS)
    assert not state.is_uncertain
    state = state.with_finished_run(ADDRESS).with_active_run(ADDRESS)
    assert state.stale_answers == 1


def test_run_is_ours_if_an_uncertain_request_may_have_started_it() -> None:
    state = StartState().with_uncertainty(1.0)
    assert state.could_be_ours(began("r", 1, None), NOW, ())
    assert not state.could_be_ours(began("r", 1, None), NOW, {"r"})
    assert not state.could_be_ours(began("r", -9, None), NOW, ())
    assert not StartState().could_be_ours(began("r", 1, None), NOW, ())
    earlier = StartState(earlier=left("a", -20, -10)[1])
    assert earlier.could_be_ours(began("r", -9, None), NOW, ())
