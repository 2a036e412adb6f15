"""The recipes as a user has them: files of one folder, and processes in it."""

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest

from itwin_export_async.emulator import Emulator
from tests.support.processes import kill

RECIPES = Path(__file__).parent / "files"
MODULES = [path.stem for path in RECIPES.glob("*.py")]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where the recipes are, with short polling intervals for processes."""
    often = "import itwin_export_async as i\nOFTEN = i.FixedSchedule(0.2)\n"
    for path in RECIPES.glob("*.py"):
        text = path.read_text().replace("from_env()", "from_env(schedule=OFTEN)")
        (tmp_path / path.name).write_text(often + text if "OFTEN" in text else text)
    return tmp_path


@pytest.fixture
def recipes(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The recipes' folder, from which this process can import them."""
    monkeypatch.syspath_prepend(str(folder))
    yield folder
    for name in MODULES:
        sys.modules.pop(name, None)


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
        service = {
            "ITWIN_ACCESS_TOKEN": emulator.token(),
            "ITP_API_URL": served.base_url,
            "STARTS_DB": str(folder / "starts.db"),
        }
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
