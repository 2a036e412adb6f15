"""All operations: where each is found, and what answers it."""

from collections.abc import Callable
from typing import TypeAlias

from attrs import field, frozen

from itwin_export_async._protocol.http import Response
from itwin_export_async.emulator import (
    _blobs,
    _export,
    _folders,
    _identity,
    _source_files,
    _storage,
    _synchronization,
    _synchronization_runs,
    _uploads,
)
from itwin_export_async.emulator._answers import operation_not_found
from itwin_export_async.emulator._world import Call, World

_JSON = frozenset({"application/vnd.bentley.itwin-platform.v1+json"})
_BYTES = frozenset({"", "*/*", "application/vnd.bentley.itwin-platform.v1+octet-stream"})

_Answer: TypeAlias = Callable[[World, Call], Response]


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


def _nowhere(_world: World, _call: Call) -> Response:
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
    _api("create_connection", "POST", _CONNECTIONS, _export.create_connection),
    _api("get_connection", "GET", _CONNECTION, _export.get_connection),
    _api("list_connections", "GET", _CONNECTIONS, _export.list_connections),
    _api("delete_connection", "DELETE", _CONNECTION, _export.delete_connection),
    _api("create_run", "POST", _RUNS, _export.create_run),
    _api("get_run", "GET", _RUNS + "/{}", _export.get_run),
    _api("list_runs", "GET", _RUNS, _export.list_runs),
    _api("get_authorization", "GET", "/export/authorizationinformation", _export.get_authorization),
    _api("get_file", "GET", _FILE, _storage.get_file),
    _api("delete_file", "DELETE", _FILE, _storage.delete_file),
    _api(
        "download_file",
        "GET",
        _FILE + "/download",
        _storage.download_file,
        _JSON | _BYTES,
    ),
    _api("create_file", "POST", _FOLDER + "/files", _uploads.create_file),
    _api("update_content", "POST", _FILE + "/updatecontent", _uploads.update_content),
    _api("complete_file", "POST", _FILE + "/complete", _uploads.complete_file),
    _api("list_top_level", "GET", "/storage", _folders.list_top_level),
    _api("list_folder", "GET", _FOLDER + "/list", _folders.list_folder),
    _api("list_files", "GET", _FOLDER + "/files", _folders.list_files),
    _api("list_folders", "GET", _FOLDER + "/folders", _folders.list_folders),
    _api("search_folder", "GET", _FOLDER + "/search", _folders.search_folder),
    _api("get_folder", "GET", _FOLDER, _folders.get_folder),
    _api("create_folder", "POST", _FOLDER + "/folders", _folders.create_folder),
    _api("delete_folder", "DELETE", _FOLDER, _folders.delete_folder),
    _api(
        "create_storage_connection",
        "POST",
        _STORAGE_CONNECTIONS,
        _synchronization.create_storage_connection,
    ),
    _api(
        "list_storage_connections",
        "GET",
        _STORAGE_CONNECTIONS,
        _synchronization.list_storage_connections,
    ),
    _api(
        "get_storage_connection",
        "GET",
        _STORAGE_CONNECTION,
        _synchronization.get_storage_connection,
    ),
    _api(
        "update_storage_connection",
        "PUT",
        _STORAGE_CONNECTION,
        _synchronization.update_storage_connection,
    ),
    _api(
        "delete_storage_connection",
        "DELETE",
        _STORAGE_CONNECTION,
        _synchronization.delete_storage_connection,
    ),
    _api(
        "get_synchronization_authorization",
        "GET",
        "/synchronization/imodels/connections/authorizationinformation",
        _synchronization.get_synchronization_authorization,
    ),
    _api("add_source_file", "POST", _SOURCE_FILES, _source_files.add_source_file),
    _api("list_source_files", "GET", _SOURCE_FILES, _source_files.list_source_files),
    _api("get_source_file", "GET", _SOURCE_FILE, _source_files.get_source_file),
    _api("update_source_file", "PUT", _SOURCE_FILE, _source_files.update_source_file),
    _api("delete_source_file", "DELETE", _SOURCE_FILE, _source_files.delete_source_file),
    _api(
        "start_synchronization",
        "POST",
        _STORAGE_CONNECTION + "/run",
        _synchronization_runs.start_synchronization,
    ),
    _api(
        "get_synchronization",
        "GET",
        _STORAGE_CONNECTION + "/runs/{}",
        _synchronization_runs.get_synchronization,
    ),
    _api(
        "list_synchronizations",
        "GET",
        _STORAGE_CONNECTION + "/runs",
        _synchronization_runs.list_synchronizations,
    ),
    _open("blobs", "get_blob", "GET", "/{}/{}", _blobs.get_blob),
    _open("blobs", "put_blob", "PUT", "/{}/{}", _blobs.put_blob),
    _open("blobs", "put_block", "PUT", "/{}/{}", _blobs.put_block, "block"),
    _open("blobs", "put_block_list", "PUT", "/{}/{}", _blobs.put_block_list, "blocklist"),
    _open("identity", "issue_token", "POST", "/connect/token", _identity.issue_token),
)

OPERATIONS = frozenset(route.operation for route in ROUTES)
