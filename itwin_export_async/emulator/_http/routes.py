"""All operations: where each is found, and what answers it."""

from collections.abc import Callable
from typing import TypeAlias

from attrs import field, frozen

from itwin_export_async._protocol.messages import Response
from itwin_export_async.emulator._handlers import (
    blobs,
    export,
    files,
    folders,
    identity,
    source_files,
    synchronization,
    synchronization_runs,
    uploads,
)
from itwin_export_async.emulator._http.messages import operation_not_found
from itwin_export_async.emulator._state.platform import Call, Platform

_JSON = frozenset({"application/vnd.bentley.itwin-platform.v1+json"})
_BYTES = frozenset({"", "*/*", "application/vnd.bentley.itwin-platform.v1+octet-stream"})

_Answer: TypeAlias = Callable[[Platform, Call], Response]


def segments(path: str) -> tuple[str, ...]:
    """The parts of a path."""
    return tuple(path.strip("/").split("/"))


@frozen(kw_only=True)
class Route:
    """One operation: where it is found, what answers it.

    `accepts` are the media types it can be asked for, None when nobody looks at them. `guarded`
    operations want a bearer token. `comp` is the query parameter by which the blob store tells
    apart what is done to one address.
    """

    operation: str
    service: str = "api"
    method: str
    path: tuple[str, ...] = field(converter=segments)
    answer: _Answer
    accepts: frozenset[str] | None = _JSON
    guarded: bool = True
    comp: str = ""


def _nowhere(_world: Platform, _call: Call) -> Response:
    return operation_not_found()


def _api(
    operation: str,
    method: str,
    path: str,
    answer: _Answer,
    accepts: frozenset[str] = _JSON,
) -> Route:
    """An operation of the APIs."""
    return Route(operation=operation, method=method, path=path, answer=answer, accepts=accepts)


def _open(
    service: str, operation: str, method: str, path: str, answer: _Answer, comp: str = ""
) -> Route:
    """An operation elsewhere, which wants no bearer token and does not look at Accept."""
    return Route(
        operation=operation,
        service=service,
        method=method,
        path=path,
        answer=answer,
        accepts=None,
        guarded=False,
        comp=comp,
    )


UNKNOWN = _open("api", "unknown", "", "", _nowhere)

_CONNECTIONS = "/export/connections"
_CONNECTION = "/export/connections/{}"
_RUNS = "/export/connections/{}/runs"
_FILE = "/storage/files/{}"
_FOLDER = "/storage/folders/{}"
_STORAGE_CONNECTIONS = "/synchronization/imodels/storageconnections"
_STORAGE_CONNECTION = "/synchronization/imodels/storageconnections/{}"
_SOURCE_FILES = "/synchronization/imodels/storageconnections/{}/sourcefiles"
_SOURCE_FILE = "/synchronization/imodels/storageconnections/{}/sourcefiles/{}"

ROUTES = (
    _api("create_connection", "POST", _CONNECTIONS, export.create_connection),
    _api("get_connection", "GET", _CONNECTION, export.get_connection),
    _api("list_connections", "GET", _CONNECTIONS, export.list_connections),
    _api("delete_connection", "DELETE", _CONNECTION, export.delete_connection),
    _api("create_run", "POST", _RUNS, export.create_run),
    _api("get_run", "GET", _RUNS + "/{}", export.get_run),
    _api("list_runs", "GET", _RUNS, export.list_runs),
    _api("get_authorization", "GET", "/export/authorizationinformation", export.get_authorization),
    _api("get_file", "GET", _FILE, files.get_file),
    _api("delete_file", "DELETE", _FILE, files.delete_file),
    _api(
        "download_file",
        "GET",
        _FILE + "/download",
        files.download_file,
        _JSON | _BYTES,
    ),
    _api("create_file", "POST", _FOLDER + "/files", uploads.create_file),
    _api("update_content", "POST", _FILE + "/updatecontent", uploads.update_content),
    _api("complete_file", "POST", _FILE + "/complete", uploads.complete_file),
    _api("list_top_level", "GET", "/storage", folders.list_top_level),
    _api("list_folder", "GET", _FOLDER + "/list", folders.list_folder),
    _api("list_files", "GET", _FOLDER + "/files", folders.list_files),
    _api("list_folders", "GET", _FOLDER + "/folders", folders.list_folders),
    _api("search_folder", "GET", _FOLDER + "/search", folders.search_folder),
    _api("get_folder", "GET", _FOLDER, folders.get_folder),
    _api("create_folder", "POST", _FOLDER + "/folders", folders.create_folder),
    _api("delete_folder", "DELETE", _FOLDER, folders.delete_folder),
    _api(
        "create_storage_connection",
        "POST",
        _STORAGE_CONNECTIONS,
        synchronization.create_storage_connection,
    ),
    _api(
        "list_storage_connections",
        "GET",
        _STORAGE_CONNECTIONS,
        synchronization.list_storage_connections,
    ),
    _api(
        "get_storage_connection",
        "GET",
        _STORAGE_CONNECTION,
        synchronization.get_storage_connection,
    ),
    _api(
        "update_storage_connection",
        "PUT",
        _STORAGE_CONNECTION,
        synchronization.update_storage_connection,
    ),
    _api(
        "delete_storage_connection",
        "DELETE",
        _STORAGE_CONNECTION,
        synchronization.delete_storage_connection,
    ),
    _api(
        "get_synchronization_authorization",
        "GET",
        "/synchronization/imodels/connections/authorizationinformation",
        synchronization.get_synchronization_authorization,
    ),
    _api("add_source_file", "POST", _SOURCE_FILES, source_files.add_source_file),
    _api("list_source_files", "GET", _SOURCE_FILES, source_files.list_source_files),
    _api("get_source_file", "GET", _SOURCE_FILE, source_files.get_source_file),
    _api("update_source_file", "PUT", _SOURCE_FILE, source_files.update_source_file),
    _api("delete_source_file", "DELETE", _SOURCE_FILE, source_files.delete_source_file),
    _api(
        "start_synchronization",
        "POST",
        _STORAGE_CONNECTION + "/run",
        synchronization_runs.start_synchronization,
    ),
    _api(
        "get_synchronization",
        "GET",
        _STORAGE_CONNECTION + "/runs/{}",
        synchronization_runs.get_synchronization,
    ),
    _api(
        "list_synchronizations",
        "GET",
        _STORAGE_CONNECTION + "/runs",
        synchronization_runs.list_synchronizations,
    ),
    _open("blobs", "get_blob", "GET", "/{}/{}", blobs.get_blob),
    _open("blobs", "put_blob", "PUT", "/{}/{}", blobs.put_blob),
    _open("blobs", "put_block", "PUT", "/{}/{}", blobs.put_block, "block"),
    _open("blobs", "put_block_list", "PUT", "/{}/{}", blobs.put_block_list, "blocklist"),
    _open("identity", "issue_token", "POST", "/connect/token", identity.issue_token),
)

OPERATIONS = frozenset(route.operation for route in ROUTES)
