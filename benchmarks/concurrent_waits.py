"""What it takes to follow many runs at once: memory for each, CPU, and the lag of the loop.

The runs are those of a server in another process, which always says that they go on. The poller
that people write by hand looks at each of them every five seconds; ours looks when its schedule
says, so that it makes more looks at young runs and fewer at old ones. Each measurement has a
process of its own.
"""

import asyncio
import gc
import time
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from math import nan
from multiprocessing.connection import Connection
from statistics import median
from urllib.request import urlopen

from attrs import frozen

from benchmarks._support.baseline import wait_for_all
from benchmarks._support.processes import child
from benchmarks._support.report import Goal, Report, shown
from benchmarks._support.runs_server import tell_runs
from benchmarks._support.svg import Bar, Figure
from itwin_export_async import ExportClient, RateLimit

OURS, NAIVE = "run.wait()", "by hand, every 5 s"
TICK = 0.01  # seconds


@frozen(kw_only=True)
class Effort:
    """How many runs are followed, for how many seconds.

    `settled` is when a run has been looked at some times, as the memory of one look is less;
    `warm` is the time for the first look at each. Each thousand runs adds `for_1000` to both.
    `seconds` should be a multiple of five, the period of what is written by hand.
    """

    numbers: tuple[int, ...]
    settled: float
    warm: float
    seconds: float
    for_1000: float = 2.0


FULL = Effort(numbers=(100, 1_000, 10_000), settled=28.0, warm=5.0, seconds=15.0)
QUICK = Effort(numbers=(1_000,), settled=4.0, warm=7.0, seconds=5.0)


@frozen(kw_only=True)
class Taken:
    """What it took: bytes for a run, CPU and polls a second, the lags of the loop in ms."""

    memory: float
    cpu: float
    polls: float
    lag_p50: float
    lag_p99: float

    @property
    def poll_cpu(self) -> float:
        """Microseconds of CPU for a poll, NaN without any."""
        return self.cpu / self.polls * 1e6 if self.polls else nan


def run(effort: Effort) -> Report:
    """Follow so many runs with either, beside a server."""
    taken: dict[tuple[int, str], Taken] = {}
    with child(tell_runs) as server:
        base_url = server.recv()
        for number in effort.numbers:
            settled = effort.settled + effort.for_1000 * number / 1000
            with (
                _memory(base_url, OURS, number, settled) as ours,
                _memory(base_url, NAIVE, number, settled) as naive,
            ):  # at the same time, as it does not depend on time
                memory = {OURS: ours.recv(), NAIVE: naive.recv()}
            for name in (OURS, NAIVE):
                taken[number, name] = _speed(base_url, name, number, effort, memory[name])
    return _report(effort, taken)


def _report(effort: Effort, taken: dict[tuple[int, str], Taken]) -> Report:
    most = effort.numbers[-1]
    return Report(
        name="following",
        title="Runs followed at once",
        head=("", "runs", "KiB each", "polls/s", "CPU s/s", "us/poll", "lag p50 ms", "p99 ms"),
        rows=tuple(_row(name, number, one) for (number, name), one in taken.items()),
        bounds=(
            "A poll costs no less than a bare one (see poll), a run no less than a task that sleeps"
            " and its share of the connections; a lag of 0.1 ms is the loop's own.",
        ),
        goals=(
            Goal(
                what=f"memory of a run, {most:,} at once",
                limit=8.0,
                measured=taken[most, OURS].memory / 1024,
                unit=" KiB",
            ),
            Goal(
                what=f"lag of the loop, 99 of 100, {most:,} runs",
                limit=50.0,
                measured=taken[most, OURS].lag_p99,
                unit=" ms",
            ),
        ),
        values={
            f"{name}, {number:,} runs, {what}": value
            for (number, name), one in taken.items()
            for what, value in (
                ("bytes each", one.memory),
                ("CPU s/s", one.cpu),
                ("polls/s", one.polls),
                ("lag p50 ms", one.lag_p50),
                ("lag p99 ms", one.lag_p99),
            )
        },
        figure=Figure(
            title="Lag of the event loop in ms, while runs are followed (bar: median, line: p99)",
            bars=tuple(
                Bar(
                    name=f"{name}, {number:,}",
                    value=one.lag_p50,
                    worst=one.lag_p99,
                    label=f"{shown(one.lag_p50)}, {shown(one.lag_p99)}",
                    is_ours=name == OURS,
                )
                for (number, name), one in taken.items()
            ),
            ticks=(0.1, 0.3, 1, 3, 10, 30, 100, 300, 1000),
            origin=0.1,
        ),
        caption="How late an event loop is that follows many runs",
    )


def _row(name: str, number: int, taken: Taken) -> tuple[str, ...]:
    return (
        name,
        f"{number:,}",
        shown(taken.memory / 1024),
        shown(taken.polls),
        f"{taken.cpu:.3f}",
        shown(taken.poll_cpu),
        shown(taken.lag_p50),
        shown(taken.lag_p99),
    )


@contextmanager
def _memory(base_url: str, name: str, number: int, settled: float) -> Iterator[Connection]:
    """A process that follows runs for so many seconds, and then says how many bytes each takes."""
    with child(tell_memory, base_url, name, number, settled) as follower:
        yield follower


def _speed(base_url: str, name: str, number: int, effort: Effort, memory: float) -> Taken:
    """Follow runs in a process that says, when asked, what CPU it has used and how late it was."""
    warm = effort.warm + effort.for_1000 * number / 1000
    with child(tell_speed, base_url, name, number, warm, effort.seconds) as follower:
        follower.recv()
        before = _polls(base_url)
        cpu, late = follower.recv()
        polls = _polls(base_url) - before
    return Taken(
        memory=memory,
        cpu=cpu / effort.seconds,
        polls=polls / effort.seconds,
        lag_p50=median(late),
        lag_p99=sorted(late)[int(len(late) * 0.99)],
    )


def _polls(base_url: str) -> int:
    """How many polls the server has seen."""
    with urlopen(f"{base_url}/polls", timeout=30) as answer:
        return int(answer.read())


def tell_memory(ours: Connection, base_url: str, name: str, number: int, settled: float) -> None:
    """Follow runs, and say what each takes, in bytes."""

    async def main() -> None:
        await _warmed(base_url, name)
        gc.collect()
        tracemalloc.start()
        following = asyncio.create_task(_follow(base_url, name, number))
        await asyncio.sleep(settled)
        assert not following.done()
        gc.collect()
        ours.send(tracemalloc.get_traced_memory()[0] / number)
        await _ended(following)

    asyncio.run(main())


def tell_speed(
    ours: Connection, base_url: str, name: str, number: int, warm: float, seconds: float
) -> None:
    """Follow runs, say when they have been looked at, and then the CPU seconds and the lags."""

    async def main() -> None:
        following = asyncio.create_task(_follow(base_url, name, number))
        await asyncio.sleep(warm)
        ours.send(None)
        cpu = time.process_time()
        late = await _lags(seconds)
        ours.send((time.process_time() - cpu, late))
        await _ended(following)

    asyncio.run(main())


async def _warmed(base_url: str, name: str) -> None:
    """Follow one run shortly, so that what is made but once is there."""
    warm = asyncio.create_task(_follow(base_url, name, 1))
    await asyncio.sleep(0.5)
    await _ended(warm)


async def _follow(base_url: str, name: str, number: int) -> None:
    """Wait for so many runs, which never end."""
    run_ids = [f"r{n}" for n in range(number)]
    if name == NAIVE:
        await wait_for_all(base_url, run_ids)
        return
    async with (
        ExportClient("token", base_url=base_url, rate_limit=RateLimit()) as client,
        asyncio.TaskGroup() as group,
    ):
        for run_id in run_ids:
            group.create_task(client.attach("c1", run_id).wait())


async def _ended(task: "asyncio.Task[None]") -> None:
    task.cancel()
    await asyncio.wait([task])


async def _lags(seconds: float) -> list[float]:
    """By how much a task that sleeps 10 ms at a time is late, in milliseconds."""
    late, end = [], time.perf_counter() + seconds
    while (before := time.perf_counter()) < end:
        await asyncio.sleep(TICK)
        late.append((time.perf_counter() - before - TICK) * 1e3)
    return late
