"""Connections of both services: for each operation its request and the parser of its response.

The services differ in their paths, and a synchronization connection is created with its source
files. Synchronization lists are complete only with `Prefer: return=representation`.

https://developer.bentley.com/apis/export/operations/
https://developer.bentley.com/apis/synchronization/operations/
"""

from collections.abc import Iterable
from typing import Any, TypeVar

from itwin_export_async._errors import NotFound
from itwin_export_async._models import AuthenticationType, Connection, SourceFile
from itwin_export_async._models.validators import parse_enum
from itwin_export_async._protocol.codec import decode, encode
from itwin_export_async._protocol.error_responses import error_from_response
from itwin_export_async._protocol.headers import JSON_BODY
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
from itwin_export_async._redaction import safe_repr

C = TypeVar("C", bound=Connection)


def create_connection_request(
    imodel_id: str,
    display_name: str | None,
    authentication_type: AuthenticationType | str | None,
) -> Request:
    """Create an export connection. Not repeatable: a second request creates another."""
    body = {"iModelId": validate_id("imodel_id", imodel_id)}
    return _create(Service.EXPORT, body | _optional_fields(display_name, authentication_type))


def create_storage_connection_request(
    imodel_id: str,
    source_files: Iterable[SourceFile],
    display_name: str | None,
    authentication_type: AuthenticationType | str | None,
) -> Request:
    """Create a synchronization connection with its first source files. Not repeatable."""
    if isinstance(source_files, SourceFile | str):
        raise TypeError(f"source_files must be a list of SourceFile, not {safe_repr(source_files)}")
    mappings = [mapping(source_file) for source_file in source_files]
    if not mappings:
        raise ValueError("source_files is empty; a synchronization needs at least one file")
    body = {"iModelId": validate_id("imodel_id", imodel_id)}
    optional = _optional_fields(display_name, authentication_type)
    return _create(Service.SYNCHRONIZATION, body | optional | {"sourceFiles": mappings})


def _create(service: Service, body: dict[str, Any]) -> Request:
    return Request(
        method="POST",
        url=CONNECTIONS[service],
        headers=JSON_BODY,
        body=encode(body),
        retryable=False,
    )


def _optional_fields(
    display_name: str | None, authentication_type: AuthenticationType | str | None
) -> dict[str, Any]:
    body = {}
    if display_name is not None:
        if not isinstance(display_name, str):
            raise TypeError(f"display_name must be a string, not {type(display_name).__name__}")
        body["displayName"] = display_name
    if authentication_type is not None:
        kind = parse_enum(AuthenticationType, "authentication_type", authentication_type)
        body["authenticationType"] = kind.value
    return body


def parse_created_connection(response: Response, cls: type[C]) -> C:
    """The connection that was created."""
    if response.status != 201:
        raise error_from_response(response)
    return decode(response, "connection", cls)


def means_empty(error: NotFound) -> bool:
    """Whether a 404 on a list of connections means that there are none.

    An unknown iModel also gives 404; creating the connection will report it.
    """
    return error.is_from_api


def list_connections_request(
    service: Service, imodel_id: str | None, *, page_size: int | None, offset: int
) -> Request:
    """One page of an iModel's connections. The parameter is spelled `imodelId`.

    Without an iModel, Synchronization lists the connections of all iModels.
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
    """Change a synchronization connection; None leaves a field as it is."""
    body = _optional_fields(display_name, authentication_type)
    if not body:
        raise ValueError("neither display_name nor authentication_type is given")
    return Request(
        method="PUT",
        url=connection_path(Service.SYNCHRONIZATION, connection_id),
        headers=JSON_BODY,
        body=encode(body),
    )


def delete_connection_request(service: Service, connection_id: str) -> Request:
    """Delete a connection. Repeatable: deleting twice leaves the same."""
    return Request(method="DELETE", url=connection_path(service, connection_id))


def check_deleted(response: Response) -> None:
    """Raise the error of a deletion. A 404 after a lost response means that it was deleted."""
    if response.status == 204:
        return
    error = error_from_response(response)
    gone = isinstance(error, NotFound) and not error.is_gateway
    if not gone or response.uncertain_for is None:
        raise error
