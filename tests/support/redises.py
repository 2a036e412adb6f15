"""A Redis that dies, freezes and comes back, and clients that share a limit in it."""

import asyncio
import shutil
import signal
import socket
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

from redis.asyncio import Redis

from itwin_export_async import RateLimit
from itwin_export_async._protocol.telling import Pace
from itwin_export_async.redis import RedisRateLimit
from tests.support.processes import free_port, missing, until

PACE = Pace(minute=2.0, hour=20.0, beat=0.05, silence=0.8, patience=0.5, lease=1.5, memory=600.0)
"""A minute of two seconds, an hour of twenty."""


class RedisServer:
    """A Redis at an address that stays the same; what it holds is lost when it is killed."""

    def __init__(self, folder: Path) -> None:
        self._program = shutil.which("redis-server") or missing("no redis-server here")
        self._folder = folder
        self._port = free_port()
        self.url = f"redis://127.0.0.1:{self._port}"
        self._process: asyncio.subprocess.Process | None = None

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.kill()

    async def start(self) -> None:
        words = ("--port", f"{self._port}", "--save", "", "--dir", f"{self._folder}")
        self._process = await asyncio.create_subprocess_exec(
            *(self._program, *words, "--bind", "127.0.0.1"), stdout=asyncio.subprocess.DEVNULL
        )
        await until(self._is_listening)

    async def kill(self) -> None:
        if self._process is not None:
            with suppress(ProcessLookupError):
                self._process.kill()
            await self._process.wait()

    def freeze(self) -> None:
        """It takes connections and requests, and answers none."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    async def do(self, *words: Any) -> Any:
        """The answer to one command."""
        client = Redis.from_url(self.url)
        try:
            return await client.execute_command(*words)  # type: ignore[no-untyped-call]
        finally:
            await client.aclose()

    def _is_listening(self) -> bool:
        with suppress(ConnectionRefusedError), socket.create_connection(("127.0.0.1", self._port)):
            return True
        return False


def shared(
    server: RedisServer, limit: RateLimit, processes: int = 3, pace: Pace = PACE
) -> RedisRateLimit:
    """The limit as each of the clients has it."""
    return RedisRateLimit(limit, server.url, processes=processes, _pace=pace)


def most_in_any(seconds: float, moments: list[float]) -> int:
    """The most of these moments that one window of so many seconds holds."""
    return max((sum(s <= m < s + seconds for m in moments) for s in moments), default=0)


class Relay:
    """A way to a Redis that may be cut."""

    def __init__(self, server: RedisServer) -> None:
        self._server = server
        self._listening: asyncio.Server | None = None
        self._ways: set[asyncio.StreamWriter] = set()
        self.url = ""

    async def __aenter__(self) -> Self:
        self._listening = await asyncio.start_server(self._carry, "127.0.0.1", 0)
        self.url = f"redis://127.0.0.1:{self._listening.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self.cut()
        await asyncio.sleep(0.05)

    def cut(self) -> None:
        assert self._listening is not None
        self._listening.close()
        for way in self._ways:
            way.close()

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        port = int(self._server.url.rpartition(":")[2])
        other_reader, other_writer = await asyncio.open_connection("127.0.0.1", port)
        self._ways |= {writer, other_writer}
        await asyncio.gather(_copy(reader, other_writer), _copy(other_reader, writer))


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(ConnectionError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    writer.close()
