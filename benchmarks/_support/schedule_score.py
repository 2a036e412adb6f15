"""What looking at runs costs: the polls, and the seconds of lag until the end is noticed."""

from collections.abc import Iterable
from statistics import fmean

import numpy as np
from attrs import astuple, frozen

from benchmarks._support.distributions import Floats, Load
from itwin_export_async import PollContext, PollSchedule

SEED = 1963


def looks_of(schedule: PollSchedule, last: float, history: tuple[float, ...] = ()) -> Floats:
    """The ages at which a run that takes `last` seconds is looked at."""
    looks = [0.0]
    while looks[-1] < last:
        age = looks[-1]
        seen = len(looks) - 1
        view = PollContext(age=age, polls=seen, state=None, since_change=age, history=history)
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


Scores = dict[tuple[Load, float], Score]  # by what is looked at, and what a poll costs


def seen_before(load: Load, histories: int, runs: int) -> list[list[float]]:
    """What earlier runs took, in so many histories: always the same ones."""
    random = np.random.default_rng([SEED, int(load.median), *load.shape.encode()])
    drawn: list[list[float]] = load.at_ranks(random.random((histories, runs))).tolist()
    return drawn
