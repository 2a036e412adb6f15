"""The Synchronization API: the source files of storage and manifest connections."""

from collections.abc import Sequence
from random import Random
from typing import Any

from attrs import evolve

from itwin_export_async._protocol.messages import Response
from itwin_export_async.emulator._handlers.connection_kinds import STORAGE, ConnectionKind
from itwin_export_async.emulator._handlers.connections import (
    endless_links,
    find_connection,
    required_body,
    synchronization_routes,
)
from itwin_export_async.emulator._handlers.serializers import source_file_item
from itwin_export_async.emulator._handlers.validation import (
    manifest_source_errors,
    page_of,
    storage_source_errors,
    wants_representation,
)
from itwin_export_async.emulator._http.messages import (
    ApiError,
    error,
    invalid,
    json_response,
    no_content,
)
from itwin_export_async.emulator._state.connections import Connection, SourceFile
from itwin_export_async.emulator._state.ids import new_guid
from itwin_export_async.emulator._state.platform import Platform, RequestContext


def new_source_files(
    id_rng: Random, kind: ConnectionKind, items: Sequence[dict[str, Any]]
) -> tuple[SourceFile, ...]:
    """Return the source files that a request describes, with new ids."""
    return tuple(
        SourceFile(
            id=new_guid(id_rng),
            file_id=item[kind.id_member],
            connector_type=item.get("connectorType"),
        )
        for item in items
    )


def check_mappings(platform: Platform, connection: Connection) -> None:
    """Raise the 409 for a file that is mapped to the iModel already."""
    service = platform.synchronizations
    others = (c for c in service.of(connection.imodel) if c.id != connection.id)
    mapped = [source.file_id for c in (*others, connection) for source in c.source_files]
    if any(mapped.count(source.file_id) > 1 for source in connection.source_files):
        raise ApiError(
            error(
                409,
                "FileMappingToTheIModelAlreadyExists",
                "One or more SourceFiles are already mapped to the iModel.",
            )
        )


def _add(platform: Platform, context: RequestContext, kind: ConnectionKind) -> Response:
    connection = find_connection(platform, context, kind)
    (source,) = new_source_files(platform.id_rng, kind, [_body(context, kind)])
    _save(platform, connection, (*connection.source_files, source))
    item = source_file_item(platform, context, kind, source)
    return json_response(201, {"sourceFile": item})


def _get(platform: Platform, context: RequestContext, kind: ConnectionKind) -> Response:
    source = _find(find_connection(platform, context, kind), context, kind)
    item = source_file_item(platform, context, kind, source)
    return json_response(200, {"sourceFile": item})


def _list(platform: Platform, context: RequestContext, kind: ConnectionKind) -> Response:
    connection = find_connection(platform, context, kind)
    page_size = platform.settings.synchronization_page_size
    skip, top = page_of(context, kind.invalid_source_file, default=page_size)
    items = [
        source_file_item(platform, context, kind, source)
        for source in connection.source_files[skip : skip + top]
    ]
    if not wants_representation(context):
        for item in items:
            item.pop("connectorType", None)
    url = f"{kind.url(context.endpoints, connection.id)}/sourcefiles?"
    return json_response(200, {"sourceFiles": items, "_links": endless_links(url, skip, top)})


def _update(platform: Platform, context: RequestContext, kind: ConnectionKind) -> Response:
    connection = find_connection(platform, context, kind)
    source = _find(connection, context, kind)
    body = _body(context, kind)
    updated = evolve(source, file_id=body[kind.id_member], connector_type=body.get("connectorType"))
    others = connection.source_files
    _save(platform, connection, tuple(updated if s is source else s for s in others))
    item = source_file_item(platform, context, kind, updated)
    return json_response(200, {"sourceFile": item})


def _delete(platform: Platform, context: RequestContext, kind: ConnectionKind) -> Response:
    connection = find_connection(platform, context, kind)
    source = _find(connection, context, kind)
    _save(platform, connection, tuple(s for s in connection.source_files if s is not source))
    return no_content(204)


def _body(context: RequestContext, kind: ConnectionKind) -> dict[str, Any]:
    body = required_body(context, kind.invalid_source_file)
    errors = storage_source_errors(body) if kind is STORAGE else manifest_source_errors(body)
    if errors:
        raise ApiError(invalid(kind.invalid_source_file, *errors))
    return body


def _find(connection: Connection, context: RequestContext, kind: ConnectionKind) -> SourceFile:
    for source in connection.source_files:
        if source.id == context.ids[1]:
            return source
    noun = f"{kind.noun}SourceFile"
    raise ApiError(error(404, f"{noun}NotFound", f"Requested {noun} is not available."))


def _save(platform: Platform, connection: Connection, sources: tuple[SourceFile, ...]) -> None:
    changed = evolve(connection, source_files=sources)
    check_mappings(platform, changed)
    platform.synchronizations.save(changed)


ROUTES = synchronization_routes(
    ("POST", "/{}/sourcefiles", _add, "add_source_file", "add_manifest_source_file"),
    ("GET", "/{}/sourcefiles", _list, "list_source_files", "list_manifest_source_files"),
    ("GET", "/{}/sourcefiles/{}", _get, "get_source_file", "get_manifest_source_file"),
    ("PUT", "/{}/sourcefiles/{}", _update, "update_source_file", "update_manifest_source_file"),
    ("DELETE", "/{}/sourcefiles/{}", _delete, "delete_source_file", "delete_manifest_source_file"),
)
