"""The Synchronization API: storage and manifest connections, their runs, and consent.

Lists show the minimal form of their items unless the request has `Prefer: return=representation`.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from itwin_export_async._protocol.messages import Response
from itwin_export_async.emulator._handlers.connection_kinds import MANIFEST, STORAGE, ConnectionKind
from itwin_export_async.emulator._handlers.connections import (
    authorization_information,
    find_connection_strict,
    get_connection,
    get_run,
    list_connections,
    list_runs,
    required_body,
    start_run,
    synchronization_routes,
    update_connection,
)
from itwin_export_async.emulator._handlers.serializers import connection_item
from itwin_export_async.emulator._handlers.source_files import (
    check_mappings,
    new_source_files,
)
from itwin_export_async.emulator._handlers.validation import (
    connection_option_errors,
    find_imodel,
    imodel_id_errors,
    manifest_source_errors,
    source_list_errors,
    storage_source_errors,
)
from itwin_export_async.emulator._http.messages import (
    ApiError,
    detail,
    invalid,
    invalid_value,
    json_response,
    no_content,
    not_provided,
)
from itwin_export_async.emulator._http.router import api
from itwin_export_async.emulator._state.connections import Connection
from itwin_export_async.emulator._state.ids import new_sha1_id
from itwin_export_async.emulator._state.platform import Platform, RequestContext
from itwin_export_async.emulator._state.run_lifecycle import (
    HAS_OUTPUT,
    Run,
    Task,
    plan_run,
)

_MAX_DEPTH = 100  # of the children in a manifest


@api("POST", STORAGE.path + "/{}/run")
def start_synchronization(platform: Platform, context: RequestContext) -> Response:
    """Start the run of a storage connection."""
    connection = find_connection_strict(platform, context, STORAGE, STORAGE.invalid_run)
    sources: dict[str, list[str]] = {}
    for source in connection.source_files:
        sources.setdefault(source.connector_type or "", []).append(source.file_id)
    return _start(platform, context, STORAGE, connection, sources, {})


@api("POST", MANIFEST.path + "/{}/runs")
def start_manifest_synchronization(platform: Platform, context: RequestContext) -> Response:
    """Start the run of a manifest connection; the body lists the files."""
    connection = find_connection_strict(platform, context, MANIFEST, MANIFEST.invalid_run)
    body = required_body(context, MANIFEST.invalid_run)
    sources: dict[str, list[str]] = {}
    errors = _manifest_errors(body.get("sourceFiles"), sources, is_child=False)
    if errors:
        raise ApiError(invalid(MANIFEST.invalid_run, *errors))
    return _start(platform, context, MANIFEST, connection, sources, body)


@api("GET", "/synchronization/imodels/connections/authorizationinformation")
def get_synchronization_authorization(platform: Platform, context: RequestContext) -> Response:
    """Return whether the user has consented. `redirectUrl` is optional."""
    message = "redirectUrl should be a valid URL."
    return authorization_information(
        platform,
        context.query.get("redirecturl"),
        invalid_url=detail("InvalidValue", message, "redirectUrl"),
    )


def _create(platform: Platform, context: RequestContext, kind: ConnectionKind) -> Response:
    body = required_body(context, kind.invalid_connection)
    check = storage_source_errors if kind is STORAGE else manifest_source_errors
    errors = [
        *source_list_errors(body, check),
        *imodel_id_errors(body),
        *connection_option_errors(body),
    ]
    if errors:
        raise ApiError(invalid(kind.invalid_connection, *errors))
    connection = platform.new_connection(
        kind.name,
        find_imodel(platform, body["iModelId"]),
        display_name=body.get("displayName"),
        authentication_type=body.get("authenticationType", "User"),
        now=context.now,
        source_files=new_source_files(platform.id_rng, kind, body["sourceFiles"]),
    )
    check_mappings(platform, connection)
    platform.synchronizations.save(connection)
    item = connection_item(platform, context, connection)
    return json_response(201, {"connection": item})


def _delete(platform: Platform, context: RequestContext, kind: ConnectionKind) -> Response:
    connection = find_connection_strict(platform, context, kind, kind.invalid_connection)
    platform.synchronizations.remove(connection)
    return no_content(204)


def _start(
    platform: Platform,
    context: RequestContext,
    kind: ConnectionKind,
    connection: Connection,
    sources: Mapping[str, Sequence[str]],
    body: dict[str, Any],
) -> Response:
    return start_run(
        platform,
        context,
        kind,
        connection,
        body,
        lambda: _plan(platform, context, connection, sources),
    )


def _plan(
    platform: Platform,
    context: RequestContext,
    connection: Connection,
    sources: Mapping[str, Sequence[str]],
) -> Run:
    """Return the run that starts now, with the changeset and the event of its end."""
    imodel = connection.imodel
    run = plan_run(
        connection_id=connection.id,
        kind=connection.kind,
        now=context.now,
        plan=platform.synchronizations.next_plan(imodel),
        settings=platform.settings,
        id_rng=platform.id_rng,
        run_rng=platform.run_rng,
        sources=sources.items(),
    )
    tasks = [task for job in run.jobs for task in job.tasks]
    changed = [task for task in tasks if _has_changed(platform, connection, task)]
    if run.result in HAS_OUTPUT and changed:
        imodel.schedule_push(
            new_sha1_id(platform.id_rng),
            at=run.ends_at,
            task_id=changed[0].id,
            changed_files=[task.source_id or "" for task in changed],
        )
    content = {
        "synchronizationId": run.id,
        "iModelId": imodel.id,
        "connectionId": connection.id,
        "result": run.result[:1].lower() + run.result[1:],
    }
    platform.publish(imodel, "synchronization.jobCompleted.v1", content, at=run.ends_at)
    return run


def _has_changed(platform: Platform, connection: Connection, task: Task) -> bool:
    """Whether a source has changed since the last synchronization of this connection."""
    stored = platform.file(task.source_id or "")
    blob = stored and platform.file_store.blobs.get(stored.blob, now=platform.clock.last)
    key, etag = (connection.id, task.source_id or ""), blob.etag if blob else ""
    before = platform.synchronized.get(key)
    platform.synchronized[key] = etag
    return before != etag


def _manifest_errors(
    files: object, sources: dict[str, list[str]], *, is_child: bool, depth: int = 0
) -> list[dict[str, str]]:
    """Return the details for the files of a manifest, and collect the files by connector."""
    if files is None and is_child:
        return []
    if not isinstance(files, list) or not (files or is_child) or depth > _MAX_DEPTH:
        return [invalid_value("sourceFiles")]
    errors: list[dict[str, str]] = []
    for file in files:
        if not isinstance(file, dict):
            errors.append(invalid_value("sourceFiles"))
            continue
        required = ("id", "name", "url", *(() if is_child else ("action",)))
        errors += [not_provided(name) for name in required if not isinstance(file.get(name), str)]
        if file.get("action", "bridge") not in ("bridge", "unmap"):
            errors.append(invalid_value("action"))
        connector = file.get("connectorType", file.get("connector", ""))
        if not errors:
            sources.setdefault(str(connector), []).append(file["id"])
        errors += _manifest_errors(file.get("children"), sources, is_child=True, depth=depth + 1)
    return errors


ROUTES = synchronization_routes(
    ("POST", "", _create, "create_storage_connection", "create_manifest_connection"),
    ("GET", "", list_connections, "list_storage_connections", "list_manifest_connections"),
    ("GET", "/{}", get_connection, "get_storage_connection", "get_manifest_connection"),
    ("PUT", "/{}", update_connection, "update_storage_connection", "update_manifest_connection"),
    ("DELETE", "/{}", _delete, "delete_storage_connection", "delete_manifest_connection"),
    ("GET", "/{}/runs/{}", get_run, "get_synchronization", "get_manifest_synchronization"),
    ("GET", "/{}/runs", list_runs, "list_synchronizations", "list_manifest_synchronizations"),
)
