"""Storage: files, their downloads, and uploads in three steps.

The contents are in the blob store. A download is a redirect to a signed URL there. An upload is
announced, its content is put into the blob store, and the file exists once it is completed.
"""

from attrs import evolve

from itwin_export_async._protocol.messages import Response
from itwin_export_async.emulator._handlers.folders import find_folder, parse_item
from itwin_export_async.emulator._handlers.serializers import file_item
from itwin_export_async.emulator._http.messages import (
    ApiError,
    error,
    json_response,
    no_content,
)
from itwin_export_async.emulator._http.router import BYTES, V1, api
from itwin_export_async.emulator._state.files import StoredFile
from itwin_export_async.emulator._state.ids import decode_storage_id, new_guid
from itwin_export_async.emulator._state.platform import Platform, RequestContext


@api("GET", "/storage/files/{}")
def get_file(platform: Platform, context: RequestContext) -> Response:
    """Return the metadata of a file."""
    stored = _find_file(platform, context)
    return json_response(200, {"file": file_item(platform, context, stored)})


@api("GET", "/storage/files/{}/download", accepts=V1 | BYTES)
def download_file(platform: Platform, context: RequestContext) -> Response:
    """Redirect to the content of a file."""
    return no_content(
        302, location=_signed_url(platform, context, _find_file(platform, context), rights="r")
    )


@api("DELETE", "/storage/files/{}")
def delete_file(platform: Platform, context: RequestContext) -> Response:
    """Delete a file."""
    platform.file_store.remove_file(_find_file(platform, context))
    return no_content(204)


@api("POST", "/storage/folders/{}/files")
def create_file(platform: Platform, context: RequestContext) -> Response:
    """Announce the upload of a new file."""
    folder = find_folder(platform, context)
    name, description = parse_item(context, "file")
    guid = new_guid(platform.id_rng)
    return _announce(
        platform,
        context,
        StoredFile(
            guid=guid,
            itwin_id=folder.itwin_id,
            name=name,
            description=description,
            folder_id=folder.id,
            created_at=context.now,
            modified_at=context.now,
            blob=f"/{folder.itwin_id}/{guid}",
        ),
    )


@api("POST", "/storage/files/{}/updatecontent")
def update_content(platform: Platform, context: RequestContext) -> Response:
    """Announce the upload of a new content. The old one stays until the upload is complete.

    A file that was created and has no content yet keeps its blob, and the blocks sent to it.
    """
    _, guid = decode_storage_id(context.ids[0]) or ("", "")
    created = platform.file_store.uploads.get(guid)
    if created is not None and guid not in platform.file_store.files:
        return _announce(platform, context, created)
    stored = _find_file(platform, context)
    blob = f"/{stored.itwin_id}/{new_guid(platform.id_rng)}"
    return _announce(platform, context, evolve(stored, blob=blob))


@api("POST", "/storage/files/{}/complete")
def complete_file(platform: Platform, context: RequestContext) -> Response:
    """Complete an upload."""
    store = platform.file_store
    _, guid = decode_storage_id(context.ids[0]) or ("", "")
    uploaded = store.uploads.get(guid)
    if uploaded is None or store.blobs.get(uploaded.blob, now=context.now) is None:
        known = uploaded or store.file(context.ids[0])
        return (
            _file_not_found()
            if known is None
            else error(422, "InvalidStorageRequest", "No content has been uploaded for the file.")
        )
    before = store.files.get(guid)
    if before is not None:
        store.blobs.remove(before.blob)
    stored = evolve(
        uploaded,
        created_at=before.created_at if before else context.now,
        modified_at=context.now,
    )
    store.files[guid] = stored
    del store.uploads[guid]
    item = file_item(platform, context, stored)
    return json_response(200, {"file": item})


def _announce(platform: Platform, context: RequestContext, stored: StoredFile) -> Response:
    platform.file_store.uploads[stored.guid] = stored
    complete = f"{context.endpoints.api}/storage/files/{stored.id}/complete"
    upload = _signed_url(platform, context, stored, rights="cw")
    return json_response(
        202, {"_links": {"completeUrl": {"href": complete}, "uploadUrl": {"href": upload}}}
    )


def _find_file(platform: Platform, context: RequestContext) -> StoredFile:
    stored = platform.file(context.ids[0])
    if stored is None or not stored.exists(context.now):
        raise ApiError(_file_not_found())
    return stored


def _file_not_found() -> Response:
    return error(404, "FileNotFound", "Requested file not available.")


def _signed_url(
    platform: Platform, context: RequestContext, stored: StoredFile, *, rights: str
) -> str:
    expiry = platform.clock.moment(context.now + platform.settings.download_lifetime)
    query = platform.file_store.blobs.sign(
        stored.blob, rights=rights, expiry=expiry, name=stored.name
    )
    return f"{context.endpoints.blobs}{stored.blob}?{query}"
