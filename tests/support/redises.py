"""Clients that share a rate limit: in virtual time in process, and with a real Redis."""

import asyncio
import logging
import shutil
import signal
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from tempfile import mkdtemp
from typing import Any, Self

import pytest
from attrs import define, field, frozen
from redis.asyncio import Redis
from redis.exceptions import ConnectionError as RedisConnectionError

from itwin_export_async import RateLimit, Session
from itwin_export_async.redis import RedisRateLimit
from itwin_export_async.redis._limiter import RedisLimiter
from itwin_export_async.redis._messages import Timing
from itwin_export_async.redis._quota import QuotaShare
from itwin_export_async.redis._store import KEYS, SCRIPT
from itwin_export_async.transport import Request, Response
from tests.support.batches import tasks_left
from tests.support.fakes import Answer, Answers, answer
from tests.support.lua_redis import LuaRedis
from tests.support.processes import missing

GET = Request(method="GET", url="/x")
TIMING = Timing(
    minute=2.0,
    hour=20.0,
    heartbeat=0.05,
    peer_timeout=0.8,
    reply_timeout=2.0,
    call_lease=1.5,
    peer_retention=600.0,
)
"""For a real Redis: a minute of two seconds, an hour of twenty."""

PREFIX = "itwin_export_async:{default}:"
_LATENCY = 0.001  # seconds that a message takes to Redis in process, and its reply back


def now() -> float:
    return asyncio.get_running_loop().time()


class Service(Answers):
    """Records when each request came; each answer takes `takes` seconds."""

    def __init__(self, *answers: Answer, takes: float = 0.01) -> None:
        super().__init__(*answers or [answer(204)])
        self.at: list[float] = []
        self.takes = takes

    async def send(self, request: Request, /) -> Response:
        self.at.append(now())
        await asyncio.sleep(self.takes)
        return await super().send(request)


def most_in_any(seconds: float, moments: list[float]) -> int:
    """The most of these moments that one window of so many seconds holds."""
    return max((sum(s <= m < s + seconds for m in moments) for s in moments), default=0)


@define(eq=False)
class Connection:
    """The connection of one client to a Redis in process."""

    redis: LuaRedis
    is_cut: bool = False
    is_frozen: bool = False
    policy: str | None = None

    async def exchange(self, message: str) -> object:
        await asyncio.sleep(_LATENCY)
        if self.is_frozen:
            await asyncio.Event().wait()
        if self.is_cut:
            raise RedisConnectionError("cut")
        reply = self.redis.run(message)
        await asyncio.sleep(_LATENCY)
        return reply

    async def evicting_policy(self) -> str | None:
        return self.policy

    async def close(self) -> None:
        """Nothing is to be closed."""


def lua_redis() -> LuaRedis:
    """A Redis in process, in the time of the running loop."""
    return LuaRedis(SCRIPT, tuple(PREFIX + key for key in KEYS), now)


@frozen(eq=False)
class InProcessLimit:
    """A rate limit whose state is in a Redis in process; names the clients by letters."""

    limit: RateLimit
    processes: int = 3
    redis: LuaRedis = field(factory=lua_redis)
    names: str = field(default="abcdefgh", kw_only=True)
    policy: str | None = field(default=None, kw_only=True)
    limiters: list[RedisLimiter] = field(factory=list, init=False)
    connections: list[Connection] = field(factory=list, init=False)

    def create_limiter(self, at_once: int) -> RedisLimiter:
        connection = Connection(self.redis, policy=self.policy)
        name = self.names[len(self.limiters)]
        share = QuotaShare(name, self.limit, self.processes, Timing())
        limiter = RedisLimiter(
            share, at_once, store=connection, name="default", redis_url="in process"
        )
        self.limiters.append(limiter)
        self.connections.append(connection)
        return limiter


@frozen(eq=False)
class Client:
    """A client with its limiter and its connection to a Redis in process."""

    session: Session
    limiter: RedisLimiter
    connection: Connection

    async def send(self, request: Request = GET, *, is_poll: bool = False) -> Response:
        return await self.session.send(request, is_poll=is_poll)

    def crowd(self, count: int) -> list[asyncio.Task[Response]]:
        """So many calls that are under way or wait."""
        return [asyncio.create_task(self.send()) for _ in range(count)]


@asynccontextmanager
async def clients(
    limit: InProcessLimit, *services: Service, settled: bool = True, **more: Any
) -> AsyncIterator[list[Client]]:
    """Clients that share the limit, each with its service. `settled`: all know each other."""
    first = len(limit.limiters)
    async with sessions(limit, *services, **more) as opened:
        if settled:
            await asyncio.sleep(2 * Timing().peer_timeout)
        made = zip(opened, limit.limiters[first:], limit.connections[first:], strict=True)
        yield [Client(*parts) for parts in made]


@asynccontextmanager
async def sessions(limit: Any, *services: Service, **more: Any) -> AsyncIterator[list[Session]]:
    before = tasks_left()
    async with AsyncExitStack() as stack:
        yield [
            await stack.enter_async_context(
                Session("t", transport=service, rate_limit=limit, **more)
            )
            for service in services
        ]
    assert tasks_left() <= before


async def send_all(clients: Sequence[Client | Session], count: int) -> None:
    await asyncio.gather(*(client.send(GET) for client in clients for _ in range(count)))


async def cancel_all(calls: list[asyncio.Task[Response]]) -> None:
    for call in calls:
        call.cancel()
    await asyncio.wait(calls)


class RedisServer:
    """A real Redis at a unix socket; what it holds is lost when it is killed.

    The socket is in a folder of its own, because the path of a socket has at most 107 bytes.
    """

    def __init__(self, *options: str) -> None:
        self._program = shutil.which("redis-server") or missing("no redis-server here")
        self._options = options
        self._folder = Path(mkdtemp(prefix="redis-"))
        self.socket = self._folder / "redis.sock"
        self.url = f"unix://{self.socket}"
        self._process: asyncio.subprocess.Process | None = None

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.kill()
        shutil.rmtree(self._folder)

    async def start(self) -> None:
        words = ("--port", "0", "--unixsocket", f"{self.socket}", "--save", "")
        self._process = await asyncio.create_subprocess_exec(
            *(self._program, *words, "--dir", f"{self._folder}", *self._options),
            stdout=asyncio.subprocess.DEVNULL,
        )
        async with asyncio.timeout(60):
            while not await self._is_listening():
                await asyncio.sleep(0.01)

    async def kill(self) -> None:
        if self._process is not None:
            with suppress(ProcessLookupError):
                self._process.kill()
            await self._process.wait()
        self.socket.unlink(missing_ok=True)

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

    async def _is_listening(self) -> bool:
        with suppress(OSError):
            _, writer = await asyncio.open_unix_connection(self.socket)
            writer.close()
            return True
        return False


def log_of_redis(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    """The records about Redis, without those of the sessions."""
    return [record for record in caplog.records if record.name == "itwin_export_async.redis"]


def shared(
    server: RedisServer, limit: RateLimit, processes: int = 3, timing: Timing = TIMING
) -> RedisRateLimit:
    """The limit as each of the clients has it."""
    return RedisRateLimit(limit, server.url, processes=processes, _timing=timing)
