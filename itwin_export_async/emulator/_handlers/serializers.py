"""The JSON of connections, source files, runs, and items of Storage."""

from typing import Any

from itwin_export_async.emulator._clock import Clock
from itwin_export_async.emulator._handlers.connection_kinds import KINDS, STORAGE, ConnectionKind
from itwin_export_async.emulator._state.connections import (
    Connection,
    SourceFile,
)
from itwin_export_async.emulator._state.files import Folder, StoredFile
from itwin_export_async.emulator._state.ids import USER_ID, decode_storage_id
from itwin_export_async.emulator._state.platform import Platform, RequestContext
from itwin_export_async.emulator._state.run_lifecycle import Job, Run, Task

JSON = dict[str, Any]

_REPORT = {
    "suggestedAction": "Warning",
    "message": "",
    "totalErrorsCount": 0,
    "totalWarningsCount": 20,
    "totalOtherIssuesCount": 3,
}


def connection_item(
    platform: Platform, context: RequestContext, connection: Connection, *, version: str = ""
) -> JSON:
    """Return a connection. `version` is a segment in its links, as in answers to updates."""
    kind, imodel = KINDS[connection.kind], connection.imodel
    links = {
        "iModel": {"href": f"{context.endpoints.api}/imodels/{version}{imodel.id}"},
        "iTwin": {"href": f"{context.endpoints.api}/itwins/{version}{imodel.itwin_id}"},
    }
    last_run = kind.service(platform).last_run(connection)
    if last_run is not None:
        links["lastRun"] = {"href": kind.run_url(context.endpoints, last_run)}
    return {
        **connection_summary(connection),
        "iModelId": imodel.id,
        "iTwinId": imodel.itwin_id,
        "authenticationType": connection.authentication_type,
        "_links": links,
    }


def connection_summary(connection: Connection) -> JSON:
    """Return the minimal form of a connection."""
    return {"id": connection.id, "displayName": connection.display_name}


def source_file_item(
    platform: Platform, context: RequestContext, kind: ConnectionKind, source: SourceFile
) -> JSON:
    """Return a source file. Its last known name is present while Storage has the file."""
    _, guid = decode_storage_id(source.file_id) or ("", source.file_id)
    item: JSON = {"id": source.id, kind.id_member: source.file_id}
    if kind is STORAGE:
        item["connectorType"] = source.connector_type
        stored = platform.file(source.file_id)
        if stored is not None:
            item["lastKnownFileName"] = stored.name
    return item | {"_links": {"file": {"href": f"{context.endpoints.api}/files/{guid}"}}}


def run_list_item(run: Run, *, clock: Clock, now: float) -> JSON:
    """Return a run as an item of a list."""
    item: JSON = {
        "id": run.id,
        "state": run.state(now),
        **_outcome(run.result, run.starts_at, run.ends_at, clock=clock, now=now),
    }
    if run.kind != "export":
        item["phase"] = _phase(run, now)
    if run.error is not None and now >= run.ends_at:
        item["error"] = dict(run.error)
    if run.jobs and now >= run.entered_at("WaitingToExecute"):
        item["jobs"] = [_job(run, job, clock=clock, now=now) for job in run.jobs]
    return item


def run_detail(run: Run, *, clock: Clock, now: float) -> JSON:
    """Return a run in full."""
    return {"connectionId": run.connection_id, **run_list_item(run, clock=clock, now=now)}


def run_summary(run: Run, *, now: float) -> JSON:
    """Return the minimal form of a run."""
    result = run.result if now >= run.ends_at else "Undetermined"
    return {"id": run.id, "state": run.state(now), "result": result}


def _phase(run: Run, now: float) -> str:
    is_executing = run.jobs and now >= run.entered_at("Executing")
    return "MasterFile" if is_executing else "Preprocessor"


def _job(run: Run, job: Job, *, clock: Clock, now: float) -> JSON:
    starts_at = run.entered_at("WaitingToExecute")
    item: JSON = {
        "id": job.id,
        "state": "Completed" if now >= job.ends_at else run.state(now),
        **_outcome(job.result, starts_at, job.ends_at, clock=clock, now=now),
    }
    if job.connector_type is not None:
        item["connectorType"] = job.connector_type
    if now >= run.entered_at("Executing"):
        item["tasks"] = [_task(run, task, clock=clock, now=now) for task in job.tasks]
    return item


def _task(run: Run, task: Task, *, clock: Clock, now: float) -> JSON:
    starts_at = run.entered_at("Executing")
    item: JSON = {
        "id": task.id,
        "retryAttempts": 0,
        "state": "Completed" if now >= task.ends_at else "Executing",
        **_outcome(task.result, starts_at, task.ends_at, clock=clock, now=now),
    }
    if task.source_id is not None:
        item[KINDS[run.kind].id_member] = task.source_id
    if now < task.ends_at:
        return item
    if task.output_id is not None:
        item["exportOutputFileId"] = task.output_id
    if task.source_id is not None:
        item["details"] = {"synchronizationReport": _REPORT}
    if task.error is not None:
        item["error"] = dict(task.error)
    return item


def _outcome(result: str, starts_at: float, ends_at: float, *, clock: Clock, now: float) -> JSON:
    started = {"startDateTime": clock.stamp(starts_at)}
    if now < ends_at:
        return started | {"result": "Undetermined"}
    return started | {"result": result, "endDateTime": clock.stamp(ends_at)}


def file_item(platform: Platform, context: RequestContext, stored: StoredFile) -> JSON:
    """Return a file of Storage."""
    blob = platform.file_store.blobs.get(stored.blob, now=context.now)
    assert blob is not None, "only files with a content exist"
    item = _storage_item(
        platform, context, stored, parent_id=stored.folder_id, modified_at=stored.modified_at
    )
    return item | {"size": len(blob.write())}


def folder_item(platform: Platform, context: RequestContext, folder: Folder) -> JSON:
    """Return a folder of Storage."""
    return _storage_item(
        platform, context, folder, parent_id=folder.parent_id, modified_at=folder.created_at
    )


def _storage_item(
    platform: Platform,
    context: RequestContext,
    item: Folder | StoredFile,
    *,
    parent_id: str | None,
    modified_at: float,
) -> JSON:
    api = context.endpoints.api
    member = {"href": f"{api}/projects/{item.itwin_id}/members/{USER_ID}"}
    parent = None if parent_id is None else {"href": f"{api}/storage/folders/{parent_id}"}
    return {
        "id": item.id,
        "displayName": item.name,
        "description": item.description,
        "path": platform.file_store.path(item),
        "lastModifiedByDisplayName": "Export Service",
        "createdDateTime": platform.clock.stamp(item.created_at, zone="+00:00"),
        "lastModifiedDateTime": platform.clock.stamp(modified_at, zone="+00:00"),
        "parentFolderId": parent_id,
        "_links": {"createdBy": member, "lastModifiedBy": member, "parentFolder": parent},
    }
