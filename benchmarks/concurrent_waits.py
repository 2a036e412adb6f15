"""Many runs followed at once by one process: memory for each, CPU, and the lag of the event loop.

The runs are those of a server in another process, and stay active. Plain code polls each of them
every five seconds; `run.wait()` polls by its schedule, which is more often for young runs and less
often for old ones. Each measurement has a process of its own. CPU is measured first, and then the
lag, by a task that sleeps 10 ms at a time: its own CPU is not in the figure.
"""

import asyncio
import gc
import time
import tracemalloc
from math import nan
from multiprocessing.connection import Connection
from statistics import median

from attrs import frozen

from benchmarks._support.baseline import wait_for_all
from benchmarks._support.processes import child
from benchmarks._support.report import Goal, Report, format_number
from benchmarks._support.runs_server import count_polls, serve_runs
from benchmarks._support.svg import Bar, Figure
from itwin_export_async import ExportClient, RateLimit

OURS, BASELINE = "run.wait()", "plain code, every 5 s"
TICK = 0.01  # seconds


@frozen(kw_only=True)
class Effort:
    """How many runs are followed, for how many seconds.

    `settled`: when memory is measured, after some polls of each run; `warm`: until each run was
    polled once. Each thousand runs adds `for_1000` to both. `seconds`: of CPU, and then of lag; a
    multiple of five, the period of the plain code.
    """

    numbers: tuple[int, ...]
    settled: float
    warm: float
    seconds: float
    for_1000: float = 2.0


FULL = Effort(numbers=(1_000, 10_000), settled=20.0, warm=5.0, seconds=10.0)
QUICK = Effort(numbers=(1_000,), settled=4.0, warm=7.0, seconds=5.0)


@frozen(kw_only=True)
class Usage:
    """Bytes for a run, CPU seconds and polls a second, the lags of the loop in ms."""

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
    """Follow so many runs in both ways, beside a server."""
    usage: dict[tuple[int, str], Usage] = {}
    with child(serve_runs) as server:
        base_url = server.recv()
        for number in effort.numbers:
            settled = effort.settled + effort.for_1000 * number / 1000
            with (
                child(measure_memory, base_url, OURS, number, settled) as ours,
                child(measure_memory, base_url, BASELINE, number, settled) as baseline,
            ):  # at the same time, as it does not depend on time
                memory = {OURS: ours.recv(), BASELINE: baseline.recv()}
            for name in (OURS, BASELINE):
                usage[number, name] = _speed(base_url, name, number, effort, memory[name])
    return _report(effort, usage)


def _report(effort: Effort, usage: dict[tuple[int, str], Usage]) -> Report:
    most = effort.numbers[-1]
    return Report(
        name="concurrent_waits",
        title="Runs followed at once",
        method=__doc__ or "",
        head=("", "runs", "KiB each", "polls/s", "CPU s/s", "us/poll", "lag p50 ms", "p99 ms"),
        rows=tuple(_row(name, number, one) for (number, name), one in usage.items()),
        bounds=(
            "A poll costs no less than a bare one (see `request_cpu`), a run no less than a task "
            "that sleeps and its share of the connections; a lag of 0.1 ms is the loop's own.",
        ),
        goals=(
            Goal(
                what=f"memory of a run, {most:,} at once",
                limit=8.0,
                measured=usage[most, OURS].memory / 1024,
                unit=" KiB",
                in_readme=True,
            ),
            Goal(
                what=f"lag of the event loop, 99th percentile, {most:,} runs",
                limit=50.0,
                measured=usage[most, OURS].lag_p99,
                unit=" ms",
            ),
        ),
        values={
            f"{name}, {number:,} runs, {what}": value
            for (number, name), one in usage.items()
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
                    label=f"{format_number(one.lag_p50)}, {format_number(one.lag_p99)}",
                    is_ours=name == OURS,
                )
                for (number, name), one in usage.items()
            ),
            ticks=(0.1, 0.3, 1, 3, 10, 30, 100, 300, 1000),
            origin=0.1,
        ),
        caption="Lag of an event loop that follows many runs",
    )


def _row(name: str, number: int, usage: Usage) -> tuple[str, ...]:
    return (
        name,
        f"{number:,}",
        format_number(usage.memory / 1024),
        format_number(usage.polls),
        f"{usage.cpu:.3f}",
        format_number(usage.poll_cpu),
        format_number(usage.lag_p50),
        format_number(usage.lag_p99),
    )


def _speed(base_url: str, name: str, number: int, effort: Effort, memory: float) -> Usage:
    """Follow runs in a process that measures its CPU, and then the lags of its loop."""
    warm = effort.warm + effort.for_1000 * number / 1000
    with child(measure_speed, base_url, name, number, warm, effort.seconds) as process:
        process.recv()
        before = count_polls(base_url)
        cpu = process.recv()
        polls = count_polls(base_url) - before
        lags = process.recv()
    return Usage(
        memory=memory,
        cpu=cpu / effort.seconds,
        polls=polls / effort.seconds,
        lag_p50=median(lags),
        lag_p99=sorted(lags)[int(len(lags) * 0.99)],
    )


def measure_memory(ours: Connection, base_url: str, name: str, number: int, settled: float) -> None:
    """Follow runs for so many seconds, and send the bytes that each takes."""

    async def main() -> None:
        await _warm_up(base_url, name)
        gc.collect()
        tracemalloc.start()
        task = asyncio.create_task(_follow(base_url, name, number))
        await asyncio.sleep(settled)
        assert not task.done()
        gc.collect()
        ours.send(tracemalloc.get_traced_memory()[0] / number)
        await _cancel(task)

    asyncio.run(main())


def measure_speed(
    ours: Connection, base_url: str, name: str, number: int, warm: float, seconds: float
) -> None:
    """Follow runs; send None when all are polled, then the CPU seconds, then the lags."""

    async def main() -> None:
        task = asyncio.create_task(_follow(base_url, name, number))
        await asyncio.sleep(warm)
        ours.send(None)
        cpu = time.process_time()
        await asyncio.sleep(seconds)
        ours.send(time.process_time() - cpu)
        ours.send(await _lags(seconds))
        await _cancel(task)

    asyncio.run(main())


async def _warm_up(base_url: str, name: str) -> None:
    """Follow one run shortly, so that what is made but once is there."""
    task = asyncio.create_task(_follow(base_url, name, 1))
    await asyncio.sleep(0.5)
    await _cancel(task)


async def _follow(base_url: str, name: str, number: int) -> None:
    """Wait for so many runs, which never end."""
    run_ids = [f"r{n}" for n in range(number)]
    if name == BASELINE:
        await wait_for_all(base_url, run_ids)
        return
    async with (
        ExportClient("token", base_url=base_url, rate_limit=RateLimit()) as client,
        asyncio.TaskGroup() as group,
    ):
        for run_id in run_ids:
            group.create_task(client.attach("c1", run_id).wait())


async def _cancel(task: "asyncio.Task[None]") -> None:
    task.cancel()
    await asyncio.wait([task])


async def _lags(seconds: float) -> list[float]:
    """By how much a task that sleeps 10 ms at a time is late, in milliseconds."""
    lags, end = [], time.perf_counter() + seconds
    while (before := time.perf_counter()) < end:
        await asyncio.sleep(TICK)
        lags.append((time.perf_counter() - before - TICK) * 1e3)
    return lags
