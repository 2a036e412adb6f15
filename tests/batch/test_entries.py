"""What a ledger says of a request, and what it says to do next."""

import json
from datetime import timedelta
from typing import Any

import pytest
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st

from itwin_export_async._batch.entries import (
    STEPS,
    Entry,
    OutputFile,
    State,
    Step,
    differences,
    failed,
    fingerprint,
    finished,
    forgotten,
    found,
    in_place,
    new_entry,
    started,
    starting,
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
    Run,
    RunOrigin,
)
from itwin_export_async._protocol.runs import Service
from itwin_export_async._runs.resume_token import ResumeToken
from tests.support.samples import NOW, export_options, run

REQUEST = ExportRequest(imodel_id="m1", destination="out/")
KNOWN = new_entry(REQUEST)
STARTING = starting(KNOWN, "c1", NOW)
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


def test_a_request_walks_from_step_to_step() -> None:
    walk = [KNOWN, STARTING, STARTED, FINISHED, IN_PLACE]
    assert [STEPS[entry.state] for entry in walk] == [
        Step.START,
        Step.FIND,
        Step.FOLLOW,
        Step.FETCH,
        Step.REPORT,
    ]
    assert set(STEPS) == set(State)


def test_the_run_is_told_from_the_entry_once_it_has_ended() -> None:
    assert STARTED.run is None
    told = IN_PLACE.run
    assert told is not None
    assert (told.id, told.connection_id, told.result) == ("r1", "c1", ExecutionResult.SUCCESS)
    assert told.is_final
    assert told.duration == 420


def test_the_outcome_that_is_kept_is_the_true_one() -> None:
    skipped = finished(STARTED, run(result="Skipped"))
    assert skipped.run is not None
    assert skipped.run.outcome is ExecutionResult.SKIPPED


def test_another_start_leaves_nothing_of_the_run_before() -> None:
    again = starting(evolve(IN_PLACE, state=State.FAILED, error="x"), "c2", NOW)
    assert again == evolve(STARTING, connection_id="c2")


@given(export_options(), export_options())
def test_options_are_equal_when_their_fingerprints_are(
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


def test_a_new_signature_is_no_change_and_another_blob_is_one() -> None:
    assert fingerprint(signed("one")) == fingerprint(signed("two"))
    other = evolve(
        signed("one"),
        output=evolve(signed("one").output, output_sas_url="https://blobs.example/2.ifc?sig=1"),
    )
    assert fingerprint(signed("one")) != fingerprint(other)
    assert "planted" not in fingerprint(signed("planted"))


def test_an_address_that_is_nothing_but_a_query_has_a_fingerprint() -> None:
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
def test_a_change_is_named(changed: ExportRequest, names: tuple[str, ...]) -> None:
    assert differences(IN_PLACE, changed) == names


def test_the_default_name_of_a_connection_may_be_told_or_left_out() -> None:
    told = evolve(REQUEST, display_name="itwin-export")
    assert new_entry(told) == KNOWN
    assert differences(IN_PLACE, told) == ()
    assert KNOWN.display_name == "itwin-export"


def test_what_is_forgotten_is_not_looked_for_in_the_past() -> None:
    assert forgotten(STARTING) == evolve(STARTING, state=State.KNOWN, since=None)


FACTS: dict[str, Any] = {"connection_id": "c1", "run_id": "r1"}


@pytest.mark.parametrize(
    ("entry", "error", "state"),
    [
        (STARTED, RunFailed(run=run(result="Error"), **FACTS), State.FAILED),
        (STARTED, RunPartlyFailed(**FACTS), State.FAILED),
        (STARTED, GONE, State.FAILED),
        (FINISHED, GONE, State.FAILED),
        (STARTED, GATEWAY, State.STARTED),
        (STARTED, RunTimeout(**FACTS), State.STARTED),
        (STARTED, TransportError(message="reset"), State.STARTED),
        (FINISHED, DownloadError(message="no space"), State.FINISHED),
        (STARTING, GONE, State.STARTING),
        (KNOWN, GONE, State.KNOWN),
        (evolve(STARTED, state=State.FAILED), GONE, State.FAILED),
    ],
)
def test_only_a_run_that_failed_or_is_gone_makes_room_for_another(
    entry: Entry, error: Exception, state: State
) -> None:
    after = failed(entry, error, was_finished=True)
    assert after.state is state
    assert after.error == str(error)


def test_an_output_that_is_gone_makes_room_unless_it_may_be_late() -> None:
    error = DownloadError(message="no such file, tried as f1 for 30 s", reason="not_available")
    assert failed(FINISHED, error, was_finished=True).state is State.FAILED
    assert failed(FINISHED, error, was_finished=False).state is State.FINISHED


def test_what_no_file_can_hold_is_spelled_out() -> None:
    odd = ExportRequest(imodel_id="m1", destination="br\udcfccke/")
    assert new_entry(odd).destination == "br\\udcfccke/"
    assert differences(new_entry(odd), odd) == ()
    told = failed(KNOWN, OSError("name \ud800 is bad"), was_finished=False).error
    assert told == "name \\ud800 is bad"


def test_how_a_failed_run_ended_is_kept() -> None:
    error = RunFailed(run=run(result="Error", start_date_time=NOW), **FACTS)
    after = failed(STARTED, error, was_finished=False)
    assert (after.result, after.began) == ("Error", NOW)


def test_an_error_is_kept_without_secrets_and_without_length() -> None:
    error = OSError("https://x/y?sig=planted " + "no" * 5000)
    told = failed(KNOWN, error, was_finished=False).error
    assert told is not None
    assert "planted" not in told
    assert len(told) <= 2000


def left(key: str, seconds: float) -> Entry:
    return evolve(STARTING, key=key, since=NOW + timedelta(seconds=seconds))


def began(id: str, seconds: float, result: str | None = "Success") -> Run:
    state = "Executing" if result is None else "Completed"
    moment = NOW + timedelta(seconds=seconds)
    return run(id=id, state=state, result=result, start_date_time=moment)


def whose(entries: list[Entry], runs: list[Run], owned: set[str] | None = None) -> dict[str, str]:
    pairs = found(entries, runs, owned or set())
    return {entry.key: run.id for entry, run in pairs}


@pytest.mark.parametrize("result", [None, "Success", "Skipped"])
def test_a_run_that_began_since_then_is_the_one(result: str | None) -> None:
    assert whose([left("a", 0)], [began("old", -60), began("new", 1, result)]) == {"a": "new"}


def test_clocks_may_differ_a_little() -> None:
    assert whose([left("a", 0)], [began("r", -4)]) == {"a": "r"}
    assert whose([left("a", 0)], [began("r", -6)]) == {}


def test_of_several_it_is_the_first_since_then() -> None:
    runs = [began("later", 900), began("before", -1), began("first", 2)]
    assert whose([left("a", 0)], runs) == {"a": "first"}
    assert whose([left("a", 0)], runs, {"first", "later"}) == {"a": "before"}
    waiting = run(id="waiting", state="Queued", result=None)
    assert whose([left("a", 0)], [*runs, waiting], {"first", "later"}) == {"a": "waiting"}


@pytest.mark.parametrize("result", ["Error", "Canceled", "PartialSuccess"])
def test_a_run_that_failed_is_nobodys(result: str) -> None:
    assert whose([left("a", 0)], [began("r", 1, result)]) == {}


def test_a_run_of_another_request_is_not_taken_from_it() -> None:
    assert whose([left("a", 0)], [began("r", 1)], {"r"}) == {}


def test_several_that_were_left_get_each_its_own() -> None:
    entries = [left("early", 0), left("late", 100)]
    assert whose(entries, [began("r1", 1), began("r2", 101)]) == {"late": "r2", "early": "r1"}
    assert whose(entries, [began("r1", 1)]) == {"early": "r1"}
    assert whose(entries, [began("r2", 101)]) == {"late": "r2"}


@given(st.lists(st.floats(-50, 50), max_size=4), st.lists(st.floats(-50, 50), max_size=4))
def test_no_run_has_two_owners_and_none_began_before(
    moments: list[float], starts: list[float]
) -> None:
    entries = [left(str(n), at) for n, at in enumerate(moments)]
    runs = [began(str(n), at) for n, at in enumerate(starts)]
    pairs = list(found(entries, runs, set()))
    assert len({mine.id for _, mine in pairs}) == len(pairs)
    for entry, mine in pairs:
        assert mine.start_date_time is not None
        assert entry.since is not None
        assert mine.start_date_time >= entry.since - timedelta(seconds=5)
