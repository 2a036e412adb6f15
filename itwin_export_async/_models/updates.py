"""What changed between two looks at a run."""

from enum import StrEnum
from typing import Literal

from attrs import frozen

from itwin_export_async._models.enums import ExecutionResult, ExecutionState
from itwin_export_async._models.exports import ExportRequest
from itwin_export_async._models.runs import Run


@frozen(kw_only=True)
class StateChange:
    """One run, job or task that was seen to change.

    `old` is None for what was not there at the look before; `result` is the one it has now, None
    where there is none yet.
    """

    level: Literal["run", "job", "task"]
    id: str
    old: ExecutionState | None
    new: ExecutionState
    result: ExecutionResult | None = None


@frozen(kw_only=True)
class RunUpdate:
    """A look at a run that brought news: the run as seen, and what changed since the last.

    `request`: the one that the run is of, in `export_many`; None elsewhere.
    """

    run: Run
    changes: tuple[StateChange, ...] = ()
    request: ExportRequest | None = None


class RunOrigin(StrEnum):
    """How a handle came by its run."""

    STARTED = "started"
    """A new run was made."""
    RECOVERED = "recovered"
    """A new run was made, but the answer was lost; it was found again."""
    JOINED = "joined"
    """The iModel had an active run, maybe with other options; this is it."""
    ATTACHED = "attached"
    """The run was named by its ids or by a resume token."""
