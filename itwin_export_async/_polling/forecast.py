"""Forecast of a run's duration from the durations of earlier runs.

The logarithms of durations follow a Dirichlet process mixture of normal distributions (Antoniak,
Annals of Statistics 2 (1974)). Runs fall into components (small change, large change, early
failure), each with a location and a scale of its own; the data decide how many components there
are. Logarithms lie on a line, so each component is taken to be a contiguous segment of the sorted
durations. The weight of one segmentation is the product over its segments of

    CONCENTRATION * (k - 1)! * (marginal likelihood of the segment's k durations)

One pass from either side gives the weight of every segment without visiting all 2^(n-1)
segmentations. A segment predicts by Student's t distribution (the conjugate normal-inverse-gamma
model of Murphy, "Conjugate Bayesian analysis of the Gaussian distribution" (2007)): few runs
predict widely, many runs narrowly, and two peaks stay two. A run of a new component is expected
with weight CONCENTRATION / (n + CONCENTRATION), centred on the mean of all runs and NEW_SCALE wide.
New components decide the worst case: few runs show few of the components, and most of the cost
comes from runs that end long before the shortest one seen.

The model has no time scale: durations ten times as long give a forecast ten times as long.
"""

from bisect import bisect_left, bisect_right
from functools import lru_cache
from math import exp, lgamma, log, pi, sqrt

from attrs import frozen

PRIOR_SHAPE = 0.6  # of the scale-free hazard PRIOR_SHAPE / t, which holds where no forecast does
PRIOR_SCALE = 0.25  # expected scale of the logarithms within one component
PRIOR_DF = 1.0  # number of runs that PRIOR_SCALE counts for
PRIOR_KAPPA = 0.03  # number of runs that the overall mean counts for as a component's location
CONCENTRATION = 0.4  # number of runs that the expectation of a new component counts for
NEW_SCALE, NEW_DF = 1.0, 4.0  # of the logarithms of durations of new components
MAX_RUNS = 64  # longer histories are thinned out, evenly by rank
MIN_DURATION, MAX_DURATION = 1e-3, 1e9  # seconds; durations outside are ignored
GRID_CELLS = 512
GRID_BEFORE, GRID_AFTER = 4.0, 3.0  # how far the grid extends beyond the runs, in logarithms
MIN_WEIGHT = 5e-3  # segments of less weight are dropped
STEPS = [i / 4 for i in range(-10, 11)]  # of the coarse grid around a component


@frozen
class Component:
    """One component of the mixture: a Student's t distribution of the logarithm of durations."""

    weight: float
    location: float
    scale: float
    degrees_of_freedom: float


@frozen
class Forecast:
    """The distribution of a run's duration, on a grid that is fine where polls will be dense.

    `times`: seconds, from 0. `survival`: the probability that the run takes longer.
    `partial_expectation`: the integral of the duration over that tail, up to the grid's end.
    """

    times: tuple[float, ...]
    survival: tuple[float, ...]
    partial_expectation: tuple[float, ...]

    def remaining(self, age: float, probability: float) -> float:
        """Seconds until a run alive at `age` has ended with this probability.

        `probability` is between 0 and 1, both excluded.
        """
        age = max(0.0, age)
        return max(0.0, self._time_of((1 - probability) * self._survival_at(age)) - age)

    def _survival_at(self, age: float) -> float:
        times, survival = self.times, self.survival
        if age >= times[-1]:
            return float(survival[-1] * (times[-1] / age) ** PRIOR_SHAPE)
        i = bisect_right(times, age)
        fraction = (age - times[i - 1]) / (times[i] - times[i - 1])
        return survival[i - 1] + fraction * (survival[i] - survival[i - 1])

    def _time_of(self, wanted: float) -> float:
        """The time at which the survival has fallen to `wanted`."""
        times, survival = self.times, self.survival
        if wanted < survival[-1]:
            return float(times[-1] * (survival[-1] / wanted) ** (1 / PRIOR_SHAPE))
        i = max(1, bisect_left(survival, -wanted, key=lambda chance: -chance))
        step = survival[i - 1] - survival[i]
        fraction = (survival[i - 1] - wanted) / step if step else 1.0
        return times[i - 1] + fraction * (times[i] - times[i - 1])


@lru_cache(maxsize=256)
def forecast(history: tuple[float, ...]) -> Forecast | None:
    """The forecast from earlier durations in seconds; None without a usable one."""
    logs = sorted(log(seconds) for seconds in history if MIN_DURATION <= seconds <= MAX_DURATION)
    if not logs:
        return None
    if len(logs) > MAX_RUNS:
        logs = [logs[(2 * i + 1) * len(logs) // (2 * MAX_RUNS)] for i in range(MAX_RUNS)]
    mixture = fit_mixture(logs)
    return _tabulate(mixture, _grid(mixture, logs))


def fit_mixture(logs: list[float]) -> list[Component]:
    """The predictive mixture for sorted logarithms of durations."""
    n, mean = len(logs), sum(logs) / len(logs)
    sums, squares = [0.0], [0.0]
    for x in logs:
        sums.append(sums[-1] + x - mean)
        squares.append(squares[-1] + (x - mean) ** 2)
    prior = PRIOR_DF * PRIOR_SCALE**2

    def moments(i: int, j: int) -> tuple[float, float]:
        offset = (sums[j] - sums[i]) / (j - i)
        scatter = max(0.0, squares[j] - squares[i] - (j - i) * offset**2)
        shrinkage = PRIOR_KAPPA * (j - i) / (PRIOR_KAPPA + j - i) * offset**2
        return offset, prior + scatter + shrinkage

    constant = [0.0] + [_log_marginal_constant(k) for k in range(1, n + 1)]
    power = [(PRIOR_DF + k) / 2 for k in range(n + 1)]
    marginal_likelihood = [[0.0] * (n + 1) for _ in range(n)]
    left = [1.0] + [0.0] * n  # the weight of all segmentations left of a position
    for j in range(1, n + 1):
        for i in range(j):
            k = j - i
            marginal_likelihood[i][j] = exp(constant[k] - power[k] * log(moments(i, j)[1]))
        left[j] = sum(left[i] * marginal_likelihood[i][j] for i in range(j))
    right = [0.0] * n + [1.0]
    for i in range(n - 1, -1, -1):
        right[i] = sum(marginal_likelihood[i][j] * right[j] for j in range(i + 1, n + 1))
    total = n + CONCENTRATION
    mixture = [Component(CONCENTRATION / total, mean, NEW_SCALE, NEW_DF)]
    for i in range(n):
        for j in range(i + 1, n + 1):
            weight = left[i] * marginal_likelihood[i][j] * right[j] / left[n] * (j - i) / total
            if weight > MIN_WEIGHT:
                offset, scatter = moments(i, j)
                kappa, df = PRIOR_KAPPA + j - i, PRIOR_DF + j - i
                scale = sqrt(scatter / df * (kappa + 1) / kappa)
                mixture.append(Component(weight, mean + offset * (j - i) / kappa, scale, df))
    return mixture


def _log_marginal_constant(k: int) -> float:
    """The part of a segment's log weight that depends only on its number of durations."""
    return (
        log(CONCENTRATION)
        + lgamma(k)
        + lgamma((PRIOR_DF + k) / 2)
        - lgamma(PRIOR_DF / 2)
        + log(PRIOR_KAPPA / (PRIOR_KAPPA + k)) / 2
        + log(PRIOR_DF * PRIOR_SCALE**2) * PRIOR_DF / 2
        - log(pi) * k / 2
    )


def _density(mixture: list[Component], xs: list[float]) -> list[float]:
    """The density of the logarithm of the duration at each of `xs`."""
    total = [0.0] * len(xs)
    for component in mixture:
        df, location = component.degrees_of_freedom, component.location
        half = (df + 1) / 2
        width = df * component.scale**2
        peak = component.weight * exp(lgamma(half) - lgamma(df / 2)) / sqrt(pi * width)
        power, inverse = -half, 1 / width
        total = [
            y + peak * (1 + (x - location) * (x - location) * inverse) ** power
            for x, y in zip(xs, total, strict=True)
        ]
    return total


def _grid(mixture: list[Component], logs: list[float]) -> list[float]:
    """Logarithms of times, dense enough to choose the polls among them.

    The total error of the polls' positions is least where the density of the grid follows the
    square root of the density of the duration, counted in seconds.
    """
    low, high = logs[0] - GRID_BEFORE, logs[-1] + GRID_AFTER
    step = (high - low) / 48
    coarse = {low + step * i for i in range(49)}
    for component in sorted(mixture, key=lambda component: -component.weight)[:8]:
        coarse |= {component.location + component.scale * z * abs(z) ** 0.5 for z in STEPS}
    xs = sorted(x for x in coarse if low <= x <= high)
    roots = [sqrt(d * exp(x - high)) for d, x in zip(_density(mixture, xs), xs, strict=True)]
    integral = [0.0]
    for i in range(1, len(xs)):
        integral.append(integral[-1] + (roots[i - 1] + roots[i]) / 2 * (xs[i] - xs[i - 1]))
    evenly = 0.25 * integral[-1] / (high - low)  # a quarter of the grid is spread evenly
    cumulative = [value + evenly * (x - low) for value, x in zip(integral, xs, strict=True)]
    grid = []
    for k in range(GRID_CELLS + 1):
        target = cumulative[-1] * k / GRID_CELLS
        i = min(max(1, bisect_left(cumulative, target)), len(xs) - 1)
        fraction = (target - cumulative[i - 1]) / (cumulative[i] - cumulative[i - 1])
        grid.append(xs[i - 1] + fraction * (xs[i] - xs[i - 1]))
    return grid


def _tabulate(mixture: list[Component], grid: list[float]) -> Forecast:
    """Integrate the density from the right, so that the tail keeps its digits."""
    density = _density(mixture, grid)
    times = [exp(x) for x in grid]
    survival, expectation = [2 * density[-1]], [0.0]
    for i in range(len(grid) - 1, 0, -1):
        half = (grid[i] - grid[i - 1]) / 2
        upper, lower = density[i] * half, density[i - 1] * half
        survival.append(survival[-1] + upper + lower)
        expectation.append(expectation[-1] + upper * times[i] + lower * times[i - 1])
    total = survival[-1]
    return Forecast(
        times=(0.0, *times),
        survival=(1.0, *(chance / total for chance in reversed(survival))),
        partial_expectation=(
            expectation[-1] / total,
            *(seconds / total for seconds in reversed(expectation)),
        ),
    )
