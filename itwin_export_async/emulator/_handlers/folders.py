"""Storage: its folders, and the lists of what is in them.

Every list has a previous and a next page, an empty one too; the root folder of an iTwin is named
in a link of its list only.
"""

import re
from collections.abc import Sequence
from fnmatch import translate
from typing import Any

from itwin_export_async._protocol.messages import Response
from itwin_export_async.emulator._handlers.files import file_item, folder_item
from itwin_export_async.emulator._handlers.validation import json_object
from itwin_export_async.emulator._http.messages import ApiError, empty, error, json_answer
from itwin_export_async.emulator._state.files import Folder, StoredFile
from itwin_export_async.emulator._state.platform import Call, Platform

_LARGEST_PAGE = 1000
_LONGEST_NAME = 255
_FORBIDDEN = re.compile(r'[\x00-\x1f"*/:<>?\\|]')
_EXECUTABLE = (".bat", ".cmd", ".com", ".exe", ".msi", ".scr", ".vbs")


def list_top_level(world: Platform, call: Call) -> Response:
    """`GET /storage/?iTwinId=` or, as it was, `?projectId=`"""
    itwin_id = call.query.get("itwinid")
    project_id = call.query.get("projectid")
    if itwin_id is None and project_id is None:
        raise ApiError(_invalid("Either iTwinId or projectId must be provided."))
    owner = itwin_id or project_id or ""
    if owner not in world.drive.itwins:
        raise ApiError(_folder_not_found())
    root = Folder(guid=owner, itwin_id=owner)
    address = f"{world.addresses.api}/storage?"
    if itwin_id is not None:
        address, order = f"{address}iTwinId={owner}&", ("$top", "$skip")
    else:
        address, order = f"{address}projectId={owner}&", ("$skip", "$top")
    listed = _list(world, call, "items", _children(world, root, call.now), address, order=order)
    listed["_links"]["folder"] = {"href": f"{world.addresses.api}/storage/folders/{root.id}"}
    return json_answer(200, listed)


def list_folder(world: Platform, call: Call) -> Response:
    """`GET /storage/folders/{folderId}/list`"""
    folder = known_folder(world, call)
    address = f"{_address(world, folder)}/list?"
    return json_answer(
        200, _list(world, call, "items", _children(world, folder, call.now), address)
    )


def list_files(world: Platform, call: Call) -> Response:
    """`GET /storage/folders/{folderId}/files`"""
    folder = known_folder(world, call)
    files = world.drive.files_in(folder, now=call.now)
    return json_answer(200, _list(world, call, "files", files, f"{_address(world, folder)}/files?"))


def list_folders(world: Platform, call: Call) -> Response:
    """`GET /storage/folders/{folderId}/folders`"""
    folder = known_folder(world, call)
    folders = world.drive.folders_in(folder)
    return json_answer(
        200, _list(world, call, "folders", folders, f"{_address(world, folder)}/folders?")
    )


def search_folder(world: Platform, call: Call) -> Response:
    """`GET /storage/folders/{folderId}/search?name=`: everything below that is so named."""
    folder = known_folder(world, call)
    wanted = call.query.get("name", "")
    if not wanted:
        raise ApiError(_invalid("name must be provided."))
    pattern = re.compile(translate(wanted), re.IGNORECASE)
    found = [t for t in world.drive.below(folder, now=call.now) if pattern.match(t.name)]
    address = f"{_address(world, folder)}/search?name={wanted}&"
    return json_answer(200, _list(world, call, "items", found, address))


def get_folder(world: Platform, call: Call) -> Response:
    """`GET /storage/folders/{folderId}`"""
    return json_answer(200, {"folder": folder_item(world, known_folder(world, call))})


def create_folder(world: Platform, call: Call) -> Response:
    """`POST /storage/folders/{folderId}/folders`"""
    parent = known_folder(world, call)
    name, description = described(call, "folder")
    folder = world.drive.add_folder(parent, name=name, description=description, now=call.now)
    return json_answer(201, {"folder": folder_item(world, folder)})


def delete_folder(world: Platform, call: Call) -> Response:
    """`DELETE /storage/folders/{folderId}`"""
    folder = known_folder(world, call)
    if folder.parent_id is None:
        raise ApiError(_invalid("The root folder cannot be deleted."))
    world.drive.remove_folder(folder)
    return empty(204)


def known_folder(world: Platform, call: Call) -> Folder:
    """The folder that is asked for."""
    folder = world.drive.folder(call.ids[0])
    if folder is None:
        raise ApiError(_folder_not_found())
    return folder


def described(call: Call, kind: str) -> tuple[str, str]:
    """The name and the description of what is to be created, when they follow the rules."""
    body = json_object(call) or {}
    name, description = body.get("displayName"), body.get("description", "")
    if (
        not isinstance(name, str)
        or not isinstance(description, str)
        or not 1 <= len(name) <= _LONGEST_NAME
        or _FORBIDDEN.search(name)
        or name.lower().endswith(_EXECUTABLE)
    ):
        raise ApiError(
            _invalid(
                f"The request to create {kind} was invalid. "
                "Please see the API Reference for possible reasons."
            )
        )
    return name, description


def _children(world: Platform, folder: Folder, now: float) -> list[Folder | StoredFile]:
    return [*world.drive.folders_in(folder), *world.drive.files_in(folder, now=now)]


def _list(
    world: Platform,
    call: Call,
    member: str,
    found: Sequence[Folder | StoredFile],
    address: str,
    *,
    order: tuple[str, str] = ("$skip", "$top"),
) -> dict[str, Any]:
    """A page of what was found, under `member`; `order` is that of the links' parameters."""
    skip, top = _page(world, call)

    def link(first: int) -> dict[str, str]:
        page = {"$skip": first, "$top": top}
        return {"href": address + "&".join(f"{name}={page[name]}" for name in order)}

    return {
        member: [
            _item(world, thing, is_mixed=member == "items", now=call.now)
            for thing in found[skip : skip + top]
        ],
        "_links": {
            "self": link(skip),
            "prev": link(max(skip - top, 0)),
            "next": link(skip + top),
        },
    }


def _item(
    world: Platform, thing: Folder | StoredFile, *, is_mixed: bool, now: float
) -> dict[str, Any]:
    if isinstance(thing, Folder):
        kind, item = "folder", folder_item(world, thing)
    else:
        kind, item = "file", file_item(world, thing, now=now)
    return {"type": kind, **item} if is_mixed else item


def _page(world: Platform, call: Call) -> tuple[int, int]:
    try:
        skip = int(call.query.get("$skip", 0))
        top = int(call.query.get("$top", world.settings.storage_page_size))
    except ValueError:
        raise ApiError(_invalid("$skip and $top must be numbers.")) from None
    if top > _LARGEST_PAGE:
        raise ApiError(_invalid(f"Page size is over {_LARGEST_PAGE} items limit."))
    if skip < 0 or top < 1:
        raise ApiError(_invalid("$skip must not be negative, and $top must be positive."))
    return skip, top


def _address(world: Platform, folder: Folder) -> str:
    return f"{world.addresses.api}/storage/folders/{folder.id}"


def _invalid(message: str) -> Response:
    return error(422, "InvalidStorageRequest", message)


def _folder_not_found() -> Response:
    return error(404, "FolderNotFound", "Requested folder not available.")
