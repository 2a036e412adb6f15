"""Uploads to Storage, in three steps: an address is asked for, filled, and the file completed.

A file is there only once it is complete. Names follow the rules of the service.
"""

from attrs import evolve

from itwin_export_async._protocol.messages import Response
from itwin_export_async.emulator._handlers.files import (
    file_item,
    file_not_found,
    readable,
    signed_address,
)
from itwin_export_async.emulator._handlers.folders import described, known_folder
from itwin_export_async.emulator._http.messages import error, json_answer
from itwin_export_async.emulator._state.files import StoredFile
from itwin_export_async.emulator._state.ids import new_guid, pair
from itwin_export_async.emulator._state.platform import Call, Platform


def create_file(world: Platform, call: Call) -> Response:
    """`POST /storage/folders/{folderId}/files`"""
    folder = known_folder(world, call)
    name, description = described(call, "file")
    guid = new_guid(world.ids)
    return _upload(
        world,
        call,
        StoredFile(
            guid=guid,
            itwin_id=folder.itwin_id,
            name=name,
            description=description,
            folder_id=folder.id,
            created_at=call.now,
            modified_at=call.now,
            blob=f"/{folder.itwin_id}/{guid}",
        ),
    )


def update_content(world: Platform, call: Call) -> Response:
    """`POST /storage/files/{fileId}/updatecontent`

    The file keeps its content until the upload is complete. A file that was created and has no
    content yet keeps its blob, and the blocks sent to it.
    """
    _, guid = pair(call.ids[0]) or ("", "")
    created = world.drive.uploads.get(guid)
    if created is not None and guid not in world.drive.files:
        return _upload(world, call, created)
    stored = readable(world, call)
    return _upload(world, call, evolve(stored, blob=f"/{stored.itwin_id}/{new_guid(world.ids)}"))


def complete_file(world: Platform, call: Call) -> Response:
    """`POST /storage/files/{fileId}/complete`"""
    drive = world.drive
    _, guid = pair(call.ids[0]) or ("", "")
    uploaded = drive.uploads.get(guid)
    if uploaded is None or drive.blobs.get(uploaded.blob, now=call.now) is None:
        known = uploaded or drive.file(call.ids[0])
        return (
            file_not_found()
            if known is None
            else error(422, "InvalidStorageRequest", "No content has been uploaded for the file.")
        )
    before = drive.files.get(guid)
    stored = evolve(
        uploaded, created_at=before.created_at if before else call.now, modified_at=call.now
    )
    drive.files[guid] = stored
    del drive.uploads[guid]
    return json_answer(200, {"file": file_item(world, stored, now=call.now)})


def _upload(world: Platform, call: Call, stored: StoredFile) -> Response:
    world.drive.uploads[stored.guid] = stored
    complete = f"{world.addresses.api}/storage/files/{stored.id}/complete"
    upload = signed_address(world, stored, rights="cw", now=call.now)
    return json_answer(
        202, {"_links": {"completeUrl": {"href": complete}, "uploadUrl": {"href": upload}}}
    )
