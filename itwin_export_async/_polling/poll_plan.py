"""The best looks at a run whose duration has a known distribution.

Let R(t) be the chance that the run takes longer than t, and V(t) the least expected cost, looks and
lag together, of a run that was looked at and found alive at t. The next look stands at the s that
makes it least,

    R(t) V(t) = min over s > t of  cost R(t) + (s - u integrated over ends u in (t, s]) + R(s) V(s)

(Bellman's equation). With W = R V and B(t), the integral of u over the ends u after t, this is

    W(t) = cost R(t) - B(t) + min over s > t of ( s R(t) + A(s) ),    A(s) = W(s) + B(s) - s R(s).

So each s stands for a straight line in R(t) of slope s, and the best next look lies on the lower
envelope of the lines of all later times. From the last time to the first the slopes fall while R(t)
rises, so that a line once left is never best again: the grid is solved exactly in one linear pass
(the monotone convex hull method of dynamic programming). Barlow, Hunter and Proschan, "Optimum
checking procedures", J. SIAM 11 (1963), give the conditions that such looks fulfil. A cell of the
grid that is worth more than one look gets sqrt(p d / (2 cost R)) of them, evenly, where p is the
chance of an end in it and d its length: many looks are well described by their density.

That slopes and R are monotone also means: a run seen alive later is looked at later, and so is one
whose looks cost more.
"""

from bisect import bisect_right
from functools import lru_cache
from math import sqrt

from attrs import frozen

from itwin_export_async._polling.forecast import Forecast, forecast

STRIDE = 8  # every how many grid points are kept: between them the next look is interpolated


@frozen
class Plan:
    """When a run found alive at each of `ages` is best looked at next, in seconds from its start.

    Later than the last age nothing is planned.
    """

    ages: tuple[float, ...]
    looks: tuple[float, ...]

    def after(self, age: float) -> float | None:
        """The next look at a run alive at `age`, None where the forecast ends."""
        i = bisect_right(self.ages, age)
        if i >= len(self.ages):
            return None
        young, old = self.ages[i - 1], self.ages[i]
        part = (age - young) / (old - young)
        return self.looks[i - 1] + part * (self.looks[i] - self.looks[i - 1])


@lru_cache(maxsize=2048)
def plan(history: tuple[float, ...], cost: float) -> Plan | None:
    """The plan for a run like those that took `history` seconds, None if they tell nothing."""
    foretold = forecast(history)
    if foretold is None:
        return None
    looks = solve(foretold, cost)
    kept = range(0, len(looks), STRIDE)
    return Plan(ages=tuple(foretold.times[i] for i in kept), looks=tuple(looks[i] for i in kept))


def solve(foretold: Forecast, cost: float) -> list[float]:
    """The best next look from each time of the grid but the last, which is the last to look at.

    Who comes to the end of the grid knows no more, and pays what the squares then cost.
    """
    times, alive, remaining = foretold.times, foretold.alive, foretold.remaining
    slopes: list[float] = []  # the lower envelope, from its left end where R is small
    heights: list[float] = []
    first = 0  # lines before this one are behind R(t)
    worth = alive[-1] * 2 * sqrt(cost * times[-1])
    looks = []
    for i in range(len(times) - 2, -1, -1):
        s = times[i + 1]
        a = worth + remaining[i + 1] - s * alive[i + 1]
        while len(slopes) - first >= 2 and _is_hidden(slopes, heights, s, a):
            slopes.pop()
            heights.pop()
        slopes.append(s)
        heights.append(a)
        r, cell = alive[i], times[i + 1] - times[i]
        best = slopes[first] * r + heights[first]
        while first + 1 < len(slopes):
            other = slopes[first + 1] * r + heights[first + 1]
            if other > best:
                break
            first, best = first + 1, other
        looks.append(slopes[first])
        spent = cost * r - remaining[i] + best
        dense = sqrt((r - alive[i + 1]) * cell / (2 * cost * r))  # looks in the next cell alone
        if dense > 1:
            looks[-1] = times[i] + cell / dense
            spent = worth + 2 * cost * r * dense
        worth = spent
    looks.reverse()
    return looks


def _is_hidden(slopes: list[float], heights: list[float], s: float, a: float) -> bool:
    """Whether the last line lies above the one before it or the line a + s R wherever R is."""
    return (a - heights[-2]) * (slopes[-2] - slopes[-1]) <= (heights[-1] - heights[-2]) * (
        slopes[-2] - s
    )
