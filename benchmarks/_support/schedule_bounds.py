"""What no schedule can undercut, whatever it knows of the table of loads that all are judged by."""

import math
from collections.abc import Mapping

import numpy as np

from benchmarks._support.distributions import Floats, Load, best_shared_looks, likely
from benchmarks._support.schedule_score import Scores, average, judge, seen_before

ROUNDS = 40  # after which the bound of the worst hardly rises
STEP, MARGIN = 0.04, 0.2  # of the logarithms of medians: less than 5 runs of 10 % spread tell apart


def knowing_the_table(best: Scores) -> Scores:
    """The scores of who knows all loads, but not which one it looks at: the least mean ratio."""
    scores: Scores = {}
    for poll_cost, costs in _by_poll_cost(best).items():
        looks = _shared(dict.fromkeys(costs, 1.0), costs, poll_cost)
        scores |= {(load, poll_cost): judge(looks, load.ends()) for load in costs}
    return scores


def knowing_the_shapes(best: Scores, runs: int, histories: int) -> Scores:
    """The scores of who knows the shapes and the range of medians, and has seen so many runs.

    By what it was shown, in so many histories, it weighs every shape at every median in the range.
    """
    scores: Scores = {}
    for poll_cost, costs in _by_poll_cost(best).items():
        imagined = _at_every_median(costs)
        for load in costs:
            scores[load, poll_cost] = average(
                judge(_shared(likely(imagined, np.array(seen)), imagined, poll_cost), load.ends())
                for seen in seen_before(load, histories, runs)
            )
    return scores


def least_worst(best: Scores, poll_cost: float) -> float:
    """A ratio to the best that any looks exceed or meet at some load, without earlier runs seen.

    The worst is no less than the mean by any weights. Those that make the least mean large are
    found by giving weight to what the looks that are best for the weights so far are worst at.
    """
    costs = _by_poll_cost(best)[poll_cost]
    chances = dict.fromkeys(costs, 1.0)
    least, rate = 0.0, 1.0
    for _ in range(ROUNDS):
        looks = _shared(chances, costs, poll_cost)
        ratios = {load: judge(looks, load.ends()).cost(poll_cost) / costs[load] for load in costs}
        mean = sum(chances[load] * ratios[load] for load in costs) / sum(chances.values())
        least = max(least, mean)
        chances = {load: c * math.exp(rate * (ratios[load] - mean)) for load, c in chances.items()}
        rate = max(0.2, 0.9 * rate)
    return least


def _by_poll_cost(best: Scores) -> dict[float, dict[Load, float]]:
    """What each load costs at best, by what a poll costs."""
    poll_costs = dict.fromkeys(poll_cost for _, poll_cost in best)
    return {
        poll_cost: {load: one.cost(c) for (load, c), one in best.items() if c == poll_cost}
        for poll_cost in poll_costs
    }


def _at_every_median(costs: Mapping[Load, float]) -> dict[Load, float]:
    """Loads of these shapes all over the range of these medians, with what they cost at best."""
    logs = sorted({math.log(load.median) for load in costs})
    low, high = logs[0] - MARGIN, logs[-1] + MARGIN
    medians = np.linspace(low, high, math.ceil((high - low) / STEP) + 1)
    rising, imagined = sorted(costs, key=lambda load: load.median), {}
    for shape in dict.fromkeys(load.shape for load in costs):
        known = [math.log(costs[load]) for load in rising if load.shape == shape]
        for median, cost in zip(medians, np.interp(medians, logs, known), strict=True):
            imagined[Load(shape, math.exp(median))] = math.exp(cost)
    return imagined


def _shared(chances: Mapping[Load, float], costs: Mapping[Load, float], poll_cost: float) -> Floats:
    """The looks whose mean ratio to the best is least by these chances."""
    return best_shared_looks({load: c / costs[load] for load, c in chances.items()}, poll_cost)
