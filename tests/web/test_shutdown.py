"""Servers in processes of their own, which are told to stop while streams are open."""

import asyncio
import os
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
from attrs import frozen

from tests.support.environment import environment
from tests.support.processes import kill, until
from tests.support.service import Service
from tests.web.conftest import RUN_SECONDS
from tests.web.events import events_of, next_event

pytestmark = pytest.mark.usefixtures("integration")

ROOT = Path(__file__).parents[2]
STREAMS, EXIT_SECONDS = 20, 3.0
ASGI, AIOHTTP = "tests.web.apps:fastapi_app", "tests.web.apps:aiohttp_app"
UVICORN = ["uvicorn", "--factory", ASGI, "--uds", "{socket}"]
GUNICORN = ["gunicorn", "--bind", "unix:{socket}", "--workers", "1", "--no-control-socket"]
SERVERS = {
    "uvicorn": UVICORN,
    "uvicorn, 2 workers": [*UVICORN, "--workers", "2"],
    "uvicorn, reload": [*UVICORN, "--reload", "--reload-dir", "{folder}"],
    "gunicorn, uvicorn": [*GUNICORN, "-k", "uvicorn_worker.UvicornWorker", f"{ASGI}()"],
    "aiohttp": ["tests.web.apps"],
    "gunicorn, aiohttp": [*GUNICORN, "-k", "aiohttp.GunicornWebWorker", AIOHTTP],
}


@frozen
class Server:
    """A server in a process. `log` has a line for each lifespan, `output` all that it wrote."""

    process: asyncio.subprocess.Process
    socket: Path
    log: Path
    output: Path

    def visitor(self) -> aiohttp.ClientSession:
        connector = aiohttp.UnixConnector(str(self.socket), limit=0)
        return aiohttp.ClientSession("http://web", connector=connector)


@asynccontextmanager
async def running(command: list[str], service: Service, folder: Path) -> AsyncIterator[Server]:
    """The server, as soon as it answers."""
    socket, log, output = folder / "s", folder / "log", folder / "output"
    unmeasured = {name: os.environ[name] for name in os.environ if "COVERAGE" not in name}
    words = [word.format(socket=socket, folder=folder) for word in command]
    with output.open("wb") as file:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", *words),
            cwd=ROOT,
            env={
                **unmeasured,
                **environment(service.emulator, service.served),
                "WEB_LOG": str(log),
                "WEB_SOCKET": str(socket),
            },
            stdout=file,
            stderr=file,
            start_new_session=True,
        )
    server = Server(process, socket, log, output)
    try:
        await answering(server)
        yield server
    finally:
        kill(process)
        await process.wait()


async def answering(server: Server) -> None:
    async with asyncio.timeout(60), server.visitor() as visitor:
        while True:
            assert server.process.returncode is None, server.output.read_text()
            try:
                async with visitor.get("/api/v1/exports/health") as response:
                    assert response.status == 200
                    return
            except aiohttp.ClientConnectorError:
                await asyncio.sleep(0.05)


async def start(visitor: aiohttp.ClientSession, service: Service) -> dict[str, str]:
    body = {"imodel_id": service.emulator.add_imodel("Bridge")}
    async with visitor.post("/api/v1/exports", json=body) as response:
        assert response.status == 202, await response.text()
        started: dict[str, str] = await response.json()
    return started


@pytest.mark.parametrize("name", SERVERS)
async def test_server_that_is_stopped_ends_its_streams_and_its_lifespan(
    name: str, service: Service, tmp_path: Path
) -> None:
    async with running(SERVERS[name], service, tmp_path) as server, server.visitor() as visitor:
        started = await start(visitor, service)
        streams = [await visitor.get(started["events_url"]) for _ in range(STREAMS)]
        await asyncio.gather(*map(next_event, streams))
        stopped_at = time.monotonic()
        server.process.terminate()
        rests = await asyncio.gather(*(stream.text() for stream in streams))
        await server.process.wait()
        seconds = time.monotonic() - stopped_at
        output, log = server.output.read_text(), Counter(server.log.read_text().split())
    assert "Traceback" not in output
    assert not [rest for rest in rests if "event: end" in rest]
    assert log["begin"] == log["end"] > 0, output
    assert seconds < EXIT_SECONDS, output


async def test_id_of_one_worker_is_good_for_another(service: Service, tmp_path: Path) -> None:
    command = SERVERS["uvicorn, 2 workers"]
    async with running(command, service, tmp_path) as server:
        await until(lambda: server.log.read_text().count("begin") == 2)
        async with server.visitor() as visitor:
            started = await start(visitor, service)
        for _ in range(10):  # each with a connection of its own, which any worker may accept
            async with server.visitor() as visitor:
                async with visitor.get(started["status_url"]) as response:
                    assert (response.status, (await response.json())["is_final"]) == (200, False)
        async with server.visitor() as visitor:
            async with visitor.get(started["events_url"]) as stream:
                await next_event(stream)
                service.advance(RUN_SECONDS)
                *_, end = [event async for event in events_of(stream)]
            assert end.data["outcome"] == "Success"
            async with visitor.get(started["file_url"]) as response:
                assert (await response.read()).startswith(b"ISO-10303-21;")
