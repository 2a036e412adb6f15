"""The Synchronization API: the diagnostic reports of a run, one for each task that has ended."""

import json
from typing import Any

from itwin_export_async._protocol.messages import Response
from itwin_export_async.emulator._handlers.validation import find_imodel
from itwin_export_async.emulator._http.messages import (
    ApiError,
    invalid,
    invalid_value,
    json_response,
    not_provided,
)
from itwin_export_async.emulator._http.router import api
from itwin_export_async.emulator._state.ids import encode_storage_id, is_guid
from itwin_export_async.emulator._state.imodels import IModel
from itwin_export_async.emulator._state.platform import Platform, RequestContext
from itwin_export_async.emulator._state.run_lifecycle import Run, Task


@api("GET", "/synchronization/reports")
def list_reports(platform: Platform, context: RequestContext) -> Response:
    """List the diagnostic reports of a run: one for each task that has ended."""
    query = context.query
    names = {"iModelId": "imodelid", "runId": "runid"}
    errors = [not_provided(name) for name, parameter in names.items() if not query.get(parameter)]
    if query.get("imodelid") and not is_guid(query["imodelid"]):
        errors.append(invalid_value("iModelId"))
    if "taskid" in query and not is_guid(query["taskid"]):
        errors.append(invalid_value("taskId"))
    if errors:
        raise ApiError(invalid("InvalidBadgersRequest", *errors))
    imodel = find_imodel(platform, query["imodelid"])
    reports = [
        _report(platform, context, imodel, run, task)
        for connection in platform.synchronizations.of(imodel)
        for run in platform.synchronizations.runs(connection).values()
        if run.id == query["runid"]
        for job in run.jobs
        for task in job.tasks
        if task.ends_at <= context.now and query.get("taskid") in (None, task.id)
    ]
    return json_response(200, {"reports": reports})


def _report(
    platform: Platform, context: RequestContext, imodel: IModel, run: Run, task: Task
) -> dict[str, Any]:
    """Return a diagnostic report, its content written to the blob store."""
    path = f"/reports/{task.id}.json"
    blobs = platform.file_store.blobs
    if blobs.get(path, now=context.now) is None:
        content = json.dumps(_report_content(platform, imodel, run, task)).encode()
        blobs.put(path, lambda: content, since=task.ends_at)
    expiry = platform.clock.moment(context.now + platform.settings.download_lifetime)
    query = blobs.sign(path, rights="r", expiry=expiry, name=f"{task.id}.json")
    return {
        "id": encode_storage_id(imodel.id, task.id),
        "imodelId": imodel.id,
        "runId": run.id,
        "taskId": task.id,
        "sasUri": f"{context.endpoints.blobs}{path}?{query}",
        "createdTimeStamp": platform.clock.stamp(task.ends_at),
    }


def _report_content(platform: Platform, imodel: IModel, run: Run, task: Task) -> dict[str, Any]:
    stored = platform.file(task.source_id or "")
    name = stored.name if stored else task.source_id
    level = "Error" if task.error else "Warning"
    audit = {"issueid": "ITW-0001", "level": level, "category": "General", "type": "Other"}
    message = task.error["message"] if task.error else "An element has no geometry."
    return {
        "context": {
            "reportType": "detailReport",
            "operationType": "Create",
            "jobid": run.id,
            "contextid": imodel.itwin_id,
            "imodelid": imodel.id,
            "activityid": task.id,
            "timestamp": platform.clock.stamp(task.ends_at),
        },
        "sourceFilesInfo": {
            "itemType": "File",
            "fileId": task.source_id,
            "fileName": name,
            "fileExists": stored is not None,
            "bimFileExists": True,
            "Files": [],
        },
        "filerecords": [
            {
                "file": {"identifier": task.source_id, "path": name},
                "auditrecords": [
                    {"auditinfo": audit | {"message": message, "fileName": name}, "elementinfo": {}}
                ],
            }
        ],
    }
