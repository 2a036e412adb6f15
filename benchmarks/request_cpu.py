"""CPU of a poll: `client.get_run` with all it does, and other libraries that can poll.

All poll the same run of the same server, in another process, in turns of some polls each. Each
environment (the default install, orjson, TLS) has processes of its own, in which bare aiohttp with
the same JSON reader is the reference; with several processes each, because the layout of memory in
one changes the figures by some per cent. The server and the timer of the loop are not in it: CPU is
that of the polling process while it polls.
"""

import asyncio
import sys
import time
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from multiprocessing.connection import Connection
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from attrs import frozen

from benchmarks._support.interleave import Samples, rounds
from benchmarks._support.processes import child
from benchmarks._support.report import Goal, Report, format_number
from benchmarks._support.runs_server import BARE, OURS, TASKS, serve_runs
from benchmarks._support.svg import Bar, Figure

if TYPE_CHECKING:
    from benchmarks._support.peers import Polls

DEFAULT, ORJSON, TLS = "default install", "orjson", "TLS"
LIMIT = 1.3


@frozen(kw_only=True)
class Effort:
    """How many processes, rounds in each, and polls of a turn by how many tasks the run has."""

    processes: int
    rounds: int
    polls: Mapping[int, int]
    environments: tuple[str, ...] = (DEFAULT, ORJSON, TLS)


FULL = Effort(processes=5, rounds=6, polls={1: 100, 1_000: 4})
QUICK = Effort(processes=1, rounds=3, polls={1: 40, 1_000: 2})

Key = tuple[str, int]  # environment, tasks of the run


def run(effort: Effort) -> Report:
    """Measure in every environment, beside a server."""
    samples = {(name, tasks): Samples() for name in effort.environments for tasks in effort.polls}
    with ExitStack() as stack:
        http = stack.enter_context(child(serve_runs)).recv()
        https, trusted = http, {}
        if TLS in effort.environments:
            folder = Path(stack.enter_context(TemporaryDirectory()))
            files = _certificate(folder)
            https = stack.enter_context(child(serve_runs, files[:2])).recv()
            trusted = {"SSL_CERT_FILE": files[2]}
        for _ in range(effort.processes):
            for name in effort.environments:
                base_url, variables = (https, trusted) if name == TLS else (http, {})
                work = child(measure_cpu, base_url, effort, name, environment=variables)
                with work as process:
                    for tasks, measured in process.recv().items():
                        samples[name, tasks].extend(measured)
    return _report(effort, samples)


def _certificate(folder: Path) -> tuple[str, str, str]:
    """The files of a certificate for 127.0.0.1, its key, and the authority."""
    import trustme

    authority = trustme.CA()
    issued = authority.issue_cert("127.0.0.1")
    names = tuple(str(folder / name) for name in ("certificate.pem", "key.pem", "authority.pem"))
    issued.cert_chain_pems[0].write_to_path(names[0])
    issued.private_key_pem.write_to_path(names[1])
    authority.cert_pem.write_to_path(names[2])
    return names[0], names[1], names[2]


def measure_cpu(connection: Connection, base_url: str, effort: Effort, environment: str) -> None:
    """Send microseconds of CPU for a poll, by the tasks of the run."""
    if environment != ORJSON:
        sys.modules["orjson"] = None  # type: ignore[assignment]  # importing it fails from now on
    connection.send(asyncio.run(_measured(base_url, effort, environment)))


async def _measured(base_url: str, effort: Effort, environment: str) -> dict[int, Samples]:
    from benchmarks._support.peers import all_peers, bare_and_ours  # imports orjson if it may

    samples = {tasks: Samples() for tasks in effort.polls}
    async with (all_peers if environment == DEFAULT else bare_and_ours)(base_url) as peers:
        for tasks, polls in effort.polls.items():
            for poll in peers.values():
                await _cpu(poll, tasks, 8)  # connects, and warms up
            for name in rounds(tuple(peers), effort.rounds):
                samples[tasks].add(name, await _cpu(peers[name], tasks, polls))
    return samples


async def _cpu(polls: "Polls", tasks: int, count: int) -> float:
    """Microseconds of the whole process for one poll."""
    start = time.process_time()
    await polls(f"{TASKS}{tasks}", count)
    return (time.process_time() - start) / count * 1e6


def _size(tasks: int) -> str:
    return f"{tasks:,} task{'s' if tasks > 1 else ''}"


def _report(effort: Effort, samples: Mapping[Key, Samples]) -> Report:
    contenders = [
        (environment, name)
        for environment in effort.environments
        for name in samples[environment, min(effort.polls)].values
    ]
    return Report(
        name="request_cpu",
        title="CPU of a poll, in microseconds, and relative to bare aiohttp with the same reader",
        method=__doc__ or "",
        head=("", "", *(word for tasks in effort.polls for word in (_size(tasks), "ratio"))),
        rows=tuple(
            (name, environment, *_cells(name, [samples[environment, n] for n in effort.polls]))
            for environment, name in contenders
        ),
        bounds=("Nothing over aiohttp costs less than its GET alone.",),
        goals=tuple(
            _goal(environment, samples[environment, min(effort.polls)])
            for environment in effort.environments
            if environment != TLS
        ),
        values={
            f"{name}, {environment}, {_size(tasks)}, us": samples[environment, tasks].median(name)
            for environment, name in contenders
            for tasks in effort.polls
        },
        figure=Figure(
            title="CPU of a poll, relative to bare aiohttp with the same JSON reader (red: goal)",
            bars=tuple(
                _bar(environment, name, tasks, samples[environment, tasks])
                for tasks in effort.polls
                for environment, name in contenders
            ),
            ticks=(0.5, 0.75, 1, 1.5, 2, 3, 4, 6, 8),
        ),
        caption="CPU of a poll",
    )


def _cells(name: str, samples: Iterable[Samples]) -> list[str]:
    return [
        word
        for one in samples
        for word in (format_number(one.median(name)), str(one.ratio(name, BARE)))
    ]


def _goal(environment: str, samples: Samples) -> Goal:
    ratio = samples.ratio(OURS, BARE)
    return Goal(
        what=f"CPU of a poll, {environment}",
        limit=LIMIT,
        measured=ratio.median,
        quartiles=ratio,
        unit=" x bare aiohttp with the same reader",
        in_readme=environment == DEFAULT,
    )


def _bar(environment: str, name: str, tasks: int, samples: Samples) -> Bar:
    ratio, is_ours = samples.ratio(name, BARE).median, name == OURS
    words = [name, *([environment] if environment != DEFAULT else [])]
    words += [_size(tasks)] if tasks > 1 else []
    return Bar(
        name=", ".join(words),
        value=ratio,
        label=f"{ratio:.2f}",
        goals=(LIMIT,) if is_ours and tasks == 1 and environment != TLS else (),
        is_ours=is_ours,
    )
