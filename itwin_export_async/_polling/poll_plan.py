"""The optimal polls of a run whose duration has a known distribution.

Let R(t) be the survival, the probability that the run takes longer than t, and V(t) the least
expected cost, polls and lag together, of a run that a poll found alive at t. The next poll is at
the s that minimises the cost,

    R(t) V(t) = min over s > t of  cost R(t) + (s - u integrated over ends u in (t, s]) + R(s) V(s)

(Bellman's equation). With W = R V and B(t), the integral of u over the ends u after t, this is

    W(t) = cost R(t) - B(t) + min over s > t of ( s R(t) + A(s) ),    A(s) = W(s) + B(s) - s R(s).

Each s is a straight line in R(t) of slope s, and the best next poll lies on the lower envelope of
the lines of all later times. From the last time to the first the slopes fall while R(t) rises, so a
line once left is never best again: one linear pass solves the grid exactly (the monotone convex
hull method of dynamic programming). Barlow, Hunter and Proschan, "Optimum checking procedures", J.
SIAM 11 (1963), give the conditions that such polls fulfil. A cell of the grid that deserves more
than one poll gets sqrt(p d / (2 cost R)) of them, evenly spaced, where p is the probability of an
end in it and d its length: many polls are well described by their density.

Because slopes and R are monotone, a run found alive later is polled later, and so is a run whose
polls cost more.
"""

from bisect import bisect_right
from functools import lru_cache
from math import sqrt

from attrs import frozen

from itwin_export_async._polling.forecast import Forecast, forecast

STRIDE = 8  # every eighth grid point is kept; between them the next poll is interpolated


@frozen
class PollPlan:
    """The best next poll for a run found alive at each of `ages`, in seconds from its start.

    Beyond the last age there is no plan.
    """

    ages: tuple[float, ...]
    poll_at: tuple[float, ...]

    def after(self, age: float) -> float | None:
        """The next poll of a run alive at `age`, None beyond the forecast's end."""
        i = bisect_right(self.ages, age)
        if i >= len(self.ages):
            return None
        young, old = self.ages[i - 1], self.ages[i]
        fraction = (age - young) / (old - young)
        return self.poll_at[i - 1] + fraction * (self.poll_at[i] - self.poll_at[i - 1])


@lru_cache(maxsize=2048)
def optimal_plan(history: tuple[float, ...], cost: float) -> PollPlan | None:
    """The plan for a run like those that took `history` seconds; None without a forecast."""
    durations = forecast(history)
    if durations is None:
        return None
    polls = solve(durations, cost)
    kept = range(0, len(polls), STRIDE)
    return PollPlan(
        ages=tuple(durations.times[i] for i in kept), poll_at=tuple(polls[i] for i in kept)
    )


def solve(durations: Forecast, cost: float) -> list[float]:
    """The best next poll from each time of the grid but the last, which is the last poll.

    Beyond the grid the cost of the scale-free schedule is assumed.
    """
    times, survival = durations.times, durations.survival
    expectation = durations.partial_expectation
    slopes: list[float] = []  # the lower envelope, from its left end where R is small
    heights: list[float] = []
    first = 0  # lines before this one lie beyond R(t)
    cost_to_go = survival[-1] * 2 * sqrt(cost * times[-1])
    polls = []
    for i in range(len(times) - 2, -1, -1):
        s = times[i + 1]
        a = cost_to_go + expectation[i + 1] - s * survival[i + 1]
        while len(slopes) - first >= 2 and _is_dominated(slopes, heights, s, a):
            slopes.pop()
            heights.pop()
        slopes.append(s)
        heights.append(a)
        r, cell = survival[i], times[i + 1] - times[i]
        best = slopes[first] * r + heights[first]
        while first + 1 < len(slopes):
            other = slopes[first + 1] * r + heights[first + 1]
            if other > best:
                break
            first, best = first + 1, other
        poll = slopes[first]
        total = cost * r - expectation[i] + best
        dense = sqrt((r - survival[i + 1]) * cell / (2 * cost * r))  # polls in the next cell alone
        if dense > 1:
            poll = times[i] + cell / dense
            total = cost_to_go + 2 * cost * r * dense
        polls.append(poll)
        cost_to_go = total
    polls.reverse()
    return polls


def _is_dominated(slopes: list[float], heights: list[float], s: float, a: float) -> bool:
    """Whether the last line lies above the one before it or the line a + s R for every R."""
    return (a - heights[-2]) * (slopes[-2] - slopes[-1]) <= (heights[-1] - heights[-2]) * (
        slopes[-2] - s
    )
