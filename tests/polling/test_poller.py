"""What the poll loops know and share: earlier runs, and the calls that all of them have."""

import asyncio
import gc
from collections import Counter
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from itertools import count

import pytest
from attrs import define, field

from itwin_export_async import (
    AdaptiveSchedule,
    ExportClient,
    FixedSchedule,
    PollContext,
    RateLimit,
    RetryPolicy,
    RunHandle,
    RunTimeout,
    RunUpdate,
)
from itwin_export_async._models import ExecutionResult, ExecutionState, Run
from itwin_export_async._polling.history import History
from itwin_export_async._polling.state import Pause
from itwin_export_async._protocol.runs import Service
from itwin_export_async.emulator import Emulator
from itwin_export_async.transport import Request, Response
from tests.support.fakes import Answers, answer


@define
class Curious:
    """A schedule that notes what it is shown."""

    seconds: float = 10.0
    views: list[PollContext] = field(factory=list)

    def next_wait(self, view: PollContext) -> float:
        self.views.append(view)
        return self.seconds * view.pressure


async def started(client: ExportClient, emulator: Emulator, imodel_id: str) -> RunHandle:
    connection = await client.find_or_create_connection(imodel_id, display_name="n")
    return await client.start_run(connection.id)


async def waited(runs: Iterable[RunHandle], seconds: float) -> None:
    """Wait for all of them for so long, and leave."""
    waits = [asyncio.create_task(run.wait()) for run in runs]
    await asyncio.sleep(seconds)
    for wait in waits:
        wait.cancel()
    await asyncio.wait(waits)


async def test_earlier_runs_are_asked_for_once_and_only_for_a_long_run(emulator: Emulator) -> None:
    imodel_id = emulator.add_imodel()
    async with ExportClient(emulator.token(), transport=emulator) as client:
        emulator.plan_next_run(imodel_id, duration=40)
        await (await started(client, emulator, imodel_id)).wait()
        assert emulator.count("list_runs") == 0
        for _ in range(3):
            emulator.plan_next_run(imodel_id, duration=400)
            await (await started(client, emulator, imodel_id)).wait()
        assert emulator.count("list_runs") == 1


async def test_what_earlier_runs_took_is_shown_to_the_schedule(emulator: Emulator) -> None:
    imodel_id = emulator.add_imodel()
    emulator.plan_next_run(imodel_id, duration=100)
    emulator.plan_next_run(imodel_id, duration=200)
    emulator.plan_next_run(imodel_id, duration=300)
    async with ExportClient(emulator.token(), transport=emulator) as other:
        await (await started(other, emulator, imodel_id)).wait()
        await (await started(other, emulator, imodel_id)).wait()
    schedule = Curious()
    async with ExportClient(emulator.token(), transport=emulator, schedule=schedule) as client:
        await (await started(client, emulator, imodel_id)).wait()
        known = [sorted(view.history) for view in schedule.views]
        assert known[0] == []
        assert known[-1] == pytest.approx([100, 200], abs=2)
        await (await started(client, emulator, imodel_id)).wait()
        assert sorted(schedule.views[-1].history) == pytest.approx([100, 200, 300], abs=2)


@pytest.mark.parametrize("refusal", [answer(404, "{}"), answer(500), answer(200, "garbage")])
async def test_a_list_that_cannot_be_had_is_done_without(
    client: ExportClient, emulator: Emulator, refusal: Response
) -> None:
    imodel_id = emulator.add_imodel()
    emulator.plan_next_run(imodel_id, duration=400)
    emulator.inject("list_runs", refusal)
    assert (await (await started(client, emulator, imodel_id)).wait()).is_final
    assert emulator.count("list_runs") == 1


async def test_a_schedule_is_shown_age_looks_state_and_changes(emulator: Emulator) -> None:
    imodel_id = emulator.add_imodel()
    emulator.plan_next_run(imodel_id, duration=100)
    schedule = Curious()
    async with ExportClient(emulator.token(), transport=emulator, schedule=schedule) as client:
        await (await started(client, emulator, imodel_id)).wait()
    first, *later = schedule.views
    assert (first.age, first.polls, first.state, first.pressure) == (0.0, 0, None, 1.0)
    assert [view.polls for view in later] == list(range(1, len(later) + 1))
    assert [view.age for view in later] == pytest.approx([10.0 * v.polls - 9 for v in later], abs=2)
    assert {view.state for view in later} >= {ExecutionState.EXECUTING}
    assert min(view.since_change for view in later) == 0
    assert max(view.since_change for view in later) >= 10


async def test_a_run_joined_late_is_as_old_as_the_service_says(emulator: Emulator) -> None:
    imodel_id = emulator.add_imodel()
    emulator.plan_next_run(imodel_id, duration=1000)
    schedule = Curious()
    async with ExportClient(emulator.token(), transport=emulator, schedule=schedule) as client:
        run = await started(client, emulator, imodel_id)
        await asyncio.sleep(500)
        await client.attach(run.connection_id, run.run_id).wait()
    assert schedule.views[0].age == pytest.approx(500, abs=2)


async def test_many_runs_share_the_calls_that_there_are() -> None:
    seen: Counter[str] = Counter()
    schedule = Curious(seconds=1.0)

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
    assert max(runs) <= 2 * min(runs)  # nobody starves
    assert sum(runs) > 0.7 * 30 * 60  # and the calls are made use of
    assert max(view.pressure for view in schedule.views) > 10


async def test_demand_ends_with_the_followed() -> None:
    schedule = Curious(seconds=0.5)
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
        schedule.views.clear()
        schedule.seconds = 10.0
        last = asyncio.create_task(client.attach("c", "r").wait())
        await asyncio.sleep(100)
        last.cancel()
        await asyncio.wait([last])
    assert {view.pressure for view in schedule.views} == {1.0}


def ended(run_id: str, seconds: float) -> Run:
    start = datetime(2024, 1, 1, tzinfo=UTC)
    return Run(
        id=run_id,
        state=ExecutionState.COMPLETED,
        result=ExecutionResult.SUCCESS,
        start_date_time=start,
        end_date_time=start + timedelta(seconds=seconds),
    )


async def test_only_so_many_connections_are_remembered(client: ExportClient) -> None:
    history = History(client.session)
    for n in range(1200):
        history.past(Service.EXPORT, f"c{n}").add(ended("r", 60.0))
    assert history.past(Service.EXPORT, "c1199").durations == (60.0,)
    assert history.past(Service.EXPORT, "c0").durations == ()


async def test_of_a_connection_the_last_runs_are_remembered_each_once(client: ExportClient) -> None:
    past = History(client.session).past(Service.EXPORT, "c")
    for n in range(1, 70):
        past.add(ended(f"r{n}", n))
        past.add(ended(f"r{n}", n))
    assert past.durations == tuple(range(20, 70))


async def gap_under_scarcity(chance: float) -> float:
    """Seconds between two looks at each of 60 runs, which have 60 calls a minute.

    `chance` takes the place of what is drawn for a wait: 0 is the shortest, 1 the longest.
    """
    transport = Answers(answer(200, '{"run": {"id": "r", "state": "Executing"}}'))
    retry = RetryPolicy(jitter=lambda longest: chance * longest)
    limit = RateLimit(per_minute=60)
    async with ExportClient(
        "t", transport=transport, schedule=FixedSchedule(1), retry=retry, rate_limit=limit
    ) as client:
        await waited((client.attach("c", f"r{n}") for n in range(60)), 3600)
    return 60 * 3600 / len(transport.requests)


async def test_waits_that_scarcity_stretches_differ_by_chance() -> None:
    shortest, longest = await gap_under_scarcity(0.0), await gap_under_scarcity(1.0)
    assert shortest == pytest.approx(61, abs=1)  # each has its turn, and no call is left over
    assert 1.1 * shortest < longest < 1.5 * shortest


async def test_many_connections_at_once_are_asked_once_each() -> None:
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


async def test_a_run_is_remembered_although_many_connections_came_after_it() -> None:
    over = False

    def serve(request: Request) -> Response:
        times = '"startDateTime": "2024-01-01T00:00:00Z", "endDateTime": "2024-01-01T00:01:00Z"'
        ending = f'"state": "Completed", "result": "Success", {times}'
        told = ending if over and "/c0/" in request.url else '"state": "Executing"'
        return answer(200, f'{{"run": {{"id": "r", {told}}}}}')

    schedule = Curious()
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
    assert schedule.views[-1].history == (60.0,)


async def test_a_watcher_that_leaves_in_the_moment_of_news_is_not_told() -> None:
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


async def test_a_slow_watcher_misses_nothing() -> None:
    states = ["Queued", "Executing", "Finalizing", "Completed"]
    answers = iter(states)

    def serve(request: Request) -> Response:
        body = f'{{"run": {{"id": "r", "state": "{next(answers)}", "result": "Success"}}}}'
        return answer(200, body)

    async def dawdle(update: RunUpdate) -> None:
        told.append(update.run.state.value)
        await asyncio.sleep(100)

    told: list[str] = []
    async with ExportClient("t", transport=Answers(serve), schedule=FixedSchedule(5)) as client:
        await client.attach("c", "r").wait(on_update=dawdle)
    assert told == states


async def test_a_run_that_stays_as_it_is_is_kept_once() -> None:
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


async def test_the_default_schedule_makes_use_of_history(emulator: Emulator) -> None:
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
        emulator.token(lifetime=1e6), transport=emulator, schedule=AdaptiveSchedule()
    ) as client:
        run = await started(client, emulator, imodel_id)
        final = await run.wait()
    assert final.duration == pytest.approx(1200, abs=5)
    assert emulator.count("get_run") - before < 25


async def test_refused_looks_are_forgotten() -> None:
    looks = count()

    def serve(_: Request) -> Response:
        if next(looks) % 100:
            return answer(429, "{}", Retry_After="60")
        return answer(200, '{"run": {"id": "r", "state": "Executing"}}')

    async with ExportClient("t", transport=Answers(serve)) as client:
        run = client.attach("c", "r")
        early = asyncio.create_task(run.wait())
        await asyncio.sleep(50 * 60)
        assert next(looks) > 20
        late = asyncio.create_task(run.wait(timeout=1))
        await asyncio.sleep(0.1)
        kept = [thing for thing in gc.get_objects() if isinstance(thing, Pause)]
        assert len(kept) < 5
        early.cancel()
        await asyncio.wait([early, late])
        assert isinstance(late.exception(), RunTimeout)  # the present pause is longer
