"""One rate limit for several clients, in virtual time; its script runs in process."""

import asyncio
import json
import logging
import pickle
import subprocess
import sys
from collections.abc import Awaitable, Callable
from traceback import format_exception
from typing import Any

import pytest
from redis.exceptions import ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

from itwin_export_async import RateLimit, RetryPolicy, TransportError
from itwin_export_async.redis import RedisRateLimit
from itwin_export_async.redis._limiter import RedisLimiter
from itwin_export_async.redis._messages import Reply, Timing, parse_reply
from itwin_export_async.redis._quota import QuotaShare
from tests.support.fakes import answer
from tests.support.lua_redis import LuaRedis
from tests.support.processes import until
from tests.support.redises import (
    GET,
    PREFIX,
    Connection,
    InProcessLimit,
    Service,
    cancel_all,
    clients,
    log_of_redis,
    lua_redis,
    most_in_any,
    now,
    send_all,
    sessions,
)

MINUTE = 60.0  # the service's; the limiter's is 0.1 s longer
TIMING = Timing()
CALLS = f"{PREFIX}calls"


def limiter_with(
    exchange: Callable[[str], Awaitable[object]], close: Exception | None = None
) -> RedisLimiter:
    """The limiter of one client whose messages go to `exchange`."""

    class FakeStore(Connection):
        async def exchange(self, message: str) -> object:
            return await exchange(message)

        async def close(self) -> None:
            if close is not None:
                raise close

    share = QuotaShare("p", RateLimit(per_minute=5), 1, TIMING)
    store = FakeStore(lua_redis())
    return RedisLimiter(share, 100, store=store, name="default", redis_url="nowhere")


def exchange(redis: LuaRedis, part: QuotaShare, **more: Any) -> Reply:
    """One message of a client without a limiter."""
    reply = parse_reply(redis.run(part.build_message(now(), **more)))
    part.on_reply(reply, now())
    return reply


async def settled(redis: LuaRedis, *parts: QuotaShare) -> None:
    """Wait until Redis knows of all that there could be others."""
    for _ in range(10):
        for part in parts:
            exchange(redis, part)
        await asyncio.sleep(TIMING.heartbeat)


async def test_three_clients_together_stay_inside_the_limit_and_use_it() -> None:
    service = Service(takes=0.05)
    limit = InProcessLimit(RateLimit(per_minute=30, per_hour=80))
    async with clients(limit, service, service, service) as all_three:
        started_at = now()
        await send_all(all_three, 25)
    assert most_in_any(MINUTE, service.at) == 30
    assert service.at[-1] - started_at < 3 * TIMING.minute
    assert len(service.at) == 75


async def test_a_client_that_works_while_others_rest_has_the_limit_for_itself() -> None:
    service = Service()
    async with clients(InProcessLimit(RateLimit(per_minute=60)), *[service] * 3) as (one, *_):
        await send_all([one], 60)
        assert max(service.at) - min(service.at) < TIMING.minute / 4
        assert one.session.remaining_calls == 0
        assert one.session.call_rate == pytest.approx(60 / TIMING.minute / 3)


async def test_a_modest_client_does_not_starve_beside_a_greedy_one() -> None:
    greedy, modest = Service(), Service()
    limit = InProcessLimit(RateLimit(per_minute=20))
    async with clients(limit, greedy, modest) as (one, other):
        crowd = one.crowd(200)
        await asyncio.sleep(15)
        for _ in range(10):
            started_at = now()
            await other.send()
            assert now() - started_at < TIMING.minute + 1
        await cancel_all(crowd)


async def test_crowds_of_all_clients_get_fair_shares() -> None:
    services = [Service(), Service(), Service()]
    async with clients(InProcessLimit(RateLimit(per_minute=30)), *services) as all_three:
        crowd = [call for client in all_three for call in client.crowd(100)]
        await asyncio.sleep(2.5 * TIMING.minute)
        counts = [len(service.at) for service in services]
        await cancel_all(crowd)
    assert sum(counts) == 90
    assert min(counts) > sum(counts) / 5


async def test_other_calls_go_before_polls() -> None:
    order: list[str] = []
    async with clients(InProcessLimit(RateLimit(per_minute=1), 1), Service()) as (client,):

        async def call(name: str) -> None:
            await client.send(is_poll=name == "poll")
            order.append(name)

        await asyncio.gather(*map(call, ("first", "poll", "second")))
    assert order == ["first", "second", "poll"]


async def test_a_pause_holds_for_all_clients_and_one_probe_ends_it() -> None:
    refusing = Service(answer(429, Retry_After="10"), answer(204), takes=0.05)
    others = Service(takes=0.3)
    limit = InProcessLimit(RateLimit(per_minute=500))
    async with clients(limit, refusing, others, others) as (one, *rest):
        first = one.crowd(1)
        await until(lambda: one.limiter.pause_left > 0)
        ends_at = now() + one.limiter.pause_left
        await until(lambda: all(client.limiter.pause_left > 9 for client in rest))
        await asyncio.gather(*first, send_all([one, *rest], 5))
    later = sorted(at for at in refusing.at + others.at if at > refusing.at[0])
    assert len(later) == 16
    assert later[0] > ends_at - 0.05
    takes = 0.05 if later[0] in refusing.at else 0.3
    assert later[1] >= later[0] + takes
    assert later[-1] < ends_at + 2


async def test_a_long_pause_rejects_waiters_of_another_client_at_once() -> None:
    service, limit = Service(), InProcessLimit(RateLimit(per_minute=3))
    retry = RetryPolicy(max_retry_after=30)
    async with clients(limit, Service(), service, retry=retry) as (one, other):
        await send_all([other], 3)
        (waiter,) = other.crowd(1)
        await asyncio.sleep(1)
        assert not waiter.done()
        one.limiter.pause(120.0)
        paused_at = now()
        assert (await waiter).status == 429
        assert now() - paused_at < TIMING.heartbeat + 0.1
    assert len(service.at) == 3


async def test_limiter_discards_grants_after_429() -> None:
    sent: list[dict[str, Any]] = []
    reply = asyncio.get_running_loop().create_future()
    grant = {
        "granted": 1,
        "known": True,
        "needs_probe": False,
        "wait": 0,
        "pause": 0,
        "other_limits": 0,
    }
    state = {"reserved": [5], "remaining": [5], "live_peers": 1, "peers": [], "all_reported": True}

    async def ask(message: str) -> object:
        sent.append(json.loads(message))
        if sent[-1]["wanted"]:
            await reply
            return json.dumps({**grant, **state})
        return json.dumps({**grant, **state, "granted": 0})

    limiter = limiter_with(ask)
    turn = asyncio.create_task(limiter.acquire(is_poll=False))
    await until(lambda: bool(sent and sent[-1]["wanted"]))
    limiter.pause(60.0)
    reply.set_result(None)
    await until(lambda: sent[-1]["released"] == [1])
    assert sent[-1]["pause"] > 0
    assert not turn.done()
    await limiter.close()
    with pytest.raises(RuntimeError, match="closed"):
        await turn


async def test_a_429_reported_with_a_successful_probe_requires_another_probe() -> None:
    redis, part = lua_redis(), QuotaShare("p", RateLimit(per_minute=5), 1, TIMING)
    await settled(redis, part)
    part.report_pause(now())
    assert exchange(redis, part, wanted=1).needs_probe
    part.start_call()
    part.report_probe(succeeded=True)
    part.finish_call(now())
    part.report_pause(now())
    exchange(redis, part)
    assert exchange(redis, part, wanted=1).needs_probe


async def test_a_refused_probe_pauses_all_clients_again() -> None:
    refusal = answer(429, Retry_After="10")
    refused, others = Service(refusal, refusal, refusal, answer(204)), Service()
    limit, retry = InProcessLimit(RateLimit(per_minute=500)), RetryPolicy(attempts=9)
    async with clients(limit, refused, others, retry=retry) as (one, other):
        first = one.crowd(1)
        await until(lambda: other.limiter.pause_left > 0)
        started_at = now()
        await asyncio.gather(*first, send_all([one], 3))
    assert now() - started_at > 20


async def test_the_probe_of_a_dead_client_is_followed_by_another() -> None:
    refused = Service(answer(429, Retry_After="10"), answer(204))
    others = Service()
    async with clients(InProcessLimit(RateLimit(per_minute=500)), refused, others) as (one, other):
        probe = one.crowd(1)
        await until(lambda: len(refused.at) == 1)
        refused.takes = 300.0
        await until(lambda: len(refused.at) == 2)
        died_at = now()
        one.connection.is_cut = True
        await other.send()
        assert TIMING.peer_timeout / 2 < now() - died_at < TIMING.peer_timeout + TIMING.heartbeat
        await cancel_all(probe)


async def test_a_probe_whose_caller_is_cancelled_is_passed_on() -> None:
    refused = Service(answer(429, Retry_After="10"), answer(204))
    others = Service()
    async with clients(InProcessLimit(RateLimit(per_minute=500)), refused, others) as (one, other):
        first = one.crowd(1)
        await until(lambda: other.limiter.pause_left > 0)
        refused.takes = 30.0
        await until(lambda: len(refused.at) == 2)
        await cancel_all(first)
        cancelled_at = now()
        await other.send()
        assert now() - cancelled_at < TIMING.heartbeat


async def test_a_call_that_was_never_sent_costs_nothing() -> None:
    refused = TransportError(message="refused", may_have_been_processed=False)
    service, limit = Service(refused, refused, answer(204)), InProcessLimit(RateLimit(per_minute=1))
    async with clients(limit, service) as (client,):
        started_at = now()
        await client.send()
        assert now() - started_at < MINUTE
        assert limit.redis.count(CALLS) == 1


async def test_calls_of_a_dead_client_count_for_a_lease_and_a_window() -> None:
    hanging, others = Service(takes=600.0), Service()
    limit = InProcessLimit(RateLimit(per_minute=3))
    async with clients(limit, hanging, others, others, request_timeout=900) as (one, other, _):
        calls = one.crowd(3)
        await until(lambda: len(hanging.at) == 3)
        await asyncio.sleep(TIMING.call_lease + TIMING.minute)  # it lives, and renews the lease
        one.connection.is_cut = True
        died_at = now()
        await other.send()
        assert (
            TIMING.minute + TIMING.call_lease / 2
            < now() - died_at
            < TIMING.minute + TIMING.call_lease + 1
        )
        await cancel_all(calls)


async def test_cancelled_callers_lose_no_capacity() -> None:
    service = Service(takes=0.002)
    limit = InProcessLimit(RateLimit(per_hour=100))
    async with clients(limit, service, service, service) as all_three:
        for attempt in range(40):
            calls = [call for client in all_three for call in client.crowd(3)]
            for _ in range(attempt % 7):
                await asyncio.sleep(0)
            await asyncio.sleep(0.0003 * (attempt % 5))
            await cancel_all(calls)
            if len(service.at) > 60:
                break
        sent = len(service.at)
        await asyncio.sleep(2 * TIMING.heartbeat)
        assert limit.redis.count(CALLS) == sent
        started_at = now()
        await asyncio.gather(*all_three[0].crowd(100 - sent))
        assert now() - started_at < MINUTE


async def test_clients_continue_with_their_shares_while_redis_is_gone(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    service = Service()
    limit = InProcessLimit(RateLimit(per_minute=30))
    async with clients(limit, service, service, service) as all_three:
        await send_all(all_three, 4)
        for connection in limit.connections:
            connection.is_cut = True
        await send_all(all_three, 12)
        assert [record.levelno for record in log_of_redis(caplog)] == [logging.WARNING] * 3
        caplog.clear()
        for connection in limit.connections:
            connection.is_cut = False
        await until(lambda: len(log_of_redis(caplog)) == 3)
        await send_all(all_three, 5)
        assert [record.levelno for record in log_of_redis(caplog)] == [logging.INFO] * 3
    assert most_in_any(MINUTE, service.at) <= 30
    assert max(service.at) - min(service.at) < 6 * TIMING.minute


async def test_calls_made_while_redis_is_gone_are_reported_later() -> None:
    service = Service()
    limit = InProcessLimit(RateLimit(per_hour=300))
    async with clients(limit, service, service, service) as all_three:
        await send_all(all_three, 5)
        for connection in limit.connections:
            connection.is_cut = True
        await asyncio.sleep(TIMING.peer_timeout)
        await send_all(all_three, 5)
        limit.redis.flush()
        for connection in limit.connections:
            connection.is_cut = False
        await until(lambda: limit.redis.count(CALLS) == 30)
        await send_all(all_three, 1)
        await asyncio.sleep(TIMING.heartbeat)
        assert limit.redis.count(CALLS) == 33


async def test_data_lost_by_redis_is_reported_again() -> None:
    service = Service()
    limit = InProcessLimit(RateLimit(per_minute=90))
    async with clients(limit, service, service, service) as all_three:
        await send_all(all_three, 25)
        limit.redis.flush()
        await send_all(all_three, 25)
        assert most_in_any(MINUTE, service.at) <= 90
        assert max(service.at) - min(service.at) < 2.5 * TIMING.minute


async def test_a_pause_lost_by_redis_is_reported_again() -> None:
    refused, others = Service(answer(429, Retry_After="20"), answer(204)), Service()
    limit = InProcessLimit(RateLimit(per_minute=500))
    async with clients(limit, refused, others) as (one, _):
        first = one.crowd(1)
        await until(lambda: one.limiter.pause_left > 0)
        limit.redis.flush()
        async with clients(limit, others, settled=False) as (new,):
            await until(lambda: new.limiter.pause_left > 15)
        await asyncio.gather(*first)


async def test_a_share_is_usable_at_once_without_redis_from_the_start(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    service = Service()
    limit = InProcessLimit(RateLimit(per_minute=9))
    async with clients(limit, service, service, service, settled=False) as all_three:
        for connection in limit.connections:
            connection.is_cut = True
        await send_all(all_three, 3)
        assert now() < 2
        assert all_three[0].session.remaining_calls == 0
        assert all_three[0].session.call_rate == pytest.approx(3 / TIMING.minute)
        for connection in limit.connections:
            connection.is_cut = False
        await send_all(all_three, 3)
    assert most_in_any(MINUTE, service.at) <= 9
    assert [record.levelno for record in log_of_redis(caplog)].count(logging.WARNING) == 3


async def test_a_share_is_usable_before_all_clients_have_reported() -> None:
    service = Service()
    limit = InProcessLimit(RateLimit(per_minute=9))
    async with clients(limit, service, settled=False) as (client,):
        await send_all([client], 3)
        assert now() < TIMING.peer_timeout / 2
        await send_all([client], 6)
    assert len(service.at) == 9


async def test_clients_leave_a_disconnected_one_its_share() -> None:
    service = Service()
    limit = InProcessLimit(RateLimit(per_minute=30))
    async with clients(limit, service, service, service) as all_three:
        crowd = [call for client in all_three for call in client.crowd(70)]
        await asyncio.sleep(TIMING.minute)
        all_three[0].connection.is_cut = True
        await asyncio.sleep(4 * TIMING.minute)
        sent = len(service.at)
        await cancel_all(crowd)
    assert most_in_any(MINUTE, service.at) <= 30
    assert sent > 100


async def test_other_clients_report_a_disconnected_one_after_redis_lost_its_data() -> None:
    service = Service()
    limit = InProcessLimit(RateLimit(per_minute=30), 2)
    async with clients(limit, service, service) as (lone, other):
        lone.connection.is_cut = True
        limit.redis.flush()
        await asyncio.sleep(5 * TIMING.peer_timeout)
        await send_all([other], 15)
        assert other.session.remaining_calls == 0  # the other half belongs to the lone client


async def test_a_closed_client_is_not_reported_as_lost() -> None:
    redis = lua_redis()
    stays, leaves = (QuotaShare(name, RateLimit(per_minute=6), 2, TIMING) for name in "ab")
    await settled(redis, stays, leaves)
    exchange(redis, leaves, is_last=True)
    stays.build_message(now())
    stays.on_timeout()
    assert not exchange(redis, stays).known
    assert json.loads(stays.build_message(now()))["peers"]
    assert exchange(redis, stays, wanted=6).peers == ()
    assert exchange(redis, stays, wanted=6).granted == 6


async def test_a_reopened_client_does_not_get_its_share_twice() -> None:
    service = Service()
    limit = InProcessLimit(RateLimit(per_minute=9), 1)
    for _ in range(2):
        async with clients(limit, service, settled=False) as (client,):
            await send_all([client], 9)
    assert most_in_any(MINUTE, service.at) == 9


async def test_a_client_that_closes_unregisters() -> None:
    limit = InProcessLimit(RateLimit(per_minute=30))
    async with clients(limit, Service()) as (client,):
        await client.send()
        assert limit.redis.count(f"{PREFIX}peers") == 1
    assert limit.redis.count(f"{PREFIX}peers") == 0
    assert limit.redis.count(f"{PREFIX}reserved") == 0
    assert limit.redis.count(CALLS) == 1


async def test_a_client_closes_soon_while_redis_does_not_answer() -> None:
    limit = InProcessLimit(RateLimit(per_minute=30))
    async with clients(limit, Service()) as (client,):
        client.connection.is_frozen = True
        closed_at = now()
    assert now() - closed_at < 3 * TIMING.reply_timeout


async def test_waiters_of_a_closing_client_fail() -> None:
    limit = InProcessLimit(RateLimit(per_minute=1), 1)
    async with clients(limit, Service()) as (client,):
        await client.send()
        waiters = client.crowd(3)
        await asyncio.sleep(1)
        waiters[0].cancel()
    done = await asyncio.gather(
        *waiters, client.limiter.acquire(is_poll=False), return_exceptions=True
    )
    assert isinstance(done.pop(0), asyncio.CancelledError)
    assert [str(error) for error in done] == ["the client was closed"] * 3


async def test_a_waiter_cancelled_while_the_client_closes_is_cancelled() -> None:
    async def ask(_: str) -> object:
        return str(await asyncio.Event().wait())  # never

    limiter = limiter_with(ask)
    turn = asyncio.create_task(limiter.acquire(is_poll=False))
    await asyncio.sleep(0)
    closing = asyncio.create_task(limiter.close())
    await asyncio.sleep(0)
    turn.cancel()
    with pytest.raises(asyncio.CancelledError):
        await turn
    await closing


async def test_waiters_fail_when_the_exchange_with_redis_ends_in_a_bug() -> None:
    async def ask(_: str) -> object:
        raise KeyError("bug")

    limiter = limiter_with(ask)
    early = asyncio.create_task(limiter.acquire(is_poll=False))
    for turn in (early, limiter.acquire(is_poll=False), limiter.acquire(is_poll=True)):
        with pytest.raises(RuntimeError, match="has ended in an error") as caught:
            await turn
        assert isinstance(caught.value.__cause__, KeyError)
    with pytest.raises(KeyError):
        await limiter.close()


async def test_a_share_is_not_used_after_the_exchange_with_redis_ended_in_a_bug() -> None:
    answers = iter([RedisTimeoutError(), KeyError()])

    async def ask(_: str) -> object:
        raise next(answers)

    limiter = limiter_with(ask)
    assert not await limiter.acquire(is_poll=False)
    await asyncio.sleep(2 * TIMING.heartbeat)
    with pytest.raises(RuntimeError, match="has ended in an error"):
        await limiter.acquire(is_poll=False)
    limiter.release(is_probe=False, counted=True, succeeded=True)
    with pytest.raises(KeyError):
        await limiter.close()


async def test_a_connection_that_fails_to_close_does_no_harm() -> None:
    async def ask(_: str) -> object:
        return '{"known": false}'

    await limiter_with(ask, RedisTimeoutError("Timeout closing connection")).close()


async def test_waiters_continue_with_a_share_when_redis_answers_with_something_else(
    caplog: pytest.LogCaptureFixture,
) -> None:
    count = 0

    async def ask(_: str) -> object:
        nonlocal count
        count += 1
        await asyncio.sleep(0.001)
        return ["OK", "{}", b"", 5, None, '{"known": false}'][count % 6]

    limiter = limiter_with(ask)
    for _ in range(5):
        assert await limiter.acquire(is_poll=False) is False
        limiter.release(is_probe=False, counted=True, succeeded=True)
    await asyncio.sleep(60)
    assert count < 60 / TIMING.heartbeat + 10
    await limiter.close()
    assert [record.levelno for record in log_of_redis(caplog)] == [logging.WARNING]
    assert "does not answer as Redis does" in caplog.text


async def test_the_warning_that_redis_is_gone_says_the_share(
    caplog: pytest.LogCaptureFixture,
) -> None:
    limit = InProcessLimit(RateLimit.COMMUNITY)
    async with clients(limit, Service()) as (client,):
        client.connection.is_cut = True
        await asyncio.sleep(60)
    (record,) = log_of_redis(caplog)
    assert record.name == "itwin_export_async.redis"
    assert record.getMessage() == (
        "rate limit 'default' in Redis at in process cannot be used: it is gone (ConnectionError);"
        " continuing with a share of 166 calls in 60 s and 1666 calls in 3600 s"
    )


async def test_more_clients_than_processes_are_warned_about_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    limit = InProcessLimit(RateLimit(per_minute=30), 2)
    async with clients(limit, *[Service()] * 3):
        assert not log_of_redis(caplog)  # two might be one that was killed and the next one
        await asyncio.sleep(60)
    assert len(log_of_redis(caplog)) == 3
    assert "has 3 clients, more than processes=2" in caplog.text


async def test_a_client_that_takes_the_place_of_a_dead_one_is_not_warned_about(
    caplog: pytest.LogCaptureFixture,
) -> None:
    limit = InProcessLimit(RateLimit(per_minute=30), 1)
    async with clients(limit, Service()) as (dead,):
        dead.connection.is_cut = True
        await asyncio.sleep(0.5)
        caplog.clear()
        async with clients(limit, Service()):
            await asyncio.sleep(60)
    assert not log_of_redis(caplog)


@pytest.mark.parametrize(("other", "processes"), [(30, 3), (40, 2)])
async def test_different_limits_of_one_name_are_warned_about_once(
    other: int, processes: int, caplog: pytest.LogCaptureFixture
) -> None:
    one = InProcessLimit(RateLimit(per_minute=30), 2)
    two = InProcessLimit(RateLimit(per_minute=other), processes, one.redis, names="xyz")
    async with clients(one, Service()), clients(two, Service()):
        await asyncio.sleep(60)
    assert len(log_of_redis(caplog)) == 2
    assert "used by 1 other clients with another limit" in caplog.text


async def test_a_policy_that_evicts_keys_is_warned_about_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    limit = InProcessLimit(RateLimit(per_minute=30), policy="allkeys-lru")
    async with clients(limit, Service()) as (client,):
        client.connection.is_cut = True
        await asyncio.sleep(10)
        client.connection.is_cut = False
        await asyncio.sleep(60)
    (first, _) = (record for record in log_of_redis(caplog) if record.levelno == logging.WARNING)
    assert "Redis evicts by maxmemory-policy allkeys-lru" in first.getMessage()


async def test_pauses_are_shared_without_a_limit_too() -> None:
    refused, others = Service(answer(429, Retry_After="10"), answer(204)), Service()
    async with clients(InProcessLimit(RateLimit()), refused, others) as (one, other):
        assert one.session.remaining_calls is None
        await send_all([other], 500)
        first = one.crowd(1)
        await until(lambda: other.limiter.pause_left > 0)
        await asyncio.gather(*first, other.send())
        assert others.at[-1] - refused.at[0] > 9.5


@pytest.mark.usefixtures("integration")
async def test_a_password_is_never_shown(caplog: pytest.LogCaptureFixture) -> None:
    limit = RedisRateLimit(
        RateLimit.COMMUNITY, "redis://user:planted@127.0.0.1:1/0?password=planted", processes=2
    )
    assert "127.0.0.1:1" in repr(limit)
    async with sessions(limit, Service()) as (session,):
        await session.send(GET)
    assert len(log_of_redis(caplog)) == 1
    assert "planted" not in repr(limit) + str(limit) + caplog.text
    assert pickle.loads(pickle.dumps(limit)) == limit


def test_a_password_that_could_be_taken_for_a_host_is_refused() -> None:
    with pytest.raises(ValueError, match="%2F") as caught:
        RedisRateLimit(RateLimit.COMMUNITY, "redis://user:12/planted@localhost", processes=2)
    assert "planted" not in str(caught.value)
    for url in ("redis://user:12%2Fplanted@localhost/0", "unix://user:1@/run/redis.sock?db=0"):
        assert "planted" not in repr(RedisRateLimit(RateLimit.COMMUNITY, url, processes=2))


async def test_words_of_redis_are_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    async def ask(_: str) -> object:
        raise ResponseError("unknown command 'HELLO', with args: '3' 'AUTH' 'user' 'planted'")

    gate = limiter_with(ask)
    await gate.acquire(is_poll=False)
    gate.release(is_probe=False, counted=True, succeeded=True)
    await gate.close()
    assert "nowhere cannot be used: it refuses the script (ResponseError)" in caplog.text
    assert "planted" not in caplog.text


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"url": None}, "^url must be a string, not NoneType$"),
        ({"url": b"redis://:planted@127.0.0.1"}, "^url must be a string, not bytes$"),
        ({"url": "http://planted@127.0.0.1"}, "url must begin with redis://"),
        ({"url": "redis://:planted@127.0.0.1:99999"}, "url is not a valid address of Redis"),
        ({"url": "redis://:planted@127.0.0.1?db=planted"}, "url is not a valid address"),
        ({"url": "redis://user:planted/planted@127.0.0.1"}, "has to be written as %2F"),
        ({"url": "redis://127.0.0.1?pasword=planted"}, "url is not a valid address"),
        ({"url": "redis://127.0.0.1?protocol=9"}, "url is not a valid address"),
        ({"url": "redis://127.0.0.1?retry=planted"}, "url is not a valid address"),
        ({"url": "redis://user:planted\u2100@127.0.0.1"}, "url is not a valid address"),
        ({"processes": 0}, "processes"),
        ({"processes": "3"}, "^processes must be a whole number, not str$"),
        ({"processes": 501}, "501 processes cannot share 500 calls"),
        ({"name": "a{b}"}, "name"),
        ({"limit": 500}, "^limit must be RateLimit, not int$"),
    ],
)
async def test_invalid_arguments_are_refused_at_once(wrong: dict[str, Any], words: str) -> None:
    right = {"limit": RateLimit.COMMUNITY, "url": "redis://127.0.0.1", "processes": 3}
    with pytest.raises((ValueError, TypeError), match=words) as caught:
        RedisRateLimit(**{**right, **wrong})
    assert "planted" not in "".join(format_exception(caught.value)) + repr(caught.value.args)


@pytest.mark.usefixtures("integration")
def test_without_redis_the_package_imports_and_the_module_says_what_it_needs() -> None:
    code = (
        "import sys; sys.modules['redis'] = None; import itwin_export_async\n"
        "try: import itwin_export_async.redis\n"
        "except ImportError as error: print(error)"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "pip install 'itwin-export-async[redis]'" in out.stdout


def test_the_windows_are_those_of_the_platform() -> None:
    assert Timing().windows_of(RateLimit.COMMUNITY) == [(60.1, 500), (3600.1, 5000)]
