"""When to poll next: polling as an inspection problem.

Each poll costs, and so does each second that a finished run goes unnoticed. Let a poll cost as much
as `poll_cost` seconds of such lag, and let h(t) be the hazard rate of the run's end at age t. With
n(t) polls per second, a run that ends at t is noticed after 1 / (2 n(t)) seconds on average, so the
cost per second is

    poll_cost * n(t) + h(t) / (2 n(t)),   smallest at   n(t) = sqrt(h(t) / (2 poll_cost))

(Keller, "Optimum checking schedules for systems subject to random failure", Management Science 21
(1974), after Barlow, Hunter and Proschan, 1963).

Without knowledge of a run the hazard is scale-free, h(t) = PRIOR_SHAPE / t, and the polls stand at
the squares of whole numbers, times poll_cost / (2 PRIOR_SHAPE): intervals grow like the square root
of the age, which suits a run of 20 seconds and one of 3 hours alike. A run of T seconds then costs
sqrt(2 poll_cost T) (sqrt(PRIOR_SHAPE) + 1 / (2 sqrt(PRIOR_SHAPE))) for every T: least with a
PRIOR_SHAPE of 1/2, where polls and lag cost the same. No run lasts for ever, so 0.6 is slightly
better at the ages that occur, and costs at most 0.4 % more. Two refinements: the polls stand at
k (k + 1) rather than at k k, so that half the interval to come is worth the polls so far, which
saves half a poll; and the age is counted from AGE_OFFSET minima before the start, because few runs
end in the first seconds.

Earlier runs give a forecast (`forecast.py`), and a forecast gives the best polls (`poll_plan.py`):
few before the likely end, dense ones around it, sparse ones after. Beyond the forecast the
scale-free rule holds again.

`poll_cost` is the price of a poll while calls are plentiful. Where all runs together want more
polls than the rate limit leaves, the best way to divide the calls is to raise `poll_cost` for all
runs alike: a demand `pressure` times too high needs it multiplied by the square of that. Half the
hazard is like twice the cost, and so counts a run that has not begun to execute. `Finalizing`
counts as a short run of its own, of which nothing is known.
"""

from math import inf, log, log2, sqrt
from numbers import Real
from typing import Protocol

from attrs import field, frozen
from attrs.validators import ge, gt, lt

from itwin_export_async._models import ExecutionState
from itwin_export_async._models.validators import instance_of
from itwin_export_async._polling.forecast import PRIOR_SHAPE
from itwin_export_async._polling.poll_plan import optimal_plan

NOT_EXECUTING = frozenset(
    {
        ExecutionState.NOT_STARTED,
        ExecutionState.IDLE,
        ExecutionState.QUEUED,
        ExecutionState.WAITING_TO_EXECUTE,
    }
)
AGE_OFFSET = 5.0  # minima by which a run counts as older than it is
MAX_AGE, MAX_PRESSURE, MAX_COST = 1e12, 1e6, 1e9  # bounds that keep the arithmetic finite


@frozen(kw_only=True)
class PollContext:
    """What a schedule may know of a run. Times are seconds.

    `age`: since the run began. `polls`: number of polls so far. `state`: the latest state, None
    before the first poll. `since_change`: since a poll last found a change. `history`: durations of
    earlier runs. `pressure`: at least 1, the ratio of demand to what the rate limit leaves.
    """

    age: float
    polls: int
    state: ExecutionState | None
    since_change: float
    history: tuple[float, ...] = ()
    pressure: float = 1.0


class PollSchedule(Protocol):
    """Decides when a run is polled next. Any class with this method is a schedule."""

    def next_wait(self, context: PollContext) -> float:
        """Return the seconds until the next poll."""
        ...


def checked_wait(schedule: PollSchedule, context: PollContext) -> float:
    """Return the seconds until the next poll; `ValueError` for anything but such a number."""
    wait = schedule.next_wait(context)
    if not isinstance(wait, Real) or not 0 <= wait < inf:
        raise ValueError(
            f"{schedule!r} returned {wait!r} from next_wait; return a finite number of seconds, "
            "0 or more"
        )
    return wait


@frozen(kw_only=True)
class AdaptiveSchedule:
    """The schedule that balances the cost of polls against the lag of noticing the end.

    `poll_cost`: the seconds of lag that one poll is worth while calls are plentiful: more means
    fewer polls. `minimum` and `maximum` bound every interval, in seconds.
    """

    poll_cost: float = field(default=0.5, validator=[instance_of(Real), gt(0)])
    minimum: float = field(default=1.0, validator=[instance_of(Real), ge(0)])
    maximum: float = field(default=900.0, validator=[instance_of(Real), gt(0)])

    def __attrs_post_init__(self) -> None:
        if self.minimum > self.maximum:
            raise ValueError(f"minimum {self.minimum} is more than maximum {self.maximum}")

    def next_wait(self, context: PollContext) -> float:
        """Return the seconds until the next poll."""
        pressure = min(max(1.0, context.pressure), MAX_PRESSURE)
        doublings = 2 * log2(pressure) + (context.state in NOT_EXECUTING)
        wait = self._wait(_clamp_age(context.age), context.history, doublings)
        if context.state is ExecutionState.FINALIZING:
            cost = self.poll_cost * 2.0**doublings
            wait = min(wait, _scale_free_wait(_clamp_age(context.since_change), cost))
        return min(max(wait, self.minimum), self.maximum)

    def _wait(self, age: float, history: tuple[float, ...], doublings: float) -> float:
        """Interpolate between the nearest powers of 2, so that few plans serve any pressure."""
        if not history:
            return self._prior_wait(age, self.poll_cost * 2.0**doublings)
        whole = int(doublings)
        fraction = doublings - whole
        wait = self._forecast_wait(age, history, self.poll_cost * 2.0**whole)
        if not fraction:
            return wait
        more = self._forecast_wait(age, history, self.poll_cost * 2.0 ** (whole + 1))
        return wait + fraction * (more - wait)

    def _forecast_wait(self, age: float, history: tuple[float, ...], cost: float) -> float:
        plan = optimal_plan(history, min(cost, MAX_COST))
        due = plan.after(age) if plan else None
        if plan is None or due is None:
            return self._prior_wait(age, cost)
        if due < plan.poll_at[-1]:
            return due - age
        # the end of a forecast is no reason to poll
        return max(due - age, self._prior_wait(age, cost))

    def _prior_wait(self, age: float, cost: float) -> float:
        return _scale_free_wait(age + AGE_OFFSET * self.minimum, cost)


def validate_schedule(schedule: PollSchedule | None) -> PollSchedule:
    """Return the schedule, `AdaptiveSchedule()` for None; `TypeError` if it has no `next_wait`."""
    if schedule is None:
        return AdaptiveSchedule()
    if isinstance(schedule, type) or not callable(getattr(schedule, "next_wait", None)):
        raise TypeError(f"schedule must have a method next_wait(context), but is {schedule!r}")
    return schedule


def _clamp_age(age: float) -> float:
    return min(max(0.0, age), MAX_AGE)


def _scale_free_wait(age: float, cost: float) -> float:
    """The interval from one k (k + 1) to the next, times the stretch, for any `age` between."""
    stretch = cost / (2 * PRIOR_SHAPE)
    return stretch + sqrt(stretch) * sqrt(stretch + 4 * age)


@frozen
class FixedSchedule:
    """A poll every `seconds`."""

    seconds: float = field(validator=[instance_of(Real), gt(0), lt(inf)])

    def next_wait(self, context: PollContext) -> float:
        """Return the seconds until the next poll."""
        return self.seconds * context.pressure


@frozen(kw_only=True)
class ExponentialSchedule:
    """Intervals that start at `initial` seconds and grow by `factor` up to `maximum`."""

    initial: float = field(default=1.0, validator=[instance_of(Real), gt(0)])
    factor: float = field(default=1.3, validator=[instance_of(Real), ge(1)])
    maximum: float = field(default=20.0, validator=[instance_of(Real), gt(0)])

    def next_wait(self, context: PollContext) -> float:
        """Return the seconds until the next poll."""
        growing = log(self.maximum / self.initial, self.factor) if self.factor > 1 else 0.0
        if context.polls >= growing:  # also avoids a power too large for a float
            wait = self.maximum if self.factor > 1 else self.initial
        else:
            wait = self.initial * self.factor**context.polls
        return min(wait, self.maximum) * context.pressure
