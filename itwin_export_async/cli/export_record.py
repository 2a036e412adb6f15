"""What is known of one export, for progress, summary, JSON and report."""

import os
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Self

from attrs import define, evolve, field, frozen

from itwin_export_async import (
    Estimate,
    ExecutionResult,
    ExecutionState,
    ExportOutcome,
    ExportRequest,
    Run,
    RunError,
    RunHandle,
    RunPartlyFailed,
    RunUpdate,
)

_EXECUTING = (ExecutionState.EXECUTING, ExecutionState.FINALIZING, ExecutionState.COMPLETED)


class Status(StrEnum):
    """How an export stands."""

    SUCCEEDED = "succeeded"
    UP_TO_DATE = "up to date"
    SKIPPED = "skipped"
    PARTIAL = "partly failed"
    FAILED = "failed"
    UNFINISHED = "not finished"


@frozen(kw_only=True)
class File:
    """A file that an export made. `size` is in bytes, None when the file is gone."""

    path: Path
    size: int | None


@define(eq=False, kw_only=True)
class Record:
    """One export of a command.

    `name` is for people. `imodel_id` is None where only the run is known. `columns` are the user's
    own of the sheet. `states` are those the run was seen in, and when. `started_at` is when
    something was first known of the export, `finished_at` when it was over; both are None before.
    `log_errors` are lines of the log of a failed run. `trouble` is the error of an outage that
    lasts. `estimate` was made at `estimated_at`.
    """

    name: str
    imodel_id: str | None = None
    destination: str
    key: str | None = None
    revision: str | None = None
    columns: Mapping[str, str] = field(factory=dict)
    connection_id: str | None = None
    run_id: str | None = None
    resume_token: str | None = None
    run: Run | None = None
    states: list[tuple[datetime, str]] = field(factory=list)
    files: tuple[File, ...] = ()
    error: Exception | None = None
    log_errors: tuple[str, ...] = ()
    up_to_date: bool = False
    is_partial: bool = False
    started_at: datetime | None = None
    finished_at: datetime | None = None
    trouble: Exception | None = None
    estimate: Estimate | None = None
    estimated_at: datetime | None = None

    @classmethod
    def of(
        cls,
        request: ExportRequest,
        *,
        name: str | None = None,
        columns: Mapping[str, str] | None = None,
    ) -> Self:
        """The record of an export that has not started."""
        return cls(
            name=name or request.key or Path(request.destination).name or request.imodel_id,
            imodel_id=request.imodel_id,
            destination=request.destination,
            key=request.key,
            revision=request.revision,
            columns={} if columns is None else columns,
        )

    @property
    def status(self) -> Status:
        """How the export stands."""
        if self.finished_at is None:
            return Status.UNFINISHED
        if self.is_partial:
            return Status.PARTIAL
        if self.error is not None:
            return Status.FAILED
        if self.was_done_before:
            return Status.UP_TO_DATE
        if self.run is not None and self.run.outcome == ExecutionResult.SKIPPED:
            return Status.SKIPPED
        return Status.SUCCEEDED

    @property
    def ok(self) -> bool:
        """Whether the export is over and has not failed."""
        return self.finished_at is not None and self.error is None

    @property
    def was_done_before(self) -> bool:
        """Whether an earlier call had done it, as the ledger says."""
        return self.ok and self.up_to_date

    @property
    def failed(self) -> bool:
        """Whether the export is over and has failed, at least in part."""
        return self.finished_at is not None and self.error is not None

    @property
    def is_active(self) -> bool:
        """Whether the export has started and is not over."""
        return self.started_at is not None and self.finished_at is None

    @property
    def result(self) -> str:
        """The result of the run or its present state, in the service's word; empty before."""
        if self.run is not None and self.run.is_final:
            return self.run.outcome.value
        return self.states[-1][1] if self.states else ""

    def seconds(self, now: datetime) -> float:
        """How long the export has taken so far, or took; 0 before it started."""
        if self.started_at is None:
            return 0.0
        return ((self.finished_at or now) - self.started_at).total_seconds()

    def phases(self, now: datetime) -> tuple[float | None, float | None]:
        """Seconds in the queue, and seconds of execution; None for a phase that is not known."""
        run = self.run
        job_starts = [job.start_date_time for job in run.jobs if job.start_date_time] if run else []
        if run is not None and run.start_date_time and run.end_date_time and job_starts:
            begin, executing, end = run.start_date_time, min(job_starts), run.end_date_time
        elif self.states:
            begin, end = self.states[0][0], self.finished_at or now
            moments = [at for at, state in self.states if state in _EXECUTING]
            if not moments:
                return max(0.0, (end - begin).total_seconds()), None
            executing = moments[0]
        else:
            return None, None
        queued = (executing - begin).total_seconds()
        return max(0.0, queued), max(0.0, (end - executing).total_seconds())

    def remaining(self, now: datetime) -> Estimate | None:
        """The estimate of the run's end, as of now."""
        if self.estimate is None or self.estimated_at is None or not self.is_active:
            return None
        passed = (now - self.estimated_at).total_seconds()
        low, median, high = (
            max(0.0, seconds - passed)
            for seconds in (self.estimate.low, self.estimate.median, self.estimate.high)
        )
        return Estimate(low=low, median=median, high=high)

    def start(self) -> None:
        """Note that the export has started."""
        if self.started_at is None:
            self.started_at = datetime.now(UTC)

    def attach(self, run: RunHandle) -> None:
        """Note the run of the export."""
        self.start()
        self.connection_id, self.run_id = run.connection_id, run.run_id
        self.resume_token = run.resume_token

    def update(self, update: RunUpdate) -> bool:
        """Note a poll of the run; whether its state, or an outage, is new."""
        self.start()
        had_trouble, self.trouble = self.trouble is not None, update.trouble
        self._set_run(update.run)
        state = update.run.state.value
        if self.states and self.states[-1][1] == state:
            return had_trouble != (self.trouble is not None)
        self.states.append((datetime.now(UTC), state))
        return True

    def finish_with(self, outcome: ExportOutcome) -> None:
        """Note the outcome of the export."""
        self.connection_id = outcome.connection_id or self.connection_id
        if outcome.run is not None:
            self._set_run(outcome.run)
        self.up_to_date = outcome.up_to_date
        self.revision = outcome.request.revision or self.revision
        self.finish(paths=outcome.paths, error=outcome.error)

    def finish(self, *, paths: Sequence[Path] = (), error: Exception | None = None) -> None:
        """Note that the export is over, with these files or this error."""
        self.keep(paths)
        self.error, self.trouble = error, None
        self.is_partial = isinstance(error, RunPartlyFailed)
        if isinstance(error, RunError):  # of a run that may never have been polled
            self.connection_id, self.run_id = error.connection_id, error.run_id
            self.resume_token = error.resume_token
            if self.run is None and error.run is not None:
                self._set_run(error.run)
        self.finished_at = datetime.now(UTC)

    def keep(self, paths: Sequence[Path]) -> None:
        """Note the files of the export, if there are any."""
        if paths:
            named = (_relative_like(path, self.destination) for path in paths)
            self.files = tuple(File(path=path, size=_size(path)) for path in named)

    def _set_run(self, run: Run) -> None:
        self.run_id = run.id
        self.connection_id = run.connection_id or self.connection_id
        self.run = _without_raw(run)


def _without_raw(run: Run) -> Run:
    """The run without the service's own JSON, to save memory."""
    jobs = tuple(
        evolve(job, raw={}, tasks=tuple(evolve(task, raw={}) for task in job.tasks))
        for job in run.jobs
    )
    return evolve(run, raw={}, jobs=jobs)


def _relative_like(path: Path, destination: str) -> Path:
    """The path, absolute only if the destination is: a ledger keeps absolute paths."""
    folder = Path(destination).parent
    try:
        return folder / path.relative_to(os.path.abspath(folder))
    except ValueError:
        return path


def _size(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except OSError:
        return None
