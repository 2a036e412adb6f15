"""What noticing the end of a run costs: polls and lag, against the best that can be done.

Cost is `poll_cost` seconds a poll and one a second of lag, relative to the schedule that knows the
true distribution of durations, found by dynamic programming. Durations are lognormal, Weibull,
skewed and two-humped, with medians from 20 seconds to 2 hours; what a schedule has seen of earlier
runs is drawn apart from what it is judged by. "Knows the table" is the one sequence of looks that
costs least on average over all these distributions, found in the same way: without earlier runs no
mean can be less. The waits of others are theirs as published: 1 to 20 seconds growing by 1.3
(google-api-core), 1 to 10 seconds by one more each (databricks), 30 seconds (azure-core).

    python -m benchmarks.polling [--quick]
"""

import argparse
import json
from collections.abc import Callable, Iterable
from itertools import product
from pathlib import Path
from statistics import fmean

import numpy as np
from attrs import asdict, astuple, frozen

from benchmarks.durations import SHAPES, Floats, Load, best_looks, best_shared_looks
from benchmarks.polling_figure import Bar, figure
from itwin_export_async import Exponential, FixedInterval, Inspection, PollSchedule, PollView

RESULTS = Path(__file__).parent / "results"
MEDIANS = (20.0, 120.0, 420.0, 2400.0, 7200.0)
POLL_COSTS = (1.0, 3.0, 10.0)
GOALS = {0: (1.55, 2.1), 5: (1.10, 1.35), 50: (1.04, 1.15)}  # mean and worst by runs seen
SEED = 1963


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
    by_shape: dict[str, float]  # at a poll cost of 3 s

    @property
    def mean(self) -> float:
        """The mean of its costs."""
        return fmean(self.ratios.values())

    @property
    def worst(self) -> str:
        """Where it is worst."""
        return max(self.ratios, key=lambda place: self.ratios[place])

    def bar(self) -> Bar:
        """Its line in the figure."""
        color = "#2a6fb0" if self.goal else "#9ab"
        return Bar(self.name, self.mean, self.ratios[self.worst], self.goal, color)

    def __str__(self) -> str:
        costs = " ".join(f"{cost:6.2f}" for cost in self.by_poll_cost)
        goal = "{:6.2f} {:5.2f}".format(*self.goal) if self.goal else ""
        most = f"{self.ratios[self.worst]:6.2f}"
        score = " ".join(f"{value:7.1f}" for value in astuple(self.typical))
        return f"{self.name:28} {score}  {costs}  {self.mean:6.3f} {most} {goal:12}  {self.worst}"


HEAD = (
    f"{'':28} {'polls':>7} {'lag s':>7} {'p95 s':>7}  {'cost at 1, 3, 10 s':>20}"
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
        by_shape={
            shape: fmean(r for (load, c), r in ratios.items() if load.shape == shape and c == 3.0)
            for shape in SHAPES
        },
    )


def knowing_the_table(best: Scores) -> Scores:
    """The scores of the looks that cost least on average over all loads, relative to the best."""
    scores: Scores = {}
    for poll_cost in POLL_COSTS:
        weights = {load: 1 / one.cost(c) for (load, c), one in best.items() if c == poll_cost}
        looks = best_shared_looks(weights, poll_cost)
        scores |= {(load, poll_cost): judge(looks, load.ends()) for load in weights}
    return scores


def by_shape(rows: list[Row]) -> str:
    """A table of the costs at a poll cost of 3 s, averaged over medians."""
    head = f"{'at 3 s, by shape':28} " + " ".join(f"{shape:>17}" for shape in SHAPES)
    lines = [
        f"{one.name:28} " + " ".join(f"{ratio:17.3f}" for ratio in one.by_shape.values())
        for one in rows
    ]
    return "\n".join([head, *lines])


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
    rows.append(row("knows the table, 0 runs seen", None, knowing_the_table(best), best))
    print(HEAD, *rows, sep="\n")
    for one in CONTENDERS:
        scores = {(load, c): score(one, load, c, histories[one.runs]) for load, c in cells}
        rows.append(row(one.name, one.goal, scores, best))
        print(rows[-1], flush=True)
    print("", by_shape(rows[1 : 2 + len(GOALS)]), sep="\n")
    if not quick:
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / "polling.json").write_text(json.dumps([asdict(one) for one in rows], indent=1))
        (RESULTS / "polling.svg").write_text(figure(one.bar() for one in rows[1:]))


if __name__ == "__main__":
    main()
