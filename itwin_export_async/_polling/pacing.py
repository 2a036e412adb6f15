"""The intervals of all runs of a client: those of the schedule, stretched where calls are scarce.

When all runs together want more polls than their share of the rate limit, the intervals are
stretched, at most to one round: one poll of each run.
"""

from collections.abc import Callable
from math import sqrt

from attrs import evolve

from itwin_export_async._http.session import Session
from itwin_export_async._polling.poll_task import PollTask
from itwin_export_async._polling.schedule import PollContext, PollSchedule, checked_wait
from itwin_export_async._polling.state import UNDETERMINED_INTERVAL

FIRST_POLL_DELAY = 1.0  # seconds after its start in which a new run is polled for the first time
INTERVAL_JITTER = 0.2  # of a stretched interval to either side, to de-synchronise polls
POLL_SHARE = 0.8  # share of the rate limit that polls may use
SUSTAINED_SHARE = 1 / 6  # of that, as long as the window lasts: its room is available sooner
MAX_POLLS_PER_SECOND = 250.0  # of a client, whose event loop has other work: a tenth of a core


class Pacer:
    """Shares the rate limit among the runs of one client.

    `runs_polled`: runs that have a subscriber.
    """

    def __init__(
        self, session: Session, schedule: PollSchedule, jitter: Callable[[float], float]
    ) -> None:
        self._session = session
        self._schedule = schedule
        self._jitter = jitter
        self.runs_polled = 0
        self._polls_per_second = 0.0  # wanted by all polled runs together

    def first_wait(self, poll: PollTask, *, now: float) -> float:
        """Seconds until the first poll of a new run: soon, unless calls are scarce."""
        wait = self.next_wait(poll, now=now)
        is_scarce = self._polls_per_second > self._available
        return wait if is_scarce else min(wait, FIRST_POLL_DELAY)

    @property
    def _available(self) -> float:
        """Polls per second that all runs together may make."""
        return min(POLL_SHARE * self._session.call_rate, MAX_POLLS_PER_SECOND)

    def demand(self, poll: PollTask, polls_per_second: float) -> None:
        """Note how many polls per second the run wants; 0 while it has no subscriber."""
        self._polls_per_second += polls_per_second - poll.polls_per_second
        poll.polls_per_second = polls_per_second

    def next_wait(self, poll: PollTask, *, now: float) -> float:
        """Seconds until the next poll, stretched where all runs together want too many polls."""
        state = poll.state
        if state.undetermined_polls:
            return UNDETERMINED_INTERVAL
        context = PollContext(
            age=now - state.started_at,
            polls=state.polls,
            state=state.run.state if state.run else None,
            since_change=now - state.changed_at,
            history=poll.history.durations,
        )
        wait = checked_wait(self._schedule, context)
        self.demand(poll, 1.0 / max(wait, 0.001) if poll.subscribers else 0.0)
        available = self._available
        load = self._polls_per_second / available
        if load <= SUSTAINED_SHARE:
            return wait
        # before polls are scarce they become more expensive, so that an hour's calls last
        pressure = sqrt(min(load, 1.0) / SUSTAINED_SHARE)
        wait = checked_wait(self._schedule, evolve(context, pressure=pressure))
        if load <= 1.0:
            return wait
        stretched = checked_wait(self._schedule, evolve(context, pressure=load))
        one_round = self.runs_polled / available  # enough for one poll of each run
        stretched = min(stretched, one_round)
        jitter = self._jitter(2 * INTERVAL_JITTER * stretched)
        return max(wait, (1 - INTERVAL_JITTER) * stretched + jitter)
