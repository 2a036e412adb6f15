"""Storage: its files, as they are told of, fetched and done away with.

The contents are in the blob store; a download is a redirect to a signed address there.
"""

from typing import Any

from itwin_export_async._protocol.messages import Response
from itwin_export_async.emulator._http.messages import ApiError, empty, error, json_answer
from itwin_export_async.emulator._state.files import Folder, StoredFile
from itwin_export_async.emulator._state.platform import Call, Platform

_MEMBER = "1140f95b-1ba0-49d9-bbf4-b53e54d80387"


def get_file(world: Platform, call: Call) -> Response:
    """`GET /storage/files/{fileId}`"""
    return json_answer(200, {"file": file_item(world, readable(world, call), now=call.now)})


def download_file(world: Platform, call: Call) -> Response:
    """`GET /storage/files/{fileId}/download`"""
    stored = readable(world, call)
    return empty(302, location=signed_address(world, stored, rights="r", now=call.now))


def delete_file(world: Platform, call: Call) -> Response:
    """`DELETE /storage/files/{fileId}`"""
    del world.drive.files[readable(world, call).guid]
    return empty(204)


def readable(world: Platform, call: Call) -> StoredFile:
    """The file that is asked for, when it is there."""
    stored = world.file(call.ids[0])
    if stored is None or not stored.is_there(call.now):
        raise ApiError(file_not_found())
    return stored


def file_not_found() -> Response:
    """The 404 of files."""
    return error(404, "FileNotFound", "Requested file not available.")


def signed_address(world: Platform, stored: StoredFile, *, rights: str, now: float) -> str:
    """The address of a file's content, open for a while."""
    expiry = world.clock.moment(now + world.settings.download_lifetime)
    query = world.drive.blobs.sign(stored.blob, rights=rights, expiry=expiry, name=stored.name)
    return f"{world.addresses.blobs}{stored.blob}?{query}"


def file_item(world: Platform, stored: StoredFile, *, now: float) -> dict[str, Any]:
    """A file as it stands in answers."""
    blob = world.drive.blobs.get(stored.blob, now=now)
    assert blob is not None, "only files with a content are there"
    return {
        **_described(world, stored, parent_id=stored.folder_id, modified_at=stored.modified_at),
        "size": len(blob.write()),
    }


def folder_item(world: Platform, folder: Folder) -> dict[str, Any]:
    """A folder as it stands in answers."""
    return _described(world, folder, parent_id=folder.parent_id, modified_at=folder.created_at)


def _described(
    world: Platform, thing: Folder | StoredFile, *, parent_id: str | None, modified_at: float
) -> dict[str, Any]:
    api = world.addresses.api
    member = {"href": f"{api}/projects/{thing.itwin_id}/members/{_MEMBER}"}
    parent = None if parent_id is None else {"href": f"{api}/storage/folders/{parent_id}"}
    return {
        "id": thing.id,
        "displayName": thing.name,
        "description": thing.description,
        "path": world.drive.path(thing),
        "lastModifiedByDisplayName": "Export Service",
        "createdDateTime": world.clock.stamp(thing.created_at, zone="+00:00"),
        "lastModifiedDateTime": world.clock.stamp(modified_at, zone="+00:00"),
        "parentFolderId": parent_id,
        "_links": {"createdBy": member, "lastModifiedBy": member, "parentFolder": parent},
    }
