"""Connections of both services: each operation a pair, the request and what its answer says.

The twins differ in their paths, and in that a synchronization connection begins with its source
files. Synchronization tells lists in full only where it is asked to.

https://developer.bentley.com/apis/export/operations/
https://developer.bentley.com/apis/synchronization/operations/
"""

from collections.abc import Iterable
from typing import Any, TypeVar

from itwin_export_async._errors import (
    ExportError,
    NotFound,
    ProtocolError,
    ResponseError,
    TransportError,
)
from itwin_export_async._models import AuthenticationType, Connection, SourceFile
from itwin_export_async._models.options import parse_enum
from itwin_export_async._protocol.codec import decode, encode
from itwin_export_async._protocol.error_responses import refusal
from itwin_export_async._protocol.headers import TRANSIENT
from itwin_export_async._protocol.messages import Request, Response
from itwin_export_async._protocol.paging import Page, page_of, page_query
from itwin_export_async._protocol.runs import (
    CONNECTIONS,
    FULL_REPRESENTATION,
    Service,
    connection_path,
)
from itwin_export_async._protocol.source_files import mapping
from itwin_export_async._protocol.urls import validate_id

C = TypeVar("C", bound=Connection)
JSON = {"Content-Type": "application/json"}


def create_connection_request(
    imodel_id: str,
    display_name: str | None,
    authentication_type: AuthenticationType | str | None,
) -> Request:
    """Make an export connection. Not repeatable: a second request makes a second connection."""
    body = {"iModelId": validate_id("imodel_id", imodel_id)}
    return _create(Service.EXPORT, body | _described(display_name, authentication_type))


def create_storage_connection_request(
    imodel_id: str,
    source_files: Iterable[SourceFile],
    display_name: str | None,
    authentication_type: AuthenticationType | str | None,
) -> Request:
    """Make a synchronization connection with its first source files. Not repeatable."""
    if isinstance(source_files, SourceFile | str):
        raise TypeError(f"source_files must be a list of SourceFile, not {source_files!r}")
    mappings = [mapping(source_file) for source_file in source_files]
    if not mappings:
        raise ValueError("source_files is empty; a synchronization needs at least one file")
    body = {"iModelId": validate_id("imodel_id", imodel_id)}
    described = _described(display_name, authentication_type)
    return _create(Service.SYNCHRONIZATION, body | described | {"sourceFiles": mappings})


def _create(service: Service, body: dict[str, Any]) -> Request:
    return Request(
        method="POST",
        url=CONNECTIONS[service],
        headers=JSON,
        body=encode(body),
        retryable=False,
    )


def _described(
    display_name: str | None, authentication_type: AuthenticationType | str | None
) -> dict[str, Any]:
    body = {}
    if display_name is not None:
        if not isinstance(display_name, str):
            raise TypeError(f"display_name must be a string, not {display_name!r}")
        body["displayName"] = display_name
    if authentication_type is not None:
        kind = parse_enum(AuthenticationType, "authentication_type", authentication_type)
        body["authenticationType"] = kind.value
    return body


def parse_created_connection(response: Response, cls: type[C]) -> C:
    """The connection that was made."""
    match response.status:
        case 201:
            return decode(response, "connection", cls)
        case _:
            raise refusal(response)


def may_have_been_made(error: ExportError) -> bool:
    """Whether a connection may exist although the attempt to make it ended so."""
    match error:
        case ResponseError(status=status):
            refused = status == 429 or (status == 503 and error.retry_after is not None)
            return status in TRANSIENT and not refused
        case TransportError(may_have_been_processed=sent):
            return sent
        case _:
            return isinstance(error, ProtocolError)


def has_none(error: NotFound) -> bool:
    """Whether a 404 on a list of connections says that there are none.

    Who asks for those of an unknown iModel gets it too; making a connection then tells the rest.
    """
    return not error.is_gateway


def list_connections_request(
    service: Service, imodel_id: str | None, *, page_size: int | None, offset: int
) -> Request:
    """One page of an iModel's connections. The parameter is spelled `imodelId`.

    Synchronization lists those of all iModels where none is named.
    """
    parameters = {}
    if imodel_id is not None or service is Service.EXPORT:
        parameters["imodelId"] = validate_id("imodel_id", imodel_id)
    return Request(
        method="GET",
        url=f"{CONNECTIONS[service]}{page_query(parameters, page_size, offset)}",
        headers=FULL_REPRESENTATION[service],
    )


def parse_connections(response: Response, cls: type[C]) -> Page[C]:
    """One page of connections."""
    return page_of(response, "connections", cls)


def update_connection_request(
    connection_id: str,
    display_name: str | None,
    authentication_type: AuthenticationType | str | None,
) -> Request:
    """Change a synchronization connection; what is None stays as it is."""
    body = _described(display_name, authentication_type)
    if not body:
        raise ValueError("neither display_name nor authentication_type is given")
    return Request(
        method="PUT",
        url=connection_path(Service.SYNCHRONIZATION, connection_id),
        headers=JSON,
        body=encode(body),
    )


def delete_connection_request(service: Service, connection_id: str) -> Request:
    """Delete a connection. Repeatable: deleting twice leaves the same."""
    return Request(method="DELETE", url=connection_path(service, connection_id))


def parse_deleted(response: Response) -> None:
    """Nothing, or the refusal. A 404 after a sending whose answer was lost says that it worked."""
    if response.status == 204:
        return
    error = refusal(response)
    gone = isinstance(error, NotFound) and not error.is_gateway
    if not gone or response.uncertain_for is None:
        raise error
