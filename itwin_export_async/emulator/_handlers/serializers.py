"""How runs stand in answers: as far as they have come, and no further."""

from typing import Any

from itwin_export_async.emulator._clock import Clock
from itwin_export_async.emulator._state.run_lifecycle import Job, Run, Task

_REPORT = {
    "suggestedAction": "Warning",
    "message": "",
    "totalErrorsCount": 0,
    "totalWarningsCount": 20,
    "totalOtherIssuesCount": 3,
}


def run_list_item(run: Run, *, clock: Clock, now: float) -> dict[str, Any]:
    """The run as it stands in a list."""
    item: dict[str, Any] = {
        "id": run.id,
        "state": run.state(now),
        **_outcome(run.result, run.starts_at, run.ends_at, clock=clock, now=now),
    }
    if run.is_synchronization:
        item["phase"] = _phase(run, now)
    if run.error is not None and now >= run.ends_at:
        item["error"] = dict(run.error)
    if run.jobs and now >= run.begins("WaitingToExecute"):
        item["jobs"] = [_job(run, job, clock=clock, now=now) for job in run.jobs]
    return item


def run_detail(run: Run, *, clock: Clock, now: float) -> dict[str, Any]:
    """The run as it stands on its own."""
    return {"connectionId": run.connection_id, **run_list_item(run, clock=clock, now=now)}


def run_summary(run: Run, *, now: float) -> dict[str, Any]:
    """The least that is told of a run."""
    result = run.result if now >= run.ends_at else "Undetermined"
    return {"id": run.id, "state": run.state(now), "result": result}


def _phase(run: Run, now: float) -> str:
    is_working = run.jobs and now >= run.begins("Executing")
    return "MasterFile" if is_working else "Preprocessor"


def _job(run: Run, job: Job, *, clock: Clock, now: float) -> dict[str, Any]:
    starts_at = run.begins("WaitingToExecute")
    item: dict[str, Any] = {
        "id": job.id,
        "state": "Completed" if now >= job.ends_at else run.state(now),
        **_outcome(job.result, starts_at, job.ends_at, clock=clock, now=now),
    }
    if job.connector_type is not None:
        item["connectorType"] = job.connector_type
    if now >= run.begins("Executing"):
        item["tasks"] = [_task(run, task, clock=clock, now=now) for task in job.tasks]
    return item


def _task(run: Run, task: Task, *, clock: Clock, now: float) -> dict[str, Any]:
    starts_at = run.begins("Executing")
    item: dict[str, Any] = {
        "id": task.id,
        "retryAttempts": 0,
        "state": "Completed" if now >= task.ends_at else "Executing",
        **_outcome(task.result, starts_at, task.ends_at, clock=clock, now=now),
    }
    if task.source_id is not None:
        item["storageFileId"] = task.source_id
    if now < task.ends_at:
        return item
    if task.output_id is not None:
        item["exportOutputFileId"] = task.output_id
    if task.source_id is not None:
        item["details"] = {"synchronizationReport": _REPORT}
    if task.error is not None:
        item["error"] = dict(task.error)
    return item


def _outcome(
    result: str, starts_at: float, ends_at: float, *, clock: Clock, now: float
) -> dict[str, Any]:
    begun = {"startDateTime": clock.stamp(starts_at)}
    if now < ends_at:
        return begun | {"result": "Undetermined"}
    return begun | {"result": result, "endDateTime": clock.stamp(ends_at)}
