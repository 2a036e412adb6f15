"""A run, its jobs and their tasks: one snapshot, and what follows from it.

A snapshot decides whether it is final and what its outcome is. The service's own samples contradict
themselves (a run `Success` over a task in `Error`), so the outcome is the worst of the results and
not the one at the top.
"""

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

from attrs import field, frozen

from itwin_export_async._models.enums import ConnectorType, ExecutionResult, ExecutionState
from itwin_export_async._models.hints import find_hint
from itwin_export_async._models.reprs import short_repr


@frozen(kw_only=True)
class TaskErrorInfo:
    """The error of a task, in the service's words. A task that succeeded can have one, too.

    `kb_article_link` is empty without an article; `can_user_fix` is None where it is not reported.
    """

    error_code: str = ""
    message: str = ""
    details: str = ""
    bridge_exit_code: int | None = None
    system: str = ""
    phase: str = ""
    category: str = ""
    description_key: str = ""
    description: str = ""
    kb_article_link: str = ""
    can_user_fix: bool | None = None
    raw: Mapping[str, Any] = field(factory=dict, eq=False, repr=False)

    __repr__ = short_repr

    @property
    def hint(self) -> str | None:
        """What to do about it, for the causes that Bentley's knowledge base lists; else None."""
        texts = (self.description_key, self.description, self.message, self.details)
        return find_hint(*texts)


@frozen(kw_only=True)
class Task:
    """The export of one file, as of one poll.

    `result` and the dates are None while not known; `export_output_file_id` is the output in
    Storage, None without one (yet). `storage_file_id` is the source file that a synchronization
    task reads.
    """

    id: str
    state: ExecutionState
    result: ExecutionResult | None = None
    start_date_time: datetime | None = None
    end_date_time: datetime | None = None
    retry_attempts: int | None = None
    export_output_file_id: str | None = None
    storage_file_id: str | None = None
    error: TaskErrorInfo | None = None
    raw: Mapping[str, Any] = field(factory=dict, eq=False, repr=False)

    __repr__ = short_repr


@frozen(kw_only=True)
class Job:
    """A step of a run, as of one poll. Its tasks may be missing early on.

    `connector_type` belongs to synchronization jobs, None elsewhere.
    """

    id: str
    state: ExecutionState
    result: ExecutionResult | None = None
    start_date_time: datetime | None = None
    end_date_time: datetime | None = None
    connector_type: ConnectorType | None = None
    tasks: tuple[Task, ...] = ()
    raw: Mapping[str, Any] = field(factory=dict, eq=False, repr=False)

    __repr__ = short_repr


@frozen(kw_only=True)
class RunErrorInfo:
    """The error of a whole run (of synchronization runs), such as `UserNotAuthenticated`."""

    error_key: str = ""
    description: str = ""
    raw: Mapping[str, Any] = field(factory=dict, eq=False, repr=False)

    __repr__ = short_repr


@frozen(kw_only=True)
class DiagnosticReport:
    """The report of a connector on one task of a synchronization run.

    `sas_uri` is a signed URL of the report, a JSON document: `storage.download_blob` reads it. A
    member that the service leaves out is None.
    """

    id: str
    imodel_id: str | None = None
    run_id: str | None = None
    task_id: str | None = None
    sas_uri: str | None = field(default=None, repr=False)
    created_time_stamp: datetime | None = None
    raw: Mapping[str, Any] = field(factory=dict, eq=False, repr=False)

    __repr__ = short_repr


@frozen(kw_only=True)
class Run:
    """A background run, as of one poll.

    `connection_id` is filled in from the request where the service leaves it out. `result` and the
    dates are None while not known. `phase` and `error` belong to synchronization runs. `raw` is the
    service's whole JSON, members that this release does not know included.
    """

    id: str
    connection_id: str = ""
    state: ExecutionState
    result: ExecutionResult | None = None
    start_date_time: datetime | None = None
    end_date_time: datetime | None = None
    phase: str | None = None
    error: RunErrorInfo | None = None
    jobs: tuple[Job, ...] = ()
    raw: Mapping[str, Any] = field(factory=dict, eq=False, repr=False)

    def __repr__(self) -> str:
        jobs = getattr(self, "jobs", ())
        outcome = f", outcome={self.outcome.value!r}, tasks=<{len(self.tasks)}>" if jobs else ""
        return short_repr(self)[:-1] + outcome + ")"

    @property
    def tasks(self) -> tuple[Task, ...]:
        """The tasks of all jobs."""
        return tuple(task for job in self.jobs for task in job.tasks)

    @property
    def is_final(self) -> bool:
        """Whether the run is finished and its result is decided: nothing changes any more."""
        return self.is_completed and self.result not in (None, ExecutionResult.UNDETERMINED)

    @property
    def is_completed(self) -> bool:
        """Whether the run is finished. Its result may be undecided for a moment."""
        return self.state == ExecutionState.COMPLETED

    @property
    def outcome(self) -> ExecutionResult:
        """The true result of the run; `UNDETERMINED` while the service has not decided.

        The run's own result, unless that is `SUCCESS` while tasks (or, where there are none, jobs)
        failed: then `ERROR` if all of them did and `PARTIAL_SUCCESS` if some did. Only results
        count: an `error` beside a success does not.
        """
        result = self.result or ExecutionResult.UNDETERMINED
        if result != ExecutionResult.SUCCESS:
            return result
        return _worst(self.tasks or self.jobs)

    @property
    def failed_tasks(self) -> tuple[Task, ...]:
        """The tasks that finished with an error, a cancellation or a timeout."""
        return tuple(task for task in self.tasks if _failed(task))

    @property
    def output_file_ids(self) -> tuple[str, ...]:
        """The Storage ids of the output files, each once, as the service gives them."""
        ids = (task.export_output_file_id for task in self.tasks)
        return tuple(dict.fromkeys(file_id for file_id in ids if file_id))

    @property
    def duration(self) -> float | None:
        """Seconds from start to end, None while one of them is not known."""
        if self.start_date_time is None or self.end_date_time is None:
            return None
        return (self.end_date_time - self.start_date_time).total_seconds()


def _failed(part: Task | Job) -> bool:
    return part.result is not None and part.result.is_failure


def _worst(parts: Iterable[Task | Job]) -> ExecutionResult:
    failures = {_failed(part) for part in parts}
    if failures == {True}:
        return ExecutionResult.ERROR
    return ExecutionResult.PARTIAL_SUCCESS if True in failures else ExecutionResult.SUCCESS
