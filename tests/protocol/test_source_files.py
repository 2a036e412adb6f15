"""Source files of a synchronization: requests out, values in."""

import json
from collections.abc import Callable

import pytest

from itwin_export_async._errors import (
    Conflict,
    ExportError,
    InvalidRequest,
    NotFound,
    PermissionDenied,
    ProtocolError,
)
from itwin_export_async._models import ConnectorType, SourceFile
from itwin_export_async._protocol.messages import Request
from itwin_export_async._protocol.source_files import (
    add_source_file_request,
    delete_source_file_request,
    get_source_file_request,
    list_source_files_request,
    parse_source_file,
    parse_source_files,
    update_source_file_request,
)
from tests.support.samples import answer, example

FILES = "/synchronization/imodels/storageconnections/c%2F1/sourcefiles"
DGN = SourceFile(storage_file_id="f1", connector_type="mstn")
MAPPED = SourceFile(
    storage_file_id="f2",
    connector_type=ConnectorType("NEW"),
    id="m/2",
    last_known_file_name="two.dgn",
    raw={"surplus": 1},
)


def sent(request: Request) -> object:
    return json.loads(request.body or b"null")


def test_file_is_added_once() -> None:
    request = add_source_file_request("c/1", DGN)
    assert (request.method, request.url) == ("POST", FILES)
    assert request.headers == {"Content-Type": "application/json"}
    assert not request.retryable
    assert sent(request) == {"storageFileId": "f1", "connectorType": "MSTN"}
    assert sent(add_source_file_request("c1", MAPPED)) == {
        "storageFileId": "f2",
        "connectorType": "NEW",
    }


def test_file_keeps_its_id_when_it_changes() -> None:
    request = update_source_file_request("c/1", MAPPED)
    assert (request.method, request.url) == ("PUT", f"{FILES}/m%2F2")
    assert request.headers == {"Content-Type": "application/json"}
    assert request.retryable
    assert sent(request) == {"storageFileId": "f2", "connectorType": "NEW"}


def test_file_is_read_and_deleted_by_its_id() -> None:
    for request, method in (
        (get_source_file_request("c/1", "m/2"), "GET"),
        (delete_source_file_request("c/1", "m/2"), "DELETE"),
    ):
        assert (request.method, request.url) == (method, f"{FILES}/m%2F2")
        assert (dict(request.headers), request.body, request.retryable) == ({}, None, True)


def test_list_requests_full_source_files() -> None:
    request = list_source_files_request("c/1", page_size=None, offset=0)
    assert (request.method, request.url) == ("GET", FILES)
    assert request.headers == {"Prefer": "return=representation"}
    paged = list_source_files_request("c/1", page_size=5, offset=10)
    assert paged.url == f"{FILES}?$skip=10&$top=5"


@pytest.mark.parametrize("id", ["", " ", ".", "..", "m1\n", "m\x00", None, 7])
def test_invalid_id_is_refused(id: str) -> None:
    questions: tuple[Callable[[], Request], ...] = (
        lambda: get_source_file_request("c1", id),
        lambda: delete_source_file_request("c1", id),
        lambda: update_source_file_request("c1", SourceFile(storage_file_id="f1", id=id)),
    )
    for ask in questions:
        with pytest.raises((TypeError, ValueError)):
            ask()
    elsewhere: tuple[Callable[[], Request], ...] = (
        lambda: get_source_file_request(id, "m1"),
        lambda: delete_source_file_request(id, "m1"),
        lambda: update_source_file_request(id, MAPPED),
        lambda: add_source_file_request(id, DGN),
        lambda: list_source_files_request(id, page_size=None, offset=0),
    )
    for ask in elsewhere:
        with pytest.raises((TypeError, ValueError), match="connection_id"):
            ask()


def test_file_without_an_id_cannot_be_updated() -> None:
    with pytest.raises(ValueError, match="no id"):
        update_source_file_request("c1", DGN)


def test_file_of_a_minimal_list_has_no_connector_to_send() -> None:
    listed = SourceFile(storage_file_id="f1", id="m1")
    for ask in (add_source_file_request, update_source_file_request):
        with pytest.raises(ValueError, match="connector_type"):
            ask("c1", listed)


@pytest.mark.parametrize("file", ["f1", None, {"storageFileId": "f1", "connectorType": "DWG"}])
def test_value_that_is_no_source_file_is_refused(file: SourceFile) -> None:
    with pytest.raises(TypeError, match="SourceFile"):
        add_source_file_request("c1", file)


@pytest.mark.parametrize("id", ["", " ", "..", "f1\n"])
def test_invalid_storage_file_id_is_refused(id: str) -> None:
    with pytest.raises(ValueError, match="storage_file_id"):
        add_source_file_request("c1", SourceFile(storage_file_id=id, connector_type="DWG"))


@pytest.mark.parametrize("id", [None, 7, b"f1"])
def test_storage_file_id_is_a_string(id: str) -> None:
    with pytest.raises((TypeError, ValueError), match="storage_file_id"):
        SourceFile(storage_file_id=id)


def test_connector_is_a_known_one_or_a_connector_type() -> None:
    with pytest.raises(ValueError, match="connector_type"):
        SourceFile(storage_file_id="f1", connector_type="DGW")
    with pytest.raises(TypeError, match="connector_type"):
        SourceFile(storage_file_id="f1", connector_type=7)  # type: ignore[arg-type]
    dwg = SourceFile(storage_file_id="f1", connector_type="dwg")
    assert dwg.connector_type is ConnectorType.DWG


@pytest.mark.parametrize("status", [200, 201])
def test_source_file_is_read_without_optional_members(status: int) -> None:
    members = {"id": "m1", "storageFileId": "f1", "connectorType": "AVEVAPID", "surplus": 1}
    seen = parse_source_file(answer({"sourceFile": members}, status))
    assert seen == SourceFile(
        id="m1", storage_file_id="f1", connector_type=ConnectorType("AVEVAPID")
    )
    assert seen.last_known_file_name is None
    assert seen.raw == members
    for nothing in (None, ""):
        members |= {"connectorType": nothing, "lastKnownFileName": None}
        assert parse_source_file(answer({"sourceFile": members}, status)).connector_type is None


@pytest.mark.parametrize(
    ("body", "path"),
    [
        ({"sourceFile": {"id": "m1", "connectorType": "DWG"}}, "sourceFile.storageFileId"),
        ({"sourceFile": {"id": "m1", "storageFileId": None}}, "sourceFile.storageFileId"),
        ({"sourceFile": {"id": "m1", "storageFileId": ""}}, "sourceFile"),
        ({"sourceFile": {"id": 1, "storageFileId": "f1"}}, "sourceFile.id"),
        ({"sourceFile": {"storageFileId": "f1", "connectorType": "DWG"}}, "sourceFile.id"),
        ({"sourceFile": {"storageFileId": "f1", "connectorType": 5}}, "sourceFile.connectorType"),
        ({"sourceFile": None}, "sourceFile"),
        ({}, "sourceFile"),
    ],
)
def test_unreadable_source_file_is_a_protocol_error(body: object, path: str) -> None:
    with pytest.raises(ProtocolError) as caught:
        parse_source_file(answer(body))
    assert caught.value.path == path


@pytest.mark.parametrize(
    ("code", "status", "kind"),
    [
        ("FileMappingToTheIModelAlreadyExists", 409, Conflict),
        ("StorageConnectionSourceFileNotFound", 404, NotFound),
        ("ConnectionSourceFileNotFound", 404, NotFound),
        ("InvalidStorageConnectionSourceFileRequest", 422, InvalidRequest),
        ("InsufficientPermissions", 403, PermissionDenied),
        ("Accepted", 202, ProtocolError),
    ],
)
def test_error_response_is_an_error(code: str, status: int, kind: type[ExportError]) -> None:
    refused = answer({"error": {"code": code, "message": "no"}}, status)
    for read in (parse_source_file, parse_source_files):
        with pytest.raises(kind) as caught:
            read(refused)
        assert getattr(caught.value, "code", code) == code


def test_minimal_list_is_read() -> None:
    body = {
        "sourceFiles": [{"id": "m1", "storageFileId": "f1"}, {"id": "m2", "storageFileId": "f2"}],
        "_links": {"next": {"href": "https://api.bentley.com/any"}},
    }
    page = parse_source_files(answer(body))
    assert [(file.id, file.connector_type) for file in page.items] == [("m1", None), ("m2", None)]
    assert page.has_next
    assert parse_source_files(answer({"sourceFiles": None})).items == ()


def test_source_file_without_its_id_is_a_protocol_error() -> None:
    """Without an id it could not be updated."""
    with pytest.raises(ProtocolError) as caught:
        parse_source_files(
            answer({"sourceFiles": [{"id": "m1", "storageFileId": "f"}, {"storageFileId": "f"}]})
        )
    assert caught.value.path == "sourceFiles[1].id"


def test_source_file_that_was_read_can_be_sent() -> None:
    seen = parse_source_file(answer(example("sync.update_source_file.200.json")))
    assert sent(update_source_file_request("c1", seen)) == example(
        "sync.add_source_file.request.json"
    )
