"""A batch of 10,000 exports with a ledger: wall time, CPU and memory.

The emulator is in the same process and time is virtual, so the wall time is what the client and the
emulator compute and what the ledger writes, in a folder in memory where the system has one: a disk
adds its own time for each step that the ledger makes durable. Each way has a process of its own.
Plain code does the same exports against the same emulator without a limit, a ledger or retries:
what it takes is mostly the emulator's part. The batch is run again when all is up to date.
"""

import random
import time
from collections.abc import Awaitable, Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path

from attrs import frozen

from benchmarks._support.baseline import export_all
from benchmarks._support.processes import child, memory_folder, peak_memory
from benchmarks._support.report import Report, format_number
from itwin_export_async import ExportClient, ExportRequest, RateLimit
from itwin_export_async.emulator import Emulator, run_virtual

SEED = 1963
LEDGER, AGAIN = "with a ledger", "again, all up to date"
BASELINE = "plain code, every 5 s"
DAY = 86400.0
PIECE = 100  # exports that plain code has at once
CONCURRENCY = 100


@frozen(kw_only=True)
class Effort:
    """How many exports there are."""

    exports: int


FULL = Effort(exports=10_000)
QUICK = Effort(exports=300)


@frozen(kw_only=True)
class Usage:
    """Seconds of wall time and CPU, and MiB of memory that a batch adds."""

    wall: float
    cpu: float
    memory: float


def run(effort: Effort) -> Report:
    """Export in each way, in processes of their own."""
    usage: dict[str, Usage] = {}
    for name in (LEDGER, BASELINE):
        with child(measure_batch, name, effort.exports) as process:
            usage |= process.recv()
    return _report(effort, usage)


def measure_batch(ours: Connection, name: str, exports: int) -> None:
    """Send the usage of a batch, and with a ledger that of the same batch again."""
    with memory_folder() as folder:
        ours.send(run_virtual(_measured(name, exports, folder)))


async def _measured(name: str, exports: int, folder: Path) -> dict[str, Usage]:
    random.seed(SEED)  # of the client's jitter
    emulator = Emulator(seed=SEED, token_lifetime=30 * DAY)
    imodel_ids = [emulator.add_imodel(f"Bridge {number}") for number in range(exports)]
    for imodel_id in imodel_ids:
        emulator.plan_next_run(imodel_id, duration=60.0)
    token = emulator.token()
    if name == BASELINE:

        async def plain() -> None:
            for start in range(0, exports, PIECE):
                await export_all(emulator, token, imodel_ids[start : start + PIECE], folder)

        return {name: await _usage(plain)}

    async def batch() -> None:
        requests = _requests(imodel_ids, folder)
        await _export_many(emulator, token, requests, folder / "exports.db")

    return {name: await _usage(batch), AGAIN: await _usage(batch)}


def _requests(imodel_ids: list[str], folder: Path) -> Iterator[ExportRequest]:
    for number, imodel_id in enumerate(imodel_ids):
        yield ExportRequest(imodel_id=imodel_id, destination=folder / f"{number}.ifc")


async def _usage(work: Callable[[], Awaitable[None]]) -> Usage:
    wall, cpu, memory = time.perf_counter(), time.process_time(), peak_memory()
    await work()
    return Usage(
        wall=time.perf_counter() - wall,
        cpu=time.process_time() - cpu,
        memory=max(0.0, peak_memory() - memory),  # the kernel's figure is approximate
    )


async def _export_many(
    emulator: Emulator, token: str, requests: Iterator[ExportRequest], ledger: Path
) -> None:
    async with ExportClient(token, transport=emulator, rate_limit=RateLimit()) as client:
        async for outcome in client.export_many(
            requests, concurrency=CONCURRENCY, ledger=ledger, authentication_type="Service"
        ):
            assert outcome.ok, outcome.error


def _report(effort: Effort, usage: dict[str, Usage]) -> Report:
    return Report(
        name="large_batch",
        title=f"A batch of {effort.exports:,} exports",
        method=__doc__ or "",
        head=("", "wall s", "CPU s", "CPU ms each", "memory MiB"),
        rows=tuple(
            (
                name,
                format_number(one.wall),
                format_number(one.cpu),
                format_number(one.cpu / effort.exports * 1e3),
                format_number(one.memory),
            )
            for name, one in usage.items()
        ),
        bounds=(
            "The emulator keeps every run and file in memory, in each of the ways: the difference "
            "to plain code is the client's.",
        ),
        values={
            f"{name}, {what}": value
            for name, one in usage.items()
            for what, value in (("wall s", one.wall), ("CPU s", one.cpu), ("MiB", one.memory))
        },
    )
