"""RunPoller a run: what a look at it means, and how long looks may fail.

Final is state `Completed` with a decided result. `Completed` with `Undetermined` gets a few further
looks. A look that fails for a passing reason only counts as an outage, which has to last unbroken
for longer than the allowance before it ends the wait; a refusal that waiting cannot cure ends it
at once.
"""

from typing import ClassVar, Literal

from attrs import evolve, frozen

from itwin_export_async._errors import (
    ExportError,
    NotFound,
    ProtocolError,
    RateLimited,
    ResponseError,
    ServerError,
    TokenError,
    TransportError,
)
from itwin_export_async._models import ExecutionState, Job, Run, StateChange, Task

Level = Literal["run", "job", "task"]

_STAGE = {
    ExecutionState.NOT_STARTED: 0,
    ExecutionState.IDLE: 0,
    ExecutionState.QUEUED: 0,
    ExecutionState.WAITING_TO_EXECUTE: 0,
    ExecutionState.EXECUTING: 1,
    ExecutionState.WAITING_TO_RETRY: 1,
    ExecutionState.FINALIZING: 2,
    ExecutionState.COMPLETED: 3,
}
UNDETERMINED_POLLS = 5
UNDETERMINED_INTERVAL = 5.0  # seconds between them
YOUNG = 60.0  # seconds for which a run just created may still be unknown to the service


@frozen(kw_only=True)
class Course:
    """What is known of a run that is followed. Times are seconds of one monotonic clock.

    `began` is when the run began, as far as known; `fresh` says that the service named it just
    before; `changed` is when a look last brought news, `failing` since when looks have failed, None
    while they work.
    """

    began: float
    followed: float
    fresh: bool
    run: Run | None = None
    looks: int = 0
    changed: float
    brought_news: bool = False
    undecided: int = 0
    failing: float | None = None

    def seen(self, run: Run, *, age: float | None, now: float) -> "Course":
        """After a look that worked. `age` is the run's, by the service's clock, None if untold."""
        news = run is not self.run and bool(changes(self.run, run))
        return evolve(
            self,
            run=run,
            looks=self.looks + 1,
            began=self.began if age is None else now - age,
            changed=now if news else self.changed,
            brought_news=news,
            undecided=self.undecided + 1 if run.is_completed and not run.is_final else 0,
            failing=None,
        )

    def missed(self, *, now: float) -> "Course":
        """After a look that failed for a passing reason."""
        return evolve(self, failing=now if self.failing is None else self.failing)

    def put_off(self) -> "Course":
        """After a look that was refused for the rate limit alone: the service is there."""
        return evolve(self, failing=None)

    def may_pass(self, error: ExportError, *, now: float) -> bool:
        """Whether waiting can cure a look that failed like this."""
        match error:
            case NotFound():
                if error.is_gateway:  # a wrong path or version, never a run that is gone
                    return self.run is not None
                named = self.fresh and now - self.followed < YOUNG
                return named or (self.run is not None and now - self.began < YOUNG)
            case TokenError() | ProtocolError():
                return error.is_transient
            case ResponseError(status=408):
                return True
            case _:
                return isinstance(error, TransportError | ServerError | RateLimited)

    def outage(self, now: float) -> float:
        """Seconds for which looks have failed without a break."""
        return 0.0 if self.failing is None else now - self.failing

    @property
    def is_over(self) -> bool:
        """Whether there is nothing more to see: the run is final, or stays undecided."""
        return self.run is not None and (self.run.is_final or self.undecided > UNDETERMINED_POLLS)


@frozen(kw_only=True)
class Sighting:
    """A look at a run that worked. `is_over`: there is nothing more to see."""

    run: Run
    is_over: bool


@frozen(kw_only=True)
class Pause:
    """The service asked to wait until `until`, in the loop's time, and refused with `error`."""

    until: float
    error: ResponseError | TokenError
    is_over: ClassVar[bool] = False


@frozen(kw_only=True)
class Ending:
    """The run cannot be followed any further. `outage` is set, in seconds, when looks have failed
    for longer than allowed; otherwise waiting cannot cure `error`."""

    error: BaseException
    outage: float | None = None
    is_over: ClassVar[bool] = True


News = Sighting | Pause | Ending


def is_regression(old: ExecutionState, new: ExecutionState) -> bool:
    """Whether a run should not come from `old` to `new`. States not known have no order."""
    return old in _STAGE and new in _STAGE and _STAGE[new] < _STAGE[old]


def changes(old: Run | None, new: Run) -> tuple[StateChange, ...]:
    """What differs in state or result between two looks, the run first, then its jobs and tasks."""
    before = _parts(old) if old else {}
    return tuple(
        StateChange(
            level=part[0],
            id=part[2],
            old=before[part].state if part in before else None,
            new=now.state,
            result=now.result,
        )
        for part, now in _parts(new).items()
        if part not in before
        or (before[part].state, before[part].result) != (now.state, now.result)
    )


def _parts(run: Run) -> dict[tuple[Level, str, str], Run | Job | Task]:
    """The run and its parts by level, the job they belong to, and id."""
    parts: dict[tuple[Level, str, str], Run | Job | Task] = {("run", "", run.id): run}
    for job in run.jobs:
        parts["job", job.id, job.id] = job
        parts |= {("task", job.id, task.id): task for task in job.tasks}
    return parts
