"""Changes of a run between two polls, its origin, and the estimate of its end."""

from enum import StrEnum
from typing import Literal

from attrs import frozen

from itwin_export_async._models.enums import ExecutionResult, ExecutionState
from itwin_export_async._models.exports import ExportRequest
from itwin_export_async._models.reprs import short_repr
from itwin_export_async._models.runs import Run


@frozen(kw_only=True)
class StateChange:
    """The change of one run, job or task.

    `old` is None for an item that the poll before did not have. `result` is None while there is
    none.
    """

    level: Literal["run", "job", "task"]
    id: str
    old: ExecutionState | None
    new: ExecutionState
    result: ExecutionResult | None = None

    __repr__ = short_repr


@frozen(kw_only=True, repr=False)
class RunUpdate:
    """A poll that changed something, or the beginning of an outage.

    `run`: the latest snapshot. `changes`: what differs from the update before. `trouble`: the error
    of an outage when one begins, None otherwise. `request`: the request of the run in
    `export_many`, None elsewhere.
    """

    run: Run
    changes: tuple[StateChange, ...] = ()
    trouble: Exception | None = None
    request: ExportRequest | None = None

    def __repr__(self) -> str:
        trouble = "" if self.trouble is None else f", trouble={type(self.trouble).__name__}"
        return (
            f"RunUpdate(run_id={self.run.id!r}, state={self.run.state.value!r}, "
            f"changes={len(self.changes)}{trouble})"
        )


@frozen(kw_only=True)
class Estimate:
    """Seconds until a run ends, as the earlier runs of its connection suggest.

    `low`, `median` and `high` are the 10th, 50th and 90th percentile.
    """

    low: float
    median: float
    high: float


class RunOrigin(StrEnum):
    """Where a handle got its run from."""

    STARTED = "started"
    """The call started a new run."""
    RECOVERED = "recovered"
    """The call started a new run, and found it again after the response was lost."""
    JOINED = "joined"
    """The iModel had an active run, maybe with other options; the call joined it."""
    ATTACHED = "attached"
    """The caller gave the run's ids or a resume token."""
