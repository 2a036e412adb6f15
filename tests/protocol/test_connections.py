"""Connections of both services: requests out, values in."""

import json
from collections.abc import Callable

import pytest

from itwin_export_async._errors import (
    AuthenticationFailed,
    Conflict,
    ExportError,
    InvalidRequest,
    NotFound,
    PermissionDenied,
    ProtocolError,
    RateLimited,
    RequestTimeout,
    ServerError,
    TransportError,
)
from itwin_export_async._models import (
    AuthenticationType,
    Connection,
    ConnectorType,
    SourceFile,
    StorageConnection,
)
from itwin_export_async._protocol.connections import (
    check_deleted,
    create_connection_request,
    create_storage_connection_request,
    delete_connection_request,
    list_connections_request,
    means_empty,
    parse_connections,
    parse_created_connection,
    update_connection_request,
)
from itwin_export_async._protocol.messages import Request, Response
from itwin_export_async._protocol.runs import Service, get_connection_request, parse_connection
from tests.support.samples import answer, example

ROOTS = {
    Service.EXPORT: "/export/connections",
    Service.SYNCHRONIZATION: "/synchronization/imodels/storageconnections",
}
DWG = SourceFile(storage_file_id="f1", connector_type="DWG")
GATEWAY = "platform.error.404.operation_not_found.json"


def sent(request: Request) -> object:
    return json.loads(request.body or b"null")


def test_creation_of_a_connection_is_not_repeatable() -> None:
    request = create_connection_request("i1", None, None)
    assert (request.method, request.url) == ("POST", "/export/connections")
    assert not request.retryable


@pytest.mark.parametrize("kind", ["service", AuthenticationType.SERVICE])
def test_body_has_only_the_arguments_of_the_caller(kind: AuthenticationType | str) -> None:
    plain, full = (
        create_connection_request("i1", None, None),
        create_connection_request("i1", "nightly", kind),
    )
    assert json.loads(plain.body or b"") == {"iModelId": "i1"}
    assert json.loads(full.body or b"") == {
        "iModelId": "i1",
        "displayName": "nightly",
        "authenticationType": "Service",
    }


def test_failed_creation_of_a_connection_is_an_error() -> None:
    with pytest.raises(InvalidRequest):
        parse_created_connection(answer({}, 422), Connection)
    with pytest.raises(ProtocolError):
        parse_created_connection(answer({"connection": {"id": "c1"}}, 200), Connection)
    with pytest.raises(NotFound):
        parse_connections(answer({}, 404), Connection)


def test_request_of_a_storage_connection_is_exact() -> None:
    request = create_storage_connection_request("i1", [DWG], None, None)
    assert (request.method, request.url) == ("POST", ROOTS[Service.SYNCHRONIZATION])
    assert request.headers == {"Content-Type": "application/json"}
    assert not request.retryable  # the second request would find the files mapped already
    assert sent(request) == {
        "iModelId": "i1",
        "sourceFiles": [{"storageFileId": "f1", "connectorType": "DWG"}],
    }


def test_request_of_a_storage_connection_sends_no_members_of_the_service() -> None:
    known = SourceFile(
        storage_file_id="f2",
        connector_type=ConnectorType("NEW"),
        id="m2",
        last_known_file_name="two.dgn",
        raw={"id": "m2"},
    )
    request = create_storage_connection_request("i1", iter((DWG, known)), "nightly", "service")
    assert sent(request) == {
        "iModelId": "i1",
        "displayName": "nightly",
        "authenticationType": "Service",
        "sourceFiles": [
            {"storageFileId": "f1", "connectorType": "DWG"},
            {"storageFileId": "f2", "connectorType": "NEW"},
        ],
    }


@pytest.mark.parametrize(
    ("files", "kind", "named"),
    [
        ([], ValueError, "source_files"),
        (DWG, TypeError, "source_files"),
        ("f1", TypeError, "source_files"),
        (["f1"], TypeError, "SourceFile"),
        ([{"storageFileId": "f1", "connectorType": "DWG"}], TypeError, "SourceFile"),
        ([SourceFile(storage_file_id="f1")], ValueError, "connector_type"),
    ],
)
def test_storage_connection_needs_files_with_their_connectors(
    files: list[SourceFile], kind: type[Exception], named: str
) -> None:
    with pytest.raises(kind, match=named):
        create_storage_connection_request("i1", files, None, None)


@pytest.mark.parametrize("imodel", ["", " ", "..", "i1\n", None, 7])
def test_imodel_id_is_required(imodel: str) -> None:
    questions: tuple[Callable[[], Request], ...] = (
        lambda: create_connection_request(imodel, None, None),
        lambda: create_storage_connection_request(imodel, [DWG], None, None),
        lambda: list_connections_request(Service.EXPORT, imodel, page_size=None, offset=0),
    )
    for ask in questions:
        with pytest.raises((TypeError, ValueError), match="imodel_id"):
            ask()


@pytest.mark.parametrize(
    ("name", "kind", "error", "named"),
    [
        (7, None, TypeError, "display_name"),
        (None, "Robot", ValueError, "authentication_type"),
        (None, 1, TypeError, "authentication_type"),
    ],
)
def test_invalid_argument_is_refused_by_name(
    name: str, kind: str, error: type[Exception], named: str
) -> None:
    questions: tuple[Callable[[], Request], ...] = (
        lambda: create_connection_request("i1", name, kind),
        lambda: create_storage_connection_request("i1", [DWG], name, kind),
        lambda: update_connection_request("c1", name, kind),
    )
    for ask in questions:
        with pytest.raises(error, match=named):
            ask()


def test_file_that_is_mapped_already_is_a_conflict() -> None:
    body = example("sync.create_storage_connection.409.json")
    with pytest.raises(Conflict) as caught:
        parse_created_connection(answer(body, 409), StorageConnection)
    assert caught.value.code == "FileMappingToTheIModelAlreadyExists"
    assert caught.value.handle is None


@pytest.mark.parametrize(
    ("status", "kind"),
    [(401, AuthenticationFailed), (404, NotFound), (422, InvalidRequest), (429, RateLimited),
     (500, ServerError), (202, ProtocolError), (204, ProtocolError)],
)  # fmt: skip
def test_failed_creation_of_a_storage_connection_is_an_error(
    status: int, kind: type[ExportError]
) -> None:
    with pytest.raises(kind):
        parse_created_connection(Response(status=status), StorageConnection)


@pytest.mark.parametrize("service", Service)
@pytest.mark.parametrize(
    ("id", "segment"),
    [("a/b", "a%2Fb"), ("a?b#c", "a%3Fb%23c"), ("ä %", "%C3%A4%20%25"), ("../x", "..%2Fx")],
)
def test_id_is_one_segment_of_the_path(service: Service, id: str, segment: str) -> None:
    assert get_connection_request(service, id).url == f"{ROOTS[service]}/{segment}"
    assert delete_connection_request(service, id).url == f"{ROOTS[service]}/{segment}"


@pytest.mark.parametrize("id", ["", ".", "..", " c1", "c1\r\nX: y", None, 7])
def test_invalid_id_is_refused(id: str) -> None:
    questions: tuple[Callable[[], Request], ...] = (
        lambda: get_connection_request(Service.SYNCHRONIZATION, id),
        lambda: delete_connection_request(Service.SYNCHRONIZATION, id),
        lambda: update_connection_request(id, "name", None),
    )
    for ask in questions:
        with pytest.raises((TypeError, ValueError), match="connection_id"):
            ask()


@pytest.mark.parametrize("service", Service)
def test_list_of_connections_is_of_one_imodel(service: Service) -> None:
    request = list_connections_request(service, "i 1", page_size=None, offset=0)
    assert (request.method, request.url) == ("GET", f"{ROOTS[service]}?imodelId=i%201")
    assert request.body is None
    paged = list_connections_request(service, "i1", page_size=10, offset=20)
    assert paged.url == f"{ROOTS[service]}?imodelId=i1&$skip=20&$top=10"


def test_synchronization_list_requests_full_connections() -> None:
    ours = list_connections_request(Service.SYNCHRONIZATION, "i1", page_size=None, offset=0)
    assert ours.headers == {"Prefer": "return=representation"}
    exports = list_connections_request(Service.EXPORT, "i1", page_size=None, offset=0)
    assert exports.headers == {}
    assert get_connection_request(Service.SYNCHRONIZATION, "c1").headers == {}


def test_synchronization_lists_the_connections_of_all_imodels() -> None:
    request = list_connections_request(Service.SYNCHRONIZATION, None, page_size=None, offset=0)
    assert request.url == ROOTS[Service.SYNCHRONIZATION]
    paged = list_connections_request(Service.SYNCHRONIZATION, None, page_size=5, offset=5)
    assert paged.url == f"{ROOTS[Service.SYNCHRONIZATION]}?$skip=5&$top=5"
    with pytest.raises(TypeError, match="imodel_id"):
        list_connections_request(Service.EXPORT, None, page_size=None, offset=0)
    with pytest.raises(ValueError, match="imodel_id"):
        list_connections_request(Service.SYNCHRONIZATION, "", page_size=None, offset=0)


@pytest.mark.parametrize(
    ("name", "kind", "body"),
    [
        ("new", None, {"displayName": "new"}),
        (None, "user", {"authenticationType": "User"}),
        ("new", AuthenticationType.SERVICE,
         {"displayName": "new", "authenticationType": "Service"}),
    ],
)  # fmt: skip
def test_update_sends_only_what_changes(name: str | None, kind: str | None, body: object) -> None:
    request = update_connection_request("c/1", name, kind)
    assert request.method == "PUT"
    assert request.url == f"{ROOTS[Service.SYNCHRONIZATION]}/c%2F1"
    assert request.headers == {"Content-Type": "application/json"}
    assert request.retryable
    assert sent(request) == body


def test_update_without_a_change_is_refused() -> None:
    with pytest.raises(ValueError, match="display_name"):
        update_connection_request("c1", None, None)


def test_storage_connection_needs_only_its_id() -> None:
    assert parse_connection(answer({"connection": {"id": "c1"}}), StorageConnection) == (
        StorageConnection(id="c1")
    )
    members = {
        "id": "c1",
        "displayName": None,
        "_links": {"lastRun": None},
        "error": {"errorKey": "E"},
    }
    seen = parse_connection(answer({"connection": members}), StorageConnection)
    assert seen == StorageConnection(id="c1")
    assert seen.raw == members
    for broken in ({"connection": {"displayName": "x"}}, {"connection": None}, {}):
        with pytest.raises(ProtocolError) as caught:
            parse_connection(answer(broken), StorageConnection)
        assert caught.value.path.startswith("connection")


def test_404_of_a_gateway_or_proxy_is_not_an_empty_list() -> None:
    with pytest.raises(NotFound) as caught:
        parse_connection(answer(example(GATEWAY), 404), StorageConnection)
    assert caught.value.is_gateway
    assert not means_empty(caught.value)
    assert not means_empty(NotFound(status=404, message="<html>"))
    with pytest.raises(NotFound) as caught:
        parse_connections(
            answer(example("sync.get_storage_connection.404.json"), 404), StorageConnection
        )
    assert means_empty(caught.value)


@pytest.mark.parametrize(
    ("error", "may"),
    [
        (TransportError(message="reset"), True),
        (RequestTimeout(message="none"), True),
        (TransportError(message="no connection", may_have_been_processed=False), False),
        (ProtocolError(message="not JSON", is_transient=True), True),
        (ServerError(status=500), True),
        (ServerError(status=503), True),
        (ServerError(status=503, retry_after=5.0), False),
        (RateLimited(status=429), False),
        (RateLimited(status=429, retry_after=900.0), False),
        (InvalidRequest(status=422), False),
        (PermissionDenied(status=403), False),
        (Conflict(status=409), False),
    ],
)
def test_creation_may_have_been_processed_only_without_a_clear_answer(
    error: ExportError, may: bool
) -> None:
    assert error.may_have_been_processed is may


def test_deleting_is_repeated() -> None:
    request = delete_connection_request(Service.EXPORT, "c/1")
    assert (request.method, request.url) == ("DELETE", "/export/connections/c%2F1")
    assert request.retryable


def test_deleted_connection_is_gone() -> None:
    check_deleted(Response(status=204))
    with pytest.raises(NotFound):
        check_deleted(Response(status=404))
    with pytest.raises(Conflict):
        check_deleted(Response(status=409))
    with pytest.raises(ProtocolError):
        check_deleted(Response(status=200))


def test_404_after_a_lost_response_means_deleted() -> None:
    check_deleted(Response(status=404, uncertain_for=3.0))
    with pytest.raises(Conflict):
        check_deleted(Response(status=409, uncertain_for=3.0))


def test_404_of_the_gateway_never_means_deleted() -> None:
    gone = answer(example(GATEWAY), 404)
    with pytest.raises(NotFound):
        check_deleted(Response(status=404, body=gone.body, uncertain_for=3.0))


@pytest.mark.parametrize(
    ("method", "repeatable"),
    [("GET", True), ("HEAD", True), ("PUT", True), ("DELETE", True), ("POST", False),
     ("PATCH", False)],
)  # fmt: skip
def test_method_decides_whether_a_request_is_repeatable(method: str, repeatable: bool) -> None:
    assert Request(method=method, url="/x").retryable is repeatable
    assert Request(method=method, url="/x", retryable=not repeatable).retryable is not repeatable


def test_headers_have_no_letter_case() -> None:
    response = Response(status=200, headers={"RETRY-after": "3"})
    assert response.headers["Retry-After"] == "3"
    assert Response(status=200, headers=response.headers).headers["retry-AFTER"] == "3"


def test_no_secret_of_an_exchange_is_shown() -> None:
    secret = {"Authorization": "Bearer planted"}
    url = "https://h/p?sig=planted"
    request = Request(method="PUT", url=url, headers=secret, body=b"planted")
    response = Response(status=200, url=url, headers=secret, body=b"planted")
    assert "planted" not in repr(request) + repr(response)
    assert "https://h/p" in repr(request)
