"""Entries of a ledger: their steps, their windows, and what changes between two calls."""

import json
from datetime import timedelta
from typing import Any

import pytest
from attrs import evolve
from hypothesis import given

from itwin_export_async._batch.entries import (
    STEPS,
    Entry,
    EntryState,
    OutputFile,
    Step,
    changed_fields,
    failed,
    fingerprint,
    finished,
    in_place,
    new_entry,
    reset,
    started,
    starting,
    waiting,
    with_claimed_file,
    with_revision,
)
from itwin_export_async._errors import (
    DownloadError,
    NotFound,
    RunFailed,
    RunPartlyFailed,
    RunTimeout,
    TransportError,
)
from itwin_export_async._models import (
    ExecutionResult,
    ExportOptions,
    ExportRequest,
    InputOptions,
    OutputOptions,
    RunOrigin,
)
from itwin_export_async._protocol.runs import Service
from itwin_export_async._runs.resume_token import ResumeToken
from tests.support.samples import NOW, export_options, run

REQUEST = ExportRequest(imodel_id="m1", destination="out/")
NEW = new_entry(REQUEST)
STARTING = starting(NEW, "c1", NOW, None)
TOKEN = ResumeToken(service=Service.EXPORT, connection_id="c1", run_id="r1").to_string()
STARTED = started(STARTING, TOKEN, RunOrigin.STARTED)
ENDED = run(start_date_time=NOW, end_date_time=NOW + timedelta(minutes=7))
FINISHED = finished(STARTED, ENDED)
IN_PLACE = in_place(FINISHED, [OutputFile(path="/out/a.ifc", size=3)])
GATEWAY = NotFound(status=404, code="OperationNotFound")
GONE = NotFound(status=404, code="RunNotFound")


def signed(signature: str) -> ExportOptions:
    url = f"https://blobs.example/file.ifc?sv=1&sig={signature}"
    return ExportOptions(
        input=InputOptions(mappingfile_blob_url=url),
        output=OutputOptions(
            location="USER_BLOB_STORAGE", output_sas_url=url, logs_sas_url=url, save_logs=True
        ),
    )


def test_request_goes_from_step_to_step() -> None:
    walk = [NEW, STARTING, STARTED, FINISHED, IN_PLACE]
    assert [STEPS[entry.state] for entry in walk] == [
        Step.START,
        Step.START,
        Step.WAIT,
        Step.DOWNLOAD,
        Step.REPORT,
    ]
    assert set(STEPS) == set(EntryState)


def test_entry_has_its_run_once_that_has_finished() -> None:
    assert STARTED.run is None
    known = IN_PLACE.run
    assert known is not None
    assert (known.id, known.connection_id, known.result) == ("r1", "c1", ExecutionResult.SUCCESS)
    assert known.is_final
    assert known.duration == 420


def test_entry_keeps_the_outcome_of_the_run() -> None:
    skipped = finished(STARTED, run(result="Skipped"))
    assert skipped.run is not None
    assert skipped.run.outcome is ExecutionResult.SKIPPED


def test_starting_entry_has_nothing_of_the_earlier_run() -> None:
    again = starting(evolve(IN_PLACE, state=EntryState.FAILED, error="x"), "c2", NOW, None)
    assert again == evolve(STARTING, connection_id="c2", files=IN_PLACE.files)


@given(export_options(), export_options())
def test_fingerprints_are_equal_for_equal_options_only(
    one: ExportOptions, other: ExportOptions
) -> None:
    assert fingerprint(one) == fingerprint(evolve(one))
    if fingerprint(one) == fingerprint(other):
        assert unsigned(one) == unsigned(other)


def unsigned(options: ExportOptions) -> str:
    """Everything of the options, but no query."""
    urls = (
        options.input.mappingfile_blob_url,
        options.output.output_sas_url,
        options.output.logs_sas_url,
    )
    text = repr(options)  # it leaves the addresses out
    return text + json.dumps([url and url.partition("?")[0].partition("#")[0] for url in urls])


def test_fingerprint_ignores_signatures_but_not_blobs() -> None:
    assert fingerprint(signed("one")) == fingerprint(signed("two"))
    other = evolve(
        signed("one"),
        output=evolve(signed("one").output, output_sas_url="https://blobs.example/2.ifc?sig=1"),
    )
    assert fingerprint(signed("one")) != fingerprint(other)
    assert "planted" not in fingerprint(signed("planted"))


def test_fingerprint_exists_for_a_url_that_is_only_a_query() -> None:
    assert fingerprint(ExportOptions(input=InputOptions(mappingfile_blob_url="?sig=1")))


@pytest.mark.parametrize(
    ("changed", "names"),
    [
        (evolve(REQUEST, imodel_id="m2"), ("imodel_id",)),
        (evolve(REQUEST, destination="in/", display_name="x"), ("destination", "display_name")),
        (evolve(REQUEST, options=ExportOptions(ifc_version="IFC4.3")), ("options",)),
        (REQUEST, ()),
    ],
)
def test_changed_fields_are_named(changed: ExportRequest, names: tuple[str, ...]) -> None:
    assert changed_fields(IN_PLACE, new_entry(changed)) == names


def test_default_connection_name_may_be_left_out() -> None:
    named = evolve(REQUEST, display_name="itwin-export")
    assert new_entry(named) == NEW
    assert changed_fields(IN_PLACE, new_entry(named)) == ()
    assert NEW.display_name == "itwin-export"


def test_reset_entry_has_no_window() -> None:
    assert reset(STARTING) == evolve(STARTING, state=EntryState.NEW, since=None, until=None)
    assert reset(STARTING).window is None


def test_waiting_entry_has_no_run_and_no_window() -> None:
    entry = waiting(STARTING)
    assert (entry.state, entry.window, entry.has_run) == (EntryState.WAITING, None, False)
    assert STEPS[entry.state] is Step.START


def test_starting_entry_keeps_the_first_uncertain_request() -> None:
    later = NOW + timedelta(minutes=1)
    again = starting(STARTING, "c1", later, STARTING.since)
    assert again.window is not None
    assert (again.window.since, again.window.until) == (NOW, later)
    certain = starting(STARTING, "c1", later, None)
    assert certain.window is not None
    assert (certain.window.since, certain.window.until) == (later, later)


FACTS: dict[str, Any] = {"connection_id": "c1", "run_id": "r1"}


@pytest.mark.parametrize(
    ("entry", "error", "state"),
    [
        (STARTED, RunFailed(run=run(result="Error"), **FACTS), EntryState.FAILED),
        (STARTED, RunPartlyFailed(**FACTS), EntryState.FAILED),
        (STARTED, GONE, EntryState.FAILED),
        (FINISHED, GONE, EntryState.FAILED),
        (STARTED, GATEWAY, EntryState.STARTED),
        (STARTED, NotFound(status=404, message="<html>"), EntryState.STARTED),
        (STARTED, RunTimeout(**FACTS), EntryState.STARTED),
        (
            STARTED,
            TransportError(message="reset", method="GET", url="https://x/y"),
            EntryState.STARTED,
        ),
        (FINISHED, DownloadError(message="no space"), EntryState.FINISHED),
        (STARTING, GONE, EntryState.STARTING),
        (NEW, GONE, EntryState.NEW),
        (evolve(STARTED, state=EntryState.FAILED), GONE, EntryState.FAILED),
    ],
)
def test_run_that_failed_or_was_deleted_makes_room_for_another(
    entry: Entry, error: Exception, state: EntryState
) -> None:
    after = failed(entry, error, was_finished=True)
    assert after.state is state
    assert after.error == str(error)


def test_missing_output_makes_room_unless_it_may_be_late() -> None:
    error = DownloadError(message="no such file, tried as f1 for 30 s", reason="not_available")
    assert failed(FINISHED, error, was_finished=True).state is EntryState.FAILED
    assert failed(FINISHED, error, was_finished=False).state is EntryState.FINISHED


def test_entry_spells_out_what_is_not_utf8() -> None:
    odd = ExportRequest(imodel_id="m1", destination="br\udcfccke/")
    assert new_entry(odd).destination == "br\\udcfccke/"
    assert changed_fields(new_entry(odd), new_entry(odd)) == ()
    text = failed(NEW, OSError("name \ud800 is bad"), was_finished=False).error
    assert text == "name \\ud800 is bad"


def test_failed_entry_keeps_the_result_of_the_run() -> None:
    error = RunFailed(run=run(result="Error", start_date_time=NOW), **FACTS)
    after = failed(STARTED, error, was_finished=False)
    assert (after.result, after.started_at) == ("Error", NOW)


def test_error_is_kept_short_and_without_secrets() -> None:
    error = OSError("https://x/y?sig=planted " + "no" * 5000)
    text = failed(NEW, error, was_finished=False).error
    assert text is not None
    assert "planted" not in text
    assert len(text) <= 2000


def revised(revision: str | None, **changes: Any) -> Entry:
    return new_entry(evolve(REQUEST, revision=revision, **changes))


def test_new_revision_starts_again_and_keeps_the_files() -> None:
    before = evolve(IN_PLACE, revision="a", pushed_at="1")
    after = with_revision(before, revised("b"))
    assert after == evolve(revised("b"), files=IN_PLACE.files)
    assert after.state is EntryState.NEW


def test_same_revision_continues_where_it_was() -> None:
    before = evolve(IN_PLACE, revision="a", pushed_at="1")
    assert with_revision(before, revised("a")) == before
    pushed = evolve(revised("a"), pushed_at="2")
    assert with_revision(before, pushed) == evolve(before, pushed_at="2")


@pytest.mark.parametrize(
    ("revision", "changes", "names"),
    [
        ("b", {"destination": "in/", "display_name": "x"}, ()),
        ("b", {"options": ExportOptions(ifc_version="IFC4.3")}, ()),
        ("a", {"options": ExportOptions(ifc_version="IFC4.3")}, ("options",)),
        ("b", {"imodel_id": "m2", "key": REQUEST.identity}, ("imodel_id",)),
    ],
)
def test_new_revision_may_change_everything_but_the_imodel(
    revision: str, changes: dict[str, Any], names: tuple[str, ...]
) -> None:
    before = evolve(IN_PLACE, revision="a")
    assert changed_fields(before, revised(revision, **changes)) == names


def test_claimed_file_is_noted_once_beside_the_earlier_one() -> None:
    file = OutputFile(path="/out/a.ifc", size=4, modified=5)
    entry = with_claimed_file(with_claimed_file(IN_PLACE, file), file)
    assert entry.files == (*IN_PLACE.files, file)
