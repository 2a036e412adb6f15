"""The Synchronization API: the source files of storage connections."""

from typing import Any

from attrs import evolve

from itwin_export_async._protocol.messages import Response
from itwin_export_async.emulator._handlers.source_file_validation import source_faults, sources_in
from itwin_export_async.emulator._handlers.synchronization import (
    check_mappings,
    connection_address,
    endless_links,
    find_connection,
    sent_object,
    wants_whole_items,
)
from itwin_export_async.emulator._handlers.validation import page
from itwin_export_async.emulator._http.messages import ApiError, empty, error, invalid, json_answer
from itwin_export_async.emulator._state.connections import Connection, SourceFile
from itwin_export_async.emulator._state.ids import pair
from itwin_export_async.emulator._state.platform import Call, Platform

_SOURCE_FILE = "InvalidStorageConnectionSourceFileRequest"


def add_source_file(world: Platform, call: Call) -> Response:
    """`POST /synchronization/imodels/storageconnections/{connectionId}/sourcefiles`"""
    connection = find_connection(world, call)
    (source,) = sources_in(world.ids, [_described(call)])
    _keep(world, connection, (*connection.source_files, source))
    return json_answer(201, {"sourceFile": _item(world, source)})


def get_source_file(world: Platform, call: Call) -> Response:
    """`GET .../{connectionId}/sourcefiles/{sourceFileId}`"""
    source = _known_source(find_connection(world, call), call)
    return json_answer(200, {"sourceFile": _item(world, source)})


def list_source_files(world: Platform, call: Call) -> Response:
    """`GET .../{connectionId}/sourcefiles`"""
    connection = find_connection(world, call)
    skip, top = page(call, _SOURCE_FILE, default=world.settings.synchronization_page_size)
    items = [_item(world, source) for source in connection.source_files]
    if not wants_whole_items(call):
        for item in items:
            del item["connectorType"]
    address = f"{connection_address(world, connection.id)}/sourcefiles?"
    return json_answer(
        200,
        {"sourceFiles": items[skip : skip + top], "_links": endless_links(address, skip, top)},
    )


def update_source_file(world: Platform, call: Call) -> Response:
    """`PUT .../{connectionId}/sourcefiles/{sourceFileId}`"""
    connection = find_connection(world, call)
    source = _known_source(connection, call)
    said = _described(call)
    updated = evolve(
        source, storage_file_id=said["storageFileId"], connector_type=said["connectorType"]
    )
    others = connection.source_files
    _keep(world, connection, tuple(updated if other is source else other for other in others))
    return json_answer(200, {"sourceFile": _item(world, updated)})


def delete_source_file(world: Platform, call: Call) -> Response:
    """`DELETE .../{connectionId}/sourcefiles/{sourceFileId}`"""
    connection = find_connection(world, call)
    source = _known_source(connection, call)
    _keep(world, connection, tuple(s for s in connection.source_files if s is not source))
    return empty(204)


def _described(call: Call) -> dict[str, Any]:
    said = sent_object(call, _SOURCE_FILE)
    found = source_faults(said)
    if found:
        raise ApiError(invalid(_SOURCE_FILE, *found))
    return said


def _known_source(connection: Connection, call: Call) -> SourceFile:
    for source in connection.source_files:
        if source.id == call.ids[1]:
            return source
    raise ApiError(
        error(
            404,
            "StorageConnectionSourceFileNotFound",
            "Requested StorageConnectionSourceFile is not available.",
        )
    )


def _keep(world: Platform, connection: Connection, sources: tuple[SourceFile, ...]) -> None:
    changed = evolve(connection, source_files=sources)
    check_mappings(world, changed)
    world.synchronizations.keep(changed)


def _item(world: Platform, source: SourceFile) -> dict[str, Any]:
    """A source file as it stands in answers; its name only while Storage has the file."""
    file_id = source.storage_file_id
    _, guid = pair(file_id) or ("", file_id)
    item: dict[str, Any] = {
        "id": source.id,
        "storageFileId": file_id,
        "connectorType": source.connector_type,
        "_links": {"file": {"href": f"{world.addresses.api}/files/{guid}"}},
    }
    stored = world.file(file_id)
    return item if stored is None else item | {"lastKnownFileName": stored.name}
