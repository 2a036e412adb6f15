"""Lower bounds that no schedule can undercut, whatever it knows of the table of loads."""

import math
from collections.abc import Mapping

import numpy as np

from benchmarks._support.distributions import Floats, Load, optimal_shared_polls, posterior
from benchmarks._support.schedule_score import (
    Scores,
    average,
    sample_histories,
    score_polls,
)

ROUNDS = 40  # after which the bound of the worst hardly rises
STEP, MARGIN = 0.04, 0.2  # of logarithms of medians: finer than 5 runs of 10 % spread resolve


def shared_optimum(best: Scores) -> Scores:
    """The scores of one sequence of polls for all loads: the least mean ratio to the best."""
    scores: Scores = {}
    for poll_cost, costs in _by_poll_cost(best).items():
        polls = _shared(dict.fromkeys(costs, 1.0), costs, poll_cost)
        scores |= {(load, poll_cost): score_polls(polls, load.durations()) for load in costs}
    return scores


def bayes_optimum(best: Scores, runs: int, histories: int) -> Scores:
    """The scores of a schedule that knows the shapes, the range of medians and earlier runs.

    In each of so many histories it weighs every shape at every median of the range by the
    durations of the earlier runs.
    """
    scores: Scores = {}
    for poll_cost, costs in _by_poll_cost(best).items():
        imagined = _at_every_median(costs)
        for load in costs:
            scores[load, poll_cost] = average(
                score_polls(
                    _shared(posterior(imagined, np.array(history)), imagined, poll_cost),
                    load.durations(),
                )
                for history in sample_histories(load, histories, runs)
            )
    return scores


def minimax_bound(best: Scores, poll_cost: float) -> float:
    """A ratio to the best that any polls reach or exceed at some load, without earlier runs.

    The worst ratio is no less than the mean by any weights. Weights of a large least mean are
    found by raising the weight of the loads at which the polls for the present weights are worst.
    """
    costs = _by_poll_cost(best)[poll_cost]
    weights = dict.fromkeys(costs, 1.0)
    least, rate = 0.0, 1.0
    for _ in range(ROUNDS):
        polls = _shared(weights, costs, poll_cost)
        ratios = {
            load: score_polls(polls, load.durations()).cost(poll_cost) / costs[load]
            for load in costs
        }
        mean = sum(weights[load] * ratios[load] for load in costs) / sum(weights.values())
        least = max(least, mean)
        weights = {load: w * math.exp(rate * (ratios[load] - mean)) for load, w in weights.items()}
        rate = max(0.2, 0.9 * rate)
    return least


def _by_poll_cost(best: Scores) -> dict[float, dict[Load, float]]:
    """The least cost of each load, by the cost of a poll."""
    poll_costs = dict.fromkeys(poll_cost for _, poll_cost in best)
    return {
        poll_cost: {load: one.cost(c) for (load, c), one in best.items() if c == poll_cost}
        for poll_cost in poll_costs
    }


def _at_every_median(costs: Mapping[Load, float]) -> dict[Load, float]:
    """Loads of these shapes all over the range of these medians, with their least costs."""
    logs = sorted({math.log(load.median) for load in costs})
    low, high = logs[0] - MARGIN, logs[-1] + MARGIN
    medians = np.linspace(low, high, math.ceil((high - low) / STEP) + 1)
    rising, imagined = sorted(costs, key=lambda load: load.median), {}
    for shape in dict.fromkeys(load.shape for load in costs):
        known = [math.log(costs[load]) for load in rising if load.shape == shape]
        for median, cost in zip(medians, np.interp(medians, logs, known), strict=True):
            imagined[Load(shape, math.exp(median))] = math.exp(cost)
    return imagined


def _shared(weights: Mapping[Load, float], costs: Mapping[Load, float], poll_cost: float) -> Floats:
    """The polls whose mean ratio to the best is least by these weights."""
    return optimal_shared_polls(
        {load: weight / costs[load] for load, weight in weights.items()}, poll_cost
    )
