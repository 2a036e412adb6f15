"""What a poll costs in CPU: `client.get_run` with everything on, and what else can poll.

All ask the same server, in another process, for the same run, by turns of some polls each. That is
done in several fresh processes: how memory lies in one makes a difference of some per cent.
"""

import asyncio
import time
from collections.abc import Iterable, Mapping
from multiprocessing.connection import Connection

from attrs import frozen

from benchmarks._support.interleave import Samples, rounds
from benchmarks._support.peers import BARE, GET, OURS, Polls, all_peers
from benchmarks._support.processes import child
from benchmarks._support.report import Goal, Report, shown
from benchmarks._support.runs_server import TASKS, tell_runs
from benchmarks._support.svg import Bar, Figure


@frozen(kw_only=True)
class Effort:
    """How many processes, rounds in each, and polls of a turn by how many tasks the run has."""

    processes: int
    rounds: int
    polls: Mapping[int, int]


FULL = Effort(processes=7, rounds=6, polls={1: 100, 1_000: 4})
QUICK = Effort(processes=1, rounds=3, polls={1: 40, 1_000: 2})


def run(effort: Effort) -> Report:
    """Measure, beside a server."""
    samples = {tasks: Samples() for tasks in effort.polls}
    with child(tell_runs) as server:
        base_url = server.recv()
        for _ in range(effort.processes):
            with child(tell_costs, base_url, effort) as process:
                for tasks, told in process.recv().items():
                    samples[tasks].extend(told)
    names = tuple(next(iter(samples.values())).taken)
    return Report(
        name="poll",
        title="CPU of a poll, in microseconds, and relative to aiohttp + json.loads",
        head=("", *(word for tasks in effort.polls for word in (_size(tasks), "ratio"))),
        rows=tuple((name, *_cells(name, samples.values())) for name in names),
        bounds=(_bounds(samples),),
        goals=tuple(_goal(tasks, samples[tasks]) for tasks in (1,)),
        values={
            f"{name}, {_size(tasks)}, us": one.typical(name)
            for tasks, one in samples.items()
            for name in names
        },
        figure=Figure(
            title="CPU of a poll, relative to aiohttp + json.loads (red: goal)",
            bars=tuple(_bar(name, tasks, samples[tasks]) for tasks in samples for name in names),
            ticks=(0.5, 0.75, 1, 1.5, 2, 3, 4, 6, 8),
        ),
        caption="What a poll costs in CPU",
    )


def tell_costs(connection: Connection, base_url: str, effort: Effort) -> None:
    """Send what was measured: microseconds of CPU for a poll, by tasks of the run."""
    connection.send(asyncio.run(_measured(base_url, effort)))


async def _measured(base_url: str, effort: Effort) -> dict[int, Samples]:
    samples = {tasks: Samples() for tasks in effort.polls}
    async with all_peers(base_url) as peers:
        for tasks, polls in effort.polls.items():
            for poll in peers.values():
                await _cpu(poll, tasks, 8)  # connects, and warms up
            for name in rounds(tuple(peers), effort.rounds):
                samples[tasks].add(name, await _cpu(peers[name], tasks, polls))
    return samples


async def _cpu(polls: Polls, tasks: int, count: int) -> float:
    """Microseconds of the whole process for one poll."""
    began = time.process_time()
    await polls(f"{TASKS}{tasks}", count)
    return (time.process_time() - began) / count * 1e6


def _size(tasks: int) -> str:
    return f"{tasks:,} task{'s' if tasks > 1 else ''}"


def _cells(name: str, samples: Iterable[Samples]) -> list[str]:
    return [
        word
        for one in samples
        for word in (shown(one.typical(name)), f"{one.ratio(name, BARE):.2f}")
    ]


def _bounds(samples: Mapping[int, Samples]) -> str:
    parts = [
        f"{shown(one.typical(GET))} of {shown(one.typical(BARE))} us with {_size(tasks)}"
        for tasks, one in samples.items()
    ]
    return f"Nothing over aiohttp costs less than its GET alone: {', '.join(parts)}."


def _goal(tasks: int, samples: Samples) -> Goal:
    return Goal(
        what=f"CPU of a poll of {_size(tasks)}",
        limit=1.3,
        measured=samples.ratio(OURS, BARE),
        unit=" x aiohttp + json.loads",
    )


def _bar(name: str, tasks: int, samples: Samples) -> Bar:
    ratio, ours = samples.ratio(name, BARE), name == OURS
    return Bar(
        name=f"{name}, {_size(tasks)}" if tasks > 1 else name,
        value=ratio,
        label=f"{ratio:.2f}",
        goals=(1.3,) if ours and tasks == 1 else (),
        is_ours=ours,
    )
