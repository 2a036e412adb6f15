"""When to look next: polling as an inspection problem.

Each look costs, and so does each second that a finished run goes unnoticed. Let a look cost as much
as `poll_cost` seconds of such lag, and let h(t) be the hazard rate of the run's end at age t. With
polls n(t) per second a run that ends at t is noticed after 1 / (2 n(t)) seconds on average, so that
the cost per second is

    poll_cost * n(t) + h(t) / (2 n(t)),   smallest at   n(t) = sqrt(h(t) / (2 poll_cost))

(Keller, "Optimum checking schedules for systems subject to random failure", Management Science 21
(1974), after Barlow, Hunter and Proschan, 1963).

Nothing being known of a run, the hazard is scale-free, h(t) = SHAPE / t, and the polls stand at the
squares of whole numbers, times a stretch of poll_cost / (2 SHAPE): the intervals grow like the
square root of the age, sensible for a run of 20 seconds and for one of 3 hours alike. A run of T
seconds then costs sqrt(2 poll_cost T) (sqrt(SHAPE) + 1 / (2 sqrt(SHAPE))), whatever T: least with a
SHAPE of 1/2, that is with as much paid for polls as for lag. No run lasting for ever, 0.6 is better
by a little at the ages that occur, and 0.4 % dearer at most. Two refinements: the polls stand at
k (k + 1) rather than at k k, so that at each look half the interval to come is worth the polls so
far, which saves half a look; and the age counts from EARLY minima before the start, as few runs end
in the first seconds.

Earlier runs give a forecast (`forecast.py`), and a forecast the best polls (`plan.py`): few before
the likely end, dense ones around it, sparse ones after. Past the forecast's end the rule above
holds again.

When all runs together want more polls than the rate limit gives, raising `poll_cost` for all of
them alike divides the polls in the best way; a demand `pressure` times too high needs it raised
by the square of that. Who polls may still come sooner, so that no run is put off for much longer
than it takes to look at each of them. Half the hazard is like twice the cost: so counts a run that
has not begun to execute. `Finalizing` is taken for a short run of its own, of which nothing is
known.
"""

from math import inf, log, log2, sqrt
from numbers import Real
from typing import Protocol

from attrs import field, frozen
from attrs.validators import ge, gt, lt

from itwin_export_async._models import ExecutionState
from itwin_export_async._models.validators import instance_of
from itwin_export_async._polling.poll_plan import plan

NOT_EXECUTING = frozenset(
    {
        ExecutionState.NOT_STARTED,
        ExecutionState.IDLE,
        ExecutionState.QUEUED,
        ExecutionState.WAITING_TO_EXECUTE,
    }
)
SHAPE = 0.6
EARLY = 6.0
MOST_AGE, MOST_PRESSURE, MOST_COST = 1e12, 1e6, 1e9  # beyond them numbers lose their meaning


@frozen(kw_only=True)
class PollContext:
    """What a schedule may know of a run. Times are seconds.

    `age`: since the run began. `polls`: how often it was looked at. `state`: the last state seen,
    None before the first look. `since_change`: since the last change seen. `history`: what earlier
    runs took. `pressure`: at least 1, how far demand exceeds the rate limit.
    """

    age: float
    polls: int
    state: ExecutionState | None
    since_change: float
    history: tuple[float, ...] = ()
    pressure: float = 1.0


class PollSchedule(Protocol):
    """Says when a run is looked at next. Write your own by giving a class this method."""

    def next_wait(self, view: PollContext) -> float:
        """Seconds until the next look."""
        ...


def next_wait(schedule: PollSchedule, view: PollContext) -> float:
    """Seconds until the next look; a `ValueError` if the schedule gives what is no time to wait."""
    wait = schedule.next_wait(view)
    if not isinstance(wait, Real) or not 0 <= wait < inf:
        raise ValueError(f"{schedule!r} gave {wait!r} as the next wait, which is no time to wait")
    return wait


@frozen(kw_only=True)
class AdaptiveSchedule:
    """The schedule that balances the cost of looking against the lag of noticing.

    `poll_cost`: the seconds of lag that one look is worth: more means fewer polls. `minimum` and
    `maximum` bound every wait, in seconds.
    """

    poll_cost: float = field(default=3.0, validator=[instance_of(Real), gt(0)])
    minimum: float = field(default=1.0, validator=[instance_of(Real), ge(0)])
    maximum: float = field(default=900.0, validator=[instance_of(Real), gt(0)])

    def __attrs_post_init__(self) -> None:
        if self.minimum > self.maximum:
            raise ValueError(f"minimum {self.minimum} is more than maximum {self.maximum}")

    def next_wait(self, view: PollContext) -> float:
        """Seconds until the next look."""
        pressure = min(max(1.0, view.pressure), MOST_PRESSURE)
        doublings = 2 * log2(pressure) + (view.state in NOT_EXECUTING)
        wait = self._wait(_within(view.age), view.history, doublings)
        if view.state is ExecutionState.FINALIZING:
            cost = self.poll_cost * 2.0**doublings
            wait = min(wait, _scale_free_wait(_within(view.since_change), cost))
        return min(max(wait, self.minimum), self.maximum)

    def _wait(self, age: float, history: tuple[float, ...], doublings: float) -> float:
        """Between the plans for the nearest powers of 2, so that few plans serve any pressure."""
        if not history:
            return self._unplanned_wait(age, self.poll_cost * 2.0**doublings)
        whole = int(doublings)
        part = doublings - whole
        wait = self._planned_wait(age, history, self.poll_cost * 2.0**whole)
        if not part:
            return wait
        more = self._planned_wait(age, history, self.poll_cost * 2.0 ** (whole + 1))
        return wait + part * (more - wait)

    def _planned_wait(self, age: float, history: tuple[float, ...], cost: float) -> float:
        planned = plan(history, min(cost, MOST_COST))
        due = planned.after(age) if planned else None
        if planned is None or due is None:
            return self._unplanned_wait(age, cost)
        if due < planned.looks[-1]:
            return due - age
        # the end of a forecast is no reason to look
        return max(due - age, self._unplanned_wait(age, cost))

    def _unplanned_wait(self, age: float, cost: float) -> float:
        return _scale_free_wait(age + EARLY * self.minimum, cost)


def checked_schedule(schedule: PollSchedule | None) -> PollSchedule:
    """The same, None being `AdaptiveSchedule()`; a `TypeError` for what says no wait."""
    if schedule is None:
        return AdaptiveSchedule()
    if isinstance(schedule, type) or not callable(getattr(schedule, "next_wait", None)):
        raise TypeError(f"schedule must have next_wait(view), which {schedule!r} has not")
    return schedule


def _within(age: float) -> float:
    return min(max(0.0, age), MOST_AGE)


def _scale_free_wait(age: float, cost: float) -> float:
    """From one k (k + 1) to the next, times the stretch, wherever between them `age` is."""
    stretch = cost / (2 * SHAPE)
    return stretch + sqrt(stretch) * sqrt(stretch + 4 * age)


@frozen
class FixedSchedule:
    """A look every `seconds`, whatever the run."""

    seconds: float = field(validator=[instance_of(Real), gt(0), lt(inf)])

    def next_wait(self, view: PollContext) -> float:
        """Seconds until the next look."""
        return self.seconds * view.pressure


@frozen(kw_only=True)
class ExponentialSchedule:
    """Waits that start at `initial` seconds and grow by `factor` up to `maximum`."""

    initial: float = field(default=1.0, validator=[instance_of(Real), gt(0)])
    factor: float = field(default=1.3, validator=[instance_of(Real), ge(1)])
    maximum: float = field(default=20.0, validator=[instance_of(Real), gt(0)])

    def next_wait(self, view: PollContext) -> float:
        """Seconds until the next look."""
        growing = log(self.maximum / self.initial, self.factor) if self.factor > 1 else 0.0
        if view.polls >= growing:  # also where the power would be no number any more
            wait = self.maximum if self.factor > 1 else self.initial
        else:
            wait = self.initial * self.factor**view.polls
        return min(wait, self.maximum) * view.pressure
