"""The README's recipes for arq and dask, with real workers that die."""

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest

from itwin_export_async.emulator import Emulator
from tests.support.batches import started
from tests.support.processes import kill, missing, until
from tests.support.redises import RedisServer

README = Path(__file__).parents[2] / "README.md"
FILES = {
    name: text for text, name in re.findall(r"```python\n(# (\S+).*?)```", README.read_text(), re.S)
}
on_each_end = pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where the recipes are, as the modules that they name, with legs of one second."""
    often = "import itwin_export_async as i\nOFTEN = i.FixedSchedule(0.2)\n"
    for name, text in FILES.items():
        text = re.sub(r"^LEG = \d+", "LEG = 1", text, flags=re.MULTILINE)
        text = text.replace("from_env()", "from_env(schedule=OFTEN)")
        (tmp_path / name).write_text(often + text)
    return tmp_path


@pytest.fixture(scope="session")
def arq(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Where arq is: beside the other packages it cannot be, it needs an older redis than they."""
    place = tmp_path_factory.mktemp("arq")
    words = ("install", "-q", "--disable-pip-version-check", "--target", f"{place}", "arq>=0.26")
    done = subprocess.run([sys.executable, "-m", "pip", *words], capture_output=True, text=True)
    if done.returncode:
        missing(f"arq cannot be installed: {done.stderr}")
    return str(place)


@pytest.fixture
async def queue(folder: Path) -> AsyncIterator[RedisServer]:
    server = RedisServer(folder)
    await server.start()
    yield server
    await server.kill()


class Site:
    """Processes in one folder, all with the service in their environment."""

    def __init__(self, service: str, folder: Path, environment: dict[str, str]) -> None:
        self._service, self._folder = service, folder
        # coverage imports asyncio twice into a process that it starts with
        unmeasured = {name: os.environ[name] for name in os.environ if "COVERAGE" not in name}
        self.environment = {**unmeasured, **environment}
        self._processes: list[asyncio.subprocess.Process] = []

    async def start(self, *words: str, is_all_told: bool = False) -> asyncio.subprocess.Process:
        """A process of its own session. `is_all_told`: what it says of its errors is read too."""
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, *words),
            cwd=self._folder,
            env=self.environment,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT if is_all_told else None,
            start_new_session=True,
        )
        self._processes.append(process)
        return process

    async def until_all_runs_have_ended(self) -> None:
        """Wait for that without the help of any client."""
        states: set[str] = set()
        async with asyncio.timeout(30), aiohttp.ClientSession(self._service) as http:
            while states != {"Completed"}:
                await asyncio.sleep(0.05)
                async with http.get("/emulator/state") as told:
                    states = {run["state"] for run in (await told.json())["runs"]}

    async def close(self) -> None:
        for process in self._processes:
            kill(process)
            await process.wait()


@asynccontextmanager
async def site(emulator: Emulator, folder: Path, **environment: str) -> AsyncIterator[Site]:
    async with emulator.serve() as served:
        service = {"ITWIN_ACCESS_TOKEN": emulator.token(), "ITP_API_URL": served.base_url}
        site = Site(served.base_url, folder, {**service, **environment})
        try:
            yield site
        finally:
            await site.close()


async def said_by(process: asyncio.subprocess.Process) -> list[str]:
    """The lines that it has written, once it has ended well."""
    async with asyncio.timeout(60):
        out, _ = await process.communicate()
    assert process.returncode == 0
    return out.decode().splitlines()


@on_each_end
@pytest.mark.real_time
async def test_an_arq_job_goes_on_where_its_worker_ended(
    end: signal.Signals, arq: str, queue: RedisServer, folder: Path
) -> None:
    emulator = Emulator(seed=1, run_seconds=4.0)
    imodel_id = emulator.add_imodel("Bridge")
    async with site(emulator, folder, REDIS_URL=queue.url, PYTHONPATH=arq) as here:
        first = await here.start("-m", "arq", "exports_arq.WorkerSettings")
        senders = [await here.start("send_arq.py", imodel_id) for _ in range(2)]
        await until(lambda: emulator.count("get_run") >= 1)
        first.send_signal(end)
        async with asyncio.timeout(10):
            await first.wait()
        await here.until_all_runs_have_ended()
        await here.start("-m", "arq", "exports_arq.WorkerSettings")
        if end is signal.SIGKILL:
            assert await queue.do("DEL", f"arq:in-progress:export {imodel_id}")  # as time does
        for sender in senders:
            assert await said_by(sender) == ["exports/Bridge.ifc"]
    assert (folder / "exports/Bridge.ifc").read_bytes().startswith(b"ISO-10303-21;")
    assert started(emulator) == 1
    assert not emulator.violations


@pytest.mark.real_time
async def test_an_arq_job_that_comes_again_another_day_is_another_export(
    arq: str, queue: RedisServer, folder: Path
) -> None:
    emulator = Emulator(seed=1, run_seconds=0.5)
    imodel_id = emulator.add_imodel("Bridge")
    async with site(emulator, folder, REDIS_URL=queue.url, PYTHONPATH=arq) as here:
        await here.start("-m", "arq", "exports_arq.WorkerSettings")
        assert await said_by(await here.start("send_arq.py", imodel_id))
        assert await said_by(await here.start("send_arq.py", imodel_id))
        assert started(emulator) == 1
        assert await queue.do("DEL", f"arq:result:export {imodel_id}")  # as time does
        assert await said_by(await here.start("send_arq.py", imodel_id))
    assert started(emulator) == 2


@pytest.mark.real_time
async def test_who_sent_an_arq_job_is_told_of_its_error(
    arq: str, queue: RedisServer, folder: Path
) -> None:
    emulator = Emulator(seed=1, run_seconds=0.5)
    bad, good = emulator.add_imodel(), emulator.add_imodel("Bridge")
    emulator.plan_next_run(bad, "Error")
    async with site(emulator, folder, REDIS_URL=queue.url, PYTHONPATH=arq) as here:
        await here.start("-m", "arq", "exports_arq.WorkerSettings")
        sender = await here.start("send_arq.py", bad, is_all_told=True)
        told, _ = await sender.communicate()
        assert b"RunFailed: run" in told, told.decode()
        assert await said_by(await here.start("send_arq.py", good)) == ["exports/Bridge.ifc"]
    assert started(emulator) == 2


@on_each_end
@pytest.mark.real_time
async def test_what_a_dask_worker_leaves_is_done_by_another(
    end: signal.Signals, folder: Path
) -> None:
    emulator = Emulator(seed=1, run_seconds=(2.0, 5.0))
    imodel_ids = [emulator.add_imodel(f"{n}") for n in range(6)]
    note = folder / "scheduler.json"  # it is there once the scheduler listens
    async with site(emulator, folder) as here:
        quiet = ("--dashboard-address", "127.0.0.1:0")
        place = ("--host", "127.0.0.1", "--port", "0", "--scheduler-file", f"{note}")
        await here.start("-m", "dask", "scheduler", *place, *quiet)
        await until(lambda: note.exists() and note.read_text().endswith("}"))
        address = json.loads(note.read_text())["address"]
        here.environment["DASK_SCHEDULER_ADDRESS"] = address
        worker = ("-m", "dask", "worker", address, "--no-nanny", "--nthreads", "10", *quiet)
        first = await here.start(*worker)
        sender = await here.start("exports_dask.py", *imodel_ids)
        await until(lambda: emulator.count("get_run") >= 6)
        first.send_signal(end)
        await here.until_all_runs_have_ended()
        await here.start(*worker)
        lines = await said_by(sender)
    paths = [f"exports/{imodel_id}/{n}.ifc" for n, imodel_id in enumerate(imodel_ids)]
    assert lines == paths
    for path in paths:
        assert (folder / path).read_bytes().startswith(b"ISO-10303-21;")
    assert started(emulator) == 6
    assert not emulator.violations


@pytest.mark.real_time
async def test_the_dask_recipe_needs_no_scheduler(folder: Path) -> None:
    emulator = Emulator(seed=1, run_seconds=1.0)
    imodel_ids = [emulator.add_imodel("Bridge") for _ in range(3)]
    async with site(emulator, folder) as here:
        lines = await said_by(await here.start("exports_dask.py", *imodel_ids))
    assert lines == [f"exports/{imodel_id}/Bridge.ifc" for imodel_id in imodel_ids]
    assert started(emulator) == 3
