"""The limiter: the rate limit and the pause after a 429, for all requests of a session."""

import asyncio
import logging
from typing import Any

import pytest

from itwin_export_async import (
    ExportClient,
    RateLimit,
    RateLimited,
    RequestStats,
    RetryPolicy,
    RunTimeout,
    Session,
    TransportError,
)
from itwin_export_async._http.sender import MAX_CONCURRENT_REQUESTS
from itwin_export_async.transport import Request, Response
from tests.support.fakes import Answers, answer

GET = Request(method="GET", url="/x?sig=planted")
REFUSED = "429 for GET https://api.bentley.com/x"


def now() -> float:
    return asyncio.get_running_loop().time()


class Timed(Answers):
    """Records when each request came; each response takes `takes` seconds."""

    def __init__(self, *answers: Response | Exception, takes: float = 0.0) -> None:
        super().__init__(*answers)
        self.at: list[float] = []
        self.takes = takes

    async def send(self, request: Request, /) -> Response:
        self.at.append(now())
        await asyncio.sleep(self.takes)
        return await super().send(request)


class Leaving(Timed):
    """A waiter is cancelled in the moment in which a response arrives."""

    leaves: asyncio.Task[Any]

    async def send(self, request: Request, /) -> Response:
        response = await super().send(request)
        self.leaves.cancel()
        return response


async def test_session_stays_within_both_windows() -> None:
    transport = Timed(answer(204), takes=0.5)
    limit = RateLimit(per_minute=10, per_hour=25)
    async with Session("t", transport=transport, rate_limit=limit) as session:
        await asyncio.gather(*(session.send(GET) for _ in range(60)))
    for seconds, most in ((60.0, 10), (3600.0, 25)):
        assert max(sum(s <= t < s + seconds for t in transport.at) for s in transport.at) == most
    assert transport.at[-1] < 2 * 3700


async def test_standard_limit_allows_5000_calls_at_once() -> None:
    transport = Timed(answer(204))
    async with Session("t", transport=transport) as session:
        await asyncio.gather(*(session.send(GET) for _ in range(5000)))
        assert now() == 0
        await session.send(GET)
        assert now() > 60


async def test_polls_yield_to_other_requests_and_do_not_starve() -> None:
    transport = Timed(answer(204))
    limit = RateLimit(per_minute=1)
    async with Session("t", transport=transport, rate_limit=limit) as session:
        order: list[str] = []

        async def call(name: str, *, is_poll: bool = False) -> None:
            await session.send(GET, is_poll=is_poll)
            order.append(name)

        async with asyncio.TaskGroup() as group:
            for name in ("first", "poll", "second", "third"):
                group.create_task(call(name, is_poll=name == "poll"))
            await asyncio.sleep(45)
            for name in ("late", "later", "latest"):
                group.create_task(call(name))
    assert order == ["first", "second", "third", "late", "later", "poll", "latest"]


async def test_request_is_next_ahead_of_any_number_of_polls() -> None:
    transport = Timed(answer(204))
    limit = RateLimit(per_minute=10)
    async with Session("t", transport=transport, rate_limit=limit) as session:
        polls = [asyncio.create_task(session.send(GET, is_poll=True)) for _ in range(500)]
        await asyncio.sleep(1000)
        sent_at = now()
        await session.send(GET)
        assert now() - sent_at <= 61
        for poll in polls[:-1]:
            poll.cancel()
        await asyncio.wait(polls[:-1])
        last = asyncio.create_task(session.send(GET, is_poll=True))
        await asyncio.gather(*(session.send(GET) for _ in range(20)))
        assert last.done()  # cancelled waiters do not count
        await polls[-1]


async def test_cancelled_waiter_blocks_no_other() -> None:
    transport = Timed(answer(204))
    async with Session("t", transport=transport, rate_limit=RateLimit(per_minute=1)) as session:
        calls = [asyncio.create_task(session.send(GET)) for _ in range(4)]
        await asyncio.sleep(1)
        calls[1].cancel()
        calls[2].cancel()
        await asyncio.wait(calls)
    assert len(transport.at) == 2
    assert transport.at[1] < 61


async def test_waiter_cancelled_when_admitted_returns_its_slot() -> None:
    transport = Timed(answer(204))
    async with Session("t", transport=transport, rate_limit=RateLimit(per_minute=1)) as session:
        await session.send(GET)
        calls = [asyncio.create_task(session.send(GET)) for _ in range(2)]
        await asyncio.sleep(0)
        # in the same iteration of the loop as the limiter's timer, and after it
        asyncio.get_running_loop().call_at(60.1 + 5e-10, calls[0].cancel)
        await asyncio.wait(calls)
    assert calls[0].cancelled()
    assert transport.at[1] == pytest.approx(60.1)


async def test_waiter_cancelled_as_a_slot_becomes_free_takes_none() -> None:
    transport = Leaving(answer(204), takes=1.0)
    async with Session("t", transport=transport) as session:
        calls = [asyncio.create_task(session.send(GET)) for _ in range(MAX_CONCURRENT_REQUESTS + 2)]
        transport.leaves = calls[-2]
        results = await asyncio.gather(*calls, return_exceptions=True)
    assert isinstance(results.pop(-2), asyncio.CancelledError)
    assert {type(result) for result in results} == {Response}
    assert transport.at == [0.0] * MAX_CONCURRENT_REQUESTS + [1.0]


async def test_429_pauses_all_requests_and_then_sends_one_probe() -> None:
    transport = Timed(answer(429, Retry_After="100"), answer(204), takes=1.0)
    async with Session("t", transport=transport) as session:
        first = asyncio.create_task(session.send(GET))
        await asyncio.sleep(10)
        rest = [asyncio.create_task(session.send(GET)) for _ in range(20)]
        await asyncio.wait([first, *rest])
    assert [moment for moment in transport.at if moment < 101] == [0.0]
    assert sorted(transport.at)[1:] == [101.0] + [102.0] * 20


async def test_refused_probe_pauses_all_requests_again() -> None:
    refusal = answer(429, Retry_After="10")
    transport = Timed(refusal, refusal, refusal, answer(204), takes=1.0)
    async with Session("t", transport=transport, retry=RetryPolicy(attempts=9)) as session:
        await asyncio.gather(*(session.send(GET) for _ in range(3)))
    # three were in flight before the first 429 was known; then one probe at a time
    assert transport.at[:3] == [0.0] * 3
    assert transport.at[3] == 11.0
    assert set(transport.at[4:]) == {12.0}


async def test_lost_probe_is_followed_by_another() -> None:
    lost = TransportError(message="reset")
    transport = Timed(answer(429, Retry_After="10"), lost, answer(204), takes=1.0)
    async with Session("t", transport=transport) as session:
        first = asyncio.create_task(session.send(GET))
        await asyncio.sleep(5)
        rest = [asyncio.create_task(session.send(GET)) for _ in range(3)]
        await asyncio.wait([first, *rest])
    assert transport.at[1] == 11.0
    assert 12.0 <= transport.at[2] < transport.at[3]


async def test_success_of_a_probe_does_not_end_a_later_pause() -> None:
    """A slow request is refused while the probe of an earlier pause is on its way."""

    class Mixed(Timed):
        async def send(self, request: Request, /) -> Response:
            if request.url.endswith("slow"):
                await asyncio.sleep(20)
                return answer(429, Retry_After="60")
            return await super().send(request)

    transport = Mixed(answer(429, Retry_After="10"), answer(204))
    once = RetryPolicy(attempts=1)
    async with Session("t", transport=transport, retry=once) as session:
        slow = asyncio.create_task(session.send(Request(method="GET", url="/slow")))
        transport.takes = 1.0
        await session.send(GET)  # refused: pauses until 11
        transport.takes = 15.0
        await session.send(GET)  # the probe, from 11 to 26; the slow request is refused at 20
        await asyncio.gather(slow, *(session.send(GET) for _ in range(5)))
    assert transport.at == [0.0, 11.0, 80.0, *[95.0] * 4]


async def test_429s_without_retry_after_pause_longer_and_longer() -> None:
    transport = Timed(answer(429), answer(429), answer(429), answer(429), answer(204))
    retry = RetryPolicy(jitter=lambda bound: 0.0)
    async with Session("t", transport=transport, retry=retry) as session:
        await session.send(GET)
    assert transport.at == [0.0, 0.5, 1.5, 3.5, 7.5]


async def test_long_pause_rejects_requests_without_sending_them() -> None:
    transport = Timed(answer(429, '{"code": "RateLimitExceeded"}', retry_after="1000"))
    async with ExportClient("t", transport=transport) as client:
        for seconds in (1000, 900):
            with pytest.raises(RateLimited, match="RateLimitExceeded") as caught:
                await client.get_run("c1", "r1")
            assert caught.value.retry_after == pytest.approx(seconds, abs=1)
            assert caught.value.url.endswith("/connections/c1/runs/r1")
            await asyncio.sleep(100)
    assert len(transport.at) == 1


async def test_long_pause_rejects_all_waiters_at_once() -> None:
    transport = Timed(answer(429, retry_after="1000"), takes=0.1)
    async with ExportClient("t", transport=transport) as client:
        polls = (client.get_run("c1", f"r{number}") for number in range(200))
        results = await asyncio.gather(*polls, return_exceptions=True)
        assert now() < 1
    assert [type(error) for error in results] == [RateLimited] * 200
    assert len(transport.at) == MAX_CONCURRENT_REQUESTS


async def test_waiter_cancelled_as_a_long_pause_begins_is_cancelled() -> None:
    transport = Leaving(answer(429, retry_after="1000"), takes=0.1)
    async with ExportClient("t", transport=transport) as client:
        polls = (
            client.get_run("c1", f"r{number}") for number in range(MAX_CONCURRENT_REQUESTS + 2)
        )
        waiting = [asyncio.create_task(poll) for poll in polls]
        transport.leaves = waiting[-1]
        results = await asyncio.gather(*waiting, return_exceptions=True)
    assert isinstance(results[-1], asyncio.CancelledError)
    assert [type(error) for error in results[:-1]] == [RateLimited] * (MAX_CONCURRENT_REQUESTS + 1)


async def test_wait_with_a_deadline_within_the_pause_ends_at_once() -> None:
    transport = Timed(answer(429, retry_after="1000"), takes=0.1)
    async with ExportClient("t", transport=transport) as client:
        waits = (client.attach("c1", f"r{number}").wait(timeout=500) for number in range(200))
        results = await asyncio.gather(*waits, return_exceptions=True)
        assert now() < 1
    assert {type(error) for error in results} == {RunTimeout}
    assert {type(error.__cause__) for error in results if isinstance(error, RunTimeout)} == {
        RateLimited
    }


async def test_short_pause_keeps_all_waiters() -> None:
    transport = Timed(
        *[answer(429, retry_after="300")] * MAX_CONCURRENT_REQUESTS, answer(204), takes=0.1
    )
    async with Session("t", transport=transport) as session:
        await asyncio.gather(*(session.send(GET) for _ in range(200)))
    assert len(transport.at) == 200 + MAX_CONCURRENT_REQUESTS


async def test_closing_rejects_all_waiters_at_once() -> None:
    transport, limit = Timed(answer(204)), RateLimit(per_minute=1)
    async with Session("t", transport=transport, rate_limit=limit) as session:
        await session.send(GET)
        waiting = [asyncio.create_task(session.send(GET)) for _ in range(3)]
        await asyncio.sleep(1)
        waiting.pop().cancel()
    results = await asyncio.gather(*waiting, return_exceptions=True)
    assert [str(error) for error in results] == ["the client was closed"] * 2
    assert now() == 1
    assert len(transport.at) == 1


async def test_older_retry_after_header_is_read() -> None:
    older = {"iTwinPlatform-RateLimit-Retry-After-Seconds": "33"}
    transport = Timed(Response(status=429, headers=older), answer(204))
    async with Session("t", transport=transport) as session:
        await session.send(GET)
    assert transport.at[1] == 33.0


async def test_request_that_was_not_sent_costs_no_call() -> None:
    refused = TransportError(message="refused", may_have_been_processed=False)
    transport = Timed(refused, refused, refused, answer(204))
    async with Session("t", transport=transport, rate_limit=RateLimit(per_minute=1)) as session:
        await session.send(GET)
    assert now() < 10


async def test_retry_budget_does_not_amplify_an_outage() -> None:
    transport = Timed(answer(500))
    async with Session("t", transport=transport) as session:
        for _ in range(10):
            await asyncio.gather(*(session.send(GET) for _ in range(50)))
    assert len(transport.at) <= 500 + 100  # one sending each, and the budget


async def test_retry_budget_recovers_with_successes() -> None:
    troubled = [answer(500), *[answer(204)] * 10] * 200
    transport = Timed(*troubled)
    async with Session("t", transport=transport) as session:
        statuses = [(await session.send(GET)).status for _ in range(1500)]
    assert statuses == [204] * 1500


async def test_rate_limit_of_another_type_is_refused() -> None:
    with pytest.raises(TypeError, match="rate_limit must be a RateLimit"):
        Session("t", rate_limit=500)  # type: ignore[arg-type]


async def test_pause_stops_waiters_for_a_slot_too() -> None:
    """Few requests are in flight, so none is admitted that would have to be sent during a pause."""
    transport = Timed(
        *[answer(429, Retry_After="30")] * MAX_CONCURRENT_REQUESTS, answer(204), takes=1.0
    )
    async with Session("t", transport=transport) as session:
        answers = await asyncio.gather(*(session.send(GET) for _ in range(150)))
    assert {response.status for response in answers} == {204}
    early = [at for at in transport.at if at < 31]
    assert early == [0.0] * MAX_CONCURRENT_REQUESTS


async def test_pause_stops_requests_admitted_at_the_same_moment() -> None:
    """Successful responses free slots just before a 429 pauses all requests."""
    good = [answer(204)] * (MAX_CONCURRENT_REQUESTS - 1)
    transport = Timed(*good, answer(429, Retry_After="30"), answer(204), takes=1.0)
    async with Session("t", transport=transport) as session:
        await asyncio.gather(*(session.send(GET) for _ in range(150)))
    assert [at for at in transport.at if at < 31] == [0.0] * MAX_CONCURRENT_REQUESTS
    assert transport.at[MAX_CONCURRENT_REQUESTS : MAX_CONCURRENT_REQUESTS + 2] == [
        31.0,
        32.0,
    ]  # a probe first


async def test_session_counts_requests_and_remaining_calls() -> None:
    transport = Timed(answer(500), answer(204))
    async with Session("t", transport=transport, rate_limit=RateLimit(per_minute=10)) as session:
        assert session.stats == RequestStats()
        assert session.remaining_calls == 10
        await session.send(GET)
        await session.send(GET, is_poll=True)
        assert session.stats == RequestStats(calls=3, polls=1, retries=1)
        assert session.remaining_calls == 7
    async with Session("t", transport=transport, rate_limit=RateLimit()) as session:
        assert session.remaining_calls is None


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]


async def test_concurrent_429s_are_one_pause_with_one_warning(
    caplog: pytest.LogCaptureFixture,
) -> None:
    transport = Timed(*[answer(429)] * 10, answer(204), takes=1.0)
    async with Session("t", transport=transport) as session:
        await asyncio.gather(*(session.send(GET) for _ in range(10)))
    assert transport.at[10] == 1.5  # ten 429s without a Retry-After pause no longer than one
    assert warnings(caplog) == [f"{REFUSED}: all requests paused for 0.5 s"]


async def test_each_pause_has_one_warning(caplog: pytest.LogCaptureFixture) -> None:
    transport = Timed(*[answer(429, Retry_After="20")] * 3, answer(204))
    async with Session("t", transport=transport) as session:
        await session.send(GET)
    assert transport.at == [0, 20, 40, 60]
    assert warnings(caplog) == [f"{REFUSED}: all requests paused for 20.0 s"] * 3


async def test_retry_after_of_zero_pauses_as_long_as_the_backoff() -> None:
    transport = Timed(*[answer(429, Retry_After="0")] * 3, answer(204))
    async with Session("t", transport=transport) as session:
        await session.send(GET)
    assert transport.at == [0.0, 0.5, 1.5, 3.5]


async def test_retries_with_a_retry_after_of_zero_cost_budget() -> None:
    transport = Timed(answer(503, Retry_After="0"))
    async with Session("t", transport=transport) as session:
        await asyncio.gather(*(session.send(GET) for _ in range(200)))
    assert len(transport.at) == 200 + 100


async def test_retry_budget_warns_once_until_it_recovers(
    caplog: pytest.LogCaptureFixture,
) -> None:
    transport = Timed(*[answer(500)] * 300, *[answer(204)] * 10, answer(500))
    async with Session("t", transport=transport) as session:
        await asyncio.gather(*(session.send(GET) for _ in range(200)))
        assert warnings(caplog) == ["retry budget exhausted; requests fail without a retry"]
        await asyncio.gather(*(session.send(GET) for _ in range(10)))
        for _ in range(3):
            await session.send(GET)
    assert len(warnings(caplog)) == 2


async def test_long_waits_for_the_rate_limit_are_warned_of_once_a_minute(
    caplog: pytest.LogCaptureFixture,
) -> None:
    transport, limit = Timed(answer(204)), RateLimit(per_minute=1)
    async with Session("t", transport=transport, rate_limit=limit) as session:
        await session.send(GET)
        calls = [asyncio.create_task(session.send(GET)) for _ in range(3)]
        await asyncio.sleep(9.9)
        assert not warnings(caplog)
        await asyncio.sleep(0.2)
        assert warnings(caplog) == ["3 requests wait for the rate limit, the first for 10 s"]
        await asyncio.gather(*calls)
        assert len(warnings(caplog)) == 3
        await asyncio.sleep(1000)
        await session.send(GET)
    assert len(warnings(caplog)) == 3


async def test_waits_that_the_rate_limit_does_not_cause_are_not_warned_of(
    caplog: pytest.LogCaptureFixture,
) -> None:
    slow = Timed(answer(204), takes=25.0)
    async with Session("t", transport=slow) as session:
        await asyncio.gather(*(session.send(GET) for _ in range(MAX_CONCURRENT_REQUESTS + 1)))
    paused = Timed(answer(429, Retry_After="100"), answer(204), takes=1.0)
    async with Session("t", transport=paused) as session:
        await asyncio.gather(*(session.send(GET) for _ in range(3)))
    assert warnings(caplog) == [f"{REFUSED}: all requests paused for 100.0 s"]


async def test_error_of_a_pause_carries_the_ids_of_its_own_request() -> None:
    ids = {"X_Request_Id": "first", "x_correlation_id": "first", "Retry_After": "1000"}
    transport = Timed(answer(429, '{"code": "RateLimitExceeded"}', **ids))
    async with Session("t", transport=transport) as session:
        first = await session.send(GET)
        own = Request(method="GET", url="/y", headers={"X-Correlation-Id": "second"})
        second = await session.send(own)
    assert "first" not in second.headers.values()
    assert (second.correlation_id, second.url) == ("second", "https://api.bentley.com/y")
    assert (second.status, second.body) == (429, first.body)
    assert second.headers.getall("Retry-After") == ["1000"]  # type: ignore[attr-defined]
    assert len(transport.at) == 1


async def test_retry_after_in_milliseconds_pauses_no_longer_than_a_day() -> None:
    transport = Timed(answer(429, Retry_After="999999999999"), answer(204))
    async with Session("t", transport=transport) as session:
        assert (await session.send(GET)).status == 429
        await asyncio.sleep(86_400)
        assert (await session.send(GET)).status == 204


@pytest.mark.parametrize("delays", [("50", "20"), ("20", "50")])
async def test_longest_of_concurrent_pauses_counts_and_is_one_warning(
    delays: tuple[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    transport = Timed(*(answer(429, Retry_After=delay) for delay in delays), answer(204), takes=1.0)
    async with Session("t", transport=transport) as session:
        await asyncio.gather(session.send(GET), session.send(GET))
    assert transport.at == [0.0, 0.0, 51.0, 52.0]
    assert len(warnings(caplog)) == 1
