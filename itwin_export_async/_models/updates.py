"""Changes of a run between two polls, and the origin of a handle."""

from enum import StrEnum
from typing import Literal

from attrs import frozen

from itwin_export_async._models.enums import ExecutionResult, ExecutionState
from itwin_export_async._models.exports import ExportRequest
from itwin_export_async._models.reprs import short_repr
from itwin_export_async._models.runs import Run


@frozen(kw_only=True)
class StateChange:
    """One run, job or task that changed.

    `old` is None for one that is new; `result` is the present result, None without one.
    """

    level: Literal["run", "job", "task"]
    id: str
    old: ExecutionState | None
    new: ExecutionState
    result: ExecutionResult | None = None

    __repr__ = short_repr


@frozen(kw_only=True)
class RunUpdate:
    """A snapshot of a run, and what changed since the one before.

    `trouble` is the error of an outage when one begins, None otherwise. `request` is the request of
    the run in `export_many` and `export_itwin`, None elsewhere.
    """

    run: Run
    changes: tuple[StateChange, ...] = ()
    trouble: Exception | None = None
    request: ExportRequest | None = None

    __repr__ = short_repr


class RunOrigin(StrEnum):
    """Where the run of a handle came from."""

    STARTED = "started"
    """A new run was started."""
    RECOVERED = "recovered"
    """A new run was started, but the response was lost; the run was found again."""
    JOINED = "joined"
    """The iModel had an active run, maybe with other options; this is that run."""
    ATTACHED = "attached"
    """The run was named by its ids or by a resume token."""
