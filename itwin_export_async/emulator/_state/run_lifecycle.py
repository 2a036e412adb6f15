"""Runs over time: planned whole when they are created, seen as far as they have come.

    run    Queued ─ NotStarted ─ WaitingToExecute ─ Executing ─ Finalizing ──────── Completed
    job                          WaitingToExecute ─ Executing ─ Finalizing ─ Completed
    task                                            Executing ─ Completed

NotStarted is there for some runs only. Nothing happens in the background: what a run shows is a
function of its plan and the time.
"""

from collections.abc import Mapping, Sequence
from math import log
from random import Random
from typing import Any

from attrs import evolve, frozen

from itwin_export_async.emulator._config import Settings
from itwin_export_async.emulator._state.failures import EXPORT_FAILURES, NO_CONSENT, SOURCE_FAILURES
from itwin_export_async.emulator._state.ids import new_guid, new_hash

_MEDIAN, _SPREAD = 420.0, 0.6

HAS_OUTPUT = frozenset({"Success", "PartialSuccess"})

Failure = Mapping[str, Any]


@frozen(kw_only=True)
class RunPlan:
    """How a run will end, and after how many seconds (None: drawn).

    `task_result` is what its jobs and tasks say; None means that they agree with the run.
    """

    result: str = "Success"
    task_result: str | None = None
    duration: float | None = None

    @property
    def job_result(self) -> str:
        """The result of each job."""
        return self.task_result or self.result

    @property
    def each_task_result(self) -> str:
        """The result of each task; under a partial success it is one that succeeded."""
        return "Success" if self.job_result == "PartialSuccess" else self.job_result


@frozen(kw_only=True)
class Task:
    """The work on one file: `source_id` is what it reads in Storage, `output_id` what it makes."""

    id: str
    result: str
    ends_at: float
    error: Failure | None
    source_id: str | None
    output_id: str | None


@frozen(kw_only=True)
class Job:
    """The tasks of one connector; an export has none."""

    id: str
    result: str
    ends_at: float
    connector_type: str | None
    tasks: tuple[Task, ...]


@frozen(kw_only=True)
class Run:
    """A run's whole course; `error` is what kept a synchronization from its work."""

    id: str
    connection_id: str
    is_synchronization: bool = False
    result: str
    phases: tuple[tuple[str, float], ...]
    jobs: tuple[Job, ...] = ()
    error: Failure | None = None

    @property
    def starts_at(self) -> float:
        """The moment of its creation."""
        return self.phases[0][1]

    @property
    def ends_at(self) -> float:
        """The moment it is completed."""
        return self.phases[-1][1]

    @property
    def output_id(self) -> str | None:
        """The file that an export will have in Storage, or None."""
        return self.jobs[0].tasks[0].output_id

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

    def failed(self, error: Failure) -> "Run":
        """The same run, but that its tasks fail for this."""

        def fail(job: Job) -> Job:
            tasks = (evolve(task, result="Error", error=error) for task in job.tasks)
            return evolve(job, result="Error", tasks=tuple(tasks))

        return evolve(self, result="Error", jobs=tuple(fail(job) for job in self.jobs))


def plan_run(
    *,
    connection_id: str,
    now: float,
    plan: RunPlan,
    settings: Settings,
    ids: Random,
    course: Random,
    in_storage: bool,
) -> Run:
    """An export that begins now, its times and ids drawn."""
    phases = _phases(now, plan, settings, course)
    run_id = new_guid(ids)
    job = _job(phases, plan, ids, course, EXPORT_FAILURES, has_output=in_storage)
    return Run(
        id=run_id, connection_id=connection_id, result=plan.result, phases=phases, jobs=(job,)
    )


def plan_synchronization(
    *,
    connection_id: str,
    now: float,
    plan: RunPlan,
    settings: Settings,
    ids: Random,
    course: Random,
    sources: Mapping[str, Sequence[str]],
) -> Run:
    """A synchronization that begins now: one job for each connector, one task for each source.

    `sources` are the ids of the files in Storage by connector.
    """
    phases = _phases(now, plan, settings, course)
    run_id = new_hash(ids)
    return Run(
        id=run_id,
        connection_id=connection_id,
        is_synchronization=True,
        result=plan.result,
        phases=phases,
        jobs=tuple(
            _job(phases, plan, ids, course, SOURCE_FAILURES, connector, source_ids)
            for connector, source_ids in sources.items()
        ),
    )


def plan_unauthorized_run(
    *,
    connection_id: str,
    now: float,
    settings: Settings,
    ids: Random,
    course: Random,
    is_synchronization: bool,
) -> Run:
    """A run that ends before its work begins: the user has not consented to it."""
    phases = _phases(now, RunPlan(), settings, course)
    start = dict(phases)["Executing"]
    waiting = tuple((state, at) for state, at in phases if at < start)
    return Run(
        id=new_hash(ids) if is_synchronization else new_guid(ids),
        connection_id=connection_id,
        is_synchronization=is_synchronization,
        result="Error",
        phases=(*waiting, ("Completed", start)),
        error=NO_CONSENT,
    )


def _phases(
    now: float, plan: RunPlan, settings: Settings, course: Random
) -> tuple[tuple[str, float], ...]:
    """The states a run goes through, and when it comes into them."""
    drawn = _seconds(settings.run_seconds, course)
    seconds = (drawn if plan.duration is None else plan.duration) / settings.speed
    shares = {"Queued": 0.0, "NotStarted": course.uniform(0.01, 0.03)}
    if course.random() < 0.5:
        del shares["NotStarted"]
    shares["WaitingToExecute"] = course.uniform(0.04, 0.08)
    shares["Executing"] = course.uniform(0.10, 0.15)
    shares["Finalizing"] = course.uniform(0.85, 0.92)
    shares["Completed"] = 1.0
    return tuple((state, now + share * seconds) for state, share in shares.items())


def _job(
    phases: tuple[tuple[str, float], ...],
    plan: RunPlan,
    ids: Random,
    course: Random,
    failures: Mapping[str, Failure],
    connector_type: str | None = None,
    source_ids: Sequence[str | None] = (None,),
    *,
    has_output: bool = False,
) -> Job:
    """A job with a task for each source, or the only one of an export."""
    start, seconds = phases[0][1], phases[-1][1] - phases[0][1]
    job_id = new_guid(ids)
    tasks = tuple(
        Task(
            id=new_guid(ids),
            result=plan.each_task_result,
            ends_at=start + course.uniform(0.93, 0.95) * seconds,
            error=failures.get(plan.job_result),
            source_id=source_id,
            output_id=new_guid(ids) if has_output and plan.job_result in HAS_OUTPUT else None,
        )
        for source_id in source_ids
    )
    return Job(
        id=job_id,
        result=plan.job_result,
        ends_at=start + course.uniform(0.96, 0.98) * seconds,
        connector_type=connector_type,
        tasks=tasks,
    )


def _seconds(wanted: float | tuple[float, float] | None, course: Random) -> float:
    match wanted:
        case None:
            return course.lognormvariate(log(_MEDIAN), _SPREAD)
        case (lowest, highest):
            return course.uniform(lowest, highest)
        case fixed:
            return fixed
