"""One rate limit for several clients, its state in a real Redis that dies, freezes and forgets."""

import asyncio
import json
import logging
import pickle
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from traceback import format_exception
from typing import Any

import pytest
from itwin_export_async.redis._gate import RedisGate
from redis.exceptions import ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

from itwin_export_async import RateLimit, RetryPolicy, Session, TransportError
from itwin_export_async._http.session import MAX_CONCURRENT_REQUESTS
from itwin_export_async._protocol.sharing import Part
from itwin_export_async._protocol.telling import Pace, Reply, parse_reply
from itwin_export_async.redis import _KEYS, _PLACES, RedisRateLimit
from itwin_export_async.transport import Request, Response
from tests.support.batches import tasks_left
from tests.support.fakes import Answer, Answers, answer
from tests.support.processes import until
from tests.support.redises import PACE, RedisServer, Relay, most_in_any, shared

pytestmark = pytest.mark.real_time

GET = Request(method="GET", url="/x")
WINDOW = 1.95  # seconds: a little less than the minute here, for the network may dawdle


def now() -> float:
    return asyncio.get_running_loop().time()


class Service(Answers):
    """Notes when each request came; each answer takes `takes` seconds."""

    def __init__(self, *answers: Answer, takes: float = 0.01) -> None:
        super().__init__(*answers or [answer(204)])
        self.at: list[float] = []
        self.takes = takes

    async def send(self, request: Request, /) -> Response:
        self.at.append(now())
        await asyncio.sleep(self.takes)
        return await super().send(request)


@pytest.fixture
async def redis(tmp_path: Path) -> AsyncIterator[RedisServer]:
    async with RedisServer(tmp_path) as server:
        yield server


@asynccontextmanager
async def sessions(
    limit: RedisRateLimit, *services: Service, settled: bool = True, **more: Any
) -> AsyncIterator[list[Session]]:
    """Clients with one limit, each with its service; nobody has any other one to wait for."""
    before = tasks_left()
    async with AsyncExitStack() as stack:
        opened = [
            await stack.enter_async_context(
                Session("t", transport=service, rate_limit=limit, **more)
            )
            for service in services
        ]
        if settled:
            await until(lambda: all(knows_the_others(session) for session in opened))
        yield opened
    if not before:  # those of sessions around these come and go
        assert not tasks_left()


def knows_the_others(session: Session) -> bool:
    gate: Any = session._limiter
    return gate._part._heard is not None and not gate._part.is_alone


def vanish(session: Session) -> None:
    """End the talk with Redis as a process does that is killed."""
    gate: Any = session._limiter
    gate._is_closing = gate._is_down = True


async def nothing() -> None:
    """There is no connection to end."""


def gate_that_asks(
    ask: Callable[[str], Awaitable[str]], hang_up: Callable[[], Awaitable[None]] = nothing
) -> RedisGate:
    part = Part("p", RateLimit(per_minute=5), 1, PACE)
    return RedisGate(part, 100, ask=ask, hang_up=hang_up, place="nowhere")


async def talk(redis: RedisServer, part: Part, at: float, **more: Any) -> Reply:
    """One message of a client that has no gate, at a time of its own clock."""
    keys = [f"itwin_export_async:{{default}}:{key}" for key in _KEYS]
    text = await redis.do("EVAL", _PLACES, len(keys), *keys, part.message(at, **more))
    part.heard(parse_reply(text), at)
    return parse_reply(text)


async def talk_until_settled(redis: RedisServer, *parts: Part) -> None:
    while not all([(await talk(redis, part, now())).is_settled for part in parts]):  # noqa: ASYNC110 - Redis sets no event
        await asyncio.sleep(PACE.beat)


async def send_all(sessions: list[Session], count: int) -> None:
    await asyncio.gather(*(session.send(GET) for session in sessions for _ in range(count)))


async def calls_in(redis: RedisServer) -> int:
    count: int = await redis.do("ZCARD", "itwin_export_async:{default}:calls")
    return count


async def until_told(redis: RedisServer, count: int) -> None:
    async with asyncio.timeout(5):
        while await calls_in(redis) != count:  # noqa: ASYNC110 - Redis sets no event
            await asyncio.sleep(0.02)


async def test_three_clients_together_stay_inside_the_limit_and_use_it(
    redis: RedisServer,
) -> None:
    service = Service(takes=0.05)
    limit = shared(redis, RateLimit(per_minute=30, per_hour=80))
    async with sessions(limit, service, service, service) as all_three:
        began = now()
        await send_all(all_three, 25)
    assert most_in_any(WINDOW, service.at) == 30
    assert service.at[-1] - began < 3 * PACE.minute
    assert len(service.at) == 75


async def test_a_client_that_works_while_others_rest_has_the_limit_for_itself(
    redis: RedisServer,
) -> None:
    service = Service()
    async with sessions(shared(redis, RateLimit(per_minute=60)), *[service] * 3) as (one, *_):
        await send_all([one], 60)
        assert max(service.at) - min(service.at) < PACE.minute / 2
        assert one.remaining_calls == 0
        assert one.call_rate == pytest.approx(60 / PACE.minute / 3)


async def test_nobody_starves_beside_a_client_that_wants_everything(redis: RedisServer) -> None:
    greedy, modest = Service(), Service()
    async with sessions(shared(redis, RateLimit(per_minute=20)), greedy, modest) as (one, other):
        crowd = [asyncio.create_task(one.send(GET)) for _ in range(200)]
        await asyncio.sleep(0.5)
        for _ in range(10):
            began = now()
            await other.send(GET)
            assert now() - began < PACE.minute + 0.5
        for task in crowd:
            task.cancel()
        await asyncio.wait(crowd)


async def test_a_crowd_of_each_gets_its_part(redis: RedisServer) -> None:
    services = [Service(), Service(), Service()]
    async with sessions(shared(redis, RateLimit(per_minute=30)), *services) as all_three:
        crowd = [asyncio.create_task(s.send(GET)) for s in all_three for _ in range(100)]
        await asyncio.sleep(2.5 * PACE.minute)
        counts = [len(service.at) for service in services]
        for task in crowd:
            task.cancel()
        await asyncio.wait(crowd)
    assert sum(counts) >= 85
    assert min(counts) > sum(counts) / 5


async def test_work_goes_before_polls_here_too(redis: RedisServer) -> None:
    order: list[str] = []
    async with sessions(shared(redis, RateLimit(per_minute=1), 1), Service()) as (session,):

        async def call(name: str) -> None:
            await session.send(GET, is_poll=name == "poll")
            order.append(name)

        await asyncio.gather(*map(call, ("first", "poll", "second")))
    assert order == ["first", "second", "poll"]


async def test_a_pause_is_everybodys_and_one_of_all_goes_first(redis: RedisServer) -> None:
    refusing = Service(answer(429, Retry_After="1"), answer(204), takes=0.05)
    others = Service(takes=0.3)
    limit = shared(redis, RateLimit(per_minute=500))
    async with sessions(limit, refusing, others, others) as (one, *rest):
        first = asyncio.create_task(one.send(GET))
        await until(lambda: one._limiter.pause_left > 0)
        over = now() + one._limiter.pause_left
        await until(lambda: all(session._limiter.pause_left > 0.5 for session in rest))
        await asyncio.gather(first, send_all([one, *rest], 5))
    later = sorted(at for at in refusing.at + others.at if at > refusing.at[0])
    assert len(later) == 16
    assert later[0] > over - 0.05
    takes = 0.05 if later[0] in refusing.at else 0.3
    assert later[1] >= later[0] + takes
    assert later[-1] < over + 2


async def test_a_long_refusal_of_one_is_told_at_once_to_who_waits_at_another(
    redis: RedisServer,
) -> None:
    service, limit = Service(), shared(redis, RateLimit(per_minute=3))
    retry = RetryPolicy(max_retry_after=30)
    async with sessions(limit, Service(), service, retry=retry) as (one, other):
        await send_all([other], 3)
        waiting = asyncio.create_task(other.send(GET))
        await asyncio.sleep(0.1)
        assert not waiting.done()
        one._limiter.pause(60.0)
        assert (await waiting).status == 429
    assert len(service.at) == 3


async def test_places_granted_before_a_refusal_was_known_are_not_used() -> None:
    told: list[dict[str, Any]] = []
    reply = asyncio.get_running_loop().create_future()
    grant = {"granted": 1, "is_known": True, "is_clear": True, "wait": 0, "pause": 0}
    state = {"spare": [5], "room": [5], "live": 1, "others": [], "is_settled": True}

    async def ask(message: str) -> str:
        told.append(json.loads(message))
        if told[-1]["wanted"]:
            await reply
            return json.dumps({**grant, **state})
        return json.dumps({**grant, **state, "granted": 0})

    gate = gate_that_asks(ask)
    turn = asyncio.create_task(gate.acquire(is_poll=False))
    await until(lambda: bool(told and told[-1]["wanted"]))
    gate.pause(60.0)
    reply.set_result(None)
    await until(lambda: told[-1]["returned"] == [1])
    assert told[-1]["pause"] > 0
    assert not turn.done()
    await gate.close()
    with pytest.raises(RuntimeError, match="closed"):
        await turn


async def test_a_refusal_told_with_a_probe_that_was_not_refused_asks_for_another(
    redis: RedisServer,
) -> None:
    part = Part("p", RateLimit(per_minute=5), 1, PACE)
    await talk_until_settled(redis, part)
    part.tell_pause(now())
    assert not (await talk(redis, part, now(), wanted=1)).is_clear
    part.start_call()
    part.tell_probe(clears=True)
    part.finish_call(now())
    part.tell_pause(now())
    await talk(redis, part, now())
    assert not (await talk(redis, part, now(), wanted=1)).is_clear


async def test_a_probe_that_is_refused_too_pauses_all_again(redis: RedisServer) -> None:
    refusal = answer(429, Retry_After="1")
    refused, others = Service(refusal, refusal, refusal, answer(204)), Service()
    limit = shared(redis, RateLimit(per_minute=500))
    retry = RetryPolicy(attempts=9)
    async with sessions(limit, refused, others, retry=retry) as (one, other):
        first = asyncio.create_task(one.send(GET))
        await until(lambda: other._limiter.pause_left > 0)
        began = now()
        await asyncio.gather(first, *(one.send(GET) for _ in range(3)))
    assert now() - began > 2


async def test_the_probe_of_a_client_that_dies_is_followed_by_another(redis: RedisServer) -> None:
    refused = Service(answer(429, Retry_After="1"), answer(204), takes=30.0)
    refused.takes = 0.0
    others = Service()
    async with sessions(shared(redis, RateLimit(per_minute=500)), refused, others) as (one, other):
        probe = asyncio.create_task(one.send(GET))
        await until(lambda: len(refused.at) == 1)
        refused.takes = 30.0
        await until(lambda: len(refused.at) == 2)
        died = now()
        vanish(one)
        await other.send(GET)
        assert PACE.silence / 2 < now() - died < PACE.silence + 1
        probe.cancel()
        await asyncio.wait({probe})


async def test_a_probe_whose_caller_leaves_is_given_on(redis: RedisServer) -> None:
    refused = Service(answer(429, Retry_After="1"), answer(204))
    others = Service()
    async with sessions(shared(redis, RateLimit(per_minute=500)), refused, others) as (one, other):
        first = asyncio.create_task(one.send(GET))
        await until(lambda: other._limiter.pause_left > 0)
        refused.takes = 30.0
        await until(lambda: len(refused.at) == 2)
        first.cancel()
        began = now()
        await other.send(GET)
        assert now() - began < PACE.silence / 2
        await asyncio.wait({first})


async def test_a_call_that_never_went_out_costs_no_place(redis: RedisServer) -> None:
    refused = TransportError(message="refused", may_have_been_processed=False)
    service = Service(refused, refused, answer(204))
    async with sessions(shared(redis, RateLimit(per_minute=1), 1), service) as (session,):
        began = now()
        await session.send(GET)
        assert now() - began < WINDOW
        assert await calls_in(redis) == 1


async def test_a_client_that_is_killed_keeps_its_places_for_a_lease_and_a_window(
    redis: RedisServer,
) -> None:
    hanging, others = Service(takes=60.0), Service()
    limit = shared(redis, RateLimit(per_minute=3))
    async with sessions(limit, hanging, others, others) as (one, other, _):
        calls = [asyncio.create_task(one.send(GET)) for _ in range(3)]
        await until(lambda: len(hanging.at) == 3)
        await asyncio.sleep(PACE.lease + PACE.minute)  # it lives, and says so
        vanish(one)
        died = now()
        await other.send(GET)
        assert now() - died > PACE.minute + PACE.lease / 2
        for call in calls:
            call.cancel()
        await asyncio.wait(calls)


async def test_no_places_are_lost_by_callers_that_leave(redis: RedisServer) -> None:
    service = Service(takes=0.002)
    limit = shared(redis, RateLimit(per_hour=100))
    async with sessions(limit, service, service, service) as all_three:
        gone = 0
        for attempt in range(40):
            calls = [asyncio.create_task(s.send(GET)) for s in all_three for _ in range(3)]
            for _ in range(attempt % 7):
                await asyncio.sleep(0)
            await asyncio.sleep(0.0003 * (attempt % 5))
            for call in calls:
                call.cancel()
            await asyncio.wait(calls)
            gone = len(service.at)
            if gone > 60:
                break
        await until_told(redis, gone)
        assert (
            sum(session._limiter._free_slots for session in all_three)
            == 3 * MAX_CONCURRENT_REQUESTS
        )


@pytest.mark.parametrize("way", ["killed", "frozen", "read only", "full", "spoiled"])
async def test_while_redis_is_gone_each_goes_on_with_a_share(
    redis: RedisServer, way: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)

    async def fill() -> None:
        await redis.do("CONFIG", "SET", "maxmemory", "1")
        await redis.do("FLUSHALL")  # a script that has begun to write may go on

    go: dict[str, Callable[[], Awaitable[Any]]] = {
        "killed": redis.kill,
        "read only": lambda: redis.do("REPLICAOF", "127.0.0.1", "1"),
        "full": fill,
        "spoiled": lambda: redis.do("SET", "itwin_export_async:{default}:calls", "x"),
    }
    come: dict[str, Callable[[], Awaitable[Any]]] = {
        "killed": redis.start,
        "read only": lambda: redis.do("REPLICAOF", "NO", "ONE"),
        "full": lambda: redis.do("CONFIG", "SET", "maxmemory", "0"),
        "spoiled": lambda: redis.do("DEL", "itwin_export_async:{default}:calls"),
    }
    service = Service()
    limit = shared(redis, RateLimit(per_minute=30))
    async with sessions(limit, service, service, service) as all_three:
        await send_all(all_three, 4)
        await asyncio.sleep(10 * PACE.beat)
        began = now()
        if way == "frozen":
            redis.freeze()
        else:
            await go[way]()
        await send_all(all_three, 1)
        assert now() - began < 3 * PACE.patience
        await send_all(all_three, 11)
        gone = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
        assert len(gone) == 3
        assert all(redis.url in text for text in gone)
        caplog.clear()
        if way == "frozen":
            redis.thaw()
        else:
            await come[way]()
        await until(lambda: len(caplog.records) >= 3)
        await send_all(all_three, 5)
        assert {r.levelno for r in caplog.records} == {logging.INFO}
        assert len(caplog.records) == 3
    assert most_in_any(WINDOW, service.at) <= 30
    assert max(service.at) - began < 6 * PACE.minute


async def test_what_was_called_meanwhile_is_told_afterwards(redis: RedisServer) -> None:
    service = Service()
    limit = shared(redis, RateLimit(per_hour=300))
    async with sessions(limit, service, service, service) as all_three:
        await send_all(all_three, 5)
        await redis.kill()
        await send_all(all_three, 5)
        await redis.start()
        await until_told(redis, 30)
        await send_all(all_three, 1)
        await until_told(redis, 33)


async def test_what_redis_forgets_is_told_again(redis: RedisServer) -> None:
    service = Service()
    limit = shared(redis, RateLimit(per_minute=90))
    async with sessions(limit, service, service, service) as all_three:
        await send_all(all_three, 25)
        await redis.do("FLUSHALL")
        await send_all(all_three, 25)
        assert most_in_any(WINDOW, service.at) <= 90
        assert max(service.at) - min(service.at) < 3 * PACE.minute


async def test_a_pause_that_redis_forgets_is_told_again(redis: RedisServer) -> None:
    refused, others = Service(answer(429, Retry_After="2"), answer(204)), Service()
    async with sessions(shared(redis, RateLimit(per_minute=500)), refused, others) as (one, _):
        first = asyncio.create_task(one.send(GET))
        await until(lambda: one._limiter.pause_left > 0)
        await redis.do("FLUSHALL")
        async with sessions(shared(redis, RateLimit()), others, settled=False) as (new,):
            await until(lambda: new._limiter.pause_left > 1)
        await first


async def test_a_script_that_redis_forgets_is_told_again(
    redis: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    service = Service()
    async with sessions(shared(redis, RateLimit(per_minute=90)), service) as (session,):
        for _ in range(3):
            await session.send(GET)
            await redis.do("SCRIPT", "FLUSH")
        await session.send(GET)
    assert not caplog.records


async def test_without_redis_from_the_start_a_share_may_be_used_at_once(
    redis: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    await redis.kill()
    service = Service()
    limit = shared(redis, RateLimit(per_minute=9))
    async with sessions(limit, service, service, service, settled=False) as all_three:
        await send_all(all_three, 3)
        assert all_three[0].remaining_calls == 0
        assert all_three[0].call_rate == pytest.approx(3 / PACE.minute)
        await redis.start()
        await send_all(all_three, 3)
    assert most_in_any(WINDOW, service.at) <= 9
    assert [r.levelno for r in caplog.records].count(logging.WARNING) == 3


async def test_a_call_that_came_before_the_first_word_of_redis_goes_soon(
    redis: RedisServer,
) -> None:
    """Others may yet have calls to tell of; a share is safe."""
    service = Service()
    limit = shared(redis, RateLimit(per_minute=9))
    async with sessions(limit, service, settled=False) as (session,):
        began = now()
        await send_all([session], 3)
        assert now() - began < PACE.silence / 2
        await send_all([session], 6)
    assert len(service.at) == 9


async def test_the_others_leave_to_one_that_is_cut_off_what_it_may_use(
    redis: RedisServer,
) -> None:
    service = Service()
    async with Relay(redis) as relay:
        pace, thirty = PACE, RateLimit(per_minute=30)
        cut_off = RedisRateLimit(thirty, relay.url, processes=3, _pace=pace)
        async with sessions(cut_off, service, settled=False) as (lone,):
            async with sessions(shared(redis, thirty), service, service) as others:
                crowd = [
                    asyncio.create_task(s.send(GET)) for s in [lone, *others] for _ in range(70)
                ]
                await asyncio.sleep(PACE.minute)
                relay.cut()
                await asyncio.sleep(4 * PACE.minute)
                alone = len(service.at)
                for call in crowd:
                    call.cancel()
                await asyncio.wait(crowd)
    assert most_in_any(WINDOW, service.at) <= 30
    assert alone > 100


async def test_one_that_is_cut_off_is_not_forgotten_with_all_else(redis: RedisServer) -> None:
    service, limit = Service(), RateLimit(per_minute=30)
    async with Relay(redis) as relay:
        cut_off = RedisRateLimit(limit, relay.url, processes=2, _pace=PACE)
        async with sessions(cut_off, service, settled=False):
            async with sessions(shared(redis, limit, 2), service) as (other,):
                relay.cut()
                await redis.do("FLUSHALL")
                await asyncio.sleep(3 * PACE.silence)
                await until(lambda: knows_the_others(other))
                await send_all([other], 15)
                assert other.remaining_calls == 0  # the other half is not its own


async def test_one_that_left_does_not_come_back_as_lost(redis: RedisServer) -> None:
    stays, leaves = (Part(name, RateLimit(per_minute=6), 2, PACE) for name in "ab")
    await talk_until_settled(redis, stays, leaves)
    await talk(redis, leaves, now(), is_last=True)
    stays.message(now())
    stays.missed()
    assert not (await talk(redis, stays, now())).is_known
    assert json.loads(stays.message(now()))["others"]
    assert (await talk(redis, stays, now(), wanted=6)).others == ()
    assert (await talk(redis, stays, now(), wanted=6)).granted == 6


async def test_who_opens_again_has_not_its_share_anew(redis: RedisServer) -> None:
    service = Service()
    limit = shared(redis, RateLimit(per_minute=9), 1)
    for _ in range(2):
        async with sessions(limit, service, settled=False) as (session,):
            await send_all([session], 9)
    assert most_in_any(WINDOW, service.at) == 9


async def test_who_leaves_says_so(redis: RedisServer) -> None:
    service = Service()
    limit = shared(redis, RateLimit(per_minute=30))
    async with sessions(limit, service) as (session,):
        await session.send(GET)
        assert await redis.do("ZCARD", "itwin_export_async:{default}:seen") == 1
    assert await redis.do("ZCARD", "itwin_export_async:{default}:seen") == 0
    assert await redis.do("HLEN", "itwin_export_async:{default}:spare") == 0
    assert await calls_in(redis) == 1


async def test_a_client_that_closes_while_redis_hangs_closes_soon(redis: RedisServer) -> None:
    limit = shared(redis, RateLimit(per_minute=30))
    async with sessions(limit, Service()):
        redis.freeze()
        began = now()
    assert now() - began < 3 * PACE.patience
    redis.thaw()


async def test_who_waits_while_the_client_closes_is_told(redis: RedisServer) -> None:
    limit = shared(redis, RateLimit(per_minute=1), 1)
    async with sessions(limit, Service()) as (session,):
        await session.send(GET)
        waiting = [asyncio.create_task(session.send(GET)) for _ in range(3)]
        await asyncio.sleep(0.1)
        late = session._limiter
        waiting[0].cancel()
    done = await asyncio.gather(*waiting, late.acquire(is_poll=False), return_exceptions=True)
    assert isinstance(done.pop(0), asyncio.CancelledError)
    assert [str(error) for error in done] == ["the client was closed"] * 3


async def test_who_is_cancelled_while_the_client_closes_is_cancelled() -> None:
    async def ask(_: str) -> str:
        return str(await asyncio.Event().wait())  # never

    gate = gate_that_asks(ask)
    turn = asyncio.create_task(gate.acquire(is_poll=False))
    await asyncio.sleep(0)
    closing = asyncio.create_task(gate.close())
    await asyncio.sleep(0)
    turn.cancel()
    with pytest.raises(asyncio.CancelledError):
        await turn
    await closing


async def test_nobody_hangs_when_the_talk_with_redis_breaks_off() -> None:
    async def ask(_: str) -> str:
        return "nonsense"

    gate = gate_that_asks(ask)
    early = asyncio.create_task(gate.acquire(is_poll=False))
    for turn in (early, gate.acquire(is_poll=False), gate.acquire(is_poll=True)):
        with pytest.raises(RuntimeError, match="broken off") as told:
            async with asyncio.timeout(1):
                await turn
        assert isinstance(told.value.__cause__, json.JSONDecodeError)
    with pytest.raises(json.JSONDecodeError):
        await gate.close()


async def test_a_share_is_not_spent_without_end_when_the_talk_has_broken_off() -> None:
    answers = iter([RedisTimeoutError(), KeyError()])

    async def ask(_: str) -> str:
        raise next(answers)

    gate = gate_that_asks(ask)
    assert not await gate.acquire(is_poll=False)
    await until(gate._talk.done)
    with pytest.raises(RuntimeError, match="broken off"):
        await gate.acquire(is_poll=False)
    gate.release(is_probe=False, counted=True, succeeded=True)
    with pytest.raises(KeyError):
        await gate.close()


async def test_a_connection_that_does_not_end_well_troubles_nobody() -> None:
    async def ask(_: str) -> str:
        return '{"is_known": false}'

    async def hang_up() -> None:
        raise RedisTimeoutError("Timeout closing connection")

    await gate_that_asks(ask, hang_up).close()


async def test_limits_of_two_names_know_nothing_of_each_other(redis: RedisServer) -> None:
    service = Service()
    ten = RateLimit(per_minute=10)
    one = RedisRateLimit(ten, redis.url, processes=1, name="one", _pace=PACE)
    two = RedisRateLimit(ten, redis.url, processes=1, name="two", _pace=PACE)
    async with sessions(one, service, settled=False) as first:
        async with sessions(two, service) as second:
            await send_all(first + second, 10)
    assert max(service.at) - min(service.at) < 1


async def test_without_a_limit_the_pauses_are_shared_all_the_same(redis: RedisServer) -> None:
    refused, others = Service(answer(429, Retry_After="1"), answer(204)), Service()
    async with sessions(shared(redis, RateLimit()), refused, others) as (one, other):
        assert one.remaining_calls is None
        await send_all([other], 500)
        first = asyncio.create_task(one.send(GET))
        await until(lambda: other._limiter.pause_left > 0)
        await asyncio.gather(first, other.send(GET))
        assert others.at[-1] - refused.at[0] > 0.95


async def test_a_password_is_never_shown(caplog: pytest.LogCaptureFixture) -> None:
    limit = RedisRateLimit(
        RateLimit.COMMUNITY, "redis://user:planted@127.0.0.1:1/0?password=planted", processes=2
    )
    assert "127.0.0.1:1" in repr(limit)
    async with sessions(limit, Service(), settled=False) as (session,):
        await session.send(GET)
    assert len(caplog.records) == 1
    assert "planted" not in repr(limit) + str(limit) + caplog.text
    assert pickle.loads(pickle.dumps(limit)) == limit


def test_a_password_that_could_be_taken_for_a_host_is_refused() -> None:
    with pytest.raises(ValueError, match="%2F") as caught:
        RedisRateLimit(RateLimit.COMMUNITY, "redis://user:12/planted@localhost", processes=2)
    assert "planted" not in str(caught.value)
    for url in ("redis://user:12%2Fplanted@localhost/0", "unix://user:1@/run/redis.sock?db=0"):
        assert "planted" not in repr(RedisRateLimit(RateLimit.COMMUNITY, url, processes=2))


async def test_what_redis_says_is_not_told_on(caplog: pytest.LogCaptureFixture) -> None:
    async def ask(_: str) -> str:
        raise ResponseError("unknown command 'HELLO', with args: '3' 'AUTH' 'user' 'planted'")

    gate = gate_that_asks(ask)
    await gate.acquire(is_poll=False)
    gate.release(is_probe=False, counted=True, succeeded=True)
    await gate.close()
    assert "nowhere is gone (ResponseError)" in caplog.text
    assert "planted" not in caplog.text


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"url": None}, "^url must be a string, not NoneType$"),
        ({"url": b"redis://:planted@127.0.0.1"}, "^url must be a string, not bytes$"),
        ({"url": "http://planted@127.0.0.1"}, "url must begin with redis://"),
        ({"url": "redis://:planted@127.0.0.1:99999"}, "url is none that Redis is reached by"),
        ({"url": "redis://:planted@127.0.0.1?db=planted"}, "url is none"),
        ({"url": "redis://user:planted/planted@127.0.0.1"}, "has to be written as %2F"),
        ({"url": "redis://127.0.0.1?pasword=planted"}, "url is none"),
        ({"url": "redis://127.0.0.1?protocol=9"}, "url is none"),
        ({"url": "redis://127.0.0.1?retry=planted"}, "url is none"),
        ({"url": "redis://user:planted\u2100@127.0.0.1"}, "url is none"),
        ({"processes": 0}, "processes"),
        ({"processes": "3"}, "^processes must be a whole number, not str$"),
        ({"processes": 501}, "501 processes cannot share 500 calls"),
        ({"name": "a{b}"}, "name"),
        ({"limit": 500}, "^limit must be RateLimit, not int$"),
    ],
)
async def test_what_cannot_work_is_told_at_once(wrong: dict[str, Any], words: str) -> None:
    right = {"limit": RateLimit.COMMUNITY, "url": "redis://127.0.0.1", "processes": 3}
    with pytest.raises((ValueError, TypeError), match=words) as told:
        RedisRateLimit(**{**right, **wrong})
    assert "planted" not in "".join(format_exception(told.value)) + repr(told.value.args)


def test_without_redis_the_package_imports_and_the_module_says_what_it_needs() -> None:
    told = (
        "import sys; sys.modules['redis'] = None; import itwin_export_async\n"
        "try: import itwin_export_async.redis\n"
        "except ImportError as error: print(error)"
    )
    out = subprocess.run([sys.executable, "-c", told], capture_output=True, text=True, check=True)
    assert "pip install 'itwin-export-async[redis]'" in out.stdout


def test_the_windows_are_those_of_the_platform() -> None:
    assert Pace().windows_of(RateLimit.COMMUNITY) == [(60.1, 500), (3600.1, 5000)]
