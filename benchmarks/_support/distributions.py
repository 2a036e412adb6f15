"""How long runs take: distributions of many shapes, and the looks of who knows them."""

import math
from collections.abc import Callable, Iterable, Mapping
from functools import cache

import numpy as np
import numpy.typing as npt
from attrs import frozen

Floats = npt.NDArray[np.float64]
Survival = Callable[[float], float]

UNITS = np.geomspace(1e-5, 1e3, 20_000)  # of times, in medians
ENDS = 2000  # durations a schedule is judged by, at even ranks
FINE = 8  # points of the grid to a look: with few of them the best looks are not on it


def lognormal(centre: float, sigma: float) -> Survival:
    """Its chance to last longer."""
    return lambda t: math.erfc(math.log(t / centre) / sigma / math.sqrt(2)) / 2


def weibull(centre: float, shape: float) -> Survival:
    """Its chance to last longer."""
    return lambda t: 0.5 ** ((t / centre) ** shape)


def delayed(least: float, mean: float) -> Survival:
    """A least duration, and an exponential one after it."""
    return lambda t: math.exp(-max(0.0, t - least) / mean)


def humps(share: float, one: Survival, other: Survival) -> Survival:
    """A mixture: `share` of the one, the rest of the other."""
    return lambda t: share * one(t) + (1 - share) * other(t)


SHAPES = {  # with a median near 1
    "lognormal 0.1": lognormal(1.0, 0.1),
    "lognormal 0.3": lognormal(1.0, 0.3),
    "lognormal 1": lognormal(1.0, 1.0),
    "Weibull 1": weibull(1.0, 1.0),
    "Weibull 3": weibull(1.0, 3.0),
    "delayed": delayed(0.7, 0.45),
    "two humps": humps(0.5, lognormal(0.6, 0.15), lognormal(2.0, 0.15)),
    "two humps, uneven": humps(0.7, lognormal(0.8, 0.2), lognormal(5.0, 0.3)),
}


@frozen(eq=False)
class Load:
    """Runs of one distribution: its table, and the durations that schedules are judged by."""

    shape: str
    median: float

    @property
    def gone(self) -> Floats:
        """The share that is over by each of UNITS medians."""
        return _gone(self.shape)

    def gone_by(self, ages: Floats) -> Floats:
        """The share that is over by these ages."""
        return np.interp(ages / self.median, UNITS, self.gone, left=0.0)

    def at_ranks(self, ranks: Floats) -> Floats:
        """The durations at these ranks."""
        rising = np.diff(self.gone, prepend=-1.0) > 0
        return np.array(np.interp(ranks, self.gone[rising], self.median * UNITS[rising]))

    def density(self, ages: Floats) -> Floats:
        """How likely it is to end just then, per second."""
        slope = _slope(self.shape)
        return np.interp(ages / self.median, UNITS, slope, left=0.0, right=0.0) / self.median

    def ends(self) -> Floats:
        """Durations at even ranks, in order."""
        return self.at_ranks((np.arange(ENDS) + 0.5) / ENDS)


@cache
def _gone(shape: str) -> Floats:
    return np.array([1 - SHAPES[shape](t) for t in UNITS])


@cache
def _slope(shape: str) -> Floats:
    return np.array(np.gradient(_gone(shape), UNITS))


def best_looks(load: Load, poll_cost: float, longest: float = math.inf) -> Floats:
    """The looks of who knows the distribution, at most `longest` seconds apart."""
    ranks = load.at_ranks(np.linspace(0.0002, 0.9998, 1400))
    grid = np.union1d(ranks, _evenly(ranks[0] / 2, ranks[-1] * 2, poll_cost))
    if longest < grid[-1]:  # or hardly two points of the grid are just so far apart
        grid = np.union1d(grid, np.arange(0.0, grid[-1], longest / FINE / 4))
    return cheapest(grid, load.gone_by(grid), poll_cost, longest)


def best_shared_looks(loads: Mapping[Load, float], poll_cost: float) -> Floats:
    """The looks of who knows all loads and their weights, but not which of them it looks at."""
    grid = _evenly(0.5, 2 * max(load.ends()[-1] for load in loads), poll_cost)
    gone = np.average([load.gone_by(grid) for load in loads], axis=0, weights=[*loads.values()])
    return cheapest(grid, gone, poll_cost)


def likely(loads: Iterable[Load], seen: Floats) -> dict[Load, float]:
    """How likely each of the loads is, all else being equal, once runs were seen to take so long.

    Those that are hardly possible are left out.
    """
    logs = {load: float(np.log(np.maximum(load.density(seen), 1e-300)).sum()) for load in loads}
    most = max(logs.values())
    return {load: math.exp(log - most) for load, log in logs.items() if log > most - 10}


def _evenly(first: float, last: float, poll_cost: float) -> Floats:
    """Ages from 0, in even ratios and, as looks at an unknown run, at squares."""
    squares = poll_cost * (np.arange(FINE * math.sqrt(last / poll_cost)) / FINE) ** 2
    return np.union1d(np.geomspace(first, last, 600), squares)


def cheapest(grid: Floats, gone: Floats, poll_cost: float, longest: float = math.inf) -> Floats:
    """The looks on a grid that cost least: Bellman's recursion, not the package's own.

    A run seen alive later is looked at later, so that no next look need be sought behind the one
    from the time after.
    """
    ended = np.concatenate([[0.0], np.cumsum(np.diff(gone) * (grid[1:] + grid[:-1]) / 2)])
    worth, following = np.zeros(len(grid)), np.zeros(len(grid), dtype=np.int64)
    fixed = grid * gone - ended  # the part of a look's lag that does not depend on the one before
    near = np.searchsorted(grid, grid + longest, side="right")
    look = len(grid) - 1
    for i in range(len(grid) - 2, -1, -1):
        end = min(look, max(int(near[i]) - 1, i + 1)) + 1
        costs = fixed[i + 1 : end] + worth[i + 1 : end] - grid[i + 1 : end] * gone[i]
        look = i + 1 + int(costs.argmin())
        following[i] = look
        worth[i] = poll_cost * (1 - gone[i]) + ended[i] + costs[look - i - 1]
    looks, i = [], 0
    while i < len(grid) - 1:
        i = int(following[i])
        looks.append(float(grid[i]))
    return np.array(looks)
