"""Storage: folders, and lists of what is in them.

Each list has a previous and a next page, even an empty one. The root folder of an iTwin is named
only in a link of its list.
"""

import re
from collections.abc import Sequence
from fnmatch import translate
from typing import Any

from itwin_export_async._protocol.messages import Response
from itwin_export_async.emulator._handlers.serializers import file_item, folder_item
from itwin_export_async.emulator._handlers.validation import MAX_PAGE, parse_json
from itwin_export_async.emulator._http.messages import (
    ApiError,
    error,
    json_response,
    no_content,
)
from itwin_export_async.emulator._http.router import api
from itwin_export_async.emulator._state.files import Folder, StoredFile
from itwin_export_async.emulator._state.platform import Platform, RequestContext

_MAX_NAME = 255
_FORBIDDEN = re.compile(r'[\x00-\x1f"*/:<>?\\|]')
_EXECUTABLE = (".bat", ".cmd", ".com", ".exe", ".msi", ".scr", ".vbs")


@api("GET", "/storage")
def list_top_level(platform: Platform, context: RequestContext) -> Response:
    """List the root folder of an iTwin, by `iTwinId` or the older `projectId`."""
    itwin_id = context.query.get("itwinid")
    project_id = context.query.get("projectid")
    if itwin_id is None and project_id is None:
        raise _invalid("Either iTwinId or projectId must be provided.")
    owner = itwin_id or project_id or ""
    if owner not in platform.file_store.itwins:
        raise _folder_not_found()
    root = Folder(guid=owner, itwin_id=owner)
    url = f"{context.endpoints.api}/storage?"
    if itwin_id is not None:
        url, order = f"{url}iTwinId={owner}&", ("$top", "$skip")
    else:
        url, order = f"{url}projectId={owner}&", ("$skip", "$top")
    children = _children(platform, root, context.now)
    listed = _list(platform, context, "items", children, url, order=order)
    listed["_links"]["folder"] = {"href": f"{context.endpoints.api}/storage/folders/{root.id}"}
    return json_response(200, listed)


@api("GET", "/storage/folders/{}/list")
def list_folder(platform: Platform, context: RequestContext) -> Response:
    """List the folders and files in a folder."""
    folder = find_folder(platform, context)
    children = _children(platform, folder, context.now)
    return json_response(
        200, _list(platform, context, "items", children, f"{_url(context, folder)}/list?")
    )


@api("GET", "/storage/folders/{}/files")
def list_files(platform: Platform, context: RequestContext) -> Response:
    """List the files in a folder."""
    folder = find_folder(platform, context)
    files = platform.file_store.files_in(folder, now=context.now)
    return json_response(
        200, _list(platform, context, "files", files, f"{_url(context, folder)}/files?")
    )


@api("GET", "/storage/folders/{}/folders")
def list_folders(platform: Platform, context: RequestContext) -> Response:
    """List the folders in a folder."""
    folder = find_folder(platform, context)
    folders = platform.file_store.folders_in(folder)
    return json_response(
        200, _list(platform, context, "folders", folders, f"{_url(context, folder)}/folders?")
    )


@api("GET", "/storage/folders/{}/search")
def search_folder(platform: Platform, context: RequestContext) -> Response:
    """List everything below a folder whose name matches a pattern."""
    folder = find_folder(platform, context)
    name = context.query.get("name", "")
    if not name:
        raise _invalid("name must be provided.")
    pattern = re.compile(translate(name), re.IGNORECASE)
    below = platform.file_store.below(folder, now=context.now)
    found = [item for item in below if pattern.match(item.name)]
    url = f"{_url(context, folder)}/search?name={name}&"
    return json_response(200, _list(platform, context, "items", found, url))


@api("GET", "/storage/folders/{}")
def get_folder(platform: Platform, context: RequestContext) -> Response:
    """Return the metadata of a folder."""
    folder = find_folder(platform, context)
    return json_response(200, {"folder": folder_item(platform, context, folder)})


@api("POST", "/storage/folders/{}/folders")
def create_folder(platform: Platform, context: RequestContext) -> Response:
    """Create a folder in another."""
    parent = find_folder(platform, context)
    name, description = parse_item(context, "folder")
    folder = platform.file_store.add_folder(
        parent, name=name, description=description, now=context.now
    )
    return json_response(201, {"folder": folder_item(platform, context, folder)})


@api("DELETE", "/storage/folders/{}")
def delete_folder(platform: Platform, context: RequestContext) -> Response:
    """Delete a folder and everything in it."""
    folder = find_folder(platform, context)
    if folder.parent_id is None:
        raise _invalid("The root folder cannot be deleted.")
    platform.file_store.remove_folder(folder)
    return no_content(204)


def find_folder(platform: Platform, context: RequestContext) -> Folder:
    """Return the folder that the path names. Raises 404."""
    folder = platform.file_store.folder(context.ids[0])
    if folder is None:
        raise _folder_not_found()
    return folder


def parse_item(context: RequestContext, kind: str) -> tuple[str, str]:
    """Return name and description of a new file or folder. Raises 422 for a forbidden name."""
    body = parse_json(context.request.body) or {}
    name, description = body.get("displayName"), body.get("description", "")
    if (
        not isinstance(name, str)
        or not isinstance(description, str)
        or not 1 <= len(name) <= _MAX_NAME
        or _FORBIDDEN.search(name)
        or name.lower().endswith(_EXECUTABLE)
    ):
        raise _invalid(
            f"The request to create {kind} was invalid. "
            "Please see the API Reference for possible reasons."
        )
    return name, description


def _children(platform: Platform, folder: Folder, now: float) -> list[Folder | StoredFile]:
    store = platform.file_store
    return [*store.folders_in(folder), *store.files_in(folder, now=now)]


def _list(
    platform: Platform,
    context: RequestContext,
    member: str,
    items: Sequence[Folder | StoredFile],
    url: str,
    *,
    order: tuple[str, str] = ("$skip", "$top"),
) -> dict[str, Any]:
    """Return a page of the items under `member`. `order` is that of the links' parameters."""
    skip, top = _page(platform, context)

    def link(start: int) -> dict[str, str]:
        values = {"$skip": start, "$top": top}
        return {"href": url + "&".join(f"{name}={values[name]}" for name in order)}

    return {
        member: [
            _item(platform, context, item, is_mixed=member == "items")
            for item in items[skip : skip + top]
        ],
        "_links": {
            "self": link(skip),
            "prev": link(max(skip - top, 0)),
            "next": link(skip + top),
        },
    }


def _item(
    platform: Platform, context: RequestContext, item: Folder | StoredFile, *, is_mixed: bool
) -> dict[str, Any]:
    if isinstance(item, Folder):
        kind, members = "folder", folder_item(platform, context, item)
    else:
        kind = "file"
        members = file_item(platform, context, item)
    return {"type": kind, **members} if is_mixed else members


def _page(platform: Platform, context: RequestContext) -> tuple[int, int]:
    try:
        skip = int(context.query.get("$skip", 0))
        top = int(context.query.get("$top", platform.settings.storage_page_size))
    except ValueError:
        raise _invalid("$skip and $top must be numbers.") from None
    if top > MAX_PAGE:
        raise _invalid(f"Page size is over {MAX_PAGE} items limit.")
    if skip < 0 or top < 1:
        raise _invalid("$skip must not be negative, and $top must be positive.")
    return skip, top


def _url(context: RequestContext, folder: Folder) -> str:
    return f"{context.endpoints.api}/storage/folders/{folder.id}"


def _invalid(message: str) -> ApiError:
    return ApiError(error(422, "InvalidStorageRequest", message))


def _folder_not_found() -> ApiError:
    return ApiError(error(404, "FolderNotFound", "Requested folder not available."))
