"""What one start of a run knows between two requests, and whether a run may be its own. Pure.

An iModel has one active run. A second request for it gets that run (303), even if it belongs to
another connection and has other options. Concurrent requests get 409; on retry the answer is 202
or 303. After a lost response the request is sent again. The run in a 303 is ours if

- a request of ours may have started a run (`maybe_started`),
- the run belongs to our connection and no other request owns it,
- it started after our first request (by the service's clock, 5 s of tolerance), and, if that
  request was another process's, before the last one could still be processed.
"""

from collections.abc import Collection, Iterable
from datetime import UTC, datetime, timedelta
from functools import partial

from attrs import evolve, frozen

from itwin_export_async._models import ExecutionResult, Run
from itwin_export_async._protocol.runs import CLOCK_TOLERANCE, started_after
from itwin_export_async._protocol.urls import RunAddress

MAX_STALE_ANSWERS = 20  # 303 answers that name a run which has already finished
REQUEST_IN_FLIGHT = timedelta(seconds=60)  # a request may still start a run this long after sending
LIST_LAG = timedelta(seconds=60)  # a list shows a run this long after its start at the latest

_MAX_DATETIME = datetime.max.replace(tzinfo=UTC)
_USABLE_RESULTS = (ExecutionResult.SUCCESS, ExecutionResult.SKIPPED)


@frozen(kw_only=True)
class StartWindow:
    """When an earlier process may have started a run, by the service's clock.

    `since`: when its first request went out. `until`: when its last one did, None if not known.
    """

    since: datetime
    until: datetime | None = None

    def contains(self, run: Run) -> bool:
        """Whether the run may have been started by one of these requests."""
        if not started_after(run, self.since):
            return False
        if self.until is None or run.start_date_time is None:
            return True
        return run.start_date_time - self.until <= REQUEST_IN_FLIGHT + CLOCK_TOLERANCE

    def is_settled(self, now: datetime) -> bool:
        """Whether a list that was read at `now` shows all runs of the window."""
        return self.until is not None and now - self.until > REQUEST_IN_FLIGHT + LIST_LAG


@frozen(kw_only=True)
class StartState:
    """The state of one start.

    `earlier`: when an earlier process may have started the run, None if none has tried.
    `maybe_started`: whether a request of this process may have started one. `uncertain_since`: the
    loop's time of the first request whose effect is unknown, None if there is none. `sent_at`: the
    loop's time of the latest request. `lost_races`, `unnamed_answers`, `stale_answers`: consecutive
    409s, 303s without a usable run, and 303s that name the finished `awaited_run`.
    """

    earlier: StartWindow | None = None
    maybe_started: bool = False
    uncertain_since: float | None = None
    sent_at: float = 0.0
    lost_races: int = 0
    unnamed_answers: int = 0
    stale_answers: int = 0
    awaited_run: RunAddress | None = None

    @property
    def is_uncertain(self) -> bool:
        """Whether a run of ours may exist that has no handle."""
        return self.maybe_started or self.earlier is not None

    @property
    def first_sent_at(self) -> float:
        """The loop's time of the earliest request that may have started the run."""
        return self.sent_at if self.uncertain_since is None else self.uncertain_since

    def with_request(self, now: float) -> "StartState":
        """Before a request is sent."""
        return evolve(self, sent_at=now)

    def with_uncertainty(self, since: float) -> "StartState":
        """After a request at `since` that may have been processed without a response."""
        first = since if self.uncertain_since is None else min(self.uncertain_since, since)
        return evolve(self, maybe_started=True, uncertain_since=first)

    def with_acceptance(self) -> "StartState":
        """After a 202: a run exists."""
        return self.with_uncertainty(self.sent_at)

    def with_lost_race(self) -> "StartState":
        """After a 409."""
        return evolve(self, lost_races=self.lost_races + 1)

    def with_unnamed_answer(self) -> "StartState":
        """After a 303 without a usable run."""
        return evolve(self, unnamed_answers=self.unnamed_answers + 1, lost_races=0)

    def with_active_run(self, address: RunAddress) -> "StartState":
        """After a 303 to a run that is not ours: no run of ours exists."""
        stale = self.stale_answers + 1 if address == self.awaited_run else 0
        return evolve(
            self,
            earlier=None,
            maybe_started=False,
            uncertain_since=None,
            lost_races=0,
            stale_answers=stale,
        )

    def with_finished_run(self, address: RunAddress) -> "StartState":
        """After the active run has finished."""
        return evolve(self, awaited_run=address)

    def could_be_ours(self, run: Run, first_sent_at: datetime, others: Collection[str]) -> bool:
        """Whether a request of ours may have started this run of our connection.

        `first_sent_at`: when this process first sent a request, by the service's clock. `others`:
        ids of runs that other requests own.
        """
        if run.id in others:
            return False
        if self.earlier is not None and self.earlier.contains(run):
            return True
        return self.maybe_started and started_after(run, first_sent_at)


def match_runs(
    windows: Iterable[tuple[str, StartWindow]], runs: Collection[Run], others: Collection[str]
) -> dict[str, Run]:
    """The runs of interrupted starts on one connection, by the key of each start.

    `windows`: a key and the window of each interrupted start. `others`: ids of runs that other
    requests own. A failed run matches none: its request starts another one. The latest start
    chooses first, and takes the first run after its window opens.
    """
    taken = set(others)
    matches: dict[str, Run] = {}
    for key, window in sorted(windows, key=lambda item: item[1].since, reverse=True):
        fitting = [run for run in runs if run.id not in taken and _is_usable(run)]
        fitting = [run for run in fitting if window.contains(run)]
        run = min(fitting, key=partial(_by_distance, since=window.since), default=None)
        if run is not None:
            taken.add(run.id)
            matches[key] = run
    return matches


def _by_distance(run: Run, *, since: datetime) -> tuple[bool, timedelta]:
    """Runs after `since` first, nearest first; those within the clock tolerance before it last."""
    distance = (run.start_date_time or _MAX_DATETIME) - since
    return distance < timedelta(0), abs(distance)


def _is_usable(run: Run) -> bool:
    return not run.is_final or run.outcome in _USABLE_RESULTS
