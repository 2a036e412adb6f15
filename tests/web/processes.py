"""Web servers in processes of their own."""

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
from attrs import frozen

from tests.support.environment import environment
from tests.support.processes import kill
from tests.support.service import Service

ROOT = Path(__file__).parents[2]
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
        """A session with the server."""
        connector = aiohttp.UnixConnector(str(self.socket), limit=0)
        return aiohttp.ClientSession("http://web", connector=connector)


@asynccontextmanager
async def running(
    command: list[str], service: Service, folder: Path, **variables: str
) -> AsyncIterator[Server]:
    """The server, as soon as it answers. `variables`: further ones of its environment."""
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
                **variables,
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
    """Wait until the server answers."""
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
    """Start an export of a new iModel."""
    body = {"imodel_id": service.emulator.add_imodel("Bridge")}
    async with visitor.post("/api/v1/exports", json=body) as response:
        assert response.status == 202, await response.text()
        started: dict[str, str] = await response.json()
    return started
