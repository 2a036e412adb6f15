"""One rate limit for several clients at a real Redis that dies, freezes, refuses and forgets."""

import asyncio
import logging
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from itwin_export_async import RateLimit
from itwin_export_async.redis import RedisRateLimit
from itwin_export_async.redis._messages import InvalidReply
from itwin_export_async.redis._store import KEYS, RedisStore
from tests.support.processes import until
from tests.support.redises import (
    GET,
    PREFIX,
    TIMING,
    RedisServer,
    Service,
    log_of_redis,
    most_in_any,
    now,
    send_all,
    sessions,
    shared,
)

pytestmark = pytest.mark.usefixtures("integration")

WINDOW = 1.95  # seconds: a little less than the minute here, for the service's own clock


@pytest.fixture
async def redis_server() -> AsyncIterator[RedisServer]:
    async with RedisServer() as server:
        yield server


async def test_three_clients_together_stay_inside_the_limit(redis_server: RedisServer) -> None:
    service = Service()
    limit = shared(redis_server, RateLimit(per_minute=12, per_hour=80))
    async with sessions(limit, service, service, service) as all_three:
        await send_all(all_three, 8)
        assert await redis_server.do("ZCARD", f"{PREFIX}peers") == 3
        for key in KEYS:
            if await redis_server.do("EXISTS", PREFIX + key):
                assert await redis_server.do("PTTL", PREFIX + key) > 0
    assert await redis_server.do("ZCARD", f"{PREFIX}peers") == 0
    assert await redis_server.do("ZCARD", f"{PREFIX}calls") == 24
    assert most_in_any(WINDOW, service.at) <= 12


@pytest.mark.parametrize("way", ["killed", "frozen", "read only", "full", "spoiled"])
async def test_clients_continue_with_their_shares_while_redis_is_gone(
    redis_server: RedisServer, way: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    redis = redis_server

    async def freeze() -> None:
        redis.freeze()

    async def thaw() -> None:
        redis.thaw()

    async def fill() -> None:
        await redis.do("CONFIG", "SET", "maxmemory", "1")
        await redis.do("FLUSHALL")  # a script that has begun to write may continue

    go: dict[str, Callable[[], Awaitable[Any]]] = {
        "killed": redis.kill,
        "frozen": freeze,
        "read only": lambda: redis.do("REPLICAOF", "127.0.0.1", "1"),
        "full": fill,
        "spoiled": lambda: redis.do("SET", f"{PREFIX}calls", "x"),
    }
    come: dict[str, Callable[[], Awaitable[Any]]] = {
        "killed": redis.start,
        "frozen": thaw,
        "read only": lambda: redis.do("REPLICAOF", "NO", "ONE"),
        "full": lambda: redis.do("CONFIG", "SET", "maxmemory", "0"),
        "spoiled": lambda: redis.do("DEL", f"{PREFIX}calls"),
    }
    service = Service()
    async with sessions(shared(redis, RateLimit(per_minute=30)), *[service] * 3) as all_three:
        await send_all(all_three, 4)
        await go[way]()
        await until(lambda: len(log_of_redis(caplog)) >= 3)
        await send_all(all_three, 1)
        assert [record.levelno for record in log_of_redis(caplog)] == [logging.WARNING] * 3
        assert all(redis.url in record.getMessage() for record in log_of_redis(caplog))
        caplog.clear()
        await come[way]()
        await until(lambda: len(log_of_redis(caplog)) >= 3)
        await send_all(all_three, 1)
        assert [record.levelno for record in log_of_redis(caplog)] == [logging.INFO] * 3
    assert most_in_any(WINDOW, service.at) <= 30


@pytest.mark.parametrize(
    ("user", "reason"),
    [
        ("default:wrong", "it refuses the user or password (AuthenticationError)"),
        ("reader:right", "its user may not run the script on these keys (NoPermissionError)"),
    ],
)
async def test_a_refusing_redis_is_not_called_gone(
    redis_server: RedisServer, user: str, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    await redis_server.do("ACL", "SETUSER", "reader", "on", ">right", "~*", "+get")
    await redis_server.do("CONFIG", "SET", "requirepass", "secret")
    url = redis_server.url.replace("unix://", f"unix://{user}@")
    limit = RedisRateLimit(RateLimit(per_minute=30), url, processes=3, _timing=TIMING)
    async with sessions(limit, Service()) as (session,):
        await session.send(GET)
        await session.send(GET)
    (record,) = log_of_redis(caplog)
    assert f"{reason}; continuing with a share of 10 calls in 2 s" in record.getMessage()
    assert "wrong" not in caplog.text


async def test_an_evicting_policy_is_warned_about(
    redis_server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    await redis_server.do("CONFIG", "SET", "maxmemory-policy", "volatile-lru")
    limit = shared(redis_server, RateLimit(per_minute=30))
    async with sessions(limit, Service()) as (session,):
        await session.send(GET)
    assert not log_of_redis(caplog)  # without a bound nothing is evicted
    await redis_server.do("CONFIG", "SET", "maxmemory", "100mb")
    async with sessions(limit, Service()):
        await until(lambda: bool(log_of_redis(caplog)))
    (record,) = log_of_redis(caplog)
    assert "maxmemory-policy volatile-lru" in record.getMessage()


COMMAND = re.compile(rb"(?m)^\*\d+\r$")
HELLO = b"%2\r\n$5\r\nproto\r\n:3\r\n$7\r\nversion\r\n$5\r\n7.0.0\r\n"


@asynccontextmanager
async def server_with(answer: bytes, hello: bytes) -> AsyncIterator[str]:
    """The address of a server with one answer to the handshake, and one to all else."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            if b"HELLO" in data:
                writer.write(hello)
            else:  # commands may come in one piece
                writer.write(answer * max(1, len(COMMAND.findall(data))))
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}"


@pytest.mark.parametrize("hello", [HELLO, b""])
@pytest.mark.parametrize(
    "answer",
    [b"+OK\r\n", b":5\r\n", b":x\r\n", b"$2\r\n{}\r\n", b"*0\r\n", b"HTTP/1.1 400 No\r\n"],
)
async def test_a_server_that_is_no_redis_does_no_harm(
    answer: bytes, hello: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    async with server_with(answer, hello or answer) as url:
        limit = RedisRateLimit(RateLimit(per_minute=30), url, processes=3, _timing=TIMING)
        async with sessions(limit, Service()) as (session,):
            for _ in range(3):
                await session.send(GET)
    assert [record.levelno for record in log_of_redis(caplog)] == [logging.WARNING]


async def test_no_exception_of_the_driver_leaves_the_store() -> None:
    async with server_with(b":5\r\n", HELLO) as url:
        store = RedisStore(url, "default", 1.0)
        assert await store.exchange("{}") == 5
        with pytest.raises(InvalidReply):
            await store.evicting_policy()
        await store.close()
    async with server_with(b":x\r\n", HELLO) as url:
        store = RedisStore(url, "default", 1.0)
        with pytest.raises(InvalidReply):
            await store.exchange("{}")
        await store.close()


async def test_a_lost_script_is_loaded_again(
    redis_server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    async with sessions(shared(redis_server, RateLimit(per_minute=90)), Service()) as (session,):
        for _ in range(3):
            await session.send(GET)
            await redis_server.do("SCRIPT", "FLUSH")
        await session.send(GET)
    assert not log_of_redis(caplog)


async def test_limits_of_two_names_are_separate(redis_server: RedisServer) -> None:
    ten, service = RateLimit(per_minute=10), Service()
    one, two = (
        RedisRateLimit(ten, redis_server.url, processes=1, name=name, _timing=TIMING)
        for name in ("one", "two")
    )
    async with sessions(one, service) as first, sessions(two, service) as second:
        await send_all(first + second, 10)
    for name in ("one", "two"):
        assert await redis_server.do("ZCARD", f"itwin_export_async:{{{name}}}:calls") == 10


async def test_a_client_closes_soon_while_redis_is_frozen(redis_server: RedisServer) -> None:
    async with sessions(shared(redis_server, RateLimit(per_minute=30)), Service()) as (session,):
        await session.send(GET)
        redis_server.freeze()
        closed_at = now()
    assert now() - closed_at < 10
