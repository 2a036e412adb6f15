"""What was seen of one export: what is shown, told and reported goes by it."""

import os
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Self

from attrs import define, evolve, field, frozen

from itwin_export_async import ExportOutcome, ExportRequest, Run, RunError, RunUpdate


@frozen(kw_only=True)
class File:
    """A file that an export made. `size` is in bytes, None when it is gone already."""

    path: Path
    size: int | None


@define(eq=False, kw_only=True)
class Record:
    """One export of a command.

    `name` is what people know it by. `imodel_id` is None where only its run is known. `states` are
    those that its run was seen in, and when. `began` is when something was first known of it,
    `ended` when it was over; both are None before.
    """

    name: str
    imodel_id: str | None = None
    destination: str
    key: str | None = None
    connection_id: str | None = None
    run_id: str | None = None
    run: Run | None = None
    states: list[tuple[datetime, str]] = field(factory=list)
    files: tuple[File, ...] = ()
    error: Exception | None = None
    began: datetime | None = None
    ended: datetime | None = None

    @classmethod
    def of(cls, request: ExportRequest) -> Self:
        """The record of an export that has not begun."""
        return cls(
            name=request.key or Path(request.destination).name or request.imodel_id,
            imodel_id=request.imodel_id,
            destination=request.destination,
            key=request.key,
        )

    @property
    def ok(self) -> bool:
        """Whether it is over and went well."""
        return self.ended is not None and self.error is None

    @property
    def was_done(self) -> bool:
        """Whether an earlier call had done it already, as the ledger says."""
        return self.ok and self.began is None

    @property
    def failed(self) -> bool:
        """Whether it is over and did not go well."""
        return self.ended is not None and self.error is not None

    @property
    def is_active(self) -> bool:
        """Whether its run goes on, as far as is known."""
        return self.began is not None and self.ended is None

    @property
    def result(self) -> str:
        """How its run ended or what it does now, in the service's word; empty when not known."""
        if self.run is not None and self.run.is_final:
            return self.run.outcome.value
        return self.states[-1][1] if self.states else ""

    def seconds(self, now: datetime) -> float:
        """How long it has taken so far, or took; 0 before it began."""
        return 0.0 if self.began is None else ((self.ended or now) - self.began).total_seconds()

    def begin(self) -> None:
        """It is being worked on."""
        self.began = datetime.now(UTC)

    def saw(self, update: RunUpdate) -> bool:
        """Take a look at its run into account: whether its state is news."""
        if self.began is None:
            self.begin()
        self._take(update.run)
        state = update.run.state.value
        if self.states and self.states[-1][1] == state:
            return False
        self.states.append((datetime.now(UTC), state))
        return True

    def close(self, outcome: ExportOutcome) -> None:
        """It is over, and this came of it."""
        self.connection_id = outcome.connection_id or self.connection_id
        if outcome.run is not None:
            self._take(outcome.run)
        self.end(paths=outcome.paths, error=outcome.error)

    def end(self, *, paths: Sequence[Path] = (), error: Exception | None = None) -> None:
        """It is over, with these files or this error."""
        told = (_as_asked(path, self.destination) for path in paths)
        self.files = tuple(File(path=path, size=_size(path)) for path in told)
        self.error = error
        if isinstance(error, RunError):  # of a run that may never have been seen
            self.connection_id, self.run_id = error.connection_id, error.run_id
        self.ended = datetime.now(UTC)

    def _take(self, run: Run) -> None:
        self.run_id = run.id
        self.connection_id = run.connection_id or self.connection_id
        self.run = _bare(run)


def _bare(run: Run) -> Run:
    """The run without the service's own JSON, which ten thousand records have no room for."""
    jobs = tuple(
        evolve(job, raw={}, tasks=tuple(evolve(task, raw={}) for task in job.tasks))
        for job in run.jobs
    )
    return evolve(run, raw={}, jobs=jobs)


def _as_asked(path: Path, destination: str) -> Path:
    """The path, absolute only if the destination is: a ledger keeps all of them absolute."""
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
