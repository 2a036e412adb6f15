"""The Synchronization API: connections, their source files, and runs like those of exports."""

import json
from pathlib import Path

import pytest
from attrs import evolve

from itwin_export_async import (
    AuthenticationType,
    Conflict,
    ConnectorType,
    ExecutionResult,
    ExportClient,
    InvalidRequest,
    NotFound,
    ProtocolError,
    RunFailed,
    RunOrigin,
    SourceFile,
    StorageConnection,
    TransportError,
)
from itwin_export_async.emulator import Emulator
from tests.support.fakes import Answers, answer


@pytest.fixture
def imodel_id(emulator: Emulator) -> str:
    return emulator.add_imodel("Bridge")


@pytest.fixture
def file(emulator: Emulator) -> SourceFile:
    """A file in Storage that is not mapped yet."""
    return SourceFile(
        storage_file_id=emulator.add_file("bridge.dgn", b"dgn"), connector_type="MSTN"
    )


@pytest.fixture
async def connection(client: ExportClient, imodel_id: str, file: SourceFile) -> StorageConnection:
    return await client.synchronization.create_connection(
        imodel_id, [file], display_name="nightly", authentication_type="Service"
    )


async def test_connection_is_made_read_changed_and_deleted(
    client: ExportClient, connection: StorageConnection, imodel_id: str
) -> None:
    synchronization = client.synchronization
    assert (connection.display_name, connection.imodel_id) == ("nightly", imodel_id)
    assert connection.authentication_type is AuthenticationType.SERVICE
    assert await synchronization.get_connection(connection.id) == connection
    assert await synchronization.list_connections(imodel_id) == (connection,)
    assert await synchronization.list_connections() == (connection,)
    changed = await synchronization.update_connection(connection.id, display_name="weekly")
    assert changed == evolve(connection, display_name="weekly")
    await synchronization.delete_connection(connection.id)
    with pytest.raises(NotFound, match="StorageConnectionNotFound"):
        await synchronization.get_connection(connection.id)


async def test_source_files_are_added_read_changed_and_deleted(
    client: ExportClient, connection: StorageConnection, file: SourceFile, emulator: Emulator
) -> None:
    synchronization = client.synchronization
    (first,) = await synchronization.list_source_files(connection.id)
    assert (first.storage_file_id, first.connector_type) == (
        file.storage_file_id,
        ConnectorType.MSTN,
    )
    drawing = emulator.add_file("plan.dwg", b"dwg")
    added = await synchronization.add_source_file(
        connection.id, SourceFile(storage_file_id=drawing, connector_type=ConnectorType.DWG)
    )
    assert added.id is not None
    assert added.last_known_file_name == "plan.dwg"
    assert await synchronization.get_source_file(connection.id, added.id) == added
    other = emulator.add_file("plan2.dwg", b"dwg")
    changed = await synchronization.update_source_file(
        connection.id, evolve(added, storage_file_id=other)
    )
    assert (changed.id, changed.storage_file_id) == (added.id, other)
    listed = [file.id async for file in synchronization.list_source_files(connection.id)]
    assert sorted(filter(None, listed)) == sorted(filter(None, [first.id, added.id]))
    await synchronization.delete_source_file(connection.id, added.id)
    with pytest.raises(NotFound, match="SourceFileNotFound"):
        await synchronization.get_source_file(connection.id, added.id)


async def test_file_is_mapped_once(
    client: ExportClient, connection: StorageConnection, imodel_id: str, file: SourceFile
) -> None:
    with pytest.raises(Conflict, match="already mapped") as caught:
        await client.synchronization.create_connection(imodel_id, [file])
    assert caught.value.code == "FileMappingToTheIModelAlreadyExists"
    with pytest.raises(Conflict, match="already mapped"):
        await client.synchronization.add_source_file(connection.id, file)


async def test_refused_value_is_named_by_field(client: ExportClient, imodel_id: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        await client.synchronization.create_connection(
            imodel_id,
            [SourceFile(storage_file_id="f", connector_type=ConnectorType("SOON"))],
        )
    assert "connectorType" in {detail.target for detail in caught.value.details}
    assert "connectorType must be one of" in str(caught.value)


async def test_reports_of_a_run_can_be_downloaded(
    client: ExportClient, connection: StorageConnection, emulator: Emulator, tmp_path: Path
) -> None:
    run = await client.synchronization.start_run(connection.id)
    assert await client.synchronization.list_reports(run) == ()
    final = await run.wait()
    (report,) = await client.synchronization.list_reports(run)
    assert await client.synchronization.list_reports(final) == (report,)
    assert (report.imodel_id, report.run_id) == (connection.imodel_id, run.run_id)
    assert report.task_id == final.tasks[0].id
    assert report.created_time_stamp == final.tasks[0].end_date_time
    assert report.sas_uri is not None
    assert "sig=" not in repr(report)
    path = await client.storage.download_blob(report.sas_uri, tmp_path / "report.json")
    assert json.loads(path.read_text())["context"]["reportType"] == "detailReport"


async def test_reports_of_a_connection_without_an_imodel_break_the_contract() -> None:
    transport = Answers(answer(200, '{"connection": {"id": "c1"}}'))
    async with ExportClient("t", transport=transport) as client:
        run = client.synchronization.attach("c1", "r1")
        with pytest.raises(ProtocolError, match="iModelId"):
            await client.synchronization.list_reports(run)


async def test_run_is_waited_for_like_an_export(
    client: ExportClient, connection: StorageConnection, emulator: Emulator
) -> None:
    run = await client.synchronization.start_run(connection.id)
    assert run.origin is RunOrigin.STARTED
    final = await run.wait()
    assert final.outcome is ExecutionResult.SUCCESS
    assert final.jobs[0].connector_type is ConnectorType.MSTN
    assert final.phase is not None
    assert await client.synchronization.get_run(connection.id, run.run_id) == final
    assert await client.synchronization.list_runs(connection.id) == (final,)
    assert emulator.count("start_synchronization") == 1


async def test_active_run_is_joined_and_a_token_takes_it_up(
    client: ExportClient, connection: StorageConnection
) -> None:
    first = await client.synchronization.start_run(connection.id)
    second = await client.synchronization.start_run(connection.id)
    assert (second.run_id, second.origin) == (first.run_id, RunOrigin.JOINED)
    resumed = client.resume(first.resume_token)
    assert resumed == first
    attached = client.synchronization.attach(connection.id, first.run_id)
    assert await attached.wait() == await resumed.wait()


async def test_lost_start_is_found_again(
    client: ExportClient, connection: StorageConnection, emulator: Emulator
) -> None:
    emulator.inject("start_synchronization", ConnectionResetError(), apply_effect=True)
    run = await client.synchronization.start_run(connection.id)
    assert run.origin is RunOrigin.RECOVERED
    assert len(await client.synchronization.list_runs(connection.id)) == 1


async def test_export_and_a_synchronization_go_on_side_by_side(
    client: ExportClient, connection: StorageConnection, imodel_id: str
) -> None:
    export = await client.create_connection(imodel_id)
    ours, theirs = (
        await client.synchronization.start_run(connection.id),
        await client.start_run(export.id),
    )
    assert ours != theirs
    assert {ours.origin, theirs.origin} == {RunOrigin.STARTED}


async def test_failed_file_is_named(
    client: ExportClient, connection: StorageConnection, imodel_id: str, emulator: Emulator
) -> None:
    emulator.plan_next_run(imodel_id, "Error", service="synchronization")
    run = await client.synchronization.start_run(connection.id)
    with pytest.raises(RunFailed, match="TAE_"):
        await run.wait()


async def test_run_in_the_name_of_a_user_who_did_not_agree_says_so(
    client: ExportClient, imodel_id: str, file: SourceFile, emulator: Emulator
) -> None:
    emulator.user_authorized = False
    connection = await client.synchronization.create_connection(imodel_id, [file])
    run = await client.synchronization.start_run(connection.id)
    with pytest.raises(RunFailed, match=r"UserNotAuthenticated.*get_authorization"):
        await run.wait()
    seen = await client.synchronization.get_authorization("https://example.com/back")
    assert not seen.is_user_authorized
    assert seen.authorization_url is not None


@pytest.mark.parametrize(
    ("files", "says"),
    [([], "at least one file"), ([SourceFile(storage_file_id="f")], "no connector_type")],
)
async def test_connection_needs_files_and_their_connectors(
    client: ExportClient, emulator: Emulator, files: list[SourceFile], says: str
) -> None:
    with pytest.raises(ValueError, match=says):
        await client.synchronization.create_connection("i1", files)
    assert emulator.count("create_storage_connection") == 0


async def test_uncertain_request_is_not_sent_twice() -> None:
    transport = Answers(TransportError(message="reset"))
    file = SourceFile(storage_file_id="f", connector_type="DWG")
    async with ExportClient("token", transport=transport) as client:
        with pytest.raises(TransportError):
            await client.synchronization.create_connection("i1", [file])
        with pytest.raises(TransportError):
            await client.synchronization.add_source_file("c1", file)
    assert len(transport.requests) == 2


async def test_lists_of_runs_are_read_in_full() -> None:
    """Without a Location the newest run is taken, so the list has to tell when they began."""
    run = {"id": "r1", "state": "Queued"}
    transport = Answers(
        answer(202),
        answer(200, '{"connection": {"id": "c1"}}'),
        answer(200, f'{{"runs": [{str(run).replace(chr(39), chr(34))}]}}'),
    )
    async with ExportClient("token", transport=transport) as client:
        handle = await client.synchronization.start_run("c1")
    assert handle.run_id == "r1"
    assert transport.requests[-1].headers["Prefer"] == "return=representation"
    with pytest.raises(ProtocolError):
        async with ExportClient("token", transport=Answers(answer(204))) as client:
            await client.synchronization.get_connection("c1")
