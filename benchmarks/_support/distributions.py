"""Distributions of run durations, of many shapes, and the polls that are optimal for each."""

import math
from collections.abc import Callable, Iterable, Mapping
from functools import cache

import numpy as np
import numpy.typing as npt
from attrs import frozen

Floats = npt.NDArray[np.float64]
Survival = Callable[[float], float]

UNITS = np.geomspace(1e-5, 1e3, 20_000)  # of times, in medians
DURATIONS = 2000  # of a load, that a schedule is scored on, at even ranks
GRID_POINTS = 8  # of the grid between two polls: a coarse grid misses the best polls


def lognormal(median: float, sigma: float) -> Survival:
    """The survival function of a lognormal distribution."""
    return lambda t: math.erfc(math.log(t / median) / sigma / math.sqrt(2)) / 2


def weibull(median: float, shape: float) -> Survival:
    """The survival function of a Weibull distribution."""
    return lambda t: 0.5 ** ((t / median) ** shape)


def delayed(minimum: float, mean: float) -> Survival:
    """The survival function of a minimum and an exponential duration after it."""
    return lambda t: math.exp(-max(0.0, t - minimum) / mean)


def bimodal(share: float, one: Survival, other: Survival) -> Survival:
    """A mixture: `share` of the one, the rest of the other."""
    return lambda t: share * one(t) + (1 - share) * other(t)


SHAPES = {  # with a median near 1
    "lognormal 0.1": lognormal(1.0, 0.1),
    "lognormal 0.3": lognormal(1.0, 0.3),
    "lognormal 1": lognormal(1.0, 1.0),
    "Weibull 1": weibull(1.0, 1.0),
    "Weibull 3": weibull(1.0, 3.0),
    "delayed": delayed(0.7, 0.45),
    "bimodal": bimodal(0.5, lognormal(0.6, 0.15), lognormal(2.0, 0.15)),
    "bimodal, uneven": bimodal(0.7, lognormal(0.8, 0.2), lognormal(5.0, 0.3)),
}


@frozen(eq=False)
class Load:
    """Runs of one distribution: its table, and the durations that schedules are scored on."""

    shape: str
    median: float

    @property
    def table(self) -> Floats:
        """The cumulative distribution at each of `UNITS` medians."""
        return _table(self.shape)

    def cdf(self, ages: Floats) -> Floats:
        """The share of runs that have ended by these ages."""
        return np.interp(ages / self.median, UNITS, self.table, left=0.0)

    def quantiles(self, ranks: Floats) -> Floats:
        """The durations at these ranks."""
        rising = np.diff(self.table, prepend=-1.0) > 0
        return np.array(np.interp(ranks, self.table[rising], self.median * UNITS[rising]))

    def density(self, ages: Floats) -> Floats:
        """The probability density at these ages, per second."""
        slope = _slope(self.shape)
        return np.interp(ages / self.median, UNITS, slope, left=0.0, right=0.0) / self.median

    def durations(self) -> Floats:
        """Durations at even ranks, in order."""
        return self.quantiles((np.arange(DURATIONS) + 0.5) / DURATIONS)


@cache
def _table(shape: str) -> Floats:
    return np.array([1 - SHAPES[shape](t) for t in UNITS])


@cache
def _slope(shape: str) -> Floats:
    return np.array(np.gradient(_table(shape), UNITS))


def optimal_polls(load: Load, poll_cost: float, max_interval: float = math.inf) -> Floats:
    """The polls of least cost for this distribution, at most `max_interval` seconds apart."""
    ranks = load.quantiles(np.linspace(0.0002, 0.9998, 1400))
    grid = np.union1d(ranks, _age_grid(ranks[0] / 2, ranks[-1] * 2, poll_cost))
    if max_interval < grid[-1]:  # or hardly two points of the grid are just so far apart
        grid = np.union1d(grid, np.arange(0.0, grid[-1], max_interval / GRID_POINTS / 4))
    return cheapest_polls(grid, load.cdf(grid), poll_cost, max_interval)


def optimal_shared_polls(loads: Mapping[Load, float], poll_cost: float) -> Floats:
    """The polls of least cost for a run of one of these loads, by their weights."""
    grid = _age_grid(0.5, 2 * max(load.durations()[-1] for load in loads), poll_cost)
    cdf = np.average([load.cdf(grid) for load in loads], axis=0, weights=[*loads.values()])
    return cheapest_polls(grid, cdf, poll_cost)


def posterior(loads: Iterable[Load], history: Floats) -> dict[Load, float]:
    """The likelihood of each load given the durations of earlier runs, relative to the highest.

    Loads that are hardly possible are left out.
    """
    logs = {load: float(np.log(np.maximum(load.density(history), 1e-300)).sum()) for load in loads}
    highest = max(logs.values())
    return {load: math.exp(log - highest) for load, log in logs.items() if log > highest - 10}


def _age_grid(first: float, last: float, poll_cost: float) -> Floats:
    """Ages from 0, in even ratios and at squares, where the polls of an unknown run stand."""
    squares = poll_cost * (np.arange(GRID_POINTS * math.sqrt(last / poll_cost)) / GRID_POINTS) ** 2
    return np.union1d(np.geomspace(first, last, 600), squares)


def cheapest_polls(
    grid: Floats, cdf: Floats, poll_cost: float, max_interval: float = math.inf
) -> Floats:
    """The polls on a grid of least cost, by Bellman's recursion; not the package's own code.

    The later a run is known to be active, the later its next poll, so that no next poll stands
    before the one that follows an earlier age.
    """
    ended = np.concatenate([[0.0], np.cumsum(np.diff(cdf) * (grid[1:] + grid[:-1]) / 2)])
    cost_to_go, successor = np.zeros(len(grid)), np.zeros(len(grid), dtype=np.int64)
    fixed = grid * cdf - ended  # the part of a poll's lag that does not depend on the one before
    near = np.searchsorted(grid, grid + max_interval, side="right")
    poll = len(grid) - 1
    for i in range(len(grid) - 2, -1, -1):
        end = min(poll, max(int(near[i]) - 1, i + 1)) + 1
        costs = fixed[i + 1 : end] + cost_to_go[i + 1 : end] - grid[i + 1 : end] * cdf[i]
        poll = i + 1 + int(costs.argmin())
        successor[i] = poll
        cost_to_go[i] = poll_cost * (1 - cdf[i]) + ended[i] + costs[poll - i - 1]
    polls, i = [], 0
    while i < len(grid) - 1:
        i = int(successor[i])
        polls.append(float(grid[i]))
    return np.array(polls)
