"""How long a run will take, from what earlier ones took.

The logarithms of durations are taken for a Dirichlet process mixture of normal distributions
(Antoniak, Annals of Statistics 2 (1974)): runs come in kinds (small change, large change, failure
at the gate), each with a typical duration and a spread of its own, and how many kinds there are is
left to the data. As logarithms lie on a line, kinds are taken for neighbours on it: with the sorted
durations cut in every possible way into segments, the weight of one way is the product of

    NEWNESS * (k - 1)! * (the probability of its k durations, location and spread unknown)

over its segments, and one pass from either side gives the weight of every segment without visiting
the 2^(n-1) ways. A segment predicts by Student's distribution (the conjugate normal-inverse-gamma
model of Murphy, "Conjugate Bayesian analysis of the Gaussian distribution" (2007)), so that few
runs predict widely and many narrowly, and two humps stay two. A run of a new kind is expected with
weight NEWNESS / (n + NEWNESS): what is left of it in the end keeps surprises in view. New kinds are
expected around the middle of all runs, NEW_SPREAD wide. They are what decides how bad the worst is:
few runs show few of the kinds, and most of what that costs is the lag of runs that end long before
the shortest of those seen.

Nothing in it has a scale: durations ten times as long give a forecast ten times as long.
"""

from bisect import bisect_left
from functools import lru_cache
from math import exp, lgamma, log, pi, sqrt

from attrs import frozen

SPREAD = 0.25  # of the logarithm of durations of one kind, as expected before any is known
TRUST = 1.0  # how many runs that expectation counts for
LOOSENESS = 0.03  # how many runs the middle of all durations counts for as the centre of a kind
NEWNESS = 0.4  # how many runs count for the expectation of a new kind
NEW_SPREAD, NEW_FREEDOM = 1.0, 4.0  # of the logarithm of durations of new kinds
MOST_RUNS = 64  # more are thinned out, evenly by rank
SHORTEST, LONGEST = 1e-3, 1e9  # seconds; a duration outside is no duration
CELLS = 512
BEFORE, AFTER = 4.0, 3.0  # how far the grid reaches past the runs, in logarithms
NEGLIGIBLE = 5e-3  # weight of a segment
STEPS = [i / 4 for i in range(-10, 11)]  # of the rough grid around a kind


@frozen
class Kind:
    """Student's distribution of the logarithm of durations, and its share of the whole."""

    weight: float
    centre: float
    spread: float
    freedom: float


@frozen
class Forecast:
    """The distribution of a run's duration, on a grid that is fine where looks will be dense.

    `times`: seconds, from 0. `alive`: the chance that the run takes longer. `remaining`: the
    integral of the duration over that chance, up to the end of the grid.
    """

    times: tuple[float, ...]
    alive: tuple[float, ...]
    remaining: tuple[float, ...]


@lru_cache(maxsize=256)
def forecast(history: tuple[float, ...]) -> Forecast | None:
    """What earlier runs foretell, in seconds, None if they tell nothing."""
    logs = sorted(log(seconds) for seconds in history if SHORTEST <= seconds <= LONGEST)
    if not logs:
        return None
    if len(logs) > MOST_RUNS:
        logs = [logs[(2 * i + 1) * len(logs) // (2 * MOST_RUNS)] for i in range(MOST_RUNS)]
    found = kinds(logs)
    return _tabulated(found, _grid(found, logs))


def kinds(logs: list[float]) -> list[Kind]:
    """The mixture that sorted logarithms of durations foretell."""
    n, middle = len(logs), sum(logs) / len(logs)
    sums, squares = [0.0], [0.0]
    for x in logs:
        sums.append(sums[-1] + x - middle)
        squares.append(squares[-1] + (x - middle) ** 2)
    prior = TRUST * SPREAD**2

    def moments(i: int, j: int) -> tuple[float, float]:
        mean = (sums[j] - sums[i]) / (j - i)
        scatter = max(0.0, squares[j] - squares[i] - (j - i) * mean**2)
        return mean, prior + scatter + LOOSENESS * (j - i) / (LOOSENESS + j - i) * mean**2

    factor = [0.0] + [_log_factor(k) for k in range(1, n + 1)]
    power = [(TRUST + k) / 2 for k in range(n + 1)]
    likely = [[0.0] * (n + 1) for _ in range(n)]
    left = [1.0] + [0.0] * n  # the weight of all ways to cut what is left of a place
    for j in range(1, n + 1):
        for i in range(j):
            k = j - i
            likely[i][j] = exp(factor[k] - power[k] * log(moments(i, j)[1]))
        left[j] = sum(left[i] * likely[i][j] for i in range(j))
    right = [0.0] * n + [1.0]
    for i in range(n - 1, -1, -1):
        right[i] = sum(likely[i][j] * right[j] for j in range(i + 1, n + 1))
    whole = n + NEWNESS
    found = [Kind(NEWNESS / whole, middle, NEW_SPREAD, NEW_FREEDOM)]
    for i in range(n):
        for j in range(i + 1, n + 1):
            weight = left[i] * likely[i][j] * right[j] / left[n] * (j - i) / whole
            if weight > NEGLIGIBLE:
                mean, scatter = moments(i, j)
                held, freedom = LOOSENESS + j - i, TRUST + j - i
                spread = sqrt(scatter / freedom * (held + 1) / held)
                found.append(Kind(weight, middle + mean * (j - i) / held, spread, freedom))
    return found


def _log_factor(k: int) -> float:
    """What a segment of k durations weighs, but for their scatter."""
    return (
        log(NEWNESS)
        + lgamma(k)
        + lgamma((TRUST + k) / 2)
        - lgamma(TRUST / 2)
        + log(LOOSENESS / (LOOSENESS + k)) / 2
        + log(TRUST * SPREAD**2) * TRUST / 2
        - log(pi) * k / 2
    )


def _density(found: list[Kind], xs: list[float]) -> list[float]:
    """The density of the logarithm of the duration."""
    total = [0.0] * len(xs)
    for kind in found:
        half = (kind.freedom + 1) / 2
        scale = kind.freedom * kind.spread**2
        peak = kind.weight * exp(lgamma(half) - lgamma(kind.freedom / 2)) / sqrt(pi * scale)
        centre, power, inverse = kind.centre, -half, 1 / scale
        total = [
            y + peak * (1 + (x - centre) * (x - centre) * inverse) ** power
            for x, y in zip(xs, total, strict=True)
        ]
    return total


def _grid(found: list[Kind], logs: list[float]) -> list[float]:
    """Logarithms of times, so dense that the looks can be chosen among them.

    The error of a look's place costs least in all where the density of the grid follows the square
    root of the density of the duration, counted in seconds.
    """
    low, high = logs[0] - BEFORE, logs[-1] + AFTER
    step = (high - low) / 48
    rough = {low + step * i for i in range(49)}
    for kind in sorted(found, key=lambda kind: -kind.weight)[:8]:
        rough |= {kind.centre + kind.spread * z * abs(z) ** 0.5 for z in STEPS}
    xs = sorted(x for x in rough if low <= x <= high)
    roots = [sqrt(d * exp(x - high)) for d, x in zip(_density(found, xs), xs, strict=True)]
    looks = [0.0]
    for i in range(1, len(xs)):
        looks.append(looks[-1] + (roots[i - 1] + roots[i]) / 2 * (xs[i] - xs[i - 1]))
    share = 0.25 * looks[-1] / (high - low)  # a quarter of the grid is spread evenly
    course = [seen + share * (x - low) for seen, x in zip(looks, xs, strict=True)]
    grid = []
    for k in range(CELLS + 1):
        place = course[-1] * k / CELLS
        i = min(max(1, bisect_left(course, place)), len(xs) - 1)
        part = (place - course[i - 1]) / (course[i] - course[i - 1])
        grid.append(xs[i - 1] + part * (xs[i] - xs[i - 1]))
    return grid


def _tabulated(found: list[Kind], grid: list[float]) -> Forecast:
    """Integrals of the density, from the right, so that the tail keeps its digits."""
    density = _density(found, grid)
    times = [exp(x) for x in grid]
    alive, remaining = [2 * density[-1]], [0.0]
    for i in range(len(grid) - 1, 0, -1):
        half = (grid[i] - grid[i - 1]) / 2
        one, other = density[i] * half, density[i - 1] * half
        alive.append(alive[-1] + one + other)
        remaining.append(remaining[-1] + one * times[i] + other * times[i - 1])
    whole = alive[-1]
    return Forecast(
        times=(0.0, *times),
        alive=(1.0, *(a / whole for a in reversed(alive))),
        remaining=(remaining[-1] / whole, *(r / whole for r in reversed(remaining))),
    )
