"""The script of the rate limit in process replies as it does at a real Redis."""

import json
from collections.abc import AsyncIterator
from random import Random
from typing import Any

import pytest
from redis.asyncio import Redis

from itwin_export_async import RateLimit
from itwin_export_async.redis._messages import Timing, parse_reply
from itwin_export_async.redis._quota import QuotaShare
from itwin_export_async.redis._store import KEYS, SCRIPT
from tests.support.lua_redis import LuaRedis
from tests.support.redises import PREFIX, RedisServer

pytestmark = pytest.mark.usefixtures("integration")

# the real one takes the time from the message too
TIMED = SCRIPT.replace("redis.call('TIME')", "cjson.decode(ARGV[2])")
TIMING = Timing()
LIMITS = [RateLimit(per_minute=8, per_hour=40), RateLimit(per_hour=9), RateLimit()]


@pytest.fixture
async def redis_server() -> AsyncIterator[RedisServer]:
    async with RedisServer() as server:
        yield server


def words(now: float) -> str:
    return json.dumps([str(int(now)), str(round(now % 1 * 1e6))])


def next_message(random: Random, share: QuotaShare, now: float, *, is_last: bool) -> str:
    """The message of a process after some calls."""
    while share.next_free_at(now) == now and random.random() < 0.8:
        share.start_call()
        if random.random() < 0.7:
            share.finish_call(now, counted=random.random() < 0.8)
    share.release_unused()
    if random.random() < 0.05:
        share.report_pause(now + random.uniform(0, 9))
    if random.random() < 0.1:
        share.report_probe(succeeded=random.random() < 0.5)
    wanted, is_probing = random.randrange(4), random.random() < 0.1
    return share.build_message(now, wanted=wanted, is_probing=is_probing, is_last=is_last)


@pytest.mark.parametrize("limit", LIMITS)
async def test_the_script_replies_in_process_as_at_redis(
    redis_server: RedisServer, limit: RateLimit
) -> None:
    random, now = Random(1), 1_700_000_000.0
    keys = tuple(PREFIX + key for key in KEYS)
    in_process = LuaRedis(TIMED, keys, lambda: now)
    client = Redis.from_url(redis_server.url)
    script = client.register_script(TIMED)
    shares = {name: QuotaShare(name, limit, 3, TIMING) for name in "abcd"}
    for _ in range(400):
        now += random.choice((0.0, 0.002, 0.5, 0.5, 7.0, 61.0))
        if random.random() < 0.01:
            in_process.flush()
            await client.flushall()
        name, is_last = random.choice("abcd"), random.random() < 0.02
        message = next_message(random, shares[name], now, is_last=is_last)
        reply = in_process.run(message, words(now))
        real: Any = await script(keys=keys, args=[message, words(now)])
        assert json.loads(reply) == json.loads(real)
        if is_last:
            shares[name] = QuotaShare(name, limit, random.choice((3, 4)), TIMING)
        elif random.random() < 0.1:
            shares[name].on_timeout()
        else:
            shares[name].on_reply(parse_reply(reply), now)
    await client.aclose()
