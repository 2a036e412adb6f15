"""Runs over time.

    run    Queued ─ NotStarted ─ WaitingToExecute ─ Executing ─ Finalizing ──────── Completed
    job                          WaitingToExecute ─ Executing ─ Finalizing ─ Completed
    task                                            Executing ─ Completed

The whole timeline of a run is drawn when the run is created. There is no background work: what a
run shows is a function of its timeline and the current time. Only some runs pass NotStarted.
"""

from collections.abc import Iterable, Mapping, Sequence
from math import log
from random import Random

from attrs import evolve, frozen

from itwin_export_async.emulator._config import Settings
from itwin_export_async.emulator._state.failures import (
    EXPORT_FAILURES,
    NO_CONSENT,
    SOURCE_FAILURES,
    Failure,
)
from itwin_export_async.emulator._state.ids import new_guid, new_sha1_id

_MEDIAN, _SPREAD = 420.0, 0.6  # seconds, and the scale of the log-normal distribution

HAS_OUTPUT = frozenset({"Success", "PartialSuccess"})
RESULTS = (
    "Success",
    "Error",
    "PartialSuccess",
    "Skipped",
    "Canceled",
    "Cancelled",
    "TimedOut",
    "Undetermined",
)


@frozen(kw_only=True)
class RunPlan:
    """The result of a run, and its duration in seconds (None: drawn).

    `task_result` is the result of its jobs and tasks. None means that they agree with the run.
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
        """The result of each task; of a partial success it is Success."""
        return "Success" if self.job_result == "PartialSuccess" else self.job_result


@frozen(kw_only=True)
class Task:
    """The work on one file: `source_id` is the file that it reads, `output_id` the one it makes."""

    id: str
    result: str
    ends_at: float
    error: Failure | None
    source_id: str | None
    output_id: str | None


@frozen(kw_only=True)
class Job:
    """The tasks of one connector; the job of an export has no connector."""

    id: str
    result: str
    ends_at: float
    connector_type: str | None
    tasks: tuple[Task, ...]


@frozen(kw_only=True)
class Run:
    """A run from start to end. `kind` is that of its connection.

    `error` is set when the run failed before its jobs. `has_planned_duration` says whether a test
    has chosen its duration.
    """

    id: str
    connection_id: str
    kind: str
    result: str
    timeline: tuple[tuple[str, float], ...]
    jobs: tuple[Job, ...] = ()
    error: Failure | None = None
    has_planned_duration: bool = False

    @property
    def starts_at(self) -> float:
        """When it is created."""
        return self.timeline[0][1]

    @property
    def ends_at(self) -> float:
        """When it is completed."""
        return self.timeline[-1][1]

    @property
    def output_id(self) -> str | None:
        """The GUID of an export's file in Storage, None if it makes none there."""
        return self.jobs[0].tasks[0].output_id

    def is_active(self, now: float) -> bool:
        """Whether it is not yet completed."""
        return now < self.ends_at

    def entered_at(self, state: str) -> float:
        """When it enters a state."""
        return dict(self.timeline)[state]

    def state(self, now: float) -> str:
        """Its state at this moment."""
        reached = [state for state, at in self.timeline if at <= now]
        return reached[-1] if reached else self.timeline[0][0]

    def failed(self, error: Failure) -> "Run":
        """Return the same run with tasks that fail for this error."""

        def fail(job: Job) -> Job:
            tasks = (
                evolve(task, result="Error", error=error, output_id=None) for task in job.tasks
            )
            return evolve(job, result="Error", tasks=tuple(tasks))

        return evolve(self, result="Error", jobs=tuple(fail(job) for job in self.jobs))


def plan_run(
    *,
    connection_id: str,
    kind: str,
    now: float,
    plan: RunPlan,
    settings: Settings,
    id_rng: Random,
    run_rng: Random,
    sources: Iterable[tuple[str | None, Sequence[str | None]]],
    has_output: bool = False,
) -> Run:
    """Draw the times and ids of a run that starts now.

    It has one job for each connector and one task for each file. `sources` are connectors with the
    ids of their files; both are None for an export. `has_output`: its tasks write files to Storage.
    """
    timeline = _state_timeline(now, plan, settings, run_rng)
    failures = EXPORT_FAILURES if kind == "export" else SOURCE_FAILURES
    return Run(
        id=_new_run_id(kind, id_rng),
        connection_id=connection_id,
        kind=kind,
        result=plan.result,
        timeline=timeline,
        has_planned_duration=plan.duration is not None,
        jobs=tuple(
            _job(timeline, plan, id_rng, run_rng, failures, connector, ids, has_output=has_output)
            for connector, ids in sources
        ),
    )


def plan_unauthorized_run(
    *,
    connection_id: str,
    kind: str,
    now: float,
    settings: Settings,
    id_rng: Random,
    run_rng: Random,
) -> Run:
    """Draw a run that fails before its jobs, because the user has not consented to it."""
    timeline = _state_timeline(now, RunPlan(), settings, run_rng)
    start = dict(timeline)["Executing"]
    waiting = tuple((state, at) for state, at in timeline if at < start)
    return Run(
        id=_new_run_id(kind, id_rng),
        connection_id=connection_id,
        kind=kind,
        result="Error",
        timeline=(*waiting, ("Completed", start)),
        error=NO_CONSENT,
    )


def _new_run_id(kind: str, id_rng: Random) -> str:
    return new_guid(id_rng) if kind == "export" else new_sha1_id(id_rng)


def _state_timeline(
    now: float, plan: RunPlan, settings: Settings, run_rng: Random
) -> tuple[tuple[str, float], ...]:
    """Return the states of a run, each with the moment at which the run enters it."""
    drawn = _draw_seconds(settings.run_seconds, run_rng)
    seconds = (drawn if plan.duration is None else plan.duration) / settings.speed
    shares = {"Queued": 0.0, "NotStarted": run_rng.uniform(0.01, 0.03)}
    if run_rng.random() < 0.5:
        del shares["NotStarted"]
    shares["WaitingToExecute"] = run_rng.uniform(0.04, 0.08)
    shares["Executing"] = run_rng.uniform(0.10, 0.15)
    shares["Finalizing"] = run_rng.uniform(0.85, 0.92)
    shares["Completed"] = 1.0
    return tuple((state, now + share * seconds) for state, share in shares.items())


def _job(
    timeline: tuple[tuple[str, float], ...],
    plan: RunPlan,
    id_rng: Random,
    run_rng: Random,
    failures: Mapping[str, Failure],
    connector_type: str | None,
    source_ids: Sequence[str | None],
    *,
    has_output: bool,
) -> Job:
    """Return a job with one task for each source."""
    start, seconds = timeline[0][1], timeline[-1][1] - timeline[0][1]
    job_id = new_guid(id_rng)
    tasks = tuple(
        Task(
            id=new_guid(id_rng),
            result=plan.each_task_result,
            ends_at=start + run_rng.uniform(0.93, 0.95) * seconds,
            error=failures.get(plan.job_result),
            source_id=source_id,
            output_id=new_guid(id_rng) if has_output and plan.job_result in HAS_OUTPUT else None,
        )
        for source_id in source_ids
    )
    return Job(
        id=job_id,
        result=plan.job_result,
        ends_at=start + run_rng.uniform(0.96, 0.98) * seconds,
        connector_type=connector_type,
        tasks=tasks,
    )


def _draw_seconds(configured: float | tuple[float, float] | None, run_rng: Random) -> float:
    match configured:
        case None:
            return run_rng.lognormvariate(log(_MEDIAN), _SPREAD)
        case (lowest, highest):
            return run_rng.uniform(lowest, highest)
        case fixed:
            return fixed
