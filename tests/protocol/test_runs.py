"""Runs: outcome, dates and links, and the operations that start and read them."""

import json
import pickle
from datetime import timedelta

import pytest
from attrs import evolve
from attrs.exceptions import FrozenInstanceError
from hypothesis import given
from hypothesis import strategies as st

from itwin_export_async._errors import NotFound, PermissionDenied
from itwin_export_async._models import (
    Connection,
    ExecutionResult,
    ExecutionState,
    ExportOptions,
    InputOptions,
    OutputOptions,
    Run,
    TaskErrorInfo,
)
from itwin_export_async._protocol.runs import (
    Service,
    create_run_request,
    get_connection_request,
    get_run_request,
    list_runs_request,
    newest,
    parse_connection,
    parse_last_run,
    parse_run,
    parse_runs,
    service_time_at,
    started_after,
)
from tests.support.samples import NOW, answer, finals, job, run, runs, states, task

SAS = "https://blobs.example.com/o.ifc?sv=1&sig=planted"


@pytest.mark.parametrize(
    ("seen", "outcome"),
    [
        (run(), "Success"),
        (run(job(task())), "Success"),
        (run(job(task("a", "Error"))), "Error"),
        (run(job(task("a", "Error"), task("b", "TimedOut"))), "Error"),
        (run(job(task("a", "Error"), task("b"))), "PartialSuccess"),
        (run(job(task("a", "Canceled")), job(task("b"), id="j2")), "PartialSuccess"),
        (run(job(task("a"), result="Error")), "Success"),
        (run(job(result="Error")), "Error"),
        (run(job(result="Error"), job(id="j2")), "PartialSuccess"),
        (run(job(task("a", None))), "Success"),
        (run(job(task("a", "Skipped"))), "Success"),
        (run(job(task("a", "Error")), result="Skipped"), "Skipped"),
        (run(job(task("a")), result="Error"), "Error"),
        (run(job(task("a")), result="PartialSuccess"), "PartialSuccess"),
        (run(job(task("a")), result="Exploded"), "Exploded"),
        (run(job(task("a")), result=None), "Undetermined"),
    ],
)
def test_outcome_follows_from_the_results_of_the_tasks(seen: Run, outcome: str) -> None:
    assert seen.outcome == outcome


def test_error_of_a_successful_task_does_not_count() -> None:
    assert run(job(task(error=TaskErrorInfo(error_code="TAE_BRG_1000")))).outcome == "Success"


@given(runs())
def test_outcome_differs_from_the_result_only_for_a_success(seen: Run) -> None:
    if seen.result is not None and seen.result is not ExecutionResult.SUCCESS:
        assert seen.outcome == seen.result


@given(finals)
def test_success_means_that_no_task_failed(seen: Run) -> None:
    if seen.outcome is ExecutionResult.SUCCESS:
        assert seen.failed_tasks == ()
        assert seen.result is ExecutionResult.SUCCESS


@given(runs())
def test_run_is_final_when_completed_with_a_decided_result(seen: Run) -> None:
    decided = seen.result not in (None, ExecutionResult.UNDETERMINED)
    assert seen.is_final == (seen.state is ExecutionState.COMPLETED and decided)
    assert not seen.is_final or seen.outcome is not ExecutionResult.UNDETERMINED


def test_unknown_state_is_not_final() -> None:
    assert not run(state="Paused").is_final


@given(runs())
def test_failed_tasks_are_errors_cancellations_and_timeouts(seen: Run) -> None:
    lost = {"Error", "Canceled", "TimedOut"}
    assert {t.id for t in seen.failed_tasks} == {t.id for t in seen.tasks if t.result in lost}


def test_output_file_ids_are_unique_and_in_order() -> None:
    files = ["f2", "f1", None, "", "f2"]
    tasks = [task(f"t{n}", export_output_file_id=id) for n, id in enumerate(files)]
    assert run(job(*tasks[:2]), job(*tasks[2:], id="j2")).output_file_ids == ("f2", "f1")


def test_failed_task_may_have_an_output_file() -> None:
    assert run(job(task("a", "Error", export_output_file_id="f"))).output_file_ids == ("f",)


@given(runs())
def test_duration_needs_both_dates(seen: Run) -> None:
    if seen.start_date_time is None or seen.end_date_time is None:
        assert seen.duration is None
    else:
        assert seen.start_date_time + timedelta(seconds=seen.duration or 0) == seen.end_date_time


def test_snapshot_cannot_be_changed() -> None:
    seen = run()
    with pytest.raises(FrozenInstanceError):
        seen.state = ExecutionState.IDLE  # type: ignore[misc]


@given(runs())
def test_run_pickles(seen: Run) -> None:
    for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
        assert pickle.loads(pickle.dumps(seen, protocol)) == seen


def test_starting_a_run_may_be_repeated() -> None:
    request = create_run_request("c 1", ExportOptions())
    assert (request.method, request.url) == ("POST", "/export/connections/c%201/runs")
    assert request.retryable
    assert request.headers["Content-Type"] == "application/json"
    assert json.loads(request.body or b"") == {"exportType": "IFC"}


@pytest.mark.parametrize(
    ("service", "path"),
    [
        (Service.EXPORT, "/export/connections/c1"),
        (Service.SYNCHRONIZATION, "/synchronization/imodels/storageconnections/c1"),
    ],
)
def test_requests_of_both_services_differ_in_their_paths_only(service: Service, path: str) -> None:
    assert get_connection_request(service, "c1").url == path
    assert get_run_request(service, "c1", "r1").url == f"{path}/runs/r1"
    assert list_runs_request(service, "c1", page_size=None, offset=0).url == f"{path}/runs"
    paged = list_runs_request(service, "c1", page_size=20, offset=40).url
    assert paged == f"{path}/runs?$skip=40&$top=20"


def test_run_without_a_connection_id_has_that_of_the_request() -> None:
    members = {"id": "r1", "state": "Idle"}
    assert parse_run(answer({"run": members}), "c1").connection_id == "c1"
    assert parse_run(answer({"run": members | {"connectionId": "c2"}}), "c1").connection_id == "c2"
    page = parse_runs(
        answer({"runs": [members, members | {"id": "r2", "connectionId": "c2"}]}), "c1"
    )
    assert [seen.connection_id for seen in page.items] == ["c1", "c2"]


def test_error_response_to_a_read_is_raised() -> None:
    with pytest.raises(NotFound):
        parse_run(answer({}, 404), "c1")
    with pytest.raises(PermissionDenied):
        parse_runs(answer({}, 403), "c1")
    with pytest.raises(NotFound):
        parse_connection(answer({}, 404), Connection)


def test_connection_without_a_last_run_has_none() -> None:
    body = {"connection": {"id": "c1", "_links": {}}}
    assert parse_last_run(answer(body)) is None


@given(st.lists(runs()))
def test_newest_run_started_last(several: list[Run]) -> None:
    found = newest(several)
    if found is None:
        assert several == []
    elif found.start_date_time is None:
        assert any(seen.start_date_time is None for seen in several)
    else:
        starts = [seen.start_date_time for seen in several]
        assert None not in starts
        assert found.start_date_time == max(s for s in starts if s is not None)


@pytest.mark.parametrize(("seconds", "after"), [(0, True), (-5, True), (-6, False), (60, True)])
def test_started_after_tolerates_five_seconds(seconds: int, after: bool) -> None:
    seen = run(start_date_time=NOW + timedelta(seconds=seconds))
    assert started_after(seen, NOW) is after


@given(states)
def test_run_without_a_start_is_new_unless_it_is_completed(state: ExecutionState) -> None:
    assert started_after(evolve(run(), state=state), NOW) is (state != ExecutionState.COMPLETED)


def test_service_time_is_read_from_the_response() -> None:
    skewed = NOW + timedelta(hours=3)
    dated = answer({}, Date="Sat, 01 Mar 2025 12:00:00 GMT")
    assert service_time_at(dated, 20.0, now=skewed) == NOW - timedelta(seconds=20)
    assert service_time_at(answer({}), 20.0, now=skewed) == skewed - timedelta(seconds=20)


@pytest.mark.parametrize(
    "options",
    [
        ExportOptions(input=InputOptions(changeset_id=SAS)),
        ExportOptions(input=InputOptions(mapping_file_id=SAS)),
        ExportOptions(input=InputOptions(saved_view_id=SAS)),
        ExportOptions(output=OutputOptions(folder_id=SAS)),
    ],
)
def test_url_is_no_id_of_an_option(options: ExportOptions) -> None:
    with pytest.raises(ValueError, match="is a URL, not an id") as caught:
        create_run_request("c1", options)
    assert "planted" not in str(caught.value)


def test_request_of_a_run_names_the_signatures_in_it() -> None:
    options = ExportOptions(
        input=InputOptions(mappingfile_blob_url=SAS), output=OutputOptions(output_sas_url=SAS)
    )
    request = create_run_request("c1", options)
    assert [secret.reveal() for secret in request.secrets] == ["planted", "planted"]
    assert "planted" not in repr(request)
    assert request.with_target("https://h/p", {}).secrets == request.secrets
