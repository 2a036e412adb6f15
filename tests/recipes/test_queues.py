"""The README's recipe for dask, with real workers of which one dies."""

import asyncio
import json
import os
import re
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest

from itwin_export_async.emulator import Emulator
from tests.support.batches import started
from tests.support.processes import kill, until

pytest.importorskip("distributed")

README = Path(__file__).parents[2] / "README.md"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where the recipe is, with legs of one second and short polling intervals."""
    often = "import itwin_export_async as i\nOFTEN = i.FixedSchedule(0.2)\n"
    for text, name in re.findall(r"```python\n(# (\S+).*?)```", README.read_text(), re.DOTALL):
        text = re.sub(r"^LEG = \d+", "LEG = 1", text, flags=re.MULTILINE)
        text = text.replace("from_env()", "from_env(schedule=OFTEN)")
        (tmp_path / name).write_text(often + text)
    return tmp_path


class Processes:
    """Processes in one folder, with an emulated service in their environment."""

    def __init__(self, url: str, folder: Path, environment: dict[str, str]) -> None:
        self._url, self._folder = url, folder
        # coverage imports asyncio twice into a process that it starts with
        unmeasured = {name: os.environ[name] for name in os.environ if "COVERAGE" not in name}
        self.environment = {**unmeasured, **environment}
        self._started: list[asyncio.subprocess.Process] = []

    async def start(self, *words: str) -> asyncio.subprocess.Process:
        """Start a Python process in a session of its own."""
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, *words),
            cwd=self._folder,
            env=self.environment,
            stdout=asyncio.subprocess.PIPE,
            start_new_session=True,
        )
        self._started.append(process)
        return process

    async def until_all_runs_have_finished(self) -> None:
        """Wait for that without any client."""
        states: set[str] = set()
        async with asyncio.timeout(30), aiohttp.ClientSession(self._url) as http:
            while states != {"Completed"}:
                await asyncio.sleep(0.05)
                async with http.get("/emulator/state") as response:
                    states = {run["state"] for run in (await response.json())["runs"]}

    async def close(self) -> None:
        for process in self._started:
            kill(process)
            await process.wait()


@asynccontextmanager
async def processes_with(emulator: Emulator, folder: Path) -> AsyncIterator[Processes]:
    async with emulator.serve() as served:
        service = {"ITWIN_ACCESS_TOKEN": emulator.token(), "ITP_API_URL": served.base_url}
        processes = Processes(served.base_url, folder, service)
        try:
            yield processes
        finally:
            await processes.close()


async def output_of(process: asyncio.subprocess.Process) -> list[str]:
    """The lines that the process writes until it ends successfully."""
    async with asyncio.timeout(60):
        out, _ = await process.communicate()
    assert process.returncode == 0
    return out.decode().splitlines()


@pytest.mark.usefixtures("integration")
async def test_the_work_of_a_dead_dask_worker_is_done_by_another(folder: Path) -> None:
    emulator = Emulator(seed=1, run_seconds=(1.0, 2.0))
    imodel_ids = [emulator.add_imodel(f"{n}") for n in range(6)]
    note = folder / "scheduler.json"  # it is there once the scheduler listens
    async with processes_with(emulator, folder) as processes:
        quiet = ("--dashboard-address", "127.0.0.1:0")
        place = ("--host", "127.0.0.1", "--port", "0", "--scheduler-file", f"{note}")
        await processes.start("-m", "dask", "scheduler", *place, *quiet)
        await until(lambda: note.exists() and note.read_text().endswith("}"))
        address = json.loads(note.read_text())["address"]
        processes.environment["DASK_SCHEDULER_ADDRESS"] = address
        worker = ("-m", "dask", "worker", address, "--no-nanny", "--nthreads", "10", *quiet)
        first = await processes.start(*worker)
        sender = await processes.start("exports_dask.py", *imodel_ids)
        await until(lambda: emulator.count("get_run") >= 6)
        kill(first)
        await processes.until_all_runs_have_finished()
        await processes.start(*worker)
        lines = await output_of(sender)
    paths = [f"exports/{imodel_id}/{n}.ifc" for n, imodel_id in enumerate(imodel_ids)]
    assert lines == paths
    for path in paths:
        assert (folder / path).read_bytes().startswith(b"ISO-10303-21;")
    assert started(emulator) == 6
    assert not emulator.violations


@pytest.mark.slow
@pytest.mark.usefixtures("integration")
async def test_the_dask_recipe_needs_no_scheduler(folder: Path) -> None:
    emulator = Emulator(seed=1, run_seconds=0.5)
    imodel_ids = [emulator.add_imodel("Bridge") for _ in range(3)]
    async with processes_with(emulator, folder) as processes:
        lines = await output_of(await processes.start("exports_dask.py", *imodel_ids))
    assert lines == [f"exports/{imodel_id}/Bridge.ifc" for imodel_id in imodel_ids]
    assert started(emulator) == 3
