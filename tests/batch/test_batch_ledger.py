"""Many exports with a ledger: what is done stays done, whatever ends the process."""

import asyncio
import re
import sqlite3
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import aclosing, closing
from pathlib import Path
from typing import Any

import pytest
from attrs import evolve

from itwin_export_async import (
    AuthorizationRequired,
    DownloadError,
    ExportClient,
    ExportOptions,
    ExportOutcome,
    ExportRequest,
    LedgerError,
    NotFound,
    OutputOptions,
    RetryPolicy,
    RunTimeout,
    StartTimeout,
    TransportError,
)
from itwin_export_async._batch.entries import Entry
from itwin_export_async._batch.ledger import Ledger
from itwin_export_async._batch.ledger_rows import HistoryLine
from itwin_export_async.emulator import Emulator
from itwin_export_async.transport import Response
from tests.support.batches import (
    Make,
    check,
    collect,
    list_runs,
    maker,
    started,
    states,
    tasks_left,
)
from tests.support.fakes import Outcome, answer

GATEWAY = answer(
    404, '{"error": {"code": "ResourceNotFound", "details": [{"code": "OperationNotFound"}]}}'
)


@pytest.fixture
def make(emulator: Emulator, tmp_path: Path) -> Make:
    return maker(emulator, tmp_path / "out")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "exports.db"


async def export_one(
    client: ExportClient, emulator: Emulator, request: ExportRequest, path: Path, **more: Any
) -> ExportOutcome:
    """The outcome of a batch of one request, whose file is there."""
    (outcome,) = await collect(client, [request], ledger=path, **more)
    check(emulator, outcome)
    return outcome


async def interrupt(
    client: ExportClient, requests: list[ExportRequest], path: Path, *, after: float, **more: Any
) -> None:
    """Leave a batch that runs, after so many seconds."""
    task = asyncio.create_task(collect(client, requests, ledger=path, **more))
    await asyncio.sleep(after)
    assert not task.done()
    task.cancel()
    await asyncio.wait([task])


def another(request: ExportRequest, key: str) -> ExportRequest:
    """A request for the same iModel with a file of its own."""
    return evolve(request, key=key, destination=f"{request.destination}2")


async def test_finished_export_is_reported_again_without_a_request(
    client: ExportClient, emulator: Emulator, make: Make, path: Path
) -> None:
    requests = make(5)
    first = await collect(client, requests, ledger=path)
    before = len(emulator.requests)
    again = await collect(client, requests, ledger=path)
    assert len(emulator.requests) == before
    assert sorted(o.request.key or "" for o in again) == [f"k{n}" for n in range(5)]
    seen = {outcome.request.key: outcome for outcome in again}
    for outcome in first:
        check(emulator, outcome)
        same = seen[outcome.request.key]
        assert same.ok
        assert same.paths == outcome.paths
        assert same.connection_id == outcome.connection_id
        assert outcome.run is not None
        assert same.run is not None
        assert (same.run.id, same.run.outcome) == (outcome.run.id, outcome.run.outcome)
        assert same.run.duration == outcome.run.duration
    assert set(states(path).values()) == {"in place"}


async def test_clock_of_the_service_is_read_before_the_first_start_only(
    client: ExportClient, emulator: Emulator, make: Make, path: Path
) -> None:
    requests = [evolve(request, revision="a") for request in make(6)]
    await collect(client, requests, ledger=path, authentication_type="Service")
    changed = [evolve(request, revision="b") for request in requests]
    await asyncio.sleep(3600)
    before = emulator.count("get_connection"), emulator.count("list_connections")
    await collect(client, changed, ledger=path, authentication_type="Service", concurrency=1)
    after = emulator.count("get_connection"), emulator.count("list_connections")
    assert (after[0] - before[0], after[1] - before[1]) == (1, 0)
    assert emulator.count("create_connection") == 6


@pytest.mark.parametrize("damage", ["gone", "cut"])
async def test_file_that_is_not_there_any_more_is_fetched_again(
    client: ExportClient, emulator: Emulator, make: Make, path: Path, damage: str
) -> None:
    requests = make(2)
    await collect(client, requests, ledger=path)
    file = Path(requests[0].destination)
    file.unlink()
    if damage == "cut":
        file.write_text("cut")
    outcomes = {o.request.key: o for o in await collect(client, requests, ledger=path)}
    check(emulator, outcomes["k0"])
    assert started(emulator) == 2
    assert emulator.count("download_file") == 3


async def test_failure_is_tried_again_and_a_success_is_not(
    client: ExportClient, emulator: Emulator, make: Make, path: Path
) -> None:
    requests = make(2)
    emulator.plan_next_run(requests[0].imodel_id, "Error")
    outcomes = await collect(client, requests, ledger=path)
    assert Counter(o.ok for o in outcomes) == {True: 1, False: 1}
    assert states(path) == {"k0": "failed", "k1": "in place"}
    outcomes = await collect(client, requests, ledger=path)
    assert [o.ok for o in outcomes] == [True, True]
    assert started(emulator) == 3


async def test_failed_run_is_not_resumed(
    client: ExportClient, emulator: Emulator, make: Make, path: Path
) -> None:
    requests = make(1)
    emulator.plan_next_run(requests[0].imodel_id, "Error")
    (first,) = await collect(client, requests, ledger=path)
    emulator.latency = 20.0
    (again,) = await collect(client, requests, ledger=path, timeout=15.0)
    assert first.run is not None
    assert isinstance(again.error, StartTimeout)
    assert again.run is None


async def test_step_that_was_written_when_the_time_was_over_is_not_taken_back(
    client: ExportClient, make: Make, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = Ledger.write

    async def late(self: Ledger, entry: Entry, line: HistoryLine | None = None) -> None:
        await write(self, entry, line)
        if line is not None and line.error is None:
            await asyncio.sleep(10_000)  # the disk answers late

    monkeypatch.setattr(Ledger, "write", late)
    (outcome,) = await collect(client, make(1), ledger=path, timeout=5000.0)
    assert isinstance(outcome.error, RunTimeout)
    assert states(path) == {"k0": "in place"}


async def test_run_continues_without_a_waiter(
    client: ExportClient, emulator: Emulator, make: Make, path: Path
) -> None:
    requests = make(3)
    outcomes = client.export_many(requests, ledger=path)
    await anext(outcomes)
    await outcomes.aclose()
    assert Counter(states(path).values()) == {"in place": 1, "started": 2}
    await asyncio.sleep(3600)
    async with ExportClient(emulator.token(), transport=emulator) as other:
        for outcome in await collect(other, requests, ledger=path):
            assert outcome.ok
            assert outcome.paths[0].exists()
    assert started(emulator) == 3


async def test_finished_run_is_only_fetched(
    client: ExportClient, emulator: Emulator, make: Make, path: Path
) -> None:
    requests = make(1)
    emulator.inject("get_blob", answer(400))
    (outcome,) = await collect(client, requests, ledger=path)
    assert not outcome.ok
    assert states(path) == {"k0": "finished"}
    await export_one(client, emulator, requests[0], path)
    assert started(emulator) == 1


async def test_missing_output_is_exported_again(
    client: ExportClient, emulator: Emulator, make: Make, path: Path
) -> None:
    (request,) = make(1)
    emulator.output_visibility_delay = 1000
    (outcome,) = await collect(client, [request], ledger=path)
    assert isinstance(outcome.error, DownloadError)
    assert states(path) == {"k0": "finished"}  # it may just be late
    await collect(client, [request], ledger=path)
    assert states(path) == {"k0": "failed"}
    emulator.output_visibility_delay = 0
    await export_one(client, emulator, request, path)
    assert started(emulator) == 2


async def test_resumed_young_run_may_be_unknown_for_a_moment(
    client: ExportClient, emulator: Emulator, make: Make, path: Path
) -> None:
    requests = make(1)
    await interrupt(client, requests, path, after=3)
    assert states(path) == {"k0": "started"}
    emulator.inject("get_run", answer(404, '{"error": {"code": "ConnectionRunNotFound"}}'))
    await export_one(client, emulator, requests[0], path)
    assert started(emulator) == 1


async def test_deleted_run_makes_room_for_another(
    client: ExportClient, emulator: Emulator, make: Make, path: Path
) -> None:
    requests = make(1)
    await interrupt(client, requests, path, after=60)
    await asyncio.sleep(3000)
    (connection,) = await client.list_connections(requests[0].imodel_id)
    await client.delete_connection(connection.id)
    (outcome,) = await collect(client, requests, ledger=path)
    assert isinstance(outcome.error, NotFound)
    await export_one(client, emulator, requests[0], path)


async def test_changed_request_and_a_key_given_twice_are_outcomes(
    client: ExportClient, emulator: Emulator, make: Make, path: Path
) -> None:
    requests = make(2)
    await collect(client, requests, ledger=path)
    changed = evolve(requests[0], options=ExportOptions(ifc_version="IFC2x3"))
    before = len(emulator.requests)
    outcomes = await collect(client, [changed, requests[1], requests[1]], ledger=path)
    errors = sorted(str(o.error) for o in outcomes if o.error)
    assert len(outcomes) == 3
    assert "'k0': the request has changed since the last call: options" in errors[0]
    assert "'k1': two requests of this call have this key" in errors[1]
    assert all(isinstance(o.error, LedgerError) for o in outcomes if o.error)
    assert len(emulator.requests) == before


async def test_ledger_needs_no_newer_sqlite_than_it_says(
    client: ExportClient, make: Make, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    statements: list[str] = []
    connect = sqlite3.connect

    def traced(*args: Any, **options: Any) -> sqlite3.Connection:
        connection: sqlite3.Connection = connect(*args, **options)
        connection.set_trace_callback(statements.append)
        return connection

    monkeypatch.setattr(sqlite3, "connect", traced)
    requests = make(2)
    for expected in (False, True):
        outcomes = await collect(client, requests, ledger=path)
        assert [outcome.up_to_date for outcome in outcomes] == [expected] * 2
    assert any(statement.startswith("INSERT INTO exports") for statement in statements)
    newer = r"RETURNING|ON CONFLICT|WITHOUT ROWID|STRICT|IS (NOT )?DISTINCT|^WITH|\bOVER\b|IIF|->"
    assert [found for found in statements if re.search(newer, found.upper())] == []


async def test_ledger_in_use_comes_out(client: ExportClient, make: Make, path: Path) -> None:
    async with aclosing(client.export_many(make(2), ledger=path)) as outcomes:
        await anext(outcomes)
        with pytest.raises(LedgerError, match="in use by another call, of process"):
            await collect(client, [], ledger=path)
    assert not tasks_left()


async def test_ledger_that_fails_meanwhile_comes_out(
    client: ExportClient, make: Make, path: Path
) -> None:
    async with aclosing(client.export_many(make(4), concurrency=1, ledger=path)) as outcomes:
        await anext(outcomes)
        with closing(sqlite3.connect(path)) as other:
            other.execute("DROP TABLE exports")
            other.commit()
        with pytest.raises(LedgerError, match="no such table"):
            await anext(outcomes)
    assert not tasks_left()


async def test_no_secret_is_in_the_ledger(client: ExportClient, make: Make, path: Path) -> None:
    (request,) = make(1)
    url = "https://blobs.example/mine.ifc?sv=2024&sig=planted"
    output = OutputOptions(location="USER_BLOB_STORAGE", output_sas_url=url)
    signed = evolve(request, options=ExportOptions(output=output))
    await collect(client, [signed], ledger=path)
    renewed = evolve(output, output_sas_url=url + "2")
    (outcome,) = await collect(
        client, [evolve(request, options=ExportOptions(output=renewed))], ledger=path
    )
    assert not isinstance(outcome.error, LedgerError)
    for file in path.parent.glob("exports.db*"):
        assert b"planted" not in file.read_bytes()


# left between the request for a run and its answer


@pytest.fixture
async def hasty(emulator: Emulator) -> AsyncIterator[ExportClient]:
    """A client that sends each request once, and waits out no outage."""
    async with ExportClient(
        emulator.token(), transport=emulator, retry=RetryPolicy(attempts=1), max_outage=0
    ) as client:
        yield client


async def leave(
    hasty: ExportClient, emulator: Emulator, request: ExportRequest, path: Path, *, after: bool
) -> None:
    """As if the process was killed during the start; with `after` the run was started."""
    emulator.inject("create_run", ConnectionResetError(), apply_effect=after)
    (outcome,) = await collect(hasty, [request], ledger=path)
    assert isinstance(outcome.error, TransportError)
    assert states(path)[request.identity] == "starting"


@pytest.mark.parametrize("later", [0, 1, 3000])
async def test_run_of_an_interrupted_start_is_found_active_or_finished(
    hasty: ExportClient, emulator: Emulator, make: Make, path: Path, later: float
) -> None:
    (request,) = make(1)
    await leave(hasty, emulator, request, path, after=True)
    await asyncio.sleep(later)
    await export_one(hasty, emulator, request, path)
    assert emulator.count("create_run") == 1
    assert await list_runs(hasty, request) == 1


async def test_interrupted_start_without_a_run_starts_one(
    hasty: ExportClient, emulator: Emulator, make: Make, path: Path
) -> None:
    (request,) = make(1)
    earlier = another(request, "earlier")
    await collect(hasty, [earlier], ledger=path)
    await leave(hasty, emulator, request, path, after=False)
    await export_one(hasty, emulator, request, path)
    assert await list_runs(hasty, request) == 2


async def test_run_that_failed_meanwhile_is_tried_again(
    hasty: ExportClient, emulator: Emulator, make: Make, path: Path
) -> None:
    (request,) = make(1)
    emulator.plan_next_run(request.imodel_id, "Error")
    await leave(hasty, emulator, request, path, after=True)
    await asyncio.sleep(3000)
    await export_one(hasty, emulator, request, path)
    assert await list_runs(hasty, request) == 2


async def test_run_that_no_list_shows_yet_is_recognized_in_a_303(
    hasty: ExportClient, emulator: Emulator, make: Make, path: Path
) -> None:
    (request,) = make(1)
    await leave(hasty, emulator, request, path, after=True)
    emulator.inject("list_runs", answer(200, '{"runs": []}'))
    await export_one(hasty, emulator, request, path)
    assert await list_runs(hasty, request) == 1
    with closing(sqlite3.connect(path)) as file:
        assert file.execute("SELECT origin FROM exports").fetchall() == [("recovered",)]


async def test_active_run_of_another_connection_is_not_taken(
    hasty: ExportClient, emulator: Emulator, make: Make, path: Path
) -> None:
    (request,) = make(1)
    await leave(hasty, emulator, request, path, after=False)
    foreign = await hasty.create_connection(request.imodel_id)
    run = await hasty.start_run(foreign.id)
    outcome = await export_one(hasty, emulator, request, path)
    assert outcome.run is not None
    assert outcome.run.id != run.run_id


async def test_run_of_another_interrupted_request_is_left_to_it(
    hasty: ExportClient, emulator: Emulator, make: Make, path: Path
) -> None:
    (one,) = make(1)
    other = another(one, "other")
    await leave(hasty, emulator, one, path, after=True)
    outcome = await export_one(hasty, emulator, other, path)
    assert states(path) == {"k0": "started", "other": "in place"}
    first = await export_one(hasty, emulator, one, path)
    assert first.run != outcome.run
    assert await list_runs(hasty, one) == 2


async def test_deleted_connection_has_no_run_to_find(
    hasty: ExportClient, emulator: Emulator, make: Make, path: Path
) -> None:
    (request,) = make(1)
    await leave(hasty, emulator, request, path, after=True)
    await asyncio.sleep(3000)
    (connection,) = await hasty.list_connections(request.imodel_id)
    await hasty.delete_connection(connection.id)
    outcome = await export_one(hasty, emulator, request, path)
    assert outcome.connection_id != connection.id


@pytest.mark.parametrize("operation", ["get_connection", "list_runs"])
@pytest.mark.parametrize("missing", [GATEWAY, answer(404, "<html>")])
async def test_404_of_a_gateway_or_proxy_proves_nothing(
    hasty: ExportClient,
    emulator: Emulator,
    make: Make,
    path: Path,
    operation: str,
    missing: Response,
) -> None:
    (request,) = make(1)
    await leave(hasty, emulator, request, path, after=True)
    emulator.inject(operation, missing)
    (outcome,) = await collect(hasty, [request], ledger=path)
    assert isinstance(outcome.error, NotFound)
    assert states(path) == {"k0": "starting"}
    await export_one(hasty, emulator, request, path)
    assert await list_runs(hasty, request) == 1


async def test_refused_start_is_not_recovered(
    hasty: ExportClient, emulator: Emulator, make: Make, path: Path
) -> None:
    (request,) = make(1)
    emulator.inject("create_run", answer(403, "{}"))
    await collect(hasty, [request], ledger=path)
    assert states(path) == {"k0": "new"}
    emulator.plan_next_run(
        request.imodel_id, duration=30
    )  # it is not followed for so long that it asks
    await export_one(hasty, emulator, request, path)
    assert emulator.count("list_runs") == 0


async def test_run_that_another_request_owns_is_never_taken_for_it(
    hasty: ExportClient, emulator: Emulator, make: Make, path: Path
) -> None:
    (one,) = make(1)
    other = evolve(another(one, "other"), options=ExportOptions(ifc_version="IFC2x3"))
    await leave(hasty, emulator, one, path, after=False)
    await interrupt(hasty, [other], path, after=60)
    assert states(path) == {"k0": "starting", "other": "started"}
    outcomes = await collect(hasty, [one, other], ledger=path)
    for outcome in outcomes:
        check(emulator, outcome)
    assert b"IFC2X3" not in Path(one.destination).read_bytes()
    assert b"IFC2X3" in Path(other.destination).read_bytes()


async def test_run_that_begins_after_an_interrupted_wait_is_not_taken_for_ours(
    client: ExportClient, emulator: Emulator, make: Make, path: Path
) -> None:
    emulator.run_seconds = 20.0
    (request,) = make(1)
    connection = await client.create_connection(
        request.imodel_id, display_name=request.connection_name
    )
    first = await client.start_run(connection.id)
    await interrupt(client, [request], path, after=10)
    assert states(path) == {"k0": "waiting"}
    await first.wait()
    second = await client.start_run(connection.id, if_active="raise")
    outcome = await export_one(client, emulator, request, path)
    assert outcome.run is not None
    assert outcome.run.id not in (first.run_id, second.run_id)
    assert started(emulator) == 3


async def test_run_found_for_another_request_is_not_started_again(
    hasty: ExportClient, emulator: Emulator, make: Make, path: Path
) -> None:
    (one,) = make(1)
    failing = another(one, "failing")
    emulator.plan_next_run(one.imodel_id, "Error")
    emulator.inject("create_run", None)
    emulator.inject("create_run", ConnectionResetError(), apply_effect=True)
    await collect(hasty, [failing, one], ledger=path)
    assert states(path) == {"k0": "starting", "failing": "failed"}
    outcomes = await collect(hasty, [failing, one], ledger=path)
    for outcome in outcomes:
        check(emulator, outcome)
    assert await list_runs(hasty, one) == 3


@pytest.mark.parametrize(
    "untaken", [ConnectionRefusedError(), answer(429, "{}", Retry_After="1000")]
)
async def test_start_that_was_not_processed_is_not_recovered(
    hasty: ExportClient, emulator: Emulator, make: Make, path: Path, untaken: Outcome
) -> None:
    (request,) = make(1)
    emulator.inject("create_run", untaken)
    await collect(hasty, [request], ledger=path)
    assert states(path) == {"k0": "new"}


@pytest.mark.parametrize("last", [answer(403, "{}"), answer(422, "{}"), answer(404, "{}")])
async def test_uncertain_start_is_recovered_whatever_came_last(
    client: ExportClient, emulator: Emulator, make: Make, path: Path, last: Response
) -> None:
    (request,) = make(1)
    emulator.inject("create_run", answer(500, "{}"), apply_effect=True)
    emulator.inject("create_run", last)
    (outcome,) = await collect(client, [request], ledger=path)
    assert not outcome.ok
    assert states(path) == {"k0": "starting"}
    await export_one(client, emulator, request, path)
    assert await list_runs(client, request) == 1


async def test_run_may_have_been_started_before_the_service_could_not_be_reached(
    client: ExportClient, emulator: Emulator, make: Make, path: Path
) -> None:
    (request,) = make(1)
    emulator.inject("create_run", ConnectionResetError(), apply_effect=True)
    emulator.inject("create_run", *[ConnectionRefusedError()] * 4)
    retry = RetryPolicy(initial=10, jitter=lambda seconds: seconds)
    async with ExportClient(
        emulator.token(), transport=emulator, max_outage=0, retry=retry
    ) as impatient:
        await collect(impatient, [request], ledger=path)
    assert states(path) == {"k0": "starting"}
    await export_one(client, emulator, request, path)
    assert await list_runs(client, request) == 1


async def test_withdrawn_consent_is_noticed_by_the_next_batch(
    hasty: ExportClient, emulator: Emulator, make: Make, path: Path
) -> None:
    (request,) = make(1)
    await leave(hasty, emulator, request, path, after=False)
    emulator.user_authorized = False
    async with ExportClient(emulator.token(), transport=emulator) as client:
        (outcome,) = await collect(client, [request], ledger=path)
    assert isinstance(outcome.error, AuthorizationRequired)
    assert emulator.count("create_run") == 1
    assert states(path) == {"k0": "starting"}


async def test_run_that_was_joined_is_joined_again(
    client: ExportClient, emulator: Emulator, make: Make, path: Path
) -> None:
    (request,) = make(1)
    connection = await client.create_connection(request.imodel_id)
    run = await client.start_run(connection.id)
    await interrupt(client, [request], path, after=5, if_active="join")
    outcome = await export_one(client, emulator, request, path, if_active="join")
    assert outcome.run is not None
    assert outcome.run.id == run.run_id


GONE = answer(404, '{"error": {"code": "ConnectionNotFound", "message": "gone"}}')


async def test_noted_connection_that_was_deleted_is_created_again(
    hasty: ExportClient, emulator: Emulator, make: Make, path: Path
) -> None:
    (request,) = make(1)
    (first,) = await collect(hasty, [evolve(request, revision="a")], ledger=path)
    assert first.connection_id is not None
    await hasty.delete_connection(first.connection_id)
    second = await export_one(hasty, emulator, evolve(request, revision="b"), path)
    assert second.connection_id != first.connection_id


async def test_connection_that_is_always_unknown_is_not_looked_up_for_ever(
    hasty: ExportClient, emulator: Emulator, make: Make, path: Path
) -> None:
    (request,) = make(1)
    emulator.inject("create_run", *[GONE] * 5)
    (outcome,) = await collect(hasty, [request], ledger=path)
    assert isinstance(outcome.error, NotFound)
    assert emulator.count("create_run") == 2


async def test_404_of_a_connection_that_is_not_noted_is_an_outcome(
    hasty: ExportClient, emulator: Emulator, make: Make, path: Path
) -> None:
    (request,) = make(1)
    await leave(hasty, emulator, request, path, after=False)
    with closing(sqlite3.connect(path)) as file:
        file.execute("DELETE FROM connections")
        file.commit()
    await asyncio.sleep(3000)
    emulator.inject("create_run", GONE)
    (outcome,) = await collect(hasty, [request], ledger=path)
    assert isinstance(outcome.error, NotFound)
    assert states(path) == {"k0": "new"}


async def test_output_replaces_neither_the_ledger_nor_its_companions(
    client: ExportClient, emulator: Emulator, tmp_path: Path
) -> None:
    ledger = tmp_path / "Bridge.ifc"
    in_folder = ExportRequest(imodel_id=emulator.add_imodel("Bridge"), destination=tmp_path)
    named = ExportRequest(
        imodel_id=emulator.add_imodel(), destination=tmp_path / "Bridge.ifc-wal", key="named"
    )
    itself = evolve(named, destination=ledger, key="itself")
    outcomes = await collect(client, [in_folder, named, itself], ledger=ledger, concurrency=1)
    assert outcomes[0].paths == (tmp_path / "Bridge-2.ifc",)
    for outcome in outcomes[1:]:
        assert "is the ledger or another file of the batch" in str(outcome.error)


async def test_run_of_a_colleague_is_not_taken_after_the_batch_was_left_waiting(
    client: ExportClient, emulator: Emulator, make: Make, path: Path
) -> None:
    (request,) = make(1)
    connection = await client.find_or_create_connection(
        request.imodel_id, display_name="itwin-export"
    )
    first = await client.start_run(connection.id)
    await interrupt(client, [request], path, after=60)
    assert states(path) == {"k0": "waiting"}
    await first.wait()
    second = await client.start_run(connection.id)
    (outcome,) = await collect(client, [request], ledger=path)
    assert outcome.run is not None
    assert outcome.run.id not in (first.run_id, second.run_id)


async def test_history_has_a_line_for_each_outcome(
    client: ExportClient, emulator: Emulator, make: Make, path: Path
) -> None:
    (request,) = make(1)
    emulator.plan_next_run(request.imodel_id, "Error")
    for revision in ("a", "a", "a", "b"):
        await collect(client, [evolve(request, revision=revision)], ledger=path)
    with closing(sqlite3.connect(path)) as file:
        rows = file.execute(
            "SELECT revision, outcome, seconds > 0, error IS NULL, run_id IS NOT NULL FROM history"
        ).fetchall()
    assert rows == [
        ("a", "RunFailed", 1, 0, 1),
        ("a", "Success", 1, 1, 1),
        ("b", "Success", 1, 1, 1),
    ]
