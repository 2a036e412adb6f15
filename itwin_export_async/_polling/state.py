"""State of one polled run: what the result of a poll means, and how long polls may fail.

A run is final in state `Completed` with a decided result. `Completed` with `Undetermined` gets a
few further polls. A wait that has seen its run ends only for a reason that the API itself gave: a
final state, a 401 that a new token did not cure, or a 4xx with the API's error body. Every other
failed poll belongs to an outage, which has to last unbroken for longer than `max_outage` before it
ends the wait.
"""

from typing import ClassVar, Literal

from attrs import evolve, frozen

from itwin_export_async._errors import (
    AuthenticationFailed,
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

_STATE_ORDER = {
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
NOT_FOUND_GRACE = 60.0  # seconds for which parts of the service may not know a new run yet
_TRANSIENT_STATUSES = frozenset({408, 409, 423, 425, 429})


@frozen(kw_only=True)
class PollState:
    """What the polls of a run have shown. Times are seconds of one monotonic clock.

    `started_at`: when the run started, as far as known. `just_created`: the service has just named
    the run. `was_seen`: the run was read before polling began. `changed_at`: when a poll last found
    a change. `failing_since`: the first failed poll of the present outage, None without one.
    """

    started_at: float
    polling_since: float
    just_created: bool
    was_seen: bool = False
    run: Run | None = None
    polls: int = 0
    changed_at: float
    has_changes: bool = False
    undetermined_polls: int = 0
    failing_since: float | None = None

    def with_snapshot(self, run: Run, *, age: float | None, now: float) -> "PollState":
        """The state after a poll that succeeded.

        `age`: the run's, by the service's clock; None where it is not known.
        """
        has_changes = run is not self.run and bool(diff(self.run, run))
        undetermined = run.is_completed and not run.is_final
        return evolve(
            self,
            run=run,
            polls=self.polls + 1,
            started_at=self.started_at if age is None else now - age,
            changed_at=now if has_changes else self.changed_at,
            has_changes=has_changes,
            undetermined_polls=self.undetermined_polls + 1 if undetermined else 0,
            failing_since=None,
        )

    def with_failure(self, *, now: float) -> "PollState":
        """The state after a poll that failed as in an outage."""
        return self if self.failing_since is not None else evolve(self, failing_since=now)

    def with_throttle(self) -> "PollState":
        """The state after a poll that the service answered, but not with the run."""
        return evolve(self, failing_since=None)

    def is_transient(self, error: ExportError, *, now: float) -> bool:
        """Whether polling continues after this error."""
        match error:
            case TransportError() | ServerError() | RateLimited():
                return True
            case TokenError():
                return error.is_transient
            case ProtocolError():
                return error.is_transient or self._is_seen
            case AuthenticationFailed():
                return False
            case NotFound() if self._may_be_unknown(error, now):
                return True
            case ResponseError():
                is_odd = self._is_seen and not error.is_from_api
                return is_odd or error.status in _TRANSIENT_STATUSES
            case _:
                return False

    def is_outage(self, error: ExportError, *, now: float) -> bool:
        """Whether a transient error belongs to an outage.

        It does not where the service works: at the rate limit, and while a new run is unknown.
        """
        return not isinstance(error, RateLimited) and not (
            isinstance(error, NotFound) and self._may_be_unknown(error, now)
        )

    def outage_seconds(self, now: float) -> float:
        """Seconds for which polls have failed without interruption."""
        return 0.0 if self.failing_since is None else now - self.failing_since

    @property
    def is_done(self) -> bool:
        """Whether no further poll is needed: the run is final, or stays undetermined."""
        return self.run is not None and (
            self.run.is_final or self.undetermined_polls > UNDETERMINED_POLLS
        )

    @property
    def _is_seen(self) -> bool:
        return self.was_seen or self.run is not None

    def _may_be_unknown(self, error: NotFound, now: float) -> bool:
        """Whether the run is so new that a 404 says nothing."""
        if error.is_gateway:  # the gateway never says that a run is unknown
            return False
        if self.just_created and now - self.polling_since < NOT_FOUND_GRACE:
            return True
        return self.run is not None and now - self.started_at < NOT_FOUND_GRACE


@frozen(kw_only=True)
class Snapshot:
    """The run as a poll found it.

    `is_final`: no further event comes. `is_change`: the poll found a change. `is_replay`: the state
    was known when the subscription began; no poll was made for it.
    """

    run: Run
    is_final: bool
    is_change: bool = True
    is_replay: bool = False


@frozen(kw_only=True)
class PollMissed:
    """A poll failed, and polling continues.

    `starts_outage`: the outage begins with this poll, for this subscriber.
    """

    error: ExportError
    starts_outage: bool = False
    is_final: ClassVar[bool] = False

    @property
    def is_change(self) -> bool:
        """Whether every subscriber needs the event."""
        return self.starts_outage


@frozen(kw_only=True)
class Throttled(PollMissed):
    """A poll failed with a `Retry-After`: the next one is at `until`, in the loop's time."""

    until: float


@frozen(kw_only=True)
class PollFailed:
    """Polling has ended with `error`.

    `outage`: the seconds for which polls have failed, where that was too long; else None.
    """

    error: BaseException
    outage: float | None = None
    is_final: ClassVar[bool] = True
    is_change: ClassVar[bool] = True


PollEvent = Snapshot | PollMissed | PollFailed


def is_regression(old: ExecutionState, new: ExecutionState) -> bool:
    """Whether a run should not go from `old` to `new`. Unknown states have no order."""
    return old in _STATE_ORDER and new in _STATE_ORDER and _STATE_ORDER[new] < _STATE_ORDER[old]


def diff(old: Run | None, new: Run) -> tuple[StateChange, ...]:
    """The changes of state or result between two polls: the run's first, then by job and task."""
    before = _flatten(old) if old else {}
    return tuple(
        StateChange(
            level=key[0],
            id=key[2],
            old=before[key].state if key in before else None,
            new=item.state,
            result=item.result,
        )
        for key, item in _flatten(new).items()
        if key not in before or (before[key].state, before[key].result) != (item.state, item.result)
    )


def _flatten(run: Run) -> dict[tuple[Level, str, str], Run | Job | Task]:
    """The run, its jobs and their tasks, by level, the job they belong to, and id."""
    items: dict[tuple[Level, str, str], Run | Job | Task] = {("run", "", run.id): run}
    for job in run.jobs:
        items["job", job.id, job.id] = job
        items |= {("task", job.id, task.id): task for task in job.tasks}
    return items
