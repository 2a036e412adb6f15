"""Server-sent events of one run for 1,000 visitors: polls, memory and CPU of the server's process.

Each visitor reads `itwin_export_async.web.event_stream` of one active run, as a web endpoint does;
the framework's own part is not in it. The run is that of a server in another process. Memory is
that of Python's objects; CPU is measured with the heartbeats of all visitors. The same is done with
one visitor, in a process of its own at the same time.
"""

import asyncio
import gc
import time
import tracemalloc
from multiprocessing.connection import Connection

from attrs import frozen

from benchmarks._support.processes import child
from benchmarks._support.report import Goal, Report, format_number
from benchmarks._support.runs_server import serve_runs
from itwin_export_async import ExportClient, RateLimit, RunHandle
from itwin_export_async.web import event_stream

HEARTBEAT = 15.0  # seconds, the default
MEMORY_LIMIT, CPU_LIMIT = 40.0, 0.01  # KiB for a visitor; of a core
MORE_POLLS = 2  # than one visitor causes, by the jitter of intervals


@frozen(kw_only=True)
class Effort:
    """How many visitors there are, and for how many seconds."""

    visitors: int
    warm: float
    seconds: float
    heartbeat: float = HEARTBEAT


FULL = Effort(visitors=1_000, warm=10.0, seconds=30.0)
QUICK = Effort(visitors=1_000, warm=3.0, seconds=6.0, heartbeat=3.0)


def run(effort: Effort) -> Report:
    """Measure with one visitor and with all, beside a server."""
    with child(serve_runs) as server:
        base_url = server.recv()
        with (
            child(measure_visitors, base_url, 1, effort) as one,
            child(measure_visitors, base_url, effort.visitors, effort) as many,
        ):
            usage = {1: one.recv(), effort.visitors: many.recv()}
        with child(measure_memory, base_url, effort) as process:
            memory = process.recv()
    return _report(effort, usage, memory)


def measure_visitors(ours: Connection, base_url: str, visitors: int, effort: Effort) -> None:
    """Send the polls of the run in all, and the CPU seconds a second after the warm-up."""

    async def main() -> None:
        async with _client(base_url) as client:
            tasks = _visit(client.attach("c1", "r1"), visitors, effort)
            await asyncio.sleep(effort.warm)
            cpu = time.process_time()
            await asyncio.sleep(effort.seconds)
            ours.send((client.session.stats.polls, (time.process_time() - cpu) / effort.seconds))
            await _cancel(tasks)

    asyncio.run(main())


def measure_memory(ours: Connection, base_url: str, effort: Effort) -> None:
    """Send the bytes that each visitor takes, once all have their first events."""

    async def main() -> None:
        async with _client(base_url) as client:
            run = client.attach("c1", "r1")
            first = _visit(run, 1, effort)
            await asyncio.sleep(effort.warm / 2)
            gc.collect()
            tracemalloc.start()
            tasks = _visit(run, effort.visitors, effort)
            await asyncio.sleep(effort.warm)
            gc.collect()
            ours.send(tracemalloc.get_traced_memory()[0] / effort.visitors)
            await _cancel([*first, *tasks])

    asyncio.run(main())


def _client(base_url: str) -> ExportClient:
    return ExportClient("token", base_url=base_url, rate_limit=RateLimit())


def _visit(run: RunHandle, visitors: int, effort: Effort) -> "list[asyncio.Task[None]]":
    async def visit() -> None:
        async for event in event_stream(run, heartbeat=effort.heartbeat):
            assert event

    return [asyncio.create_task(visit()) for _ in range(visitors)]


async def _cancel(tasks: "list[asyncio.Task[None]]") -> None:
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)


def _report(effort: Effort, usage: dict[int, tuple[int, float]], memory: float) -> Report:
    polls, cpu = usage[effort.visitors]
    return Report(
        name="sse_visitors",
        title=f"Server-sent events for {effort.visitors:,} visitors of one run",
        method=__doc__ or "",
        head=("visitors", "polls", "CPU s/s", "KiB each"),
        rows=tuple(
            (
                f"{visitors:,}",
                f"{polls}",
                f"{cpu:.4f}",
                format_number(memory / 1024) if visitors == effort.visitors else "",
            )
            for visitors, (polls, cpu) in usage.items()
        ),
        bounds=(
            f"All visitors share one poll task. A heartbeat goes to each every "
            f"{effort.heartbeat:g} seconds.",
        ),
        goals=(
            Goal(
                what=f"polls of one run with {effort.visitors:,} visitors",
                limit=usage[1][0] + MORE_POLLS,
                measured=polls,
                unit=" polls",
            ),
            Goal(
                what=f"memory of a visitor, {effort.visitors:,} at once",
                limit=MEMORY_LIMIT,
                measured=memory / 1024,
                unit=" KiB",
            ),
            Goal(
                what=f"CPU of {effort.visitors:,} visitors of one run",
                limit=CPU_LIMIT,
                measured=cpu,
                unit=" of a core",
            ),
        ),
        values={
            "bytes each": memory,
            **{
                f"{visitors:,} visitors, {what}": value
                for visitors, (polls, cpu) in usage.items()
                for what, value in (("polls", polls), ("CPU s/s", cpu))
            },
        },
    )
