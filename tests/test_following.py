"""What the poll loops know and share: earlier runs, and the calls that all of them have."""

import asyncio
from collections import Counter

import pytest
from attrs import define, field

from itwin_export_async import (
    ExportClient,
    FixedInterval,
    Inspection,
    PollView,
    RateLimit,
    Request,
    Response,
    RunHandle,
)
from itwin_export_async._following import Ending, _Link
from itwin_export_async._history import History
from itwin_export_async._models import ExecutionResult, ExecutionState, Run
from itwin_export_async._protocol.runs import Service
from itwin_export_async.emulator import Emulator
from tests.fakes import Answers, answer


@define
class Curious:
    """A schedule that notes what it is shown."""

    seconds: float = 10.0
    views: list[PollView] = field(factory=list)

    def next_wait(self, view: PollView) -> float:
        self.views.append(view)
        return self.seconds * view.pressure


async def started(client: ExportClient, emulator: Emulator, imodel_id: str) -> RunHandle:
    connection = await client.find_or_create_connection(imodel_id, display_name="n")
    return await client.start_run(connection.id)


async def test_earlier_runs_are_asked_for_once_and_only_for_a_long_run(emulator: Emulator) -> None:
    imodel_id = emulator.add_imodel()
    async with ExportClient(emulator.token(), transport=emulator) as client:
        emulator.fate(imodel_id, seconds=40)
        await (await started(client, emulator, imodel_id)).wait()
        assert emulator.count("list_runs") == 0
        for _ in range(3):
            emulator.fate(imodel_id, seconds=400)
            await (await started(client, emulator, imodel_id)).wait()
        assert emulator.count("list_runs") == 1


async def test_what_earlier_runs_took_is_shown_to_the_schedule(emulator: Emulator) -> None:
    imodel_id = emulator.add_imodel()
    emulator.fate(imodel_id, seconds=100)
    emulator.fate(imodel_id, seconds=200)
    emulator.fate(imodel_id, seconds=300)
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
    emulator.fate(imodel_id, seconds=400)
    emulator.script("list_runs", refusal)
    assert (await (await started(client, emulator, imodel_id)).wait()).is_final
    assert emulator.count("list_runs") == 1


async def test_a_schedule_is_shown_age_looks_state_and_changes(emulator: Emulator) -> None:
    imodel_id = emulator.add_imodel()
    emulator.fate(imodel_id, seconds=100)
    schedule = Curious()
    async with ExportClient(emulator.token(), transport=emulator, schedule=schedule) as client:
        await (await started(client, emulator, imodel_id)).wait()
    first, *later = schedule.views
    assert (first.age, first.looks, first.state, first.pressure) == (0.0, 0, None, 1.0)
    assert [view.looks for view in later] == list(range(1, len(later) + 1))
    assert [view.age for view in later] == pytest.approx([10.0 * v.looks - 9 for v in later], abs=2)
    assert {view.state for view in later} >= {ExecutionState.EXECUTING}
    assert min(view.since_change for view in later) == 0
    assert max(view.since_change for view in later) >= 10


async def test_a_run_joined_late_is_as_old_as_the_service_says(emulator: Emulator) -> None:
    imodel_id = emulator.add_imodel()
    emulator.fate(imodel_id, seconds=1000)
    schedule = Curious()
    async with ExportClient(emulator.token(), transport=emulator, schedule=schedule) as client:
        run = await started(client, emulator, imodel_id)
        await asyncio.sleep(500)
        await client.run(run.connection_id, run.run_id).wait()
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
        waits = [asyncio.create_task(client.run("c", f"r{n}").wait()) for n in range(30)]
        await asyncio.sleep(1800)
        for wait in waits:
            wait.cancel()
        await asyncio.wait(waits)
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
        many = [asyncio.create_task(client.run("c", f"r{n}").wait()) for n in range(20)]
        await asyncio.sleep(100)
        for wait in many:
            wait.cancel()
        await asyncio.wait(many)
        await asyncio.sleep(100)
        schedule.views.clear()
        schedule.seconds = 10.0
        last = asyncio.create_task(client.run("c", "r").wait())
        await asyncio.sleep(100)
        last.cancel()
        await asyncio.wait([last])
    assert {view.pressure for view in schedule.views} == {1.0}


async def test_only_so_many_connections_are_remembered(client: ExportClient) -> None:
    history = History(client.session)
    ended = {"state": ExecutionState.COMPLETED, "result": ExecutionResult.SUCCESS}
    for n in range(1200):
        history.add(Service.EXPORT, Run(id="r", connection_id=f"c{n}", **ended))  # type: ignore[arg-type]
    assert len(history._pasts) == 1000


async def test_a_watcher_that_leaves_in_the_moment_of_news_is_not_told() -> None:
    link = _Link()
    leaving = asyncio.create_task(link.follow())
    staying = asyncio.create_task(link.follow())
    await asyncio.sleep(0)
    leaving.cancel()
    told = link.append(Ending(error=RuntimeError("news")))
    await asyncio.wait([leaving, staying])
    assert leaving.cancelled()
    assert staying.result() is told


async def test_the_default_schedule_makes_use_of_history(emulator: Emulator) -> None:
    imodel_id = emulator.add_imodel()
    for _ in range(7):
        emulator.fate(imodel_id, seconds=1200)
    async with ExportClient(
        emulator.token(lifetime=1e6), transport=emulator, schedule=FixedInterval(5)
    ) as other:
        for _ in range(6):
            await (await started(other, emulator, imodel_id)).wait()
    before = emulator.count("get_run")
    async with ExportClient(
        emulator.token(lifetime=1e6), transport=emulator, schedule=Inspection()
    ) as client:
        run = await started(client, emulator, imodel_id)
        final = await run.wait()
    assert final.duration == pytest.approx(1200, abs=5)
    assert emulator.count("get_run") - before < 25
