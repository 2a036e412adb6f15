"""The cost of polling: the polls, and the seconds of lag until the end is noticed."""

from collections.abc import Iterable
from statistics import fmean

import numpy as np
from attrs import astuple, frozen

from benchmarks._support.distributions import Floats, Load
from itwin_export_async import PollContext, PollSchedule

SEED = 1963


def polls_of(schedule: PollSchedule, last: float, history: tuple[float, ...] = ()) -> Floats:
    """The ages at which a run of `last` seconds is polled."""
    polls = [0.0]
    while polls[-1] < last:
        age = polls[-1]
        context = PollContext(
            age=age, polls=len(polls) - 1, state=None, since_change=age, history=history
        )
        polls.append(age + schedule.next_wait(context))
    return np.array(polls[1:])


def exponential_polls(initial: float, factor: float, maximum: float, last: float) -> Floats:
    """The ages at which a growing interval polls a run of `last` seconds; factor 1 is a fixed one.

    Computed without the schedule: there may be a million of them.
    """
    growing = [initial]
    while factor > 1 and growing[-1] * factor < maximum and sum(growing) < last:
        growing.append(growing[-1] * factor)
    start = np.cumsum(growing)
    interval = maximum if factor > 1 else initial
    count = int(max(last - start[-1], 0) / interval) + 1
    return np.concatenate([start, start[-1] + interval * np.arange(1, count + 1)])


@frozen
class Score:
    """Polls of a run and seconds of lag, on average, and the lag that 95 % stay below."""

    polls: float
    lag: float
    lag_p95: float

    def cost(self, poll_cost: float) -> float:
        """Seconds."""
        return poll_cost * self.polls + self.lag


def average(scores: Iterable[Score]) -> Score:
    """The average over histories, or loads."""
    polls, lags, lags_p95 = zip(*map(astuple, scores), strict=True)
    return Score(fmean(polls), fmean(lags), fmean(lags_p95))


def score_polls(polls: Floats, durations: Floats) -> Score:
    """The score of these polls for runs of these durations."""
    noticed_by = np.searchsorted(polls, np.minimum(durations, polls[-1]))
    lag = np.maximum(polls[noticed_by] - durations, 0.0)
    return Score(float(noticed_by.mean() + 1), float(lag.mean()), float(np.quantile(lag, 0.95)))


Scores = dict[tuple[Load, float], Score]  # by the load, and by the cost of a poll


def sample_histories(load: Load, histories: int, runs: int) -> list[list[float]]:
    """The durations of earlier runs, in so many histories; equal arguments give equal ones."""
    random = np.random.default_rng([SEED, int(load.median), *load.shape.encode()])
    drawn: list[list[float]] = load.quantiles(random.random((histories, runs))).tolist()
    return drawn
