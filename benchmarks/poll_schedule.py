"""The cost of noticing the end of a run: polls and lag, relative to the optimum.

Cost is `poll_cost` seconds a poll and one a second of lag. The optimum is the schedule that knows
the true distribution of durations and, like all others here, polls every 15 minutes at least; it
is found by dynamic programming. Durations are lognormal, Weibull, skewed and bimodal, with medians
from 20 seconds to 2 hours: the mixed load. The history that a schedule gets is drawn apart from the
durations it is scored on. "One sequence for all" is the sequence of polls of the least mean cost
over all these distributions, found in the same way: without earlier runs no mean can be less. It
knows the five medians, however, which is more than any schedule knows; the bound for any median of
that range is below the table. "Knows the shapes" weighs all shapes at all medians of the range by
the earlier runs. The "best fixed" and "best exponential" intervals are chosen in hindsight, for
each cost of a poll, out of all on a grid. The other intervals are those of google-api-core (1 to 20
seconds, growing by 1.3), databricks (1 to 10 seconds, growing by one second) and azure-core (30
seconds).
"""

from collections.abc import Callable, Mapping
from itertools import product
from statistics import fmean

import numpy as np
from attrs import astuple, frozen

from benchmarks._support.distributions import SHAPES, Load, optimal_polls
from benchmarks._support.report import Goal, Report
from benchmarks._support.schedule_bounds import bayes_optimum, minimax_bound, shared_optimum
from benchmarks._support.schedule_score import (
    Score,
    Scores,
    average,
    exponential_polls,
    polls_of,
    sample_histories,
    score_polls,
)
from benchmarks._support.svg import Bar, Figure
from itwin_export_async import (
    AdaptiveSchedule,
    ExponentialSchedule,
    FixedSchedule,
    PollContext,
    PollSchedule,
)

MAX_INTERVAL = AdaptiveSchedule().maximum  # seconds between two polls
MEDIANS = (20.0, 120.0, 420.0, 2400.0, 7200.0)
POLL_COSTS = (0.5, 3.0, 10.0)
TYPICAL = AdaptiveSchedule().poll_cost  # 0.5
GOALS: Mapping[int, tuple[float, float | None]] = {  # mean and worst, by the earlier runs
    0: (1.80, None),
    5: (1.15, 1.50),
    50: (1.04, 1.15),
}


@frozen(kw_only=True)
class Effort:
    """The loads, the histories by their number of runs, and those for the bound of five runs.

    `between`: how many medians stand for any of the range. `intervals`: of each kind, out of which
    the best are chosen.
    """

    shapes: tuple[str, ...] = tuple(SHAPES)
    medians: tuple[float, ...]
    histories: Mapping[int, int]
    bound_histories: int
    between: int
    intervals: int


FULL = Effort(
    medians=MEDIANS, histories={0: 1, 5: 100, 50: 12}, bound_histories=8, between=17, intervals=60
)
QUICK = Effort(
    medians=MEDIANS[:3:2], histories={0: 1, 5: 10, 50: 2}, bound_histories=1, between=5, intervals=8
)


class Linear:
    """Intervals that grow by a second each, from 1 to 10 seconds."""

    def next_wait(self, context: PollContext) -> float:
        """Seconds until the next poll."""
        return min(1.0 + context.polls, 10.0)


@frozen
class Contender:
    """A schedule by name, made for a `poll_cost`, and how many earlier runs it gets."""

    name: str
    schedule: Callable[[float], PollSchedule]
    runs: int = 0
    goal: tuple[float, float | None] | None = None  # mean and worst cost relative to the optimum


CONTENDERS = [
    Contender(
        f"AdaptiveSchedule, {runs} earlier runs",
        lambda c: AdaptiveSchedule(poll_cost=c),
        runs,
        goal,
    )
    for runs, goal in GOALS.items()
]
CONTENDERS += [
    Contender("every 5 s", lambda _: FixedSchedule(5)),
    Contender("every 10 s", lambda _: FixedSchedule(10)),
    Contender("every 30 s", lambda _: FixedSchedule(30)),
    Contender("every 60 s", lambda _: FixedSchedule(60)),
    Contender(
        "1 to 20 s, by 1.3", lambda _: ExponentialSchedule(initial=1, factor=1.3, maximum=20)
    ),
    Contender("1 to 10 s, by 1 s", lambda _: Linear()),
]


def score(contender: Contender, load: Load, poll_cost: float, histories: int) -> Score:
    """The average over histories, which are the same for all that get as many runs."""
    durations, schedule = load.durations(), contender.schedule(poll_cost)
    if not contender.runs:
        return score_polls(polls_of(schedule, durations[-1]), durations)
    drawn = sample_histories(load, histories, contender.runs)
    return average(
        score_polls(polls_of(schedule, durations[-1], tuple(history)), durations)
        for history in drawn
    )


@frozen
class Row:
    """A line of the table: the score at the default cost, and each cost relative to the optimum."""

    name: str
    runs: int
    goal: tuple[float, float | None] | None
    typical: Score
    ratios: dict[str, float]
    by_poll_cost: list[float]
    by_shape: dict[str, float]  # at the default cost of a poll

    @property
    def mean(self) -> float:
        """The mean of the ratios."""
        return fmean(self.ratios.values())

    @property
    def worst_at(self) -> str:
        """The load and cost of the highest ratio."""
        return max(self.ratios, key=lambda cell: self.ratios[cell])

    @property
    def worst(self) -> float:
        """The highest ratio."""
        return self.ratios[self.worst_at]

    def bar(self) -> Bar:
        """Its line in the figure."""
        return Bar(
            name=self.name,
            value=self.mean,
            worst=self.worst,
            goals=tuple(limit for limit in self.goal or () if limit is not None),
            is_ours=self.goal is not None,
        )

    def cells(self) -> tuple[str, ...]:
        """Its line in the table."""
        return (
            self.name,
            *(f"{value:.1f}" for value in astuple(self.typical)),
            *(f"{cost:.2f}" for cost in self.by_poll_cost),
            f"{self.mean:.3f}",
            f"{self.worst:.2f}",
            self.worst_at,
        )


HEAD = (
    "",
    "polls",
    "lag s",
    "p95 s",
    *(f"at {cost:g} s" for cost in POLL_COSTS),
    "mean",
    "worst",
    "worst at",
)


def row(
    name: str,
    scores: Scores,
    best: Scores,
    runs: int = 0,
    goal: tuple[float, float | None] | None = None,
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
    """Score all schedules, and find the bounds."""
    loads = [Load(shape, median) for shape in effort.shapes for median in effort.medians]
    cells = list(product(loads, POLL_COSTS))
    best = {
        (load, c): score_polls(optimal_polls(load, c, MAX_INTERVAL), load.durations())
        for load, c in cells
    }
    free = {(load, c): score_polls(optimal_polls(load, c), load.durations()) for load, c in cells}
    shared = row("one sequence for all, 0 earlier runs", shared_optimum(best), best)
    bayes = row(
        "knows the shapes, 5 earlier runs", bayes_optimum(best, 5, effort.bound_histories), best
    )
    rows = [
        row("the optimum", best, best),
        row("the optimum without a longest interval", free, best),
        shared,
        bayes,
    ]
    possible = {
        0: (shared.mean, max(minimax_bound(best, cost) for cost in POLL_COSTS)),
        5: (bayes.mean, None),
        50: (1.0, 1.0),
    }
    for one in CONTENDERS:
        scores = {(load, c): score(one, load, c, effort.histories[one.runs]) for load, c in cells}
        rows.append(row(one.name, scores, best, one.runs, one.goal))
    intervals = [
        row(f"best {kind} interval, in hindsight", scores, best)
        for kind, scores in _best_intervals(best, effort.intervals).items()
    ]
    return _report([*rows, *intervals], possible, _possible_anywhere(effort))


def _best_intervals(best: Scores, count: int) -> dict[str, Scores]:
    """The scores of the fixed and the exponential interval of the least mean, by the poll cost."""
    fixed = [(seconds, 1.0, MAX_INTERVAL) for seconds in np.geomspace(0.5, 600, count)]
    exponential = [
        (1.0, factor, maximum)
        for factor, maximum in product(
            np.geomspace(1.02, 2, count // 4), np.geomspace(5, MAX_INTERVAL, count // 4)
        )
    ]
    loads = list(dict.fromkeys(load for load, _ in best))
    chosen: dict[str, Scores] = {}
    for kind, intervals in {"fixed": fixed, "exponential": exponential}.items():
        tried = [_interval_scores(interval, loads) for interval in intervals]
        chosen[kind] = {}
        for cost in POLL_COSTS:
            least = {load: best[load, cost].cost(cost) for load in loads}
            scores = min(
                tried, key=lambda one: fmean(one[load].cost(cost) / least[load] for load in loads)
            )
            chosen[kind] |= {(load, cost): scores[load] for load in loads}
    return chosen


def _interval_scores(interval: tuple[float, float, float], loads: list[Load]) -> dict[Load, Score]:
    """The score of an interval (initial, factor, maximum) for each load."""
    durations = {load: load.durations() for load in loads}
    polls = exponential_polls(*interval, max(each[-1] for each in durations.values()))
    return {load: score_polls(polls, durations[load]) for load in loads}


def _possible_anywhere(effort: Effort) -> tuple[float, float]:
    """The least mean and the least worst without earlier runs, for any median of the range."""
    medians = np.geomspace(min(effort.medians), max(effort.medians), effort.between).tolist()
    loads = [Load(shape, median) for shape, median in product(effort.shapes, medians)]
    best = {
        (load, TYPICAL): score_polls(optimal_polls(load, TYPICAL, MAX_INTERVAL), load.durations())
        for load in loads
    }
    scores = shared_optimum(best)
    mean = fmean(scores[cell].cost(TYPICAL) / best[cell].cost(TYPICAL) for cell in best)
    return mean, minimax_bound(best, TYPICAL)


Possible = Mapping[int, tuple[float, float | None]]  # mean and worst, by the earlier runs


def _report(rows: list[Row], possible: Possible, anywhere: tuple[float, float]) -> Report:
    return Report(
        name="poll_schedule",
        title="Cost of polls and lag, relative to the optimum",
        method=__doc__ or "",
        head=HEAD,
        rows=tuple(one.cells() for one in rows),
        bounds=(
            f"Without earlier runs no schedule has a mean below {possible[0][0]:.3f}, and every "
            f"schedule costs at least {possible[0][1]:.3f} times the optimum at some load.",
            f"With medians anywhere in that range, and a poll worth {TYPICAL:g} s, the bounds are "
            f"{anywhere[0]:.3f} and {anywhere[1]:.3f}.",
            "With 5 earlier runs a schedule that knows the shapes, but not the median, has a mean "
            f"of {possible[5][0]:.3f}.",
            f"Columns of polls and lag are at {TYPICAL:g} s a poll, the default.",
        ),
        goals=(*_cost_goals(rows, possible), *_interval_goals(rows)),
        values={
            f"{one.name}, {what}": value
            for one in rows
            for what, value in (
                ("mean", one.mean),
                *one.ratios.items(),
                *((f"{shape}, at {TYPICAL:g} s", ratio) for shape, ratio in one.by_shape.items()),
            )
        },
        figure=Figure(
            title="Polls and lag, relative to the optimum (bar: mean, line: worst, red: goals)",
            bars=tuple(one.bar() for one in rows[1:]),
            ticks=(1, 1.5, 2, 3, 4, 6, 8, 12, 16),
        ),
        caption="The cost of polls and lag of each schedule",
    )


def _cost_goals(rows: list[Row], possible: Possible) -> list[Goal]:
    return [
        Goal(
            what=f"cost of polls and lag, {one.runs} earlier runs, {what}",
            limit=limit,
            measured=measured,
            unit=" x the optimum",
            possible=least,
            in_readme=what == "mean" and one.runs < 50,
            reason="the durations of so few runs do not determine their distribution",
        )
        for one in rows
        if one.goal is not None
        for what, limit, measured, least in zip(
            ("mean", "worst"), one.goal, (one.mean, one.worst), possible[one.runs], strict=True
        )
        if limit is not None
    ]


def _interval_goals(rows: list[Row]) -> list[Goal]:
    """Nothing known, against all fixed and exponential intervals, at every cost of a poll."""
    (ours,) = (one for one in rows if one.goal is not None and one.runs == 0)
    intervals = [one for one in rows if one.name.startswith(("best", "every", "1 to"))]
    return [
        Goal(
            what="highest cost, 0 earlier runs, at any cost of a poll",
            limit=1.0,
            measured=max(
                cost / min(one.by_poll_cost[number] for one in intervals)
                for number, cost in enumerate(ours.by_poll_cost)
            ),
            unit=" x the best fixed or exponential interval",
        )
    ]
