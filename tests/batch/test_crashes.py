"""A batch with a ledger is completed after its process was killed at any step."""

import asyncio
import json
import os
import random
import signal
import sys
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from itertools import count
from pathlib import Path
from sqlite3 import OperationalError
from typing import Any

import pytest

from itwin_export_async.emulator import Emulator
from tests.support.batches import states

pytestmark = [
    pytest.mark.usefixtures("integration"),
    pytest.mark.skipif(not hasattr(os, "fork"), reason="the batch runs in forked processes"),
]

VERSIONS = ("IFC2x3", "IFC4.3")


class Processes:
    """Processes of `batch_process.py`, one at a time."""

    def __init__(self, parent: asyncio.subprocess.Process) -> None:
        assert parent.stdin is not None
        assert parent.stdout is not None
        self._input, self._output = parent.stdin, parent.stdout

    async def start(self, order: dict[str, Any]) -> int:
        """The pid of a new process, which is about to start the batch."""
        self._input.write(json.dumps(order).encode() + b"\n")
        await self._input.drain()
        return int(await self._output.readline())

    async def rest(self) -> tuple[int, list[str]]:
        """The exit code, once the process has ended, and the lines that it printed."""
        lines = list[str]()
        while True:
            line = (await self._output.readline()).decode()
            assert line
            before, found, code = line.rpartition("over ")  # the last line may be cut short
            if found:
                return int(code), [*lines, before] if before else lines
            lines.append(line)


@pytest.fixture
async def processes() -> AsyncIterator[Processes]:
    command = (sys.executable, "-m", "tests.support.batch_process")
    pipe = asyncio.subprocess.PIPE
    parent = await asyncio.create_subprocess_exec(*command, stdin=pipe, stdout=pipe)
    try:
        yield Processes(parent)
    finally:
        assert parent.stdin is not None
        parent.stdin.close()  # then it ends
        await parent.wait()


def order_of(
    emulator: Emulator, folder: Path, imodels: int, versions: tuple[str, ...] = VERSIONS
) -> dict[str, Any]:
    """A batch of new iModels, each in these versions of IFC."""
    requests = [
        {"imodel_id": i, "destination": f"{folder}/{n}-{v}.ifc", "options": v, "key": f"{n} {v}"}
        for n, i in enumerate(emulator.add_imodel(f"iModel {n}") for n in range(imodels))
        for v in versions
    ]
    ledger = str(folder / "exports.db")
    return {"requests": requests, "ledger": ledger, "concurrency": 2, "interval": 0.02}


@asynccontextmanager
async def served(emulator: Emulator) -> AsyncIterator[dict[str, Any]]:
    async with emulator.serve() as served:
        yield {"url": served.base_url, "token": emulator.token()}


def entry_states(order: dict[str, Any]) -> set[str]:
    with suppress(OperationalError):  # there is no table yet
        return set(states(Path(order["ledger"])).values())
    return set()


def check(
    emulator: Emulator, order: dict[str, Any], lines: list[str], runs: int, nights: int = 1
) -> None:
    """Every export has its file, and no run was started twice."""
    outcomes = {key: (error, paths) for key, error, paths in map(json.loads, lines)}
    assert len(lines) == len(outcomes) == len(order["requests"])
    for request in order["requests"]:
        error, paths = outcomes[request["key"]]
        assert error == "None"
        assert paths == [request["destination"]]
        content = Path(request["destination"]).read_text()
        assert f"iModel {request['key'].split()[0]}" in content
        assert ("IFC2X3" in content) is (request["options"] == "IFC2x3")
    started = Counter(
        r.path for r in emulator.requests if r.operation == "create_run" and r.status == 202
    )
    versions = len({request["options"] for request in order["requests"]})
    assert list(started.values()) == [versions * nights] * runs
    folder = Path(order["ledger"]).parent
    assert len(list(folder.glob("**/*.part"))) <= 1  # the one that was written at the crash


SEEN = {  # states of the entries that these crashes leave
    "write": {"new", "starting", "started", "finished", "in place"},
    "request": {"new", "starting", "started", "finished"},
    "response": {"new", "starting", "started", "finished"},
    "rename": {"finished"},
}


@pytest.mark.parametrize("kind", SEEN)
async def test_process_that_is_killed_at_any_step_is_continued(
    tmp_path: Path, processes: Processes, kind: str
) -> None:
    emulator = Emulator(seed=7, run_seconds=0.05)
    seen = set[str]()
    async with served(emulator) as service:
        for number in count(1):
            (folder := tmp_path / f"{number}").mkdir()
            order = {**service, **order_of(emulator, folder, 1)}
            await processes.start({**order, "crash": (kind, number)})
            code, lines = await processes.rest()
            if code == 0:  # there is no such step any more
                break
            assert code == -signal.SIGKILL
            seen |= entry_states(order)
            await processes.start(order)
            code, lines = await processes.rest()
            assert code == 0
            check(emulator, order, lines, number)
    assert seen >= SEEN[kind]


def at_revision(order: dict[str, Any], revision: str) -> dict[str, Any]:
    return {**order, "requests": [{**r, "revision": revision} for r in order["requests"]]}


def contents(order: dict[str, Any]) -> list[bytes]:
    return [Path(request["destination"]).read_bytes() for request in order["requests"]]


@pytest.mark.parametrize("kind", SEEN)
async def test_process_that_is_killed_on_night_2_keeps_the_old_files(
    tmp_path: Path, processes: Processes, kind: str
) -> None:
    emulator = Emulator(seed=7, run_seconds=0.05)
    async with served(emulator) as service:
        for number in count(1):
            (folder := tmp_path / f"{number}").mkdir()
            batch = order_of(emulator, folder, 1, VERSIONS[:1])
            order = at_revision({**service, **batch}, "a")
            await processes.start(order)
            assert (await processes.rest())[0] == 0
            old, order = contents(order), at_revision(order, "b")
            await processes.start({**order, "crash": (kind, number)})
            crashed, lines = await processes.rest()
            left = contents(order)
            if crashed:
                await processes.start(order)
                code, lines = await processes.rest()
                assert code == 0
            check(emulator, order, lines, number, nights=2)
            whole = contents(order)
            assert all(file in files for file, *files in zip(left, old, whole, strict=True))
            if not crashed:  # there is no such step any more
                break
    assert number > 1


@pytest.mark.usefixtures("slow")
async def test_process_that_is_killed_at_random_moments_is_continued(
    tmp_path: Path, processes: Processes
) -> None:
    emulator = Emulator(seed=7, run_seconds=(0.2, 1.2))
    async with served(emulator) as service:
        order = {**service, **order_of(emulator, tmp_path, 20), "concurrency": 4}
        for _ in range(20):
            pid = await processes.start(order)
            await asyncio.sleep(random.uniform(0.0, 0.6))
            with suppress(ProcessLookupError):  # it was quicker
                os.kill(pid, signal.SIGKILL)
            await processes.rest()
        await processes.start(order)
        _, lines = await processes.rest()
    check(emulator, order, lines, 20)
