"""`await run.wait()` and its relatives."""

import asyncio
import json
import math
import pickle
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta, tzinfo
from email.utils import format_datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from itwin_export_async import (
    ClientCredentials,
    ExecutionResult,
    ExecutionState,
    ExportClient,
    FixedSchedule,
    NotFound,
    PermissionDenied,
    PollContext,
    ProtocolError,
    RateLimited,
    RunFailed,
    RunHandle,
    RunOrigin,
    RunPartlyFailed,
    RunTimeout,
    RunUnreachable,
    RunUpdate,
    ServerError,
    TransportError,
)
from itwin_export_async.emulator import Emulator
from itwin_export_async.transport import Request, Response
from tests.support.fakes import EPOCH, Answers, Outcome, answer


@pytest.fixture
async def run(client: ExportClient, emulator: Emulator) -> RunHandle:
    imodel_id = emulator.add_imodel()
    emulator.plan_next_run(imodel_id, "Success", duration=420)
    connection = await client.create_connection(imodel_id)
    return await client.start_run(connection.id)


async def ended(client: ExportClient, emulator: Emulator, *fate: str) -> RunHandle:
    imodel_id = emulator.add_imodel()
    emulator.plan_next_run(imodel_id, fate[0], task_result=fate[1] if len(fate) > 1 else None)
    connection = await client.create_connection(imodel_id)
    return await client.start_run(connection.id)


async def test_wait_sees_a_run_through(run: RunHandle, emulator: Emulator) -> None:
    final = await run.wait()
    assert final.outcome is ExecutionResult.SUCCESS
    assert final.is_final
    assert final.duration == pytest.approx(420, abs=5)
    assert run.last == final
    assert emulator.count("get_run") < 25  # looks get rarer: every 5 s would be 84


async def test_a_run_that_has_ended_costs_no_further_look(
    run: RunHandle, emulator: Emulator
) -> None:
    final = await run.wait()
    looks = emulator.count("get_run")
    assert await run.wait() == final
    assert [update.run async for update in run.updates()] == [final]
    assert emulator.count("get_run") == looks


async def test_updates_tell_every_change_once_and_end_with_the_end(
    client: ExportClient, emulator: Emulator
) -> None:
    connection = await client.create_connection(emulator.add_imodel())
    run = await client.start_run(connection.id)
    states: dict[tuple[str, str], list[ExecutionState]] = {}
    last: RunUpdate | None = None
    async for update in run.updates():
        assert update.changes
        for change in update.changes:
            seen = states.setdefault((change.level, change.id), [])
            assert change.old == (seen[-1] if seen else None)
            seen.append(change.new)
        last = update
    assert last is not None
    assert last.run.is_final
    assert {level for level, _ in states} == {"run", "job", "task"}
    assert all(seen[-1] is ExecutionState.COMPLETED for seen in states.values())


@pytest.mark.parametrize("kind", ["sync", "async"])
async def test_on_update_gets_what_updates_gives(run: RunHandle, kind: str) -> None:
    seen: list[RunUpdate] = []

    async def later(update: RunUpdate) -> None:
        seen.append(update)

    await run.wait(on_update=seen.append if kind == "sync" else later)
    assert [update.run.state for update in seen][-1] is ExecutionState.COMPLETED
    assert len(seen) > 2


async def test_what_on_update_raises_goes_to_its_own_waiter_alone(run: RunHandle) -> None:
    def fail(update: RunUpdate) -> None:
        raise LookupError("mine")

    other = asyncio.create_task(run.wait())
    with pytest.raises(LookupError, match="mine"):
        await run.wait(on_update=fail)
    assert (await other).is_final


async def test_a_failed_run_raises_and_names_its_tasks(
    client: ExportClient, emulator: Emulator
) -> None:
    run = await ended(client, emulator, "Error")
    with pytest.raises(RunFailed, match="ended with Error") as caught:
        await run.wait()
    error = caught.value
    assert not isinstance(error, RunPartlyFailed)
    assert error.run is not None
    assert error.run.failed_tasks[0].id in str(error)
    assert error.run.failed_tasks[0].error is not None
    assert error.run.failed_tasks[0].error.error_code in str(error)
    assert client.resume(error.resume_token) == run


async def test_a_success_over_a_failed_task_is_a_failure(
    client: ExportClient, emulator: Emulator
) -> None:
    run = await ended(client, emulator, "Success", "Error")
    with pytest.raises(RunFailed, match="ended with Error, while the service calls it Success"):
        await run.wait()
    assert (await run.wait(check=False)).outcome is ExecutionResult.ERROR


async def test_the_services_own_sample_is_seen_through() -> None:
    """Its run is called a `Success`, while its only job and task are in `Error`."""
    path = Path(__file__).parents[1] / "examples/export.get_runs.200.json"
    (sample,) = json.loads(path.read_text())["runs"]
    transport = Answers(answer(200, json.dumps({"run": sample})))
    async with ExportClient("t", transport=transport) as client:
        run = client.attach("VRZHoBhrnkGrAev0-_-d_xwvyrzjgaVGka5wU967Q7M", sample["id"])
        with pytest.raises(RunFailed) as caught:
            await run.wait()
        assert str(caught.value).splitlines() == [
            "run 75d94fca-4a9b-4ff0-8f3a-eeedbc1fea97 of connection "
            "VRZHoBhrnkGrAev0-_-d_xwvyrzjgaVGka5wU967Q7M ended with Error, while the service "
            "calls it Success",
            "  task fe2f628d-1beb-453f-bf49-2468ca48b9a8 finished with Error: TAE_BRW_1000: Failed to "
            "export your file. (cannot be fixed by the user)",
        ]
        assert (await run.wait(check=False)).outcome is ExecutionResult.ERROR


async def test_a_partial_success_is_a_partial_failure(
    client: ExportClient, emulator: Emulator
) -> None:
    with pytest.raises(RunPartlyFailed):
        await (await ended(client, emulator, "PartialSuccess")).wait()


@pytest.mark.parametrize("result", ["Canceled", "Cancelled", "TimedOut", "Frobnicated"])
async def test_no_other_result_is_a_success(
    client: ExportClient, emulator: Emulator, result: str
) -> None:
    with pytest.raises(RunFailed):
        await (await ended(client, emulator, result)).wait()


async def test_skipped_is_good_enough(client: ExportClient, emulator: Emulator) -> None:
    run = await ended(client, emulator, "Skipped")
    assert (await run.wait()).outcome is ExecutionResult.SKIPPED


async def test_a_thousand_waiters_cost_the_looks_of_one() -> None:
    looks = []
    for waiters in (1, 1000):
        emulator = Emulator(seed=1, epoch=EPOCH)
        async with ExportClient(emulator.token(), transport=emulator) as client:
            connection = await client.create_connection(emulator.add_imodel())
            run = await client.start_run(connection.id)
            await asyncio.gather(*(client.resume(run).wait() for _ in range(waiters)))
        looks.append(emulator.count("get_run"))
    assert looks[0] == looks[1] > 0


async def test_a_late_waiter_gets_the_present_state_at_once(
    run: RunHandle, emulator: Emulator, client: ExportClient
) -> None:
    first = asyncio.create_task(run.wait())
    await asyncio.sleep(100)
    looks = emulator.count("get_run")
    updates = client.resume(run.resume_token).updates()
    update = await anext(updates)
    assert update.run.state is not ExecutionState.COMPLETED
    assert emulator.count("get_run") == looks
    await updates.aclose()
    await first


async def test_cancelling_one_waiter_disturbs_no_other(run: RunHandle, emulator: Emulator) -> None:
    waiters = [asyncio.create_task(run.wait()) for _ in range(3)]
    await asyncio.sleep(50)
    waiters[0].cancel()
    results = await asyncio.gather(*waiters, return_exceptions=True)
    assert isinstance(results[0], asyncio.CancelledError)
    assert results[1] == results[2] == run.last


async def test_the_last_to_leave_ends_the_looking(run: RunHandle, emulator: Emulator) -> None:
    waiter = asyncio.create_task(run.wait())
    await asyncio.sleep(50)
    waiter.cancel()
    await asyncio.wait([waiter])
    looks = emulator.count("get_run")
    await asyncio.sleep(1000)
    assert emulator.count("get_run") == looks


async def test_a_timeout_says_that_the_run_goes_on_and_how_to_resume(
    run: RunHandle, client: ExportClient
) -> None:
    with pytest.raises(RunTimeout, match=r"may well go on.*resume") as caught:
        await run.wait(timeout=60)
    assert isinstance(caught.value, TimeoutError)
    assert asyncio.get_running_loop().time() == pytest.approx(60, abs=1)
    again = client.resume(caught.value.resume_token)
    assert (await again.wait()).is_final


async def test_a_timeout_bounds_a_service_that_never_answers(emulator: Emulator) -> None:
    emulator.latency = 1e6
    async with ExportClient("t", transport=emulator, request_timeout=1e5) as client:
        with pytest.raises(RunTimeout, match="not yet seen"):
            await client.attach("c1", "r1").wait(timeout=10)


async def test_an_error_of_your_own_timeout_is_not_ours(run: RunHandle) -> None:
    async def slow(update: RunUpdate) -> None:
        raise TimeoutError("mine")

    with pytest.raises(TimeoutError, match="mine") as caught:
        await run.wait(on_update=slow)
    assert not isinstance(caught.value, RunTimeout)


@pytest.mark.parametrize("timeout", [0, -1.0])
async def test_a_timeout_that_is_none_is_refused(run: RunHandle, timeout: float) -> None:
    with pytest.raises(ValueError, match="timeout"):
        await run.wait(timeout=timeout)


async def test_a_token_carries_the_deadline_to_another_client(
    run: RunHandle, emulator: Emulator, client: ExportClient
) -> None:
    waiter = asyncio.create_task(run.wait(timeout=100))
    await asyncio.sleep(1)
    token = run.resume_token
    waiter.cancel()
    await asyncio.wait([waiter])
    resumed = client.resume(token)
    assert resumed.origin is RunOrigin.ATTACHED
    before = asyncio.get_running_loop().time()
    with pytest.raises(RunTimeout):
        await resumed.wait()
    assert asyncio.get_running_loop().time() - before <= 101
    assert (await client.resume(token).wait(timeout=None)).is_final  # an explicit one wins


async def test_a_handle_pickles_and_is_taken_up_again(run: RunHandle, client: ExportClient) -> None:
    await run.refresh()
    run.deadline = datetime.now(UTC) + timedelta(hours=1)
    copy = pickle.loads(pickle.dumps(run))
    assert copy == run
    assert hash(copy) == hash(run)
    assert (copy.last, copy.deadline, copy.origin) == (run.last, run.deadline, run.origin)
    assert (await client.resume(copy).wait()).is_final


@pytest.mark.parametrize(
    "token",
    ["", "x", "[]", "{}", '{"v": 2}', '{"v":1,"service":"mesh","connection":"c","run":"r"}', None],
)
async def test_a_text_that_is_no_token_is_refused(client: ExportClient, token: str) -> None:
    with pytest.raises(ValueError, match="no resume token"):
        client.resume(token)


async def test_a_short_outage_is_waited_out(run: RunHandle, emulator: Emulator) -> None:
    troubles: list[Outcome] = [ConnectionResetError(), answer(500), answer(503, "x")]
    emulator.inject("get_run", *troubles * 10)
    emulator.inject("get_run", answer(200, "<html>a proxy's page</html>"))
    assert (await run.wait()).is_final


async def test_a_long_outage_makes_the_run_unreachable(
    run: RunHandle, emulator: Emulator, client: ExportClient
) -> None:
    emulator.inject("get_run", *[ConnectionResetError()] * 1000)
    with pytest.raises(RunUnreachable, match=r"could not be looked at for 9\d\d s") as caught:
        await run.wait()
    assert isinstance(caught.value.__cause__, TransportError)
    assert client.resume(caught.value.resume_token) == run


async def test_each_waiter_gets_an_error_of_its_own(run: RunHandle, emulator: Emulator) -> None:
    emulator.inject("get_run", answer(403, '{"error": {"code": "No", "message": "no"}}'))
    errors = await asyncio.gather(run.wait(), run.wait(), return_exceptions=True)
    assert [type(error) for error in errors] == [PermissionDenied, PermissionDenied]
    assert errors[0] is not errors[1]
    assert str(errors[0]) == str(errors[1])


async def test_a_failure_is_not_kept_for_who_comes_later(
    run: RunHandle, emulator: Emulator, client: ExportClient
) -> None:
    hold = asyncio.Event()
    emulator.inject("get_run", answer(200, '{"run": {"id": "r", "state": "Queued"}}'))
    slow = asyncio.create_task(run.wait(on_update=lambda _: hold.wait()))
    await asyncio.sleep(5)
    emulator.inject("get_run", answer(403, "{}"))
    await asyncio.sleep(30)
    assert (await client.resume(run).wait()).is_final
    hold.set()
    with pytest.raises(PermissionDenied):
        await slow


UNKNOWN = answer(404, '{"error": {"code": "ConnectionRunNotFound", "message": "not yet"}}')


async def test_a_run_just_created_may_be_unknown_for_a_minute(
    run: RunHandle, emulator: Emulator
) -> None:
    emulator.inject("get_run", *[UNKNOWN] * 3)
    assert (await run.wait()).is_final


async def test_it_may_be_unknown_too_where_its_token_is_taken_up_at_once(
    run: RunHandle, client: ExportClient, emulator: Emulator
) -> None:
    carried = client.resume(
        run.resume_token
    ).resume_token  # through another process, and still young
    assert carried == run.resume_token
    emulator.inject("get_run", UNKNOWN)
    with pytest.raises(RunTimeout) as late:
        await client.resume(carried).wait(timeout=5)
    emulator.inject("get_run", UNKNOWN)
    with pytest.raises(RunTimeout):
        await client.resume(late.value.resume_token).wait(timeout=5)
    emulator.inject("get_run", *[UNKNOWN] * 1000)
    with pytest.raises(NotFound):  # but not for ever
        await client.resume(carried).wait()


async def test_a_young_run_may_be_unknown_again_however_its_handle_came_by_it(
    client: ExportClient, emulator: Emulator
) -> None:
    connection = await client.create_connection(emulator.add_imodel())
    emulator.inject("create_run", ConnectionResetError(), apply_effect=True)
    recovered = await client.start_run(connection.id)
    joined = await client.start_run(connection.id)
    attached = client.attach(connection.id, joined.run_id)
    await attached.refresh()
    assert [recovered.origin, joined.origin] == [RunOrigin.RECOVERED, RunOrigin.JOINED]
    for handle in (recovered, joined):
        emulator.inject("get_run", UNKNOWN)
        with pytest.raises(RunTimeout):
            await handle.wait(timeout=5)
    emulator.inject("get_run", None, UNKNOWN)
    with pytest.raises(RunTimeout):
        await attached.wait(timeout=10)
    await asyncio.sleep(60)
    emulator.inject("get_run", None, UNKNOWN)
    with pytest.raises(NotFound):
        await attached.wait()


async def test_a_run_that_stays_unknown_is_not_found(
    run: RunHandle, emulator: Emulator, client: ExportClient
) -> None:
    emulator.inject("get_run", *[UNKNOWN] * 1000)
    with pytest.raises(NotFound, match="ConnectionRunNotFound"):
        await run.wait()
    assert asyncio.get_running_loop().time() > 60
    looks = emulator.count("get_run")
    with pytest.raises(NotFound):
        await client.attach(run.connection_id, run.run_id).wait()
    assert emulator.count("get_run") == looks + 1


GATEWAY = answer(
    404,
    '{"error": {"code": "ResourceNotFound", "message": "no", "details": '
    '[{"code": "OperationNotFound", "message": "no"}]}}',
)


async def test_the_gateways_404_is_never_read_as_gone(run: RunHandle, emulator: Emulator) -> None:
    emulator.inject("get_run", GATEWAY)
    with pytest.raises(NotFound, match="path or API version"):
        await run.wait()
    await run.refresh()
    waiter = asyncio.create_task(run.wait())
    await asyncio.sleep(20)
    emulator.inject("get_run", *[GATEWAY] * 3)
    assert (await waiter).is_final


async def test_a_shape_that_is_broken_is_raised_at_once(run: RunHandle, emulator: Emulator) -> None:
    emulator.inject("get_run", answer(200, '{"run": {"id": null, "state": "Queued"}}'))
    with pytest.raises(ProtocolError, match=r"run\.id: is missing"):
        await run.wait()


async def test_an_asked_wait_on_a_poll_is_kept(run: RunHandle, emulator: Emulator) -> None:
    emulator.inject("get_run", answer(429, "{}", Retry_After="200"))
    await run.wait()
    refused, then = [r.at for r in emulator.requests if r.operation == "get_run"][:2]
    assert then - refused >= 200


async def test_an_asked_wait_is_no_update(run: RunHandle, emulator: Emulator) -> None:
    emulator.inject("get_run", answer(429, "{}", Retry_After="50"))
    updates = [update async for update in run.updates()]
    assert updates[-1].run.is_final
    assert all(update.changes for update in updates)


async def test_an_asked_wait_past_the_deadline_ends_the_wait_at_once(
    run: RunHandle, emulator: Emulator
) -> None:
    emulator.inject("get_run", answer(429, "{}", Retry_After="200"))
    with pytest.raises(RunTimeout, match="may not be looked at within the time allowed") as caught:
        await run.wait(timeout=100)
    assert isinstance(caught.value.__cause__, RateLimited)
    assert asyncio.get_running_loop().time() < 10


def seen(state: str, result: str | None = None) -> str:
    told = "null" if result is None else f'"{result}"'
    return f'{{"run": {{"id": "r1", "state": "{state}", "result": {told}}}}}'


async def test_an_end_without_a_result_is_looked_at_five_times_more() -> None:
    transport = Answers(answer(200, seen("Completed", "Undetermined")))
    async with ExportClient("t", transport=transport, schedule=FixedSchedule(10)) as client:
        with pytest.raises(RunFailed, match="Undetermined"):
            await client.attach("c1", "r1").wait()
        assert len(transport.requests) == 6
    late = Answers(answer(200, seen("Completed")), answer(200, seen("Completed", "Success")))
    async with ExportClient("t", transport=late) as client:
        assert (await client.attach("c1", "r1").wait()).outcome is ExecutionResult.SUCCESS


async def test_an_unknown_state_is_not_the_end_and_a_step_back_is_accepted(
    caplog: pytest.LogCaptureFixture,
) -> None:
    states = ["Executing", "Paused", "Finalizing", "Executing", "Completed"]
    transport = Answers(*(answer(200, seen(state, "Success")) for state in states))
    async with ExportClient("t", transport=transport) as client:
        told = [u.run.state.value async for u in client.attach("c1", "r1").updates()]
    assert told == states
    assert "went back from Finalizing to Executing" in caplog.text


async def test_a_state_without_news_is_not_told() -> None:
    states = ["Queued", "Queued", "Queued", "Completed"]
    transport = Answers(*(answer(200, seen(state, "Success")) for state in states))
    async with ExportClient("t", transport=transport) as client:
        told = [u.run.state.value async for u in client.attach("c1", "r1").updates()]
    assert told == ["Queued", "Completed"]


async def test_closing_the_client_frees_who_still_waits(emulator: Emulator) -> None:
    async with ExportClient(emulator.token(), transport=emulator) as client:
        connection = await client.create_connection(emulator.add_imodel())
        run = await client.start_run(connection.id)
        waiter = asyncio.create_task(run.wait())
        await asyncio.sleep(5)
    with pytest.raises(RuntimeError, match="closed"):
        await waiter
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_a_schedule_that_fails_fails_the_waiters(emulator: Emulator) -> None:
    class Broken:
        def next_wait(self, view: object) -> float:
            raise ZeroDivisionError("my schedule")

    async with ExportClient(emulator.token(), transport=emulator, schedule=Broken()) as client:
        connection = await client.create_connection(emulator.add_imodel())
        run = await client.start_run(connection.id)
        with pytest.raises(ZeroDivisionError, match="my schedule"):
            await run.wait()


async def test_leaving_updates_early_ends_the_looking(run: RunHandle, emulator: Emulator) -> None:
    updates: AsyncIterator[RunUpdate] = run.updates()
    async for _ in updates:
        break
    del updates
    await asyncio.sleep(1)
    looks = emulator.count("get_run")
    await asyncio.sleep(1000)
    assert emulator.count("get_run") == looks


async def test_a_refresh_raises_what_the_look_raises(run: RunHandle, emulator: Emulator) -> None:
    emulator.inject("get_run", *[answer(500, "{}")] * 5)
    with pytest.raises(ServerError):
        await run.refresh()


async def test_an_asked_wait_is_no_outage(run: RunHandle, emulator: Emulator) -> None:
    emulator.inject("get_run", *[answer(429, "{}", Retry_After="600")] * 4, answer(503, "{}"))
    assert (await run.wait()).is_final


async def test_an_asked_wait_by_date_is_kept_without_a_clock_of_the_service() -> None:
    at: list[float] = []

    def serve(request: Request) -> Response:
        at.append(asyncio.get_running_loop().time())
        if len(at) == 1:
            later = datetime.now(UTC) + timedelta(seconds=200)
            return answer(429, "{}", Retry_After=format_datetime(later, usegmt=True))
        return answer(200, seen("Completed", "Success"))

    async with ExportClient("t", transport=Answers(serve)) as client:
        await client.attach("c1", "r1").wait()
    assert at[1] - at[0] >= 198


async def test_an_answer_too_may_say_when_to_come_again() -> None:
    at: list[float] = []

    def serve(request: Request) -> Response:
        if not request.url.endswith("/r1"):
            return answer(404)
        at.append(asyncio.get_running_loop().time())
        state = ("Completed", "Success") if len(at) == 4 else ("Executing", None)
        return answer(200, seen(*state), Retry_After="77")

    async with ExportClient("t", transport=Answers(serve), schedule=FixedSchedule(5)) as client:
        await client.attach("c1", "r1").wait()
    assert [later - before for before, later in pairwise(at)] == [77, 77, 77]


async def test_a_service_that_is_down_is_not_looked_at_before_the_time_that_it_names() -> None:
    at: list[float] = []

    def serve(_: Request) -> Response:
        at.append(asyncio.get_running_loop().time())
        if 1 < len(at) < 5:
            return answer(503, "{}", Retry_After="100")
        return answer(200, seen("Executing") if len(at) == 1 else seen("Completed", "Success"))

    async with ExportClient("t", transport=Answers(serve), schedule=FixedSchedule(5)) as client:
        await client.attach("c1", "r1").wait()
    assert [later - before for before, later in pairwise(at)] == [5, 100, 100, 100]


@pytest.mark.parametrize(
    ("trouble", "ends"),
    [
        (answer(503, "{}", Retry_After="5"), RunUnreachable),
        (answer(503, "{}", Retry_After="600"), RunUnreachable),
        (answer(429, "{}", Retry_After="5"), RunTimeout),  # the service is there
        (answer(429, "{}"), RunTimeout),
        (answer(429, "{}", Retry_After="soon"), RunTimeout),
    ],
)
async def test_a_service_that_only_puts_off_is_an_outage_unless_it_minds_the_rate(
    trouble: Response, ends: type[Exception]
) -> None:
    transport = Answers(answer(200, seen("Executing")), trouble)
    async with ExportClient("t", transport=transport) as client:
        with pytest.raises(ends):
            await client.attach("c1", "r1").wait(timeout=5000)
    lasted = asyncio.get_running_loop().time()
    assert lasted <= 1300 if ends is RunUnreachable else lasted == pytest.approx(5000)


@pytest.mark.parametrize("wait", [-1.0, math.nan, math.inf, None, "5"])
async def test_a_schedule_that_gives_no_time_is_told_to_who_waits(wait: Any) -> None:
    class Broken:
        def next_wait(self, view: PollContext) -> Any:
            return wait

    transport = Answers(answer(200, seen("Executing")))
    async with ExportClient("t", transport=transport, schedule=Broken()) as client:
        with pytest.raises(ValueError, match="as the next wait, which is no time"):
            await client.attach("c1", "r1").wait()
    assert len(transport.requests) == 1


async def test_the_grace_of_an_undecided_end_is_short() -> None:
    body = '{"run": {"id": "r1", "state": "Completed", "startDateTime": "2020-01-01T00:00:00Z"}}'
    async with ExportClient("t", transport=Answers(answer(200, body))) as client:
        with pytest.raises(RunFailed):
            await client.attach("c1", "r1").wait()
    assert asyncio.get_running_loop().time() < 60


@pytest.mark.parametrize("timeout", [float("inf"), 1e15])
async def test_a_timeout_beyond_all_bounds_is_none(run: RunHandle, timeout: float) -> None:
    waiter = asyncio.create_task(run.wait(timeout=timeout))
    await asyncio.sleep(1)
    assert "deadline" not in run.resume_token
    assert (await waiter).is_final


async def test_a_deadline_without_a_zone_and_a_bottomless_token(client: ExportClient) -> None:
    token = client.attach("c", "r").resume_token.replace("}", ',"deadline":"2024-01-01T00:00:00"}')
    with pytest.raises(RunTimeout):
        await client.resume(token).wait()
    with pytest.raises(ValueError, match="no resume token"):
        client.resume("[" * 200_000)


async def test_a_wait_has_its_own_limit_and_no_other(run: RunHandle) -> None:
    short = asyncio.create_task(run.wait(timeout=10))
    await asyncio.sleep(1)
    unlimited = asyncio.create_task(run.wait())
    with pytest.raises(RunTimeout) as caught:
        await short
    assert "deadline" not in caught.value.resume_token
    assert (await unlimited).is_final


async def test_who_resumes_after_a_timeout_has_a_time_of_their_own(
    run: RunHandle, client: ExportClient
) -> None:
    until = datetime.now(UTC) + timedelta(seconds=20)
    run.deadline = until
    waits = [run.wait(timeout=30), run.wait(timeout=31), run.wait()]
    for error in await asyncio.gather(*waits, return_exceptions=True):
        assert isinstance(error, RunTimeout)
        assert "deadline" not in error.resume_token
        assert (await client.resume(error.resume_token).wait()).is_final


async def test_a_deadline_that_passed_after_its_wait_was_given_up_is_nobodys(
    run: RunHandle, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(run.wait(timeout=1), 0.5)
    assert "deadline" in run.resume_token
    later = datetime.now(UTC) + timedelta(seconds=2)

    class Clock(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> "Clock":
            return cls.fromtimestamp(later.timestamp(), tz)

    monkeypatch.setattr("itwin_export_async._runs.deadline.datetime", Clock)
    assert "deadline" not in run.resume_token


async def test_a_wait_that_was_given_up_limits_none_that_comes_later(run: RunHandle) -> None:
    visitor = asyncio.create_task(run.wait(timeout=10))
    await asyncio.sleep(1)
    visitor.cancel()
    await asyncio.wait([visitor])
    assert "deadline" in run.resume_token  # for whoever takes over in another process
    assert (await run.wait()).is_final
    assert "deadline" not in run.resume_token


async def test_a_token_has_the_latest_deadline_of_all_that_wait(run: RunHandle) -> None:
    waiters = [asyncio.create_task(run.wait(timeout=t)) for t in (10, 50_000, 40)]
    await asyncio.sleep(30)
    later = datetime.now(UTC) + timedelta(seconds=40_000)
    assert datetime.fromisoformat(json.loads(run.resume_token)["deadline"]) > later
    for waiter in waiters:
        waiter.cancel()
    await asyncio.sleep(0)
    assert datetime.fromisoformat(json.loads(run.resume_token)["deadline"]) > later
    assert pickle.loads(pickle.dumps(run)).deadline > later
    await asyncio.gather(*waiters, return_exceptions=True)


async def test_a_wait_without_a_limit_leaves_a_token_without_a_deadline(run: RunHandle) -> None:
    waiters = [asyncio.create_task(run.wait(timeout=t)) for t in (50_000, None, 40)]
    await asyncio.sleep(30)
    assert "deadline" not in run.resume_token
    for waiter in waiters:
        waiter.cancel()
    await asyncio.gather(*waiters, return_exceptions=True)


async def test_a_wait_that_was_given_up_counts_for_nothing_beside_one_that_goes_on(
    run: RunHandle,
) -> None:
    long, short = (asyncio.create_task(run.wait(timeout=t)) for t in (50_000, 40))
    await asyncio.sleep(10)
    long.cancel()
    await asyncio.wait([long])
    soon = datetime.now(UTC) + timedelta(seconds=60)
    assert datetime.fromisoformat(json.loads(run.resume_token)["deadline"]) < soon
    short.cancel()
    await asyncio.wait([short])


async def test_a_deadline_that_has_passed_ends_one_wait_and_no_second_one(run: RunHandle) -> None:
    run.deadline = datetime.now(UTC) - timedelta(seconds=1)
    with pytest.raises(RunTimeout):
        await run.wait()
    assert (await run.wait()).is_final


async def test_a_token_service_that_asks_for_time_gets_it(emulator: Emulator) -> None:
    emulator.token_lifetime = 100
    auth = ClientCredentials(emulator.client_id, emulator.client_secret)
    async with ExportClient(auth, transport=emulator) as client:
        imodel_id = emulator.add_imodel()
        emulator.plan_next_run(imodel_id, "Success", duration=2000)
        run = await client.start_run((await client.create_connection(imodel_id)).id)
        emulator.inject("issue_token", *[answer(429, '{"error": "slow"}', Retry_After="400")] * 2)
        assert (await run.wait()).is_final
    asked = [r.at for r in emulator.requests if r.operation == "issue_token"]
    refused = next(n for n, r in enumerate(asked) if n and r - asked[n - 1] >= 400)
    assert asked[refused + 1] - asked[refused] >= 400


async def test_no_signature_of_a_task_is_shown() -> None:
    error = {"errorCode": "E1", "description": "PUT https://a.blob/x?sv=1&sig=PLANTED failed"}
    task = {"id": "t", "state": "Completed", "result": "Error", "error": error}
    job = {"id": "j", "state": "Completed", "tasks": [task]}
    run = {"id": "r1", "state": "Completed", "result": "Error", "jobs": [job]}
    transport = Answers(answer(200, json.dumps({"run": run})))
    async with ExportClient("t", transport=transport) as client:
        with pytest.raises(RunFailed, match=r"E1: PUT https://a\.blob/x") as caught:
            await client.attach("c1", "r1").wait()
    assert "PLANTED" not in str(caught.value)
    assert b"PLANTED" not in pickle.dumps(caught.value)
