"""Runs over time: planned whole when they are created, seen as far as they have come.

    run    Queued ─ NotStarted ─ WaitingToExecute ─ Executing ─ Finalizing ──────── Completed
    job                          WaitingToExecute ─ Executing ─ Finalizing ─ Completed
    task                                            Executing ─ Completed

NotStarted is there for some runs only. Nothing happens in the background: what a run shows is a
function of its plan and the time.
"""

from math import log
from random import Random
from typing import Any

from attrs import frozen

from itwin_export_async.emulator._clock import Clock
from itwin_export_async.emulator._ids import new_guid
from itwin_export_async.emulator._settings import Settings

_MEDIAN, _SPREAD = 420.0, 0.6

_HAS_OUTPUT = frozenset({"Success", "PartialSuccess"})
_HAS_ERROR = frozenset({"Error", "TimedOut"})

_FAILURE = {
    "errorCode": "TAE_BRW_1000",
    "message": "Failed to orchestrate file processing.",
    "details": "Error exit code received from bridge wrapper. Details from wrapper: ''.",
    "bridgeExitCode": -7002,
    "system": "Exporter",
    "phase": "export_file",
    "category": "other",
    "descriptionKey": "FailedToExport",
    "description": "Failed to export your file.",
    "kbArticleLink": "",
    "canUserFix": False,
}
_PARTIAL_FAILURE = {
    "errorCode": "TAE_BRG_1000",
    "message": "Failed to process.",
    "details": "Error exit code received from bridge wrapper.",
    "bridgeExitCode": 4294967295,
    "system": "cloud_orchestrator",
    "phase": "internal_server_error",
    "category": "other",
    "descriptionKey": "RunOrchestrationError",
    "description": "Failed to orchestrate Run.",
    "kbArticleLink": "",
    "canUserFix": False,
}


@frozen(kw_only=True)
class Fate:
    """How a run will end, and after how many seconds (None: drawn).

    `task_result` is what its job and task say; None means that they agree with the run.
    """

    result: str = "Success"
    task_result: str | None = None
    seconds: float | None = None

    @property
    def job_result(self) -> str:
        """The result of the only job."""
        return self.task_result or self.result

    @property
    def only_task_result(self) -> str:
        """The result of the only task; under a partial success it is one that succeeded."""
        return "Success" if self.job_result == "PartialSuccess" else self.job_result

    @property
    def error(self) -> dict[str, Any] | None:
        """The error of the only task, or None."""
        if self.job_result == "PartialSuccess":
            return _PARTIAL_FAILURE
        return _FAILURE if self.job_result in _HAS_ERROR else None


@frozen(kw_only=True)
class Run:
    """A run's whole course; `file_id` is the output it will have in Storage, or None."""

    id: str
    job_id: str
    task_id: str
    file_id: str | None
    connection_id: str
    fate: Fate
    phases: tuple[tuple[str, float], ...]
    job_ends_at: float
    task_ends_at: float

    @property
    def starts_at(self) -> float:
        """The moment of its creation."""
        return self.phases[0][1]

    @property
    def ends_at(self) -> float:
        """The moment it is completed."""
        return self.phases[-1][1]

    def is_active(self, now: float) -> bool:
        """Whether it still goes on."""
        return now < self.ends_at

    def begins(self, state: str) -> float:
        """The moment it comes into this state."""
        return dict(self.phases)[state]

    def state(self, now: float) -> str:
        """The state it is in."""
        reached = [state for state, at in self.phases if at <= now]
        return reached[-1] if reached else self.phases[0][0]


def plan_run(
    *,
    connection_id: str,
    now: float,
    fate: Fate,
    settings: Settings,
    ids: Random,
    course: Random,
    in_storage: bool,
) -> Run:
    """A run that begins now, its times and ids drawn."""
    drawn = _seconds(settings.run_seconds, course)
    seconds = (drawn if fate.seconds is None else fate.seconds) / settings.speed
    shares = {"Queued": 0.0, "NotStarted": course.uniform(0.01, 0.03)}
    if course.random() < 0.5:
        del shares["NotStarted"]
    shares["WaitingToExecute"] = course.uniform(0.04, 0.08)
    shares["Executing"] = course.uniform(0.10, 0.15)
    shares["Finalizing"] = course.uniform(0.85, 0.92)
    shares["Completed"] = 1.0
    has_file = in_storage and fate.job_result in _HAS_OUTPUT
    return Run(
        id=new_guid(ids),
        job_id=new_guid(ids),
        task_id=new_guid(ids),
        file_id=new_guid(ids) if has_file else None,
        connection_id=connection_id,
        fate=fate,
        phases=tuple((state, now + share * seconds) for state, share in shares.items()),
        task_ends_at=now + course.uniform(0.93, 0.95) * seconds,
        job_ends_at=now + course.uniform(0.96, 0.98) * seconds,
    )


def _seconds(wanted: float | tuple[float, float] | None, course: Random) -> float:
    match wanted:
        case None:
            return course.lognormvariate(log(_MEDIAN), _SPREAD)
        case (lowest, highest):
            return course.uniform(lowest, highest)
        case fixed:
            return fixed


def run_item(run: Run, *, clock: Clock, now: float) -> dict[str, Any]:
    """The run as it stands in a list."""
    item: dict[str, Any] = {
        "id": run.id,
        "state": run.state(now),
        **_outcome(run.fate.result, run.starts_at, run.ends_at, clock=clock, now=now),
    }
    if now >= run.begins("WaitingToExecute"):
        item["jobs"] = [_job(run, clock=clock, now=now)]
    return item


def run_alone(run: Run, *, clock: Clock, now: float) -> dict[str, Any]:
    """The run as it stands on its own."""
    return {"connectionId": run.connection_id, **run_item(run, clock=clock, now=now)}


def _job(run: Run, *, clock: Clock, now: float) -> dict[str, Any]:
    starts_at = run.begins("WaitingToExecute")
    job: dict[str, Any] = {
        "id": run.job_id,
        "state": "Completed" if now >= run.job_ends_at else run.state(now),
        **_outcome(run.fate.job_result, starts_at, run.job_ends_at, clock=clock, now=now),
    }
    if now >= run.begins("Executing"):
        job["tasks"] = [_task(run, clock=clock, now=now)]
    return job


def _task(run: Run, *, clock: Clock, now: float) -> dict[str, Any]:
    starts_at = run.begins("Executing")
    task: dict[str, Any] = {
        "id": run.task_id,
        "retryAttempts": 0,
        "state": "Completed" if now >= run.task_ends_at else "Executing",
        **_outcome(run.fate.only_task_result, starts_at, run.task_ends_at, clock=clock, now=now),
    }
    if now < run.task_ends_at:
        return task
    if run.file_id is not None:
        task["exportOutputFileId"] = run.file_id
    if run.fate.error is not None:
        task["error"] = run.fate.error
    return task


def _outcome(
    result: str, starts_at: float, ends_at: float, *, clock: Clock, now: float
) -> dict[str, Any]:
    begun = {"startDateTime": clock.stamp(starts_at)}
    if now < ends_at:
        return begun | {"result": "Undetermined"}
    return begun | {"result": result, "endDateTime": clock.stamp(ends_at)}
