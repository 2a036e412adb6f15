"""What noticing the end of a run costs: polls and lag, against the best that can be done.

Cost is `poll_cost` seconds a poll and one a second of lag, relative to the schedule that knows the
true distribution of durations, found by dynamic programming. Durations are lognormal, Weibull,
skewed and two-humped, with medians from 20 seconds to 2 hours; what a schedule has seen of earlier
runs is drawn apart from what it is judged by. The waits of others are theirs as published: 1 to 20
seconds growing by 1.3 (google-api-core), 1 to 10 seconds by one more each (databricks), 30 seconds
(azure-core).

    python -m benchmarks.polling [--quick]
"""

import argparse
import json
import math
from collections.abc import Callable, Iterable
from functools import cached_property
from itertools import product
from pathlib import Path
from statistics import fmean

import numpy as np
import numpy.typing as npt
from attrs import asdict, astuple, frozen

from itwin_export_async import Exponential, FixedInterval, Inspection, PollSchedule, PollView

Floats = npt.NDArray[np.float64]
Survival = Callable[[float], float]

RESULTS = Path(__file__).parent / "results"
MEDIANS = (20.0, 120.0, 420.0, 2400.0, 7200.0)
POLL_COSTS = (1.0, 3.0, 10.0)
GOALS = {0: (1.55, 2.1), 5: (1.10, 1.35), 50: (1.04, 1.15)}  # mean and worst by runs seen
UNITS = np.geomspace(1e-5, 1e3, 20_000)  # of times, in medians
ENDS = 2000  # durations a schedule is judged by, at even ranks
SEED = 1963


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

    @cached_property
    def gone(self) -> Floats:
        """The share that is over by each of UNITS medians."""
        return np.array([1 - SHAPES[self.shape](t) for t in UNITS])

    def at_ranks(self, ranks: Floats) -> Floats:
        """The durations at these ranks."""
        rising = np.diff(self.gone, prepend=-1.0) > 0
        return np.array(np.interp(ranks, self.gone[rising], self.median * UNITS[rising]))

    def ends(self) -> Floats:
        """Durations at even ranks, in order."""
        return self.at_ranks((np.arange(ENDS) + 0.5) / ENDS)


def best_looks(load: Load, poll_cost: float) -> Floats:
    """The looks of who knows the distribution: Bellman's recursion, not the package's own."""
    ranks = load.at_ranks(np.linspace(0.0002, 0.9998, 1400))
    grid = np.unique(np.concatenate([[0.0], ranks, np.geomspace(ranks[0] / 2, ranks[-1] * 2, 600)]))
    gone = np.interp(grid / load.median, UNITS, load.gone, left=0.0)
    ended = np.concatenate([[0.0], np.cumsum(np.diff(gone) * (grid[1:] + grid[:-1]) / 2)])
    worth, following = np.zeros(len(grid)), np.zeros(len(grid), dtype=np.int64)
    fixed = grid * gone - ended  # the part of a look's lag that does not depend on the one before
    for i in range(len(grid) - 2, -1, -1):
        costs = fixed[i + 1 :] + worth[i + 1 :] - grid[i + 1 :] * gone[i]
        following[i] = i + 1 + np.argmin(costs)
        worth[i] = poll_cost * (1 - gone[i]) + ended[i] + costs[following[i] - i - 1]
    looks, i = [], 0
    while i < len(grid) - 1:
        i = int(following[i])
        looks.append(float(grid[i]))
    return np.array(looks)


class Linear:
    """Waits that grow by a second each, from 1 to 10 seconds."""

    def next_wait(self, view: PollView) -> float:
        """Seconds until the next look."""
        return min(1.0 + view.looks, 10.0)


def looks_of(schedule: PollSchedule, last: float, history: tuple[float, ...] = ()) -> Floats:
    """The ages at which a run that takes `last` seconds is looked at."""
    looks = [0.0]
    while looks[-1] < last:
        age = looks[-1]
        seen = len(looks) - 1
        view = PollView(age=age, looks=seen, state=None, since_change=age, history=history)
        looks.append(age + schedule.next_wait(view))
    return np.array(looks[1:])


@frozen
class Score:
    """Polls and seconds of lag for a run, on average, and the lag that 95 % stay below."""

    polls: float
    lag: float
    lag_p95: float

    def cost(self, poll_cost: float) -> float:
        """Seconds."""
        return poll_cost * self.polls + self.lag


def average(scores: Iterable[Score]) -> Score:
    """Over histories, or loads."""
    polls, lags, lags_p95 = zip(*map(astuple, scores), strict=True)
    return Score(fmean(polls), fmean(lags), fmean(lags_p95))


def judge(looks: Floats, ends: Floats) -> Score:
    """What runs that take `ends` seconds cost when looked at then."""
    seen_by = np.searchsorted(looks, np.minimum(ends, looks[-1]))
    lag = np.maximum(looks[seen_by] - ends, 0.0)
    return Score(float(seen_by.mean() + 1), float(lag.mean()), float(np.quantile(lag, 0.95)))


@frozen
class Contender:
    """A schedule by name, made for a `poll_cost`, and how many earlier runs it sees."""

    name: str
    schedule: Callable[[float], PollSchedule]
    runs: int = 0
    goal: tuple[float, float] | None = None  # mean and worst cost relative to the optimum


CONTENDERS = [
    Contender(f"Inspection, {runs} runs seen", lambda c: Inspection(poll_cost=c), runs, goal)
    for runs, goal in GOALS.items()
]
CONTENDERS += [
    Contender(f"no maximum, {runs} seen", lambda c: Inspection(poll_cost=c, maximum=1e9), runs)
    for runs in GOALS
]
CONTENDERS += [
    Contender("every 5 s", lambda _: FixedInterval(5)),
    Contender("every 10 s", lambda _: FixedInterval(10)),
    Contender("every 15 s", lambda _: FixedInterval(15)),
    Contender("every 30 s", lambda _: FixedInterval(30)),
    Contender("every 60 s", lambda _: FixedInterval(60)),
    Contender("1 to 20 s, by 1.3", lambda _: Exponential(initial=1, factor=1.3, maximum=20)),
    Contender("1 to 10 s, by 1 s", lambda _: Linear()),
]


def score(contender: Contender, load: Load, poll_cost: float, histories: int) -> Score:
    """Averaged over histories, which are the same for all that see as many runs."""
    ends, schedule = load.ends(), contender.schedule(poll_cost)
    if not contender.runs:
        return judge(looks_of(schedule, ends[-1]), ends)
    random = np.random.default_rng([SEED, int(load.median), *load.shape.encode()])
    drawn = load.at_ranks(random.random((histories, contender.runs))).tolist()
    return average(judge(looks_of(schedule, ends[-1], tuple(seen)), ends) for seen in drawn)


@frozen
class Row:
    """A line of the table: the score at a poll cost of 3 s, and each cost over the optimum's."""

    name: str
    goal: tuple[float, float] | None
    typical: Score
    ratios: dict[str, float]
    by_poll_cost: list[float]

    @property
    def worst(self) -> str:
        """Where it is worst."""
        return max(self.ratios, key=lambda place: self.ratios[place])

    def __str__(self) -> str:
        costs = " ".join(f"{cost:6.2f}" for cost in self.by_poll_cost)
        goal = "{:6.2f} {:5.2f}".format(*self.goal) if self.goal else ""
        mean, worst = fmean(self.ratios.values()), self.ratios[self.worst]
        score = " ".join(f"{value:7.1f}" for value in astuple(self.typical))
        return f"{self.name:24} {score}  {costs}  {mean:6.3f} {worst:6.2f} {goal:12}  {self.worst}"


HEAD = (
    f"{'':24} {'polls':>7} {'lag s':>7} {'p95 s':>7}  {'cost at 1, 3, 10 s':>20}"
    f"  {'mean':>6} {'worst':>6} {'goals':>12}  worst at"
)
Scores = dict[tuple[Load, float], Score]


def row(name: str, goal: tuple[float, float] | None, scores: Scores, best: Scores) -> Row:
    """Sum up the scores of one contender."""
    ratios = {cell: scores[cell].cost(cell[1]) / best[cell].cost(cell[1]) for cell in best}
    return Row(
        name=name,
        goal=goal,
        typical=average(one for (_, cost), one in scores.items() if cost == 3.0),
        ratios={f"{load.shape}, {load.median:g} s, {c:g} s": r for (load, c), r in ratios.items()},
        by_poll_cost=[fmean(r for (_, c), r in ratios.items() if c == cost) for cost in POLL_COSTS],
    )


LEFT, RIGHT, TOP, LINE, MOST = 190, 700, 56, 22, 16.0  # pixels; the ratio at the right edge


def figure(rows: list[Row]) -> str:
    """A bar from 1 to the mean, a line on to the worst, and ticks at the goals."""
    bottom = TOP + LINE * len(rows)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{RIGHT + 40}" height="{bottom + 40}"'
        ' font-family="sans-serif" font-size="12"><rect width="100%" height="100%" fill="white"/>',
        f'<text x="{LEFT}" y="20" font-size="14">Cost of polls and lag, relative to the optimum'
        " (bar: mean, line: worst, red: goals)</text>",
    ]
    for tick in (1, 1.5, 2, 3, 4, 6, 8, 12, 16):
        x = _x(tick)
        parts.append(
            f'<path d="M{x} {TOP - 6}V{bottom}" stroke="#ddd"/>'
            f'<text x="{x}" y="{TOP - 12}" text-anchor="middle">{tick:g}</text>'
        )
    for number, one in enumerate(rows):
        y = TOP + LINE * number
        mean, worst = _x(fmean(one.ratios.values())), _x(max(one.ratios.values()))
        color = "#2a6fb0" if one.goal else "#9ab"
        parts.append(
            f'<text x="{LEFT - 8}" y="{y + 14}" text-anchor="end">{one.name}</text>'
            f'<rect x="{LEFT}" y="{y + 4}" width="{max(1.0, mean - LEFT):.1f}" height="12"'
            f' fill="{color}"/><path d="M{mean} {y + 10}H{worst}" stroke="{color}"/>'
        )
        marks = (f"M{_x(goal)} {y + 2}v16" for goal in one.goal or ())
        parts.append(f'<path d="{"".join(marks)}" stroke="#c22" stroke-width="2"/>')
    return "\n".join([*parts, "</svg>\n"])


def _x(ratio: float) -> float:
    """Where a ratio stands, on a logarithmic axis."""
    part = math.log(max(1.0, min(ratio, MOST))) / math.log(MOST)
    return round(LEFT + part * (RIGHT - LEFT), 1)


def main() -> None:
    """Judge all, print the table, write the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer loads and histories")
    quick = parser.parse_args().quick
    histories = {0: 1, 5: 4, 50: 2} if quick else {0: 1, 5: 60, 50: 15}
    loads = [Load(shape, m) for shape in SHAPES for m in (MEDIANS[::2] if quick else MEDIANS)]
    cells = list(product(loads, POLL_COSTS))
    best = {(load, c): judge(best_looks(load, c), load.ends()) for load, c in cells}
    rows = [row("the optimum", None, best, best)]
    print(HEAD, rows[0], sep="\n")
    for one in CONTENDERS:
        scores = {(load, c): score(one, load, c, histories[one.runs]) for load, c in cells}
        rows.append(row(one.name, one.goal, scores, best))
        print(rows[-1], flush=True)
    if not quick:
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / "polling.json").write_text(json.dumps([asdict(one) for one in rows], indent=1))
        (RESULTS / "polling.svg").write_text(figure(rows[1:]))


if __name__ == "__main__":
    main()
