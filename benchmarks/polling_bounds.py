"""What no schedule can undercut, whatever it knows of the table of loads that all are judged by."""

import math
from collections.abc import Mapping

import numpy as np

from benchmarks.durations import Floats, Load, best_looks, best_shared_looks, likely
from benchmarks.judging import Scores, average, judge, seen_before

ROUNDS = 16  # after which the bound of the worst hardly rises


def knowing_the_table(best: Scores) -> Scores:
    """The scores of who knows all loads, but not which one it looks at: the least mean ratio."""
    scores: Scores = {}
    for poll_cost, costs in _by_poll_cost(best).items():
        looks = _shared(dict.fromkeys(costs, 1.0), costs, poll_cost)
        scores |= {(load, poll_cost): judge(looks, load.ends()) for load in costs}
    return scores


def having_seen(best: Scores, runs: int, histories: int) -> Scores:
    """The same, but that so many runs were seen of the one it looks at, in so many histories."""
    scores: Scores = {}
    for poll_cost, costs in _by_poll_cost(best).items():
        for load in costs:
            scores[load, poll_cost] = average(
                judge(_shared(likely(costs, np.array(seen)), costs, poll_cost), load.ends())
                for seen in seen_before(load, histories, runs)
            )
    return scores


def no_further_apart(best: Scores, longest: float) -> Scores:
    """The scores of who knows the distribution, but looks every `longest` seconds at least."""
    return {(load, c): judge(best_looks(load, c, longest), load.ends()) for load, c in best}


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


def _shared(chances: Mapping[Load, float], costs: Mapping[Load, float], poll_cost: float) -> Floats:
    """The looks whose mean ratio to the best is least by these chances."""
    return best_shared_looks({load: c / costs[load] for load, c in chances.items()}, poll_cost)
