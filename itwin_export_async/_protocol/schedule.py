"""When to look next: polling as an inspection problem.

Each look costs, and so does each second that a finished run goes unnoticed. Let a look cost as much
as `poll_cost` seconds of such lag, and let h(t) be the hazard rate of the run's end at age t. With
looks n(t) per second a run that ends at t is noticed after 1 / (2 n(t)) seconds on average, so that
the cost per second is

    poll_cost * n(t) + h(t) / (2 n(t)),   smallest at   n(t) = sqrt(h(t) / (2 poll_cost)).

The next look stands where the integral of n, counted from the look before, reaches one (Barlow,
Hunter and Proschan, "Optimum checking procedures", J. SIAM 11 (1963), in the continuous form of
Keller, "Optimum checking schedules for systems subject to random failure", Management Science 21
(1974)).

Nothing being known of a run, the hazard is scale-free, h(t) = SHAPE / t: a run that is ten times as
old takes ten times as long to end. The integral of n is then sqrt(2 SHAPE t / poll_cost), and looks
stand at the squares 1, 4, 9, ... times poll_cost / (2 SHAPE): the intervals grow like the square
root of the age, sensible for a run of 20 seconds and for one of 3 hours alike.

When all runs together want more looks than the rate limit gives, raising `poll_cost` for all of
them alike divides the looks in the best way; a demand `pressure` times too high needs it raised
by the square of that.
"""

from math import log, sqrt
from typing import Protocol

from attrs import field, frozen
from attrs.validators import ge, gt

from itwin_export_async._models import ExecutionState

SHAPE = 1.0


@frozen(kw_only=True)
class PollView:
    """What a schedule may know of a run. Times are seconds.

    `age`: since the run began. `looks`: how often it was looked at. `state`: the last state seen,
    None before the first look. `since_change`: since the last change seen. `history`: what earlier
    runs took. `pressure`: at least 1, how far demand exceeds the rate limit.
    """

    age: float
    looks: int
    state: ExecutionState | None
    since_change: float
    history: tuple[float, ...] = ()
    pressure: float = 1.0


class PollSchedule(Protocol):
    """Says when a run is looked at next. Write your own by giving a class this method."""

    def next_wait(self, view: PollView) -> float:
        """Seconds until the next look."""
        ...


@frozen(kw_only=True)
class Inspection:
    """The schedule that balances the cost of looking against the lag of noticing.

    `poll_cost`: the seconds of lag that one look is worth: more means fewer looks. `minimum` and
    `maximum` bound every wait, in seconds.
    """

    poll_cost: float = field(default=3.0, validator=gt(0))
    minimum: float = field(default=1.0, validator=ge(0))
    maximum: float = field(default=900.0, validator=gt(0))

    def next_wait(self, view: PollView) -> float:
        """Seconds until the next look."""
        cost = self.poll_cost * view.pressure**2
        age = max(0.0, view.age)
        due = (sqrt(age) + sqrt(cost / (2 * SHAPE))) ** 2
        return min(max(due - age, self.minimum), self.maximum)


@frozen
class FixedInterval:
    """A look every `seconds`, whatever the run."""

    seconds: float = field(validator=gt(0))

    def next_wait(self, view: PollView) -> float:
        """Seconds until the next look."""
        return self.seconds * view.pressure


@frozen(kw_only=True)
class Exponential:
    """Waits that start at `initial` seconds and grow by `factor` up to `maximum`."""

    initial: float = field(default=1.0, validator=gt(0))
    factor: float = field(default=1.3, validator=ge(1))
    maximum: float = field(default=20.0, validator=gt(0))

    def next_wait(self, view: PollView) -> float:
        """Seconds until the next look."""
        growing = log(self.maximum / self.initial, self.factor) if self.factor > 1 else 0.0
        if view.looks >= growing:  # also where the power would be no number any more
            wait = self.maximum if self.factor > 1 else self.initial
        else:
            wait = self.initial * self.factor**view.looks
        return min(wait, self.maximum) * view.pressure
