"""What noticing the end of a run costs: polls and lag, against the best that can be done.

Cost is `poll_cost` seconds a poll and one a second of lag, relative to the optimum: the schedule
that knows the true distribution of durations and, like ours and all others here, looks every 15
minutes at least, found by dynamic programming. Durations are lognormal, Weibull, skewed and
two-humped, with medians from 20 seconds to 2 hours; what a schedule has seen of earlier runs is
drawn apart from what it is judged by. "Knows the table" is the one sequence of looks that costs
least on average over all these distributions, found in the same way: without earlier runs no mean
can be less. It knows the five medians, however, which nobody does: what is possible for any median
in that range is said below the table. "Knows the shapes" has them all before its eyes, at any
median in that range, and takes the looks that cost least by what it has seen. The waits of others
are theirs as published: 1 to 20 seconds growing by 1.3 (google-api-core), 1 to 10 seconds by one
more each (databricks), 30 seconds (azure-core).
"""

from collections.abc import Callable, Mapping
from itertools import product
from statistics import fmean

import numpy as np
from attrs import astuple, frozen

from benchmarks._support.distributions import SHAPES, Load, best_looks
from benchmarks._support.report import Goal, Report
from benchmarks._support.schedule_bounds import knowing_the_shapes, knowing_the_table, least_worst
from benchmarks._support.schedule_score import Score, Scores, average, judge, looks_of, seen_before
from benchmarks._support.svg import Bar, Figure
from itwin_export_async import (
    AdaptiveSchedule,
    ExponentialSchedule,
    FixedSchedule,
    PollContext,
    PollSchedule,
)

LONGEST = AdaptiveSchedule().maximum  # seconds between two looks
MEDIANS = (20.0, 120.0, 420.0, 2400.0, 7200.0)
POLL_COSTS = (1.0, 3.0, 10.0)
TYPICAL = 3.0  # by default
GOALS = {0: (1.55, 2.1), 5: (1.10, 1.35), 50: (1.04, 1.15)}  # mean and worst by runs seen


@frozen(kw_only=True)
class Effort:
    """What runs there are, how many histories by runs seen, and how many for the bound of five.

    `between`: how many medians stand for any in the range.
    """

    shapes: tuple[str, ...] = tuple(SHAPES)
    medians: tuple[float, ...]
    histories: Mapping[int, int]
    bound_histories: int
    between: int


FULL = Effort(medians=MEDIANS, histories={0: 1, 5: 300, 50: 16}, bound_histories=20, between=25)
QUICK = Effort(medians=MEDIANS[:3:2], histories={0: 1, 5: 10, 50: 2}, bound_histories=1, between=5)


class Linear:
    """Waits that grow by a second each, from 1 to 10 seconds."""

    def next_wait(self, view: PollContext) -> float:
        """Seconds until the next look."""
        return min(1.0 + view.polls, 10.0)


@frozen
class Contender:
    """A schedule by name, made for a `poll_cost`, and how many earlier runs it sees."""

    name: str
    schedule: Callable[[float], PollSchedule]
    runs: int = 0
    goal: tuple[float, float] | None = None  # mean and worst cost relative to the optimum


CONTENDERS = [
    Contender(
        f"AdaptiveSchedule, {runs} runs seen", lambda c: AdaptiveSchedule(poll_cost=c), runs, goal
    )
    for runs, goal in GOALS.items()
]
CONTENDERS += [
    Contender("every 5 s", lambda _: FixedSchedule(5)),
    Contender("every 10 s", lambda _: FixedSchedule(10)),
    Contender("every 15 s", lambda _: FixedSchedule(15)),
    Contender("every 30 s", lambda _: FixedSchedule(30)),
    Contender("every 60 s", lambda _: FixedSchedule(60)),
    Contender(
        "1 to 20 s, by 1.3", lambda _: ExponentialSchedule(initial=1, factor=1.3, maximum=20)
    ),
    Contender("1 to 10 s, by 1 s", lambda _: Linear()),
]


def score(contender: Contender, load: Load, poll_cost: float, histories: int) -> Score:
    """Averaged over histories, which are the same for all that see as many runs."""
    ends, schedule = load.ends(), contender.schedule(poll_cost)
    if not contender.runs:
        return judge(looks_of(schedule, ends[-1]), ends)
    drawn = seen_before(load, histories, contender.runs)
    return average(judge(looks_of(schedule, ends[-1], tuple(seen)), ends) for seen in drawn)


@frozen
class Row:
    """A line of the table: the score at a poll cost of 3 s, and each cost over the optimum's."""

    name: str
    runs: int  # seen before
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
        return Bar(
            name=self.name,
            value=self.mean,
            worst=self.ratios[self.worst],
            goals=self.goal or (),
            is_ours=self.goal is not None,
        )

    def words(self) -> tuple[str, ...]:
        """Its line in the table."""
        return (
            self.name,
            *(f"{value:.1f}" for value in astuple(self.typical)),
            *(f"{cost:.2f}" for cost in self.by_poll_cost),
            f"{self.mean:.3f}",
            f"{self.ratios[self.worst]:.2f}",
            self.worst,
        )


HEAD = ("", "polls", "lag s", "p95 s", "at 1 s", "at 3 s", "at 10 s", "mean", "worst", "worst at")


def row(
    name: str,
    scores: Scores,
    best: Scores,
    runs: int = 0,
    goal: tuple[float, float] | None = None,
) -> Row:
    """Sum up the scores of one contender."""
    ratios = {cell: scores[cell].cost(cell[1]) / best[cell].cost(cell[1]) for cell in best}
    return Row(
        name=name,
        runs=runs,
        goal=goal,
        typical=average(one for (_, cost), one in scores.items() if cost == TYPICAL),
        ratios={f"{load.shape}, {load.median:g} s, {c:g} s": r for (load, c), r in ratios.items()},
        by_poll_cost=[fmean(r for (_, c), r in ratios.items() if c == cost) for cost in POLL_COSTS],
        by_shape={
            shape: fmean(
                r for (load, c), r in ratios.items() if load.shape == shape and c == TYPICAL
            )
            for shape in dict.fromkeys(load.shape for load, _ in ratios)
        },
    )


def run(effort: Effort) -> Report:
    """Auditor all."""
    loads = [Load(shape, median) for shape in effort.shapes for median in effort.medians]
    cells = list(product(loads, POLL_COSTS))
    best = {(load, c): judge(best_looks(load, c, LONGEST), load.ends()) for load, c in cells}
    free = {(load, c): judge(best_looks(load, c), load.ends()) for load, c in cells}
    table = row("knows the table, 0 runs seen", knowing_the_table(best), best)
    shapes = knowing_the_shapes(best, 5, effort.bound_histories)
    rows = [
        row("the optimum", best, best),
        row("the optimum, looking as rarely as it likes", free, best),
        table,
        row("knows the shapes, 5 runs seen", shapes, best),
    ]
    possible = {
        0: (table.mean, max(least_worst(best, cost) for cost in POLL_COSTS)),
        5: (rows[-1].mean, None),
        50: (1.0, 1.0),
    }
    for one in CONTENDERS:
        scores = {(load, c): score(one, load, c, effort.histories[one.runs]) for load, c in cells}
        rows.append(row(one.name, scores, best, one.runs, one.goal))
    return _report(rows, possible, _possible_anywhere(effort))


def _possible_anywhere(effort: Effort) -> tuple[float, float]:
    """The least mean and the least worst, no run seen, of runs with any median in the range."""
    medians = np.geomspace(min(effort.medians), max(effort.medians), effort.between).tolist()
    loads = [Load(shape, median) for shape, median in product(effort.shapes, medians)]
    best = {
        (load, TYPICAL): judge(best_looks(load, TYPICAL, LONGEST), load.ends()) for load in loads
    }
    scores = knowing_the_table(best)
    mean = fmean(scores[cell].cost(TYPICAL) / best[cell].cost(TYPICAL) for cell in best)
    return mean, least_worst(best, TYPICAL)


Possible = Mapping[int, tuple[float, float | None]]  # mean and worst by runs seen


def _report(rows: list[Row], possible: Possible, anywhere: tuple[float, float]) -> Report:
    return Report(
        name="polling",
        title="What noticing the end costs: polls and lag, relative to the optimum",
        head=HEAD,
        rows=tuple(one.words() for one in rows),
        bounds=(
            "The optimum knows the distribution. Who knows all of them, but not which one it is, "
            f"has a mean of {possible[0][0]:.3f} without a run seen: no looks can have less, and "
            f"any cost {possible[0][1]:.3f} times the optimum somewhere.",
            f"With medians anywhere in that range, and a poll worth {TYPICAL:g} s, no looks have "
            f"less than {anywhere[0]:.3f}, and any cost {anywhere[1]:.3f} somewhere.",
            f"Who has seen 5 runs, and knows the shapes but not the median, has a mean of "
            f"{possible[5][0]:.3f}.",
        ),
        goals=tuple(
            Goal(
                what=f"cost of polls and lag, {one.runs} runs seen, {what}",
                limit=limit,
                measured=measured,
                unit=" x the optimum",
                possible=least,
            )
            for one in rows
            if one.goal is not None
            for what, limit, measured, least in zip(
                ("mean", "worst"),
                one.goal,
                (one.mean, one.ratios[one.worst]),
                possible[one.runs],
                strict=True,
            )
        ),
        values={
            f"{one.name}, {what}": value
            for one in rows
            for what, value in (
                ("mean", one.mean),
                *one.ratios.items(),
                *((f"{shape}, at 3 s", ratio) for shape, ratio in one.by_shape.items()),
            )
        },
        figure=Figure(
            title="Polls and lag, relative to the optimum (bar: mean, line: worst, red: goals)",
            bars=tuple(one.bar() for one in rows[1:]),
            ticks=(1, 1.5, 2, 3, 4, 6, 8, 12, 16),
        ),
        caption="What noticing the end costs",
    )
