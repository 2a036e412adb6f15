"""Seconds until the end of a run is noticed, and the polls it takes, in virtual time.

Each contender waits for the same runs of the emulator: first runs of new connections, so that
nothing is known of them, with calls plentiful. Durations are drawn evenly within 25 % of 2 seconds,
20 seconds and 7 minutes, with three seeds. The lag is the time from the end of the run to the
return of `run.wait()`. A run of the emulator is `Finalizing` shortly before its end, when the
default schedule polls more often; "without `Finalizing`" is the schedule alone, without any state.
The goals hold for both. The other intervals are those of plain code (5 seconds), azure-core (30
seconds) and google-api-core (1 to 20 seconds, growing by 1.3).
"""

import asyncio
import random
from statistics import fmean

import numpy as np
from attrs import frozen

from benchmarks._support.interleave import Quartiles
from benchmarks._support.report import Goal, Report, format_number
from benchmarks._support.schedule_score import polls_of
from benchmarks._support.svg import Bar, Figure
from itwin_export_async import (
    AdaptiveSchedule,
    ExponentialSchedule,
    ExportClient,
    FixedSchedule,
    PollSchedule,
    RateLimit,
)
from itwin_export_async.emulator import Emulator, run_virtual

OURS, STATELESS = "default", "default, without `Finalizing`"
SCHEDULES: dict[str, PollSchedule] = {
    OURS: AdaptiveSchedule(),
    "every 5 s": FixedSchedule(5),
    "every 30 s": FixedSchedule(30),
    "1 to 20 s, by 1.3": ExponentialSchedule(),
}
LENGTHS = {"2 s": 2.0, "20 s": 20.0, "7 min": 420.0}
GOALS = {"2 s": 3.0, "20 s": 4.0, "7 min": 15.0}  # seconds of mean lag
WITHIN = 0.25  # of the length, to either side
SEEDS = (1963, 1974, 2024)
TOKEN_LIFETIME = 7 * 86400.0


@frozen(kw_only=True)
class Effort:
    """How many runs of each length there are, with each seed."""

    runs: int


FULL = Effort(runs=100)
QUICK = Effort(runs=10)


@frozen(kw_only=True)
class Noticed:
    """The lag of each run in seconds, and the polls of a run."""

    lags: tuple[float, ...]
    polls: float


def run(effort: Effort) -> Report:
    """Wait for the runs of each length with each schedule."""
    noticed: dict[tuple[str, str], Noticed] = {}
    for length, seconds in LENGTHS.items():
        for name, schedule in SCHEDULES.items():
            noticed[length, name] = _noticed(seconds, schedule, effort.runs)
        noticed[length, STATELESS] = _stateless(seconds, effort.runs)
    return _report(noticed)


def _durations(seed: int, seconds: float, runs: int) -> list[float]:
    drawn = random.Random(seed)
    return [seconds * drawn.uniform(1 - WITHIN, 1 + WITHIN) for _ in range(runs)]


def _stateless(seconds: float, runs: int) -> Noticed:
    """The default schedule, of which only ages matter."""
    durations = [each for seed in SEEDS for each in _durations(seed, seconds, runs)]
    polls = polls_of(SCHEDULES[OURS], seconds * (1 + WITHIN))
    noticed_by = np.searchsorted(polls, durations)
    lags = (polls[noticed_by] - durations).tolist()
    return Noticed(lags=tuple(lags), polls=float(noticed_by.mean()) + 1)


def _noticed(seconds: float, schedule: PollSchedule, runs: int) -> Noticed:
    lags: list[float] = []
    polls = 0
    for seed in SEEDS:
        found = run_virtual(_measured(seed, seconds, schedule, runs))
        lags += found.lags
        polls += round(found.polls * runs)
    return Noticed(lags=tuple(lags), polls=polls / len(lags))


async def _measured(seed: int, seconds: float, schedule: PollSchedule, runs: int) -> Noticed:
    random.seed(seed)  # of the client's jitter
    emulator = Emulator(seed=seed, token_lifetime=TOKEN_LIFETIME)
    async with ExportClient(
        emulator.token(), transport=emulator, rate_limit=RateLimit(), schedule=schedule
    ) as client:

        async def lag(duration: float) -> float:
            imodel_id = emulator.add_imodel()
            emulator.plan_next_run(imodel_id, duration=duration)
            connection = await client.create_connection(imodel_id, authentication_type="Service")
            started_at = asyncio.get_running_loop().time()
            handle = await client.start_run(connection.id)
            await handle.wait()
            return asyncio.get_running_loop().time() - started_at - duration

        lags = await asyncio.gather(*map(lag, _durations(seed, seconds, runs)))
        return Noticed(lags=tuple(lags), polls=client.session.stats.polls / runs)


def _report(noticed: dict[tuple[str, str], Noticed]) -> Report:
    means = {key: fmean(one.lags) for key, one in noticed.items()}
    return Report(
        name="notice_lag",
        title="Seconds until the end of a run is noticed",
        method=__doc__ or "",
        head=("run of", "schedule", "polls", "mean lag s", "quartiles s", "p95 s"),
        rows=tuple(
            (
                length,
                name,
                f"{one.polls:.1f}",
                f"{means[length, name]:.2f}",
                str(Quartiles.of(one.lags)),
                f"{np.quantile(one.lags, 0.95):.2f}",
            )
            for (length, name), one in noticed.items()
        ),
        bounds=("A run is noticed by a poll; only more polls make the lag shorter.",),
        goals=tuple(
            Goal(
                what=f"mean lag of a run of {length}, nothing known",
                limit=limit,
                measured=max(means[length, OURS], means[length, STATELESS]),
                unit=" s",
                in_readme=length == "7 min",
            )
            for length, limit in GOALS.items()
        ),
        values={
            f"{length}, {name}, {what}": value
            for (length, name), one in noticed.items()
            for what, value in (("polls", one.polls), ("mean lag s", means[length, name]))
        },
        figure=Figure(
            title="Mean lag in seconds until the end of a run is noticed (red: goal)",
            bars=tuple(
                Bar(
                    name=f"{name}, run of {length}",
                    value=means[length, name],
                    label=f"{format_number(means[length, name])}, {one.polls:.0f} polls",
                    goals=(GOALS[length],) if name in (OURS, STATELESS) else (),
                    is_ours=name in (OURS, STATELESS),
                )
                for (length, name), one in noticed.items()
            ),
            ticks=(0.5, 1, 2, 4, 8, 16, 32),
            origin=0.5,
        ),
        caption="Lag until the end of a run is noticed",
    )
