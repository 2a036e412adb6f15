"""The JSON of connections, runs, files and iModels."""

from typing import Any

from attrs import frozen

from itwin_export_async.emulator._clock import Clock
from itwin_export_async.emulator._state.connections import (
    Connection,
    ConnectionService,
    SourceFile,
)
from itwin_export_async.emulator._state.files import Folder, StoredFile
from itwin_export_async.emulator._state.ids import decode_storage_id
from itwin_export_async.emulator._state.imodels import Changeset, IModel, NamedVersion
from itwin_export_async.emulator._state.platform import Endpoints, Platform
from itwin_export_async.emulator._state.run_lifecycle import Job, Run, Task

JSON = dict[str, Any]

_MEMBER = "1140f95b-1ba0-49d9-bbf4-b53e54d80387"  # the user that created everything
_APPLICATION = {"id": "emulator", "name": "Emulator"}
_REPORT = {
    "suggestedAction": "Warning",
    "message": "",
    "totalErrorsCount": 0,
    "totalWarningsCount": 20,
    "totalOtherIssuesCount": 3,
}
_EXTENT = {
    "southWest": {"latitude": 46.13, "longitude": 7.67},
    "northEast": {"latitude": 46.31, "longitude": 7.89},
}


@frozen(kw_only=True)
class ConnectionKind:
    """One kind of connections: where they are, and how errors name them."""

    name: str
    path: str
    noun: str
    request_noun: str
    id_member: str = ""  # of a source file
    conflict_code: str = "IModelAlreadyProcessingRequest"
    conflict_message: str = "The iModel is already processing this request."

    @property
    def invalid_connection(self) -> str:
        """The code of a 422 about a connection."""
        return f"Invalid{self.request_noun}Request"

    @property
    def invalid_run(self) -> str:
        """The code of a 422 about the start of a run."""
        return f"Invalid{self.noun}RunRequest"

    @property
    def invalid_runs(self) -> str:
        """The code of a 422 about the list of runs."""
        return f"Invalid{self.noun}RunsRequest"

    @property
    def invalid_source_file(self) -> str:
        """The code of a 422 about a source file."""
        return f"Invalid{self.noun}SourceFileRequest"

    def service(self, platform: Platform) -> ConnectionService:
        """Return the service that holds these connections."""
        return platform.exports if self.name == "export" else platform.synchronizations

    def url(self, endpoints: Endpoints, connection_id: str = "") -> str:
        """Return the URL of all these connections, or of one."""
        return f"{endpoints.api}{self.path}{f'/{connection_id}' if connection_id else ''}"

    def run_url(self, endpoints: Endpoints, run: Run) -> str:
        """Return the URL of a run."""
        return f"{self.url(endpoints, run.connection_id)}/runs/{run.id}"


EXPORT = ConnectionKind(
    name="export",
    path="/export/connections",
    noun="Connection",
    request_noun="ExportConnection",
    conflict_code="ConflictWithAnotherIModelRequest",
    conflict_message="This request is already being processed for this iModel.",
)
STORAGE = ConnectionKind(
    name="storage",
    path="/synchronization/imodels/storageconnections",
    noun="StorageConnection",
    request_noun="StorageConnection",
    id_member="storageFileId",
)
MANIFEST = ConnectionKind(
    name="manifest",
    path="/synchronization/imodels/manifestconnections",
    noun="ManifestConnection",
    request_noun="ManifestConnection",
    id_member="sourceFileId",
)
KINDS = {kind.name: kind for kind in (EXPORT, STORAGE, MANIFEST)}


def connection_item(
    platform: Platform, endpoints: Endpoints, connection: Connection, *, version: str = ""
) -> JSON:
    """Return a connection. `version` is a segment in its links, as in answers to updates."""
    kind, imodel = KINDS[connection.kind], connection.imodel
    links = {
        "iModel": {"href": f"{endpoints.api}/imodels/{version}{imodel.id}"},
        "iTwin": {"href": f"{endpoints.api}/itwins/{version}{imodel.itwin_id}"},
    }
    last_run = kind.service(platform).last_run(connection)
    if last_run is not None:
        links["lastRun"] = {"href": kind.run_url(endpoints, last_run)}
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
    platform: Platform, endpoints: Endpoints, kind: ConnectionKind, source: SourceFile
) -> JSON:
    """Return a source file. Its last known name is present while Storage has the file."""
    _, guid = decode_storage_id(source.file_id) or ("", source.file_id)
    item: JSON = {"id": source.id, kind.id_member: source.file_id}
    if kind is STORAGE:
        item["connectorType"] = source.connector_type
        stored = platform.file(source.file_id)
        if stored is not None:
            item["lastKnownFileName"] = stored.name
    return item | {"_links": {"file": {"href": f"{endpoints.api}/files/{guid}"}}}


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


def file_item(platform: Platform, endpoints: Endpoints, stored: StoredFile, *, now: float) -> JSON:
    """Return a file of Storage."""
    blob = platform.file_store.blobs.get(stored.blob, now=now)
    assert blob is not None, "only files with a content exist"
    item = _storage_item(
        platform, endpoints, stored, parent_id=stored.folder_id, modified_at=stored.modified_at
    )
    return item | {"size": len(blob.write())}


def folder_item(platform: Platform, endpoints: Endpoints, folder: Folder) -> JSON:
    """Return a folder of Storage."""
    return _storage_item(
        platform, endpoints, folder, parent_id=folder.parent_id, modified_at=folder.created_at
    )


def _storage_item(
    platform: Platform,
    endpoints: Endpoints,
    item: Folder | StoredFile,
    *,
    parent_id: str | None,
    modified_at: float,
) -> JSON:
    member = {"href": f"{endpoints.api}/projects/{item.itwin_id}/members/{_MEMBER}"}
    parent = None if parent_id is None else {"href": f"{endpoints.api}/storage/folders/{parent_id}"}
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


def imodel_item(
    platform: Platform, endpoints: Endpoints, imodel: IModel, *, is_full: bool, now: float
) -> JSON:
    """Return an iModel in its minimal or full form."""
    summary = {"id": imodel.id, "displayName": imodel.name}
    if not is_full:
        return summary
    url = f"{endpoints.api}/imodels/{imodel.id}"
    item: JSON = {
        **summary,
        "name": imodel.name,
        "description": imodel.description,
        "state": imodel.state,
        "createdDateTime": platform.clock.stamp(imodel.created_at),
        "lastChangesetPushDateTime": None,
        "iTwinId": imodel.itwin_id,
        "extent": _EXTENT,
        "containersEnabled": 0,
        "dataCenterLocation": "East US",
        "_links": {
            "creator": {"href": f"{url}/users/{_MEMBER}"},
            "changesets": {"href": f"{url}/changesets"},
            "namedVersions": {"href": f"{url}/namedversions"},
        },
    }
    changesets = imodel.changesets(now)
    if imodel.push_date == "missing":
        del item["lastChangesetPushDateTime"]
    elif imodel.push_date == "reported" and changesets:
        item["lastChangesetPushDateTime"] = platform.clock.stamp(changesets[-1].pushed_at)
    return item


def named_version_item(
    platform: Platform,
    endpoints: Endpoints,
    imodel: IModel,
    version: NamedVersion,
    *,
    is_full: bool,
) -> JSON:
    """Return a named version in its minimal or full form."""
    summary = {
        "id": version.id,
        "displayName": version.name,
        "changesetId": version.changeset_id,
        "changesetIndex": version.changeset_index,
    }
    if not is_full:
        return summary
    url = f"{endpoints.api}/imodels/{imodel.id}"
    changeset = version.changeset_id
    return {
        **summary,
        "name": version.name,
        "description": version.description,
        "createdDateTime": platform.clock.stamp(version.created_at),
        "state": version.state,
        "application": _APPLICATION,
        "_links": {
            "creator": {"href": f"{url}/users/{_MEMBER}"},
            "changeset": changeset and {"href": f"{url}/changesets/{changeset}"},
        },
    }


def changeset_item(
    platform: Platform, endpoints: Endpoints, imodel: IModel, changeset: Changeset, *, is_full: bool
) -> JSON:
    """Return a changeset in its minimal or full form."""
    url = f"{endpoints.api}/imodels/{imodel.id}"
    links: JSON = {
        "self": {"href": f"{url}/changesets/{changeset.id}"},
        "creator": {"href": f"{url}/users/{_MEMBER}"},
    }
    summary = {
        "id": changeset.id,
        "displayName": str(changeset.index),
        "description": changeset.description,
        "index": changeset.index,
        "parentId": changeset.parent_id,
        "creatorId": _MEMBER,
        "pushDateTime": platform.clock.stamp(changeset.pushed_at),
        "state": "fileUploaded",
        "containingChanges": 0,
        "fileSize": 1024,
        "briefcaseId": 2,
        "groupId": None,
        "_links": links,
    }
    if not is_full:
        return summary
    version = next((v for v in imodel.named_versions if v.changeset_id == changeset.id), None)
    information = None
    if changeset.task_id is not None:
        files = list(changeset.changed_files)
        information = {"taskId": changeset.task_id, "changedFiles": files or None}
    links["namedVersion"] = version and {"href": f"{url}/namedversions/{version.id}"}
    links["currentOrPrecedingCheckpoint"] = None
    links["download"] = None
    return {**summary, "application": _APPLICATION, "synchronizationInfo": information}
