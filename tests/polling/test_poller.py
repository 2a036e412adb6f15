"""RunPoller: what the poll tasks share, which is earlier runs and the rate limit."""

import asyncio
import gc
import logging
from collections import Counter
from collections.abc import Coroutine, Iterable
from contextvars import ContextVar
from datetime import UTC, datetime, timedelta
from typing import Any, NoReturn

import pytest
from attrs import define, evolve, field

from itwin_export_async import (
    AdaptiveSchedule,
    ExportClient,
    FixedSchedule,
    NotFound,
    PollContext,
    RateLimit,
    RetryPolicy,
    RunHandle,
    RunTimeout,
    RunUpdate,
)
from itwin_export_async._models import ExecutionResult, ExecutionState, Run
from itwin_export_async._polling.history import RunHistory
from itwin_export_async._polling.poll_task import RunKey
from itwin_export_async._polling.poller import RunPoller
from itwin_export_async._polling.state import PollFailed, PollMissed, Snapshot, Throttled
from itwin_export_async._protocol.runs import Service
from itwin_export_async.emulator import Emulator
from itwin_export_async.transport import Request, Response
from tests.support.fakes import EPOCH, Answers, answer


@define
class Recorder:
    """A schedule that keeps its contexts."""

    seconds: float = 10.0
    contexts: list[PollContext] = field(factory=list)

    def next_wait(self, context: PollContext) -> float:
        self.contexts.append(context)
        return self.seconds * context.pressure


async def started(client: ExportClient, emulator: Emulator, imodel_id: str) -> RunHandle:
    connection = await client.find_or_create_connection(imodel_id, display_name="n")
    return await client.start_run(connection.id)


async def create_connection(emulator: Emulator, imodel_id: str) -> None:
    """Create the connection of `started` with another client, so that it may have earlier runs."""
    async with ExportClient(emulator.token(), transport=emulator) as other:
        await other.create_connection(imodel_id, display_name="n")


async def waited(runs: Iterable[RunHandle], seconds: float) -> None:
    """Wait for the runs for so long, and leave."""
    waits = [asyncio.create_task(run.wait()) for run in runs]
    await asyncio.sleep(seconds)
    for wait in waits:
        wait.cancel()
    await asyncio.wait(waits)


async def test_history_is_loaded_once_and_only_for_a_long_run(emulator: Emulator) -> None:
    imodel_id = emulator.add_imodel()
    await create_connection(emulator, imodel_id)
    async with ExportClient(emulator.token(), transport=emulator) as client:
        emulator.plan_next_run(imodel_id, duration=40)
        await (await started(client, emulator, imodel_id)).wait()
        assert emulator.count("list_runs") == 0
        for _ in range(3):
            emulator.plan_next_run(imodel_id, duration=400)
            await (await started(client, emulator, imodel_id)).wait()
        assert emulator.count("list_runs") == 1


async def test_schedule_gets_the_durations_of_earlier_runs(emulator: Emulator) -> None:
    imodel_id = emulator.add_imodel()
    emulator.plan_next_run(imodel_id, duration=100)
    emulator.plan_next_run(imodel_id, duration=200)
    emulator.plan_next_run(imodel_id, duration=300)
    async with ExportClient(emulator.token(), transport=emulator) as other:
        await (await started(other, emulator, imodel_id)).wait()
        await (await started(other, emulator, imodel_id)).wait()
    schedule = Recorder()
    async with ExportClient(emulator.token(), transport=emulator, schedule=schedule) as client:
        await (await started(client, emulator, imodel_id)).wait()
        known = [sorted(context.history) for context in schedule.contexts]
        assert known[0] == []
        assert known[-1] == pytest.approx([100, 200], abs=2)
        await (await started(client, emulator, imodel_id)).wait()
        assert sorted(schedule.contexts[-1].history) == pytest.approx([100, 200, 300], abs=2)


@pytest.mark.parametrize("response", [answer(404, "{}"), answer(500), answer(200, "garbage")])
async def test_poller_works_without_a_history(
    client: ExportClient, emulator: Emulator, response: Response
) -> None:
    imodel_id = emulator.add_imodel()
    await create_connection(emulator, imodel_id)
    emulator.plan_next_run(imodel_id, duration=400)
    emulator.inject("list_runs", response)
    assert (await (await started(client, emulator, imodel_id)).wait()).is_final
    assert emulator.count("list_runs") == 1


async def test_schedule_gets_age_polls_state_and_changes(emulator: Emulator) -> None:
    imodel_id = emulator.add_imodel()
    emulator.plan_next_run(imodel_id, duration=100)
    schedule = Recorder()
    async with ExportClient(emulator.token(), transport=emulator, schedule=schedule) as client:
        await (await started(client, emulator, imodel_id)).wait()
    first, *later = schedule.contexts
    assert (first.age, first.polls, first.state, first.pressure) == (0.0, 0, None, 1.0)
    assert [context.polls for context in later] == list(range(1, len(later) + 1))
    assert [context.age for context in later] == pytest.approx(
        [10.0 * c.polls - 9 for c in later], abs=2
    )
    assert {context.state for context in later} >= {ExecutionState.EXECUTING}
    assert min(context.since_change for context in later) == 0
    assert max(context.since_change for context in later) >= 10


async def test_age_of_a_run_joined_late_is_the_services(emulator: Emulator) -> None:
    imodel_id = emulator.add_imodel()
    emulator.plan_next_run(imodel_id, duration=1000)
    schedule = Recorder()
    async with ExportClient(emulator.token(), transport=emulator, schedule=schedule) as client:
        run = await started(client, emulator, imodel_id)
        await asyncio.sleep(500)
        await client.attach(run.connection_id, run.run_id).wait()
    assert schedule.contexts[0].age == pytest.approx(500, abs=2)


async def test_runs_share_the_rate_limit() -> None:
    seen: Counter[str] = Counter()
    schedule = Recorder(seconds=1.0)

    def serve(request: Request) -> Response:
        seen[request.url] += 1
        return answer(200, '{"run": {"id": "r", "state": "Executing"}}')

    async with ExportClient(
        "t", transport=Answers(serve), schedule=schedule, rate_limit=RateLimit(per_minute=60)
    ) as client:
        await waited((client.attach("c", f"r{n}") for n in range(30)), 1800)
    runs = [count for url, count in seen.items() if "/runs/r" in url]
    assert sum(seen.values()) <= 31 * 60
    assert len(runs) == 30
    assert max(runs) <= 2 * min(runs)  # no run starves
    assert sum(runs) > 0.7 * 30 * 60  # and the calls are used
    assert max(context.pressure for context in schedule.contexts) > 10


async def test_demand_ends_with_the_subscribers() -> None:
    schedule = Recorder(seconds=0.5)
    running = answer(200, '{"run": {"id": "r", "state": "Executing"}}')
    limit = RateLimit(per_minute=60)
    async with ExportClient(
        "t", transport=Answers(running), schedule=schedule, rate_limit=limit
    ) as client:
        many = [asyncio.create_task(client.attach("c", f"r{n}").wait()) for n in range(20)]
        await asyncio.sleep(100)
        for wait in many:
            wait.cancel()
        await asyncio.wait(many)
        await asyncio.sleep(100)
        schedule.contexts.clear()
        schedule.seconds = 10.0
        last = asyncio.create_task(client.attach("c", "r").wait())
        await asyncio.sleep(100)
        last.cancel()
        await asyncio.wait([last])
    assert {context.pressure for context in schedule.contexts} == {1.0}


def ended(run_id: str, seconds: float) -> Run:
    start = datetime(2024, 1, 1, tzinfo=UTC)
    return Run(
        id=run_id,
        state=ExecutionState.COMPLETED,
        result=ExecutionResult.SUCCESS,
        start_date_time=start,
        end_date_time=start + timedelta(seconds=seconds),
    )


async def test_history_keeps_a_bounded_number_of_connections(client: ExportClient) -> None:
    history = RunHistory(client.session)
    for n in range(1200):
        history.of(Service.EXPORT, f"c{n}").add(ended("r", 60.0))
    assert history.of(Service.EXPORT, "c1199").durations == (60.0,)
    assert history.of(Service.EXPORT, "c0").durations == ()


async def test_history_keeps_the_last_runs_of_a_connection_once_each(client: ExportClient) -> None:
    history = RunHistory(client.session).of(Service.EXPORT, "c")
    for n in range(1, 70):
        history.add(ended(f"r{n}", n))
        history.add(ended(f"r{n}", n))
    assert history.durations == tuple(range(20, 70))


async def gap_under_scarcity(chance: float) -> float:
    """Seconds between two polls of each of 60 runs under 60 calls a minute.

    `chance` takes the place of the jitter: 0 is the shortest interval, 1 the longest.
    """
    transport = Answers(answer(200, '{"run": {"id": "r", "state": "Executing"}}'))
    retry = RetryPolicy(jitter=lambda longest: chance * longest)
    limit = RateLimit(per_minute=60)
    async with ExportClient(
        "t", transport=transport, schedule=FixedSchedule(1), retry=retry, rate_limit=limit
    ) as client:
        await waited((client.attach("c", f"r{n}") for n in range(60)), 3600)
    return 60 * 3600 / len(transport.requests)


async def test_stretched_intervals_have_jitter() -> None:
    shortest, longest = await gap_under_scarcity(0.0), await gap_under_scarcity(1.0)
    assert shortest == pytest.approx(61, abs=1)  # every run is polled, and no call is left over
    assert 1.1 * shortest < longest < 1.5 * shortest


async def test_history_of_each_connection_is_loaded_once() -> None:
    lists: Counter[str] = Counter()

    def serve(request: Request) -> Response:
        if request.url.endswith("/runs"):
            lists[request.url] += 1
            return answer(200, '{"runs": []}')
        return answer(200, '{"run": {"id": "r", "state": "Executing"}}')

    async with ExportClient(
        "t", transport=Answers(serve), schedule=FixedSchedule(30), rate_limit=RateLimit()
    ) as client:
        await waited((client.attach(f"c{n}", "r") for n in range(1100)), 200)
    assert len(lists) == 1100
    assert set(lists.values()) == {1}


@pytest.mark.parametrize("create", ["create_connection", "find_or_create_connection"])
async def test_history_of_a_connection_that_the_client_created_is_read_by_an_estimate_only(
    create: str, emulator: Emulator, client: ExportClient
) -> None:
    connection = await getattr(client, create)(emulator.add_imodel("Bridge"), display_name="IFC")
    await (await client.start_run(connection.id)).wait()
    assert emulator.count("list_runs") == 0
    await (await client.start_run(connection.id)).estimate()
    assert emulator.count("list_runs") == 1


async def test_history_of_a_created_connection_is_loaded_after_many_others_were_used(
    emulator: Emulator,
) -> None:
    async with ExportClient(emulator.token(), transport=emulator, rate_limit=RateLimit()) as client:
        imodel_id = emulator.add_imodel("Bridge")
        connection = await client.create_connection(imodel_id, display_name="IFC")
        for _ in range(2):
            emulator.plan_next_run(imodel_id, duration=400)
            await (await client.start_run(connection.id)).wait()
            assert emulator.count("list_runs") == 0
        await waited((client.attach(f"c{n}", "r") for n in range(1000)), 1)
        emulator.plan_next_run(imodel_id, duration=400)
        await (await client.start_run(connection.id)).wait()
        assert emulator.count("list_runs") == 1


async def test_history_keeps_a_run_that_was_polled_through_many_connections() -> None:
    over = False

    def serve(request: Request) -> Response:
        times = '"startDateTime": "2024-01-01T00:00:00Z", "endDateTime": "2024-01-01T00:01:00Z"'
        ending = f'"state": "Completed", "result": "Success", {times}'
        fields = ending if over and "/c0/" in request.url else '"state": "Executing"'
        return answer(200, f'{{"run": {{"id": "r", {fields}}}}}')

    schedule = Recorder()
    async with ExportClient(
        "t", transport=Answers(serve), schedule=schedule, rate_limit=RateLimit()
    ) as client:
        first = asyncio.create_task(client.attach("c0", "r").wait())
        await asyncio.sleep(1)
        others = [asyncio.create_task(client.attach(f"c{n}", "r").wait()) for n in range(1, 1100)]
        await asyncio.sleep(1)
        for other in others:
            other.cancel()
        await asyncio.wait(others)
        over = True
        await first
        over = False
        next_one = asyncio.create_task(client.attach("c0", "r2").wait())
        await asyncio.sleep(1)
        next_one.cancel()
        await asyncio.wait([next_one])
    assert schedule.contexts[-1].history == (60.0,)


async def test_subscriber_that_is_cancelled_during_an_event_does_not_get_it() -> None:
    answers = iter(["Queued", "Completed"])

    def serve(request: Request) -> Response:
        state = next(answers)
        if state == "Completed":
            leaving.cancel()
        return answer(200, f'{{"run": {{"id": "r", "state": "{state}", "result": "Success"}}}}')

    async with ExportClient("t", transport=Answers(serve)) as client:
        leaving = asyncio.create_task(client.attach("c", "r").wait())
        staying = asyncio.create_task(client.attach("c", "r").wait())
        await asyncio.wait([leaving, staying])
    assert leaving.cancelled()
    assert staying.result().is_final


async def test_slow_subscriber_misses_no_change() -> None:
    states = ["Queued", "Executing", "Finalizing", "Completed"]
    answers = iter(states)

    def serve(request: Request) -> Response:
        body = f'{{"run": {{"id": "r", "state": "{next(answers)}", "result": "Success"}}}}'
        return answer(200, body)

    async def slow(update: RunUpdate) -> None:
        states_seen.append(update.run.state.value)
        await asyncio.sleep(100)

    states_seen: list[str] = []
    async with ExportClient("t", transport=Answers(serve), schedule=FixedSchedule(5)) as client:
        await client.attach("c", "r").wait(on_update=slow)
    assert states_seen == states


async def test_equal_snapshots_are_kept_once() -> None:
    body = '{"run": {"id": "kept", "state": "Executing", "jobs": [{"id": "j", "state": "Idle"}]}}'
    transport = Answers(answer(200, body))
    async with ExportClient("t", transport=transport, schedule=FixedSchedule(5)) as client:
        wait = asyncio.create_task(client.attach("c", "kept").wait())
        await asyncio.sleep(32)
        kept = [one for one in gc.get_objects() if isinstance(one, Run) and one.id == "kept"]
        wait.cancel()
        await asyncio.wait([wait])
    assert len(transport.requests) == 7
    assert len(kept) == 1


async def test_default_schedule_uses_the_history(emulator: Emulator) -> None:
    imodel_id = emulator.add_imodel()
    for _ in range(7):
        emulator.plan_next_run(imodel_id, duration=1200)
    async with ExportClient(
        emulator.token(lifetime=1e6), transport=emulator, schedule=FixedSchedule(5)
    ) as other:
        for _ in range(6):
            await (await started(other, emulator, imodel_id)).wait()
    before = emulator.count("get_run")
    async with ExportClient(
        emulator.token(lifetime=1e6), transport=emulator, schedule=AdaptiveSchedule(poll_cost=3.0)
    ) as client:
        run = await started(client, emulator, imodel_id)
        final = await run.wait()
    assert final.duration == pytest.approx(1200, abs=5)
    assert emulator.count("get_run") - before < 25


RUNNING = '{"run": {"id": "r", "state": "Executing"}}'
DONE = '{"run": {"id": "r", "state": "Completed", "result": "Success"}}'
EXPORT_RUN = RunKey(service=Service.EXPORT, connection_id="c", run_id="r")


class Slow:
    """A transport that responds after `seconds`, with a running run unless given a response."""

    def __init__(self, seconds: float, *responses: Response) -> None:
        self.seconds = seconds
        self.responses = list(responses)
        self.at: list[float] = []

    async def send(self, request: Request, /) -> Response:
        self.at.append(asyncio.get_running_loop().time())
        await asyncio.sleep(self.seconds)
        return self.responses.pop(0) if self.responses else answer(200, RUNNING)

    def stream(self, request: Request, /) -> NoReturn:
        raise NotImplementedError

    async def close(self) -> None:
        pass


async def waits(run: RunHandle, *timeouts: float) -> None:
    """Wait with each timeout in turn; every wait ends at its timeout."""
    for timeout in timeouts:
        with pytest.raises(RunTimeout):
            await run.wait(timeout=timeout)


@pytest.mark.parametrize("latency", [0.0, 0.25])
async def test_short_waits_in_a_row_cost_one_poll(latency: float) -> None:
    transport = Slow(latency)
    async with ExportClient("t", transport=transport) as client:
        await waits(client.attach("c", "r"), *[0.1] * 5)
    assert len(transport.at) == 1


async def test_poll_state_is_kept_for_one_interval_after_the_last_wait() -> None:
    transport, schedule = Slow(0.0), Recorder()
    async with ExportClient("t", transport=transport, schedule=schedule) as client:
        run = client.attach("c", "r")
        await waits(run, 1)
        await asyncio.sleep(7)
        await waits(run, 11)  # from 8 to 19: the poll at 10 comes in its time
        await asyncio.sleep(6)
        await waits(run, 1)  # at 25, which is overdue
        assert transport.at == [0, 10, 25]
        await asyncio.sleep(30)
        await waits(run, 1)  # at 56: too late
    assert transport.at == [0, 10, 25, 56]
    assert [context.polls for context in schedule.contexts] == [1, 2, 3, 1]


async def test_poll_under_way_is_kept_after_the_last_wait() -> None:
    transport = Slow(5.0)
    async with ExportClient("t", transport=transport, schedule=FixedSchedule(10)) as client:
        run = client.attach("c", "r")
        await waits(run, 1)
        await asyncio.sleep(8)
        assert run.last is None
        updates = run.updates()
        assert (await anext(updates)).run.state is ExecutionState.EXECUTING  # at once
        assert asyncio.get_running_loop().time() == 9
        await asyncio.sleep(7)
        await updates.aclose()
    assert transport.at == [0, 15]


async def test_poll_state_is_dropped_after_the_last_poll_fails() -> None:
    transport = Slow(5.0, answer(403, '{"error": {"code": "No", "message": "no"}}'))
    async with ExportClient("t", transport=transport, schedule=FixedSchedule(10)) as client:
        run = client.attach("c", "r")
        await waits(run, 1)
        await asyncio.sleep(5)
        await waits(run, 6)
    assert transport.at == [0, 6]


async def test_error_of_the_schedule_without_a_subscriber_is_dropped() -> None:
    class Broken:
        def next_wait(self, context: PollContext) -> float:
            raise ZeroDivisionError

    transport = Slow(5.0)
    async with ExportClient("t", transport=transport, schedule=Broken()) as client:
        run = client.attach("c", "r")
        await waits(run, 1)
        await asyncio.sleep(5)
        with pytest.raises(ZeroDivisionError):
            await run.wait()
    assert len(transport.at) == 2


async def test_loading_the_history_does_not_delay_a_poll() -> None:
    at: list[float] = []

    class SlowList(Slow):
        async def send(self, request: Request, /) -> Response:
            if request.url.endswith("/runs"):
                await asyncio.sleep(25)
                return answer(200, '{"runs": []}')
            at.append(asyncio.get_running_loop().time())
            return answer(200, RUNNING)

    async with ExportClient("t", transport=SlowList(0.0), schedule=FixedSchedule(10)) as client:
        with pytest.raises(RunTimeout):
            await client.attach("c", "r").wait(timeout=95)
    assert at == [10.0 * n for n in range(10)]


async def test_bug_while_the_history_is_loaded_is_logged_and_ends_no_wait(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Broken(Slow):
        async def send(self, request: Request, /) -> Response:
            if request.url.endswith("/runs"):
                raise ZeroDivisionError
            return answer(200, RUNNING)

    unhandled: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: unhandled.append(context))
    async with ExportClient("t", transport=Broken(0.0), schedule=FixedSchedule(40)) as client:
        with pytest.raises(RunTimeout):
            await client.attach("c", "r").wait(timeout=100)
    gc.collect()
    assert not unhandled
    (record,) = [record for record in caplog.records if record.levelname == "ERROR"]
    assert "history of connection c: ZeroDivisionError" in record.message


async def test_closing_the_client_cancels_a_history_that_is_loading() -> None:
    class Hanging(Slow):
        async def send(self, request: Request, /) -> Response:
            if request.url.endswith("/runs"):
                await asyncio.Event().wait()
            return answer(200, RUNNING)

    transport = Hanging(0.0)
    async with ExportClient("t", transport=transport, schedule=FixedSchedule(40)) as client:
        await waits(client.attach("c", "r"), 100)
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_poll_task_does_not_run_in_the_context_of_a_waiter() -> None:
    trace = ContextVar("trace", default="none")
    traces: list[str] = []

    def serve(request: Request) -> Response:
        traces.append(trace.get())
        return answer(200, '{"runs": []}' if request.url.endswith("/runs") else RUNNING)

    trace.set("of the waiter")
    async with ExportClient("t", transport=Answers(serve), schedule=FixedSchedule(40)) as client:
        await waits(client.attach("c", "r"), 100)
    assert traces == ["none"] * 4


def poller(client: ExportClient, seconds: float = 100.0, max_outage: float = 900.0) -> RunPoller:
    return RunPoller(client.session, FixedSchedule(seconds), max_outage)


async def until_closed(poller: RunPoller, key: RunKey) -> None:
    """Subscribe until the poller is closed."""
    subscription = poller.subscribe(key)
    try:
        async for event in subscription:
            if isinstance(event, PollFailed):
                raise event.error
    finally:
        subscription.close()


@pytest.mark.parametrize(
    ("filters", "polled"),
    [
        ({}, ["c1/runs/r1", "c1/runs/r2", "c2/runs/r1"]),
        ({"connection_id": "c1"}, ["c1/runs/r1", "c1/runs/r2"]),
        ({"run_id": "r1"}, ["c1/runs/r1", "c2/runs/r1"]),
        ({"connection_id": "c2", "run_id": "r1"}, ["c2/runs/r1"]),
        ({"connection_id": "c3"}, []),
    ],
)
async def test_poll_now_polls_the_runs_it_names(filters: dict[str, str], polled: list[str]) -> None:
    transport = Answers(answer(200, RUNNING))
    async with ExportClient("t", transport=transport) as client, asyncio.TaskGroup() as group:
        ours = poller(client)
        for connection_id, run_id in (("c1", "r1"), ("c1", "r2"), ("c2", "r1")):
            key = RunKey(service=Service.EXPORT, connection_id=connection_id, run_id=run_id)
            group.create_task(_closed(until_closed(ours, key)))
        await asyncio.sleep(10)
        assert ours.runs_polled == 3
        transport.requests.clear()
        ours.poll_now(**filters)
        await asyncio.sleep(1)
        assert [r.url.partition("/connections/")[2] for r in transport.requests] == polled
        await asyncio.sleep(60)
        assert len(transport.requests) == len(polled)
        await ours.close()
        await asyncio.sleep(0)
        assert ours.runs_polled == 0


async def _closed(work: Coroutine[Any, Any, None]) -> None:
    with pytest.raises(RuntimeError, match="the client was closed"):
        await work


async def test_poll_now_during_a_poll_polls_once_more() -> None:
    transport = Slow(5.0)
    async with ExportClient("t", transport=transport) as client:
        ours = poller(client)
        waiter = asyncio.create_task(_closed(until_closed(ours, EXPORT_RUN)))
        await asyncio.sleep(1)
        ours.poll_now()
        ours.poll_now()
        await asyncio.sleep(50)
        await ours.close()
        await waiter
    assert transport.at == [0, 5]


@pytest.mark.parametrize("status", [200, 429, 503])
async def test_poll_now_respects_a_retry_after(status: int) -> None:
    transport = Slow(1.0, answer(status, RUNNING, Retry_After="30"))
    async with ExportClient("t", transport=transport) as client:
        ours = poller(client, 20.0)
        waiter = asyncio.create_task(_closed(until_closed(ours, EXPORT_RUN)))
        await asyncio.sleep(0.5)
        ours.poll_now()
        await asyncio.sleep(10)
        ours.poll_now()
        await asyncio.sleep(40)
        await ours.close()
        await waiter
    assert transport.at == [0, 31]


async def test_poll_now_leaves_a_run_without_a_subscriber_alone() -> None:
    transport = Slow(0.0)
    async with ExportClient("t", transport=transport) as client:
        ours = poller(client)
        subscription = ours.subscribe(EXPORT_RUN)
        await asyncio.sleep(1)
        subscription.close()
        ours.poll_now()
        await asyncio.sleep(1)
        await ours.close()
    assert len(transport.at) == 1


async def test_subscription_queues_no_events_without_a_change() -> None:
    throttled = answer(429, "{}", Retry_After="60")
    transport = Answers(answer(200, RUNNING), *[throttled] * 49, answer(200, DONE))
    async with ExportClient("t", transport=transport) as client:
        ours = poller(client, 10.0)
        slow = [ours.subscribe(EXPORT_RUN, every_poll=every) for every in (False, True)]
        await asyncio.sleep(30 * 60)
        late = ours.subscribe(EXPORT_RUN)
        assert [type(await anext(late)) for _ in range(2)] == [Snapshot, Throttled]
        await asyncio.sleep(30 * 60)
        kinds = [[type(event) async for event in reader] for reader in (*slow, late)]
        await ours.close()
    assert kinds == [[Snapshot, Snapshot], [Snapshot, Snapshot], [Snapshot]]


async def test_late_wait_ends_at_once_where_the_retry_after_is_beyond_its_deadline() -> None:
    transport = Answers(answer(200, RUNNING), answer(429, "{}", Retry_After="600"))
    async with ExportClient("t", transport=transport, schedule=FixedSchedule(10)) as client:
        run = client.attach("c", "r")
        early = asyncio.create_task(run.wait(timeout=1000))
        await asyncio.sleep(100)
        with pytest.raises(RunTimeout, match="allows no poll within 60 s"):
            await run.wait(timeout=60)
        assert asyncio.get_running_loop().time() == 100
        early.cancel()
        await asyncio.wait([early])


@pytest.mark.parametrize(("runs", "first"), [(1, 1.0), (50, 1.0), (2000, None)])
async def test_first_poll_of_a_new_run_is_soon_unless_calls_are_scarce(
    runs: int, first: float | None
) -> None:
    at: list[float] = []

    def serve(_: Request) -> Response:
        at.append(asyncio.get_running_loop().time())
        return answer(200, RUNNING)

    async with ExportClient(
        "t", transport=Answers(serve), rate_limit=RateLimit(per_minute=1200)
    ) as client:
        ours = RunPoller(client.session, AdaptiveSchedule(), 900.0)
        for n in range(runs):
            key = RunKey(service=Service.EXPORT, connection_id="c", run_id=f"r{n}")
            ours.subscribe(key, is_new=True, just_created=True)
        await asyncio.sleep(200)
        await ours.close()
    if first is not None:
        assert at[:runs] == [first] * runs
    else:
        assert sum(moment <= 1.0 for moment in at) < runs / 4
        assert len(at) > runs  # later, and not left out


async def test_many_runs_leave_time_to_the_event_loop() -> None:
    transport = Answers(answer(200, RUNNING))
    async with ExportClient(
        "t", transport=transport, schedule=FixedSchedule(1), rate_limit=RateLimit()
    ) as client:
        await waited((client.attach("c", f"r{n}") for n in range(500)), 20)
    assert 0.7 * 250 < (len(transport.requests) - 500) / 20 < 1.1 * 250


@pytest.mark.parametrize(("seconds", "goal"), [(2.0, 3.0), (20.0, 4.0), (420.0, 15.0)])
async def test_end_of_a_run_is_noticed_soon_by_default(seconds: float, goal: float) -> None:
    lags = []
    for seed in range(20):
        emulator = Emulator(seed=seed, epoch=EPOCH)
        async with ExportClient(emulator.token(lifetime=1e6), transport=emulator) as client:
            imodel_id = emulator.add_imodel()
            emulator.plan_next_run(imodel_id, duration=seconds * (0.8 + seed / 50))
            run = await started(client, emulator, imodel_id)
            began = asyncio.get_running_loop().time()
            await run.wait()
            elapsed = asyncio.get_running_loop().time() - began
            lags.append(elapsed - seconds * (0.8 + seed / 50))
    assert 0 <= sum(lags) / len(lags) <= goal


def records(caplog: pytest.LogCaptureFixture, level: int) -> list[logging.LogRecord]:
    return [r for r in caplog.records if r.name == "itwin_export_async.runs" and r.levelno == level]


async def test_outage_is_one_warning_and_its_end_one_info(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG, "itwin_export_async.runs")
    transport = Answers(*[answer(200, RUNNING)] * 3, *[answer(503, "{}")] * 60, answer(200, DONE))
    async with ExportClient(
        "t", transport=transport, schedule=FixedSchedule(30), retry=RetryPolicy(attempts=1)
    ) as client:
        await asyncio.gather(*(client.attach("c", f"r{n}").wait() for n in range(3)))
    (begin,) = records(caplog, logging.WARNING)
    assert begin.getMessage().startswith("outage: run r")
    assert "503" in begin.getMessage()
    assert begin.itwin["connection_id"] == "c"  # type: ignore[attr-defined]
    infos = [record.getMessage() for record in records(caplog, logging.INFO)]
    assert sum(info.startswith("outage ended: run r") for info in infos) == 1
    assert sum("finished: Success" in info for info in infos) == 3
    assert len(infos) == 4
    failed = [r for r in records(caplog, logging.DEBUG) if "will retry" in r.getMessage()]
    assert len(failed) == 60


async def test_outage_is_seen_from_outside_until_it_ends() -> None:
    transport = Answers(
        answer(200, RUNNING), *[answer(404, "<html>")] * 2, answer(200, RUNNING), answer(404)
    )
    async with ExportClient("t", transport=transport) as client:
        ours = poller(client, 100.0, max_outage=300.0)
        waiter = asyncio.create_task(until_closed(ours, EXPORT_RUN))
        seen = []
        for _ in range(7):
            await asyncio.sleep(99)
            seen.append(ours.outage_since is not None)
            await asyncio.sleep(1)
        assert seen == [False, True, True, False, True, True, True]
        with pytest.raises(NotFound):
            await waiter
        assert ours.outage_since is None
        await ours.close()


async def test_new_run_that_is_unknown_yet_is_no_outage(caplog: pytest.LogCaptureFixture) -> None:
    unknown = answer(404, '{"error": {"code": "ConnectionRunNotFound", "message": "no"}}')
    transport = Answers(unknown, answer(429, "{}"), answer(200, DONE))
    async with ExportClient("t", transport=transport) as client:
        ours = poller(client, 5.0)
        subscription = ours.subscribe(EXPORT_RUN, just_created=True, every_poll=True)
        kinds = [type(event) async for event in subscription]
        subscription.close()
        await ours.close()
    assert kinds == [PollMissed, Throttled, Snapshot]
    assert records(caplog, logging.WARNING) == []


async def test_failed_run_is_a_warning_with_its_reason(
    client: ExportClient, emulator: Emulator, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "itwin_export_async.runs")
    imodel_id = emulator.add_imodel()
    emulator.plan_next_run(imodel_id, "Error")
    run = await started(client, emulator, imodel_id)
    emulator.plan_next_run(emulator.add_imodel(), "Success")
    await asyncio.gather(run.wait(check=False), run.wait(check=False))
    (record,) = [r for r in records(caplog, logging.WARNING) if run.run_id in r.getMessage()]
    assert "failed: Error" in record.getMessage()
    assert "TAE_" in record.getMessage()
    assert "\n" not in record.getMessage()
    assert record.itwin == {  # type: ignore[attr-defined]
        "run_id": run.run_id,
        "connection_id": run.connection_id,
        "imodel_id": imodel_id,
    }


async def test_finished_run_is_an_info_with_its_duration_and_its_imodel(
    client: ExportClient, emulator: Emulator, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "itwin_export_async.runs")
    imodel_id = emulator.add_imodel()
    emulator.plan_next_run(imodel_id, duration=420)
    run = evolve(await started(client, emulator, imodel_id), imodel_id=imodel_id)
    await run.wait()
    (record,) = [r for r in records(caplog, logging.INFO) if "finished" in r.getMessage()]
    text = f"run {run.run_id} of iModel {imodel_id} finished: Success after 420 s"
    assert record.getMessage() == text
    assert record.itwin["imodel_id"] == imodel_id  # type: ignore[attr-defined]
