"""The documented responses are read: models have the values that stand in them."""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from itwin_export_async._models import (
    AuthenticationType,
    AuthorizationInformation,
    Connection,
    ConnectorType,
    ExecutionResult,
    ExecutionState,
    Run,
    RunErrorInfo,
    SourceFile,
    StorageConnection,
    StoredFile,
    TaskErrorInfo,
)
from itwin_export_async._protocol.authorization import parse_authorization
from itwin_export_async._protocol.codec import decode, decode_list
from itwin_export_async._protocol.connections import (
    parse_connections,
    parse_created_connection,
)
from itwin_export_async._protocol.files import (
    parse_completed_file,
    parse_created_file,
    parse_file,
    parse_items,
    parse_root_folder,
)
from itwin_export_async._protocol.messages import Response
from itwin_export_async._protocol.paging import new_items
from itwin_export_async._protocol.runs import (
    parse_connection,
    parse_last_run,
    parse_run,
    parse_runs,
)
from itwin_export_async._protocol.source_files import parse_source_file
from tests.support.samples import BASE, answer, example

FAILED_TO_ORCHESTRATE = TaskErrorInfo(
    error_code="TAE_BRG_1000",
    message="Failed to process.",
    details="Error exit code received from bridge wrapper.",
    bridge_exit_code=4294967295,
    system="cloud_orchestrator",
    phase="internal_server_error",
    category="other",
    description_key="RunOrchestrationError",
    description="Failed to orchestrate Run.",
    kb_article_link="",
    can_user_fix=False,
)


def check_connection(name: str) -> None:
    created = name.startswith("export.create")
    read = parse_created_connection if created else parse_connection
    expected = Connection(
        id="fc226d0d-1647-48d7-8c11-f1f74f2d9808",
        display_name="30",
        imodel_id="7dbd531d-6967-47b2-8945-a722a437ad7a",
        itwin_id="7dbd531d-6967-47b2-8945-a722a437ad7a",
        authentication_type=AuthenticationType.USER,
        last_run_url=f"{BASE}/export/connections/fc226d0d-1647-48d7-8c11-f1f74f2d9808"
        "/runs/de626d0d-1647-48d7-8c11-f1f74f2d4523",
    )
    assert read(answer(example(name), 201 if created else 200), Connection) == expected
    if not created:
        last = parse_last_run(answer(example(name)))
        assert last is not None
        assert last.run_id == "de626d0d-1647-48d7-8c11-f1f74f2d4523"
        assert last.connection_id == expected.id


def check_connections(name: str) -> None:
    page = parse_connections(answer(example(name)), Connection)
    (connection,) = page.items
    newer = "older" not in name
    assert connection.id == (
        "VRZHoBhrnkGrAev0-_-d_xwvyrzjgaVGka5wU967Q7M"
        if newer
        else "fc226d0d-1647-48d7-8c11-f1f74f2d9808"
    )
    assert connection.imodel_id == (
        "a0471655-6b18-419e-ab01-ebf4fbff9dff" if newer else "7dbd531d-6967-47b2-8945-a722a437ad7a"
    )
    assert page.has_next
    assert new_items(page, set())


def check_run(name: str) -> None:
    body = example(name)
    body = {"run": body} if "item" in name else body
    run = parse_run(answer(body), "unused")
    assert run.id == "a1ecbdc8c4f6173004f9f881914a57c5511a362b"
    assert run.connection_id == "bc38cd8a-fd9f-4abf-9ad7-0c3b3d28720e"
    assert run.start_date_time == datetime(2020, 10, 24, 2, 44, 13, 410966, tzinfo=UTC)
    assert run.duration == 180.0
    assert run.outcome is ExecutionResult.PARTIAL_SUCCESS
    assert run.is_final
    assert run.failed_tasks == ()
    (task,) = run.tasks
    assert task.id == "f5ecbdc8c4f6173004f9f881914a57c5511a362b"
    assert (task.state, task.result, task.retry_attempts) == ("Completed", "Success", 0)
    assert task.error is not None
    if "item" in name:
        assert run.jobs[0].connector_type is ConnectorType.DWG
        assert task.error.message == "Failed to process the file."
    else:
        assert task.error == FAILED_TO_ORCHESTRATE
    newest = name == "export.get_run.200.json"
    assert run.output_file_ids == (("fa310a48-d89c-493a-8124-80406ac46f66",) if newest else ())


def check_runs(name: str) -> None:
    page = parse_runs(answer(example(name)), "c1")
    (run,) = page.items
    assert run.id == "75d94fca-4a9b-4ff0-8f3a-eeedbc1fea97"
    assert run.connection_id == "c1"  # lists leave it out
    assert (run.state, run.result) == (ExecutionState.COMPLETED, ExecutionResult.SUCCESS)
    assert run.outcome is ExecutionResult.ERROR  # a success whose tasks all failed
    assert run.start_date_time == datetime(2023, 9, 14, 12, 0, 6, 872756, tzinfo=UTC)
    assert run.jobs[0].start_date_time == datetime(2023, 9, 14, 12, 0, 9, 801086, tzinfo=UTC)
    (task,) = run.failed_tasks
    assert task.error is not None
    assert (task.error.error_code, task.error.bridge_exit_code) == ("TAE_BRW_1000", -7002)
    assert task.error.description == "Failed to export your file."
    with_file = "output_file" in name
    assert run.output_file_ids == (("fa310a48-d89c-493a-8124-80406ac46f66",) if with_file else ())
    assert page.has_next


def check_authorization(name: str) -> None:
    portal = "https://connect-itwinbridgeportal.bentley.com/authenticate"
    export = name.startswith("export")
    assert parse_authorization(answer(example(name))) == AuthorizationInformation(
        is_user_authorized=False,
        authorization_url=f"{portal}?redirect_url=https://myUrl.com" if export else portal,
    )


def check_storage_connection(name: str) -> None:
    created = name.startswith("sync.create")
    read = parse_created_connection if created else parse_connection
    connection = read(answer(example(name), 201 if created else 200), StorageConnection)
    id = (
        "MWplZe9Uf0iR1IDMqyOMLuL24kbZK4VNvgn4ev3etXI"
        if "update" in name
        else "MWplZe9Uf0iR1IDMqyOMLqBN0_wHEVBGg_CzJmXdmE4"
    )
    assert connection == StorageConnection(
        id=id,
        display_name="30",
        imodel_id="7dbd531d-6967-47b2-8945-a722a437ad7a",
        itwin_id="5fb9aa98-9874-4697-b942-d19728840f19",
        authentication_type=AuthenticationType.USER,
        last_run_url=f"{BASE}/synchronization/imodels/storageconnections/{id}"
        "/runs/de626d0d-1647-48d7-8c11-f1f74f2d4523",
    )


def check_storage_connections(name: str) -> None:
    page = parse_connections(answer(example(name)), StorageConnection)
    id = "MWplZe9Uf0iR1IDMqyOMLqBN0_wHEVBGg_CzJmXdmE4"
    assert page.items == (StorageConnection(id=id, display_name="30"),)


def check_source_file(name: str) -> None:
    status = int(name.split(".")[-2])
    assert parse_source_file(answer(example(name), status)) == SourceFile(
        id="297c8ab9-53a3-4fe5-adf8-79b4c1a95cbb",
        storage_file_id="t5bDFuN4qUa9ojVw1E5FGtldp8BgSbNCiJ2XMdiT-cA",
        connector_type=ConnectorType.MSTN,
        last_known_file_name="samplefile",
    )


def check_synchronization_run(name: str) -> None:
    run = parse_run(answer(example(name)), "unused")
    assert run.connection_id == "MWplZe9Uf0iR1IDMqyOMLqBN0_wHEVBGg_CzJmXdmE4"
    assert run.phase == "MasterFile"
    assert run.error == RunErrorInfo(
        error_key="UserNotAuthenticated", description="User is not authenticated."
    )
    assert run.jobs[0].connector_type is ConnectorType.DWG
    (task,) = run.tasks
    assert task.storage_file_id == "g4ec1dc8c4f6173004f9f881914a57c5511a336d"
    assert task.raw["details"]["synchronizationReport"]["totalWarningsCount"] == 20


def check_minimal_runs(name: str) -> None:
    (run,) = parse_runs(answer(example(name)), "c1").items
    assert run == Run(
        id="a1ecbdc8c4f6173004f9f881914a57c5511a362b",
        connection_id="c1",
        state=ExecutionState.COMPLETED,
        result=ExecutionResult.PARTIAL_SUCCESS,
    )


def stored(
    member: str, size: int | None, reader: Callable[[Response], StoredFile] | None = None
) -> Callable[[str], None]:
    def check(name: str) -> None:
        response = answer(example(name))
        file = reader(response) if reader else decode(response, member, StoredFile)
        assert file.id == "TYJsPN0xtkWId0yUrXkS5pN5AQzuullIkxz5aDnDJSI"
        assert file.size == size
        assert file.last_modified_by_display_name == "Bob User"
        assert file.created_date_time == datetime(2020, 5, 3, 11, 5, 11, 13354, tzinfo=UTC)
        assert file.created_date_time.tzinfo is UTC
        assert file.parent_folder_id == "TYJsPN0xtkWId0yUrXkS5g0CIYaGZLxEozrWBCOcS_s"
        assert file.path == example(name)[member]["path"]

    return check


def listed(member: str, *expected: tuple[str, str | None, int | None]) -> Callable[[str], None]:
    def check(name: str) -> None:
        response = answer(example(name))
        items = (
            parse_items(response).items
            if member == "items"
            else decode_list(response, member, StoredFile)
        )
        assert tuple((i.display_name, i.raw.get("type"), i.size) for i in items) == expected
        assert all(i.is_folder == (i.raw["type"] == "folder") for i in items if "type" in i.raw)

    return check


def check_top_level(name: str) -> None:
    listed("items", ("test", "folder", None), ("test2.txt", "file", 1))(name)
    root = parse_root_folder(answer(example(name)))
    assert root == "TYJsPN0xtkWId0yUrXkS5g0CIYaGZLxEozrWBCOcS_s"


def check_empty_top_level(name: str) -> None:
    page = parse_items(answer(example(name)))
    assert page.items == ()
    assert page.has_next  # a link does not mean that there is one
    assert not new_items(page, set())
    root = parse_root_folder(answer(example(name)))
    assert root == "UQBsw5AFgkK-L-0-hSCtAVEAbMOQBYJCvi_tPoUgrQE"


def check_upload_links(name: str) -> None:
    body = example(name)
    upload = parse_created_file(answer(body, 202), base_url=BASE)
    assert upload.file_id == "TYJsPN0xtkWId0yUrXkS5pN5AQzuullIkxz5aDnDJSI"
    assert upload.complete_url == f"{BASE}/storage/files/{upload.file_id}/complete"
    assert upload.upload_url == body["_links"]["uploadUrl"]["href"]  # kept byte for byte


READ: dict[str, Callable[[str], Any]] = {
    "export.authorization_information.200.json": check_authorization,
    "export.create_connection.201.json": check_connection,
    "export.get_connection.200.json": check_connection,
    "export.get_connections.200.json": check_connections,
    "export.get_connections.older.200.json": check_connections,
    "export.get_run.200.json": check_run,
    "export.get_run.older.200.json": check_run,
    "export.get_runs.200.json": check_runs,
    "export.get_runs.older.item.json": check_run,
    "export.get_runs.output_file.200.json": check_runs,
    "storage.complete_file.200.json": stored("file", 8, parse_completed_file),
    "storage.create_file.202.json": check_upload_links,
    "storage.create_folder.201.json": stored("folder", None),
    "storage.get_file.200.json": stored("file", 1, parse_file),
    "storage.get_files_in_folder.200.json": listed(
        "files", ("test.txt", None, 1), ("test2.txt", None, 1)
    ),
    "storage.get_folder.200.json": stored("folder", None),
    "storage.get_folders_in_folder.200.json": listed(
        "folders", ("test", None, None), ("test 2", None, None)
    ),
    "storage.get_top_level.200.json": check_top_level,
    "storage.get_top_level.empty.200.json": check_empty_top_level,
    "storage.list_folder.200.json": listed(
        "items", ("test", "folder", None), ("test2.txt", "file", 1)
    ),
    "storage.search.200.json": listed("items", ("test", "folder", None), ("test3.txt", "file", 1)),
    "storage.update_file_content.202.json": check_upload_links,
    "sync.add_source_file.201.json": check_source_file,
    "sync.authorization_information.200.json": check_authorization,
    "sync.create_storage_connection.201.json": check_storage_connection,
    "sync.get_run.200.json": check_synchronization_run,
    "sync.get_runs.minimal.200.json": check_minimal_runs,
    "sync.get_storage_connection.200.json": check_storage_connection,
    "sync.get_storage_connections.minimal.200.json": check_storage_connections,
    "sync.update_source_file.200.json": check_source_file,
    "sync.update_storage_connection.200.json": check_storage_connection,
}


@pytest.mark.parametrize("name", READ)
def test_documented_response_is_read_to_the_value(name: str) -> None:
    READ[name](name)
