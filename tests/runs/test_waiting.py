"""RunHandle: `wait`, `updates`, `refresh`, deadlines and resume tokens."""

import asyncio
import json
import math
import pickle
import traceback
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from itwin_export_async import (
    ClientCredentials,
    Estimate,
    ExecutionResult,
    ExecutionState,
    ExportClient,
    FixedSchedule,
    NotFound,
    PermissionDenied,
    PollContext,
    ProtocolError,
    RateLimited,
    Run,
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
from itwin_export_async._runs.deadline import Deadline
from itwin_export_async._runs.resume_token import ResumeToken
from itwin_export_async.emulator import Emulator
from itwin_export_async.transport import Request, Response
from tests.support.fakes import EPOCH, Answers, Outcome, answer


@pytest.fixture
async def run(client: ExportClient, emulator: Emulator) -> RunHandle:
    imodel_id = emulator.add_imodel()
    emulator.plan_next_run(imodel_id, "Success", duration=420)
    connection = await client.create_connection(imodel_id)
    return await client.start_run(connection.id)


def deadline_of(carrier: RunHandle | RunTimeout) -> datetime | None:
    """The deadline that the resume token carries."""
    return ResumeToken.from_string(carrier.resume_token).deadline


async def ended(client: ExportClient, emulator: Emulator, *fate: str) -> RunHandle:
    imodel_id = emulator.add_imodel()
    emulator.plan_next_run(imodel_id, fate[0], task_result=fate[1] if len(fate) > 1 else None)
    connection = await client.create_connection(imodel_id)
    return await client.start_run(connection.id)


async def test_wait_returns_the_final_run(run: RunHandle, emulator: Emulator) -> None:
    final = await run.wait()
    assert final.outcome is ExecutionResult.SUCCESS
    assert final.is_final
    assert final.duration == pytest.approx(420, abs=5)
    assert run.last == final
    assert emulator.count("get_run") < 45  # intervals grow: every 5 s would be 84


async def test_final_run_costs_no_further_poll(run: RunHandle, emulator: Emulator) -> None:
    final = await run.wait()
    polls = emulator.count("get_run")
    assert await run.wait() == final
    assert [update.run async for update in run.updates()] == [final]
    assert emulator.count("get_run") == polls


async def test_updates_give_every_change_once_and_end_with_the_run(
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
async def test_on_update_gets_what_updates_yields(run: RunHandle, kind: str) -> None:
    seen: list[RunUpdate] = []

    async def later(update: RunUpdate) -> None:
        seen.append(update)

    await run.wait(on_update=seen.append if kind == "sync" else later)
    assert [update.run.state for update in seen][-1] is ExecutionState.COMPLETED
    assert len(seen) > 2


async def test_error_of_on_update_reaches_its_own_wait_alone(run: RunHandle) -> None:
    def fail(update: RunUpdate) -> None:
        raise LookupError("mine")

    other = asyncio.create_task(run.wait())
    with pytest.raises(LookupError, match="mine"):
        await run.wait(on_update=fail)
    assert (await other).is_final


async def test_failed_run_raises_and_names_its_tasks(
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


async def test_success_with_a_failed_task_is_a_failure(
    client: ExportClient, emulator: Emulator
) -> None:
    run = await ended(client, emulator, "Success", "Error")
    with pytest.raises(RunFailed, match=r"ended with Error \(the service reported Success, but"):
        await run.wait()
    assert (await run.wait(check=False)).outcome is ExecutionResult.ERROR


async def test_documented_sample_is_a_failure() -> None:
    """The run is reported as `Success`, its only job and task as `Error`."""
    path = Path(__file__).parents[1] / "examples/export.get_runs.200.json"
    (sample,) = json.loads(path.read_text())["runs"]
    transport = Answers(answer(200, json.dumps({"run": sample})))
    async with ExportClient("t", transport=transport) as client:
        run = client.attach("VRZHoBhrnkGrAev0-_-d_xwvyrzjgaVGka5wU967Q7M", sample["id"])
        with pytest.raises(RunFailed) as caught:
            await run.wait()
        assert str(caught.value).splitlines() == [
            "run 75d94fca-4a9b-4ff0-8f3a-eeedbc1fea97 of connection "
            "VRZHoBhrnkGrAev0-_-d_xwvyrzjgaVGka5wU967Q7M ended with Error (the service reported "
            "Success, but its tasks failed)",
            "  task fe2f628d-1beb-453f-bf49-2468ca48b9a8 finished with Error: TAE_BRW_1000: Failed "
            "to export your file. (cannot be fixed by the user)",
        ]
        assert (await run.wait(check=False)).outcome is ExecutionResult.ERROR


async def test_partial_success_is_a_partial_failure(
    client: ExportClient, emulator: Emulator
) -> None:
    with pytest.raises(RunPartlyFailed):
        await (await ended(client, emulator, "PartialSuccess")).wait()


@pytest.mark.parametrize("result", ["Canceled", "Cancelled", "TimedOut"])
async def test_any_other_result_is_a_failure(
    client: ExportClient, emulator: Emulator, result: str
) -> None:
    with pytest.raises(RunFailed):
        await (await ended(client, emulator, result)).wait()


async def test_skipped_run_is_no_failure(client: ExportClient, emulator: Emulator) -> None:
    run = await ended(client, emulator, "Skipped")
    assert (await run.wait()).outcome is ExecutionResult.SKIPPED


async def test_thousand_waiters_cost_the_polls_of_one() -> None:
    polls = []
    for waiters in (1, 1000):
        emulator = Emulator(seed=1, epoch=EPOCH)
        async with ExportClient(emulator.token(), transport=emulator) as client:
            connection = await client.create_connection(emulator.add_imodel())
            run = await client.start_run(connection.id)
            await asyncio.gather(*(client.resume(run).wait() for _ in range(waiters)))
        polls.append(emulator.count("get_run"))
    assert polls[0] == polls[1] > 0


async def test_late_reader_gets_the_present_state_at_once(
    run: RunHandle, emulator: Emulator, client: ExportClient
) -> None:
    first = asyncio.create_task(run.wait())
    await asyncio.sleep(100)
    polls = emulator.count("get_run")
    updates = client.resume(run.resume_token).updates()
    update = await anext(updates)
    assert update.run.state is not ExecutionState.COMPLETED
    assert emulator.count("get_run") == polls
    await updates.aclose()
    await first


async def test_cancelling_one_wait_disturbs_no_other(run: RunHandle, emulator: Emulator) -> None:
    waiters = [asyncio.create_task(run.wait()) for _ in range(3)]
    await asyncio.sleep(50)
    waiters[0].cancel()
    results = await asyncio.gather(*waiters, return_exceptions=True)
    assert isinstance(results[0], asyncio.CancelledError)
    assert results[1] == results[2] == run.last


async def test_cancelling_the_last_wait_ends_the_polls(run: RunHandle, emulator: Emulator) -> None:
    waiter = asyncio.create_task(run.wait())
    await asyncio.sleep(50)
    waiter.cancel()
    await asyncio.wait([waiter])
    polls = emulator.count("get_run")
    await asyncio.sleep(1000)
    assert emulator.count("get_run") == polls


async def test_timeout_says_that_the_run_may_continue_and_how_to_resume(
    run: RunHandle, client: ExportClient
) -> None:
    with pytest.raises(
        RunTimeout, match=r"still Executing after 60 s; it may still be running, client\.resume"
    ) as caught:
        await run.wait(timeout=60)
    assert isinstance(caught.value, TimeoutError)
    assert asyncio.get_running_loop().time() == pytest.approx(60, abs=1)
    again = client.resume(caught.value.resume_token)
    assert (await again.wait()).is_final


async def test_timeout_bounds_a_service_that_never_responds(emulator: Emulator) -> None:
    emulator.latency = 1e6
    async with ExportClient("t", transport=emulator, request_timeout=1e5) as client:
        with pytest.raises(RunTimeout, match="was not read yet after 10 s"):
            await client.attach("c1", "r1").wait(timeout=10)


async def test_timeout_error_of_on_update_is_no_run_timeout(run: RunHandle) -> None:
    async def slow(update: RunUpdate) -> None:
        raise TimeoutError("mine")

    with pytest.raises(TimeoutError, match="mine") as caught:
        await run.wait(on_update=slow)
    assert not isinstance(caught.value, RunTimeout)


@pytest.mark.parametrize("timeout", [0, -1.0])
async def test_timeout_of_zero_or_less_is_refused(run: RunHandle, timeout: float) -> None:
    with pytest.raises(ValueError, match="timeout"):
        await run.wait(timeout=timeout)


async def test_resume_token_carries_the_deadline(
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


async def test_handle_pickles_without_its_client(run: RunHandle, client: ExportClient) -> None:
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
async def test_resume_refuses_any_other_text(client: ExportClient, token: str) -> None:
    with pytest.raises(ValueError, match="not a valid resume token"):
        client.resume(token)


async def test_short_outage_is_waited_out(run: RunHandle, emulator: Emulator) -> None:
    troubles: list[Outcome] = [ConnectionResetError(), answer(500), answer(503, "x")]
    emulator.inject("get_run", *troubles * 10)
    emulator.inject("get_run", answer(200, "<html>a proxy's page</html>"))
    assert (await run.wait()).is_final


async def test_long_outage_makes_the_run_unreachable(
    run: RunHandle, emulator: Emulator, client: ExportClient
) -> None:
    emulator.inject("get_run", *[ConnectionResetError()] * 1000)
    with pytest.raises(RunUnreachable, match=r"could not be polled for 9\d\d s") as caught:
        await run.wait()
    assert isinstance(caught.value.__cause__, TransportError)
    assert client.resume(caught.value.resume_token) == run


async def test_each_wait_gets_its_own_error(run: RunHandle, emulator: Emulator) -> None:
    emulator.inject("get_run", answer(403, '{"error": {"code": "No", "message": "no"}}'))
    errors = await asyncio.gather(run.wait(), run.wait(), return_exceptions=True)
    assert [type(error) for error in errors] == [PermissionDenied, PermissionDenied]
    assert errors[0] is not errors[1]
    assert str(errors[0]) == str(errors[1])


async def test_later_wait_polls_again_after_a_failure(
    run: RunHandle, emulator: Emulator, client: ExportClient
) -> None:
    hold = asyncio.Event()
    emulator.inject("get_run", answer(200, '{"run": {"id": "r", "state": "Queued"}}'))
    slow = asyncio.create_task(run.wait(on_update=lambda _: hold.wait()))
    await asyncio.sleep(5)
    emulator.inject("get_run", answer(403, '{"error": {"code": "No", "message": "no"}}'))
    await asyncio.sleep(30)
    assert (await client.resume(run).wait()).is_final
    hold.set()
    with pytest.raises(PermissionDenied):
        await slow


UNKNOWN = answer(404, '{"error": {"code": "ConnectionRunNotFound", "message": "not yet"}}')


async def test_new_run_may_be_unknown_for_a_minute(run: RunHandle, emulator: Emulator) -> None:
    emulator.inject("get_run", *[UNKNOWN] * 3)
    assert (await run.wait()).is_final


async def test_resumed_new_run_may_be_unknown_for_a_minute(
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


async def test_new_run_may_be_unknown_for_every_origin(
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


async def test_run_that_stays_unknown_is_not_found(
    run: RunHandle, emulator: Emulator, client: ExportClient
) -> None:
    emulator.inject("get_run", *[UNKNOWN] * 1000)
    with pytest.raises(NotFound, match="ConnectionRunNotFound"):
        await run.wait()
    assert asyncio.get_running_loop().time() > 60
    polls = emulator.count("get_run")
    with pytest.raises(NotFound):
        await client.attach(run.connection_id, run.run_id).wait()
    assert emulator.count("get_run") == polls + 1


GATEWAY = answer(
    404,
    '{"error": {"code": "ResourceNotFound", "message": "no", "details": '
    '[{"code": "OperationNotFound", "message": "no"}]}}',
)


async def test_gateways_404_never_means_that_the_run_is_gone(
    run: RunHandle, emulator: Emulator
) -> None:
    emulator.inject("get_run", GATEWAY)
    with pytest.raises(NotFound, match="path or API version"):
        await run.wait()
    await run.refresh()
    waiter = asyncio.create_task(run.wait())
    await asyncio.sleep(20)
    emulator.inject("get_run", *[GATEWAY] * 3)
    assert (await waiter).is_final


async def test_broken_response_to_the_first_poll_is_raised_at_once(
    run: RunHandle, emulator: Emulator
) -> None:
    emulator.inject("get_run", answer(200, '{"run": {"id": null, "state": "Queued"}}'))
    with pytest.raises(ProtocolError, match=r"run\.id: is missing"):
        await run.wait()


async def test_retry_after_of_a_poll_is_respected(run: RunHandle, emulator: Emulator) -> None:
    emulator.inject("get_run", answer(429, "{}", Retry_After="200"))
    await run.wait()
    first, second = [r.at for r in emulator.requests if r.operation == "get_run"][:2]
    assert second - first >= 200


async def test_retry_after_is_no_update(run: RunHandle, emulator: Emulator) -> None:
    emulator.inject("get_run", answer(429, "{}", Retry_After="50"))
    updates = [update async for update in run.updates()]
    assert updates[-1].run.is_final
    assert all(update.changes for update in updates)


async def test_retry_after_beyond_the_deadline_ends_the_wait_at_once(
    run: RunHandle, emulator: Emulator
) -> None:
    emulator.inject("get_run", answer(429, "{}", Retry_After="200"))
    with pytest.raises(RunTimeout, match="the service allows no poll within 100 s") as caught:
        await run.wait(timeout=100)
    assert isinstance(caught.value.__cause__, RateLimited)
    assert asyncio.get_running_loop().time() < 10


def seen(state: str, result: str | None = None) -> str:
    value = "null" if result is None else f'"{result}"'
    return f'{{"run": {{"id": "r1", "state": "{state}", "result": {value}}}}}'


async def test_undetermined_end_is_polled_five_times_more() -> None:
    transport = Answers(answer(200, seen("Completed", "Undetermined")))
    async with ExportClient("t", transport=transport, schedule=FixedSchedule(10)) as client:
        with pytest.raises(RunFailed, match="Undetermined"):
            await client.attach("c1", "r1").wait()
        assert len(transport.requests) == 6
    late = Answers(answer(200, seen("Completed")), answer(200, seen("Completed", "Success")))
    async with ExportClient("t", transport=late) as client:
        assert (await client.attach("c1", "r1").wait()).outcome is ExecutionResult.SUCCESS


async def test_unknown_state_is_not_final_and_a_regression_is_accepted(
    caplog: pytest.LogCaptureFixture,
) -> None:
    states = ["Executing", "Paused", "Finalizing", "Executing", "Completed"]
    transport = Answers(*(answer(200, seen(state, "Success")) for state in states))
    async with ExportClient("t", transport=transport) as client:
        seen_states = [u.run.state.value async for u in client.attach("c1", "r1").updates()]
    assert seen_states == states
    assert "went back from Finalizing to Executing" in caplog.text


async def test_unchanged_state_is_no_update() -> None:
    states = ["Queued", "Queued", "Queued", "Completed"]
    transport = Answers(*(answer(200, seen(state, "Success")) for state in states))
    async with ExportClient("t", transport=transport) as client:
        seen_states = [u.run.state.value async for u in client.attach("c1", "r1").updates()]
    assert seen_states == ["Queued", "Completed"]


async def test_closing_the_client_ends_every_wait(emulator: Emulator) -> None:
    async with ExportClient(emulator.token(), transport=emulator) as client:
        connection = await client.create_connection(emulator.add_imodel())
        run = await client.start_run(connection.id)
        waiter = asyncio.create_task(run.wait())
        await asyncio.sleep(5)
    with pytest.raises(RuntimeError, match="closed"):
        await waiter
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_error_of_the_schedule_reaches_the_wait(emulator: Emulator) -> None:
    class Broken:
        def next_wait(self, context: object) -> float:
            raise ZeroDivisionError("my schedule")

    async with ExportClient(emulator.token(), transport=emulator, schedule=Broken()) as client:
        connection = await client.create_connection(emulator.add_imodel())
        run = await client.start_run(connection.id)
        with pytest.raises(ZeroDivisionError, match="my schedule"):
            await run.wait()


async def test_leaving_updates_early_ends_the_polls(run: RunHandle, emulator: Emulator) -> None:
    updates: AsyncIterator[RunUpdate] = run.updates()
    async for _ in updates:
        break
    del updates
    await asyncio.sleep(1)
    polls = emulator.count("get_run")
    await asyncio.sleep(1000)
    assert emulator.count("get_run") == polls


async def test_refresh_raises_what_the_poll_raises(run: RunHandle, emulator: Emulator) -> None:
    emulator.inject("get_run", *[answer(500, "{}")] * 5)
    with pytest.raises(ServerError):
        await run.refresh()


async def test_rate_limit_is_no_outage(run: RunHandle, emulator: Emulator) -> None:
    emulator.inject("get_run", *[answer(429, "{}", Retry_After="600")] * 4, answer(503, "{}"))
    assert (await run.wait()).is_final


async def test_retry_after_date_is_respected_without_a_date_header() -> None:
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


async def test_retry_after_of_a_success_is_respected() -> None:
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


async def test_retry_after_of_a_503_is_respected() -> None:
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
async def test_retry_after_for_ever_is_an_outage_unless_it_is_a_429(
    trouble: Response, ends: type[Exception]
) -> None:
    transport = Answers(answer(200, seen("Executing")), trouble)
    async with ExportClient("t", transport=transport) as client:
        with pytest.raises(ends):
            await client.attach("c1", "r1").wait(timeout=5000)
    lasted = asyncio.get_running_loop().time()
    assert lasted <= 1300 if ends is RunUnreachable else 4900 <= lasted <= 5000


@pytest.mark.parametrize("wait", [-1.0, math.nan, math.inf, None, "5"])
async def test_schedule_that_returns_no_number_is_an_error_of_the_wait(wait: Any) -> None:
    class Broken:
        def next_wait(self, context: PollContext) -> Any:
            return wait

    transport = Answers(answer(200, seen("Executing")))
    async with ExportClient("t", transport=transport, schedule=Broken()) as client:
        with pytest.raises(ValueError, match="from next_wait; return a finite number of seconds"):
            await client.attach("c1", "r1").wait()
    assert len(transport.requests) == 1


async def test_undetermined_end_is_polled_at_short_intervals() -> None:
    body = '{"run": {"id": "r1", "state": "Completed", "startDateTime": "2020-01-01T00:00:00Z"}}'
    async with ExportClient("t", transport=Answers(answer(200, body))) as client:
        with pytest.raises(RunFailed):
            await client.attach("c1", "r1").wait()
    assert asyncio.get_running_loop().time() < 60


@pytest.mark.parametrize("timeout", [float("inf"), 1e15])
async def test_endless_timeout_is_no_deadline(run: RunHandle, timeout: float) -> None:
    waiter = asyncio.create_task(run.wait(timeout=timeout))
    await asyncio.sleep(1)
    assert deadline_of(run) is None
    assert (await waiter).is_final


async def test_wait_has_its_own_timeout_and_no_other(run: RunHandle) -> None:
    short = asyncio.create_task(run.wait(timeout=10))
    await asyncio.sleep(1)
    unlimited = asyncio.create_task(run.wait())
    with pytest.raises(RunTimeout) as caught:
        await short
    assert deadline_of(caught.value) is None
    assert (await unlimited).is_final


async def test_resume_token_of_a_timeout_has_no_deadline(
    run: RunHandle, client: ExportClient
) -> None:
    until = datetime.now(UTC) + timedelta(seconds=20)
    run.deadline = until
    waits = [run.wait(timeout=30), run.wait(timeout=31), run.wait()]
    for error in await asyncio.gather(*waits, return_exceptions=True):
        assert isinstance(error, RunTimeout)
        assert deadline_of(error) is None
        assert (await client.resume(error.resume_token).wait()).is_final


async def test_passed_deadline_of_a_cancelled_wait_is_not_carried() -> None:
    deadline, now = Deadline.of(10.0, None), datetime.now(UTC)
    assert deadline.carried(now) == deadline.moment
    assert deadline.carried(now + timedelta(seconds=11)) is None


async def test_cancelled_wait_does_not_limit_a_later_one(run: RunHandle) -> None:
    visitor = asyncio.create_task(run.wait(timeout=10))
    await asyncio.sleep(1)
    visitor.cancel()
    await asyncio.wait([visitor])
    assert deadline_of(run) is not None  # for another process that resumes it
    assert (await run.wait()).is_final
    assert deadline_of(run) is None


async def test_passed_deadline_ends_one_wait_and_no_second_one(run: RunHandle) -> None:
    run.deadline = datetime.now(UTC) - timedelta(seconds=1)
    with pytest.raises(RunTimeout):
        await run.wait()
    assert (await run.wait()).is_final


async def test_retry_after_of_the_token_service_is_respected(emulator: Emulator) -> None:
    emulator.token_lifetime = 100
    auth = ClientCredentials(emulator.client_id, emulator.client_secret)
    async with ExportClient(auth, transport=emulator) as client:
        imodel_id = emulator.add_imodel()
        emulator.plan_next_run(imodel_id, "Success", duration=2000)
        run = await client.start_run((await client.create_connection(imodel_id)).id)
        emulator.inject("issue_token", *[answer(429, '{"error": "slow"}', Retry_After="400")] * 2)
        assert (await run.wait()).is_final
    at = [r.at for r in emulator.requests if r.operation == "issue_token"]
    first = next(n for n, moment in enumerate(at) if n and moment - at[n - 1] >= 400)
    assert at[first + 1] - at[first] >= 400


async def test_signature_in_a_task_error_is_not_shown() -> None:
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


async def test_resume_token_carries_the_deadline_of_the_latest_wait(run: RunHandle) -> None:
    waits = [asyncio.create_task(run.wait(timeout=t)) for t in (40, None, 50_000)]
    await asyncio.sleep(0)
    deadline = deadline_of(run)
    assert deadline is not None
    assert deadline > datetime.now(UTC) + timedelta(seconds=40_000)
    assert pickle.loads(pickle.dumps(run)).deadline == deadline
    for wait in waits:
        wait.cancel()
    await asyncio.wait(waits)
    unlimited = asyncio.create_task(run.wait(timeout=None))
    await asyncio.sleep(1)
    assert deadline_of(run) is None
    assert (await unlimited).is_final


async def test_wait_returns_the_run_that_it_saw_beside_a_slow_reader() -> None:
    polls = ["Queued", "Undetermined", "Success"]
    answers = iter(
        answer(200, seen("Queued") if poll == "Queued" else seen("Completed", poll))
        for poll in polls
    )
    async with ExportClient(
        "t", transport=Answers(lambda _: next(answers)), schedule=FixedSchedule(5)
    ) as client:
        run = client.attach("c1", "r1")
        reader = run.updates()
        await anext(reader)
        waiter = asyncio.create_task(run.wait())
        await asyncio.sleep(30)
        assert (await anext(reader)).run.outcome is ExecutionResult.UNDETERMINED  # late
        assert run.last is not None
        assert run.last.is_final
        assert (await waiter).outcome is ExecutionResult.SUCCESS
        assert [update.run.outcome async for update in reader] == [ExecutionResult.SUCCESS]


@pytest.mark.parametrize(
    "odd",
    [
        Response(status=202),
        answer(302, "", Location="https://login.example/"),
        answer(200, "<html>"),
        answer(403, "<html>blocked</html>"),
        answer(404, "<html>"),
        answer(404, '{"code": "NotFound", "message": "no such page"}'),
        answer(418, "{}"),
        answer(200, "[]"),
        answer(200, '{"run": null}'),
        answer(200, '{"run": {"id": "r"}}'),
        answer(409, '{"error": {"code": "Busy", "message": "busy"}}'),
        answer(423, '{"error": {"code": "Locked", "message": "locked"}}'),
    ],
)
async def test_odd_response_is_an_outage_once_the_run_was_seen(odd: Response) -> None:
    transport = Answers(answer(200, seen("Executing")), *[odd] * 3, answer(200, seen("Queued")))
    async with ExportClient("t", transport=transport, schedule=FixedSchedule(60)) as client:
        run = client.attach("c1", "r1")
        updates = run.updates()
        assert (await anext(updates)).trouble is None
        trouble = await anext(updates)
        assert trouble.trouble is not None
        assert (trouble.run, trouble.changes) == (run.last, ())
        after = await anext(updates)
        assert (after.trouble, after.run.state) == (None, ExecutionState.QUEUED)
        await updates.aclose()


async def test_odd_response_for_ever_makes_the_run_unreachable() -> None:
    transport = Answers(answer(200, seen("Executing")), Response(status=202))
    async with ExportClient("t", transport=transport, max_outage=300) as client:
        with pytest.raises(RunUnreachable, match="could not be polled for 3"):
            await client.attach("c1", "r1").wait()
        assert 300 < asyncio.get_running_loop().time() < 400


async def test_second_wait_of_a_handle_has_seen_its_run() -> None:
    transport = Answers(
        answer(200, seen("Executing")),
        Response(status=202),
        answer(200, seen("Completed", "Success")),
    )
    async with ExportClient("t", transport=transport) as client:
        run = client.attach("c1", "r1")
        await run.refresh()
        assert (await run.wait()).is_final


async def test_reader_who_comes_during_an_outage_gets_its_trouble(
    run: RunHandle, emulator: Emulator
) -> None:
    waiter = asyncio.create_task(run.wait())
    await asyncio.sleep(10)
    emulator.inject("get_run", *[answer(503, "{}")] * 100)
    await asyncio.sleep(60)
    updates = run.updates()
    first, second = await anext(updates), await anext(updates)
    assert first.trouble is None
    assert isinstance(second.trouble, ServerError)
    assert second.changes == ()
    assert (await waiter).is_final
    assert [update.trouble async for update in updates][-1] is None


async def test_on_poll_gets_the_run_after_every_poll(run: RunHandle, emulator: Emulator) -> None:
    polled: list[Run] = []
    final = await run.wait(on_poll=polled.append)
    assert polled[-1] == final
    assert len(polled) == emulator.count("get_run")
    assert len({seen.state for seen in polled}) < len(polled)


async def test_on_poll_is_called_during_an_outage_and_by_each_wait_alone() -> None:
    transport = Answers(
        answer(200, seen("Executing")),
        *[answer(404, "{}")] * 5,
        answer(200, seen("Completed", "Success")),
    )
    beats: list[float] = []

    async def beat(run: Run) -> None:
        beats.append(asyncio.get_running_loop().time())

    async with ExportClient("t", transport=transport, schedule=FixedSchedule(10)) as client:
        run = client.attach("c1", "r1")
        quiet = asyncio.create_task(run.wait())
        await run.wait(on_poll=beat)
        assert (await quiet).is_final
        await run.wait(on_poll=beat)  # no poll
    assert beats == [0, 10, 20, 30, 40, 50, 60]


@pytest.mark.parametrize("callback", ["on_update", "on_poll"])
@pytest.mark.parametrize("kind", ["sync", "async"])
async def test_cancelled_error_of_a_callback_is_no_cancellation_of_the_wait(
    run: RunHandle, callback: str, kind: str
) -> None:
    def fail(_: object) -> None:
        raise asyncio.CancelledError

    async def fail_later(_: object) -> None:
        await asyncio.sleep(1)
        raise asyncio.CancelledError

    callbacks: dict[str, Any] = {callback: fail if kind == "sync" else fail_later}
    with pytest.raises(RuntimeError, match=f"{callback} raised CancelledError") as caught:
        await run.wait(**callbacks)
    assert isinstance(caught.value.__cause__, asyncio.CancelledError)


async def test_wait_is_cancelled_while_its_callback_waits(run: RunHandle) -> None:
    async def hang(_: object) -> None:
        await asyncio.Event().wait()

    waiter = asyncio.create_task(run.wait(on_update=hang))
    await asyncio.sleep(10)
    waiter.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiter
    with pytest.raises(RunTimeout):
        await run.wait(on_update=hang, timeout=10)


async def test_estimate_of_a_run_follows_earlier_runs(
    client: ExportClient, emulator: Emulator
) -> None:
    imodel_id = emulator.add_imodel()
    connection = await client.create_connection(imodel_id)
    for seconds in (400, 420, 440, 430, 410):
        emulator.plan_next_run(imodel_id, duration=seconds)
        run = await client.start_run(connection.id)
        assert await run.estimate() is None or seconds != 400
        await run.wait()
    assert await run.estimate() == Estimate(low=0.0, median=0.0, high=0.0)
    emulator.plan_next_run(imodel_id, duration=420)
    lists = emulator.count("list_runs")
    run = await client.start_run(connection.id)
    waiter = asyncio.create_task(run.wait())
    await asyncio.sleep(200)
    polls = emulator.count("get_run")
    estimate = await run.estimate()
    assert estimate is not None
    assert 0 < estimate.low < estimate.median < estimate.high
    assert estimate.median == pytest.approx(220, abs=15)
    assert (emulator.count("get_run"), emulator.count("list_runs")) == (polls, lists)
    await waiter


async def test_estimate_of_a_run_that_nothing_waits_for_polls_once(
    client: ExportClient, emulator: Emulator
) -> None:
    imodel_id = emulator.add_imodel()
    connection = await client.create_connection(imodel_id)
    emulator.plan_next_run(imodel_id, duration=420)
    await (await client.start_run(connection.id)).wait()
    emulator.plan_next_run(imodel_id, duration=420)
    run = await client.start_run(connection.id)
    await asyncio.sleep(300)
    polls = emulator.count("get_run")
    estimate = await client.attach(run.connection_id, run.run_id).estimate()
    assert estimate is not None
    assert estimate.low < 120 < estimate.high
    assert emulator.count("get_run") == polls + 1


async def test_estimate_raises_what_the_list_of_runs_raises(
    run: RunHandle, emulator: Emulator
) -> None:
    emulator.inject("list_runs", answer(403, '{"error": {"code": "No", "message": "no"}}'))
    with pytest.raises(PermissionDenied):
        await run.estimate()
    assert await run.estimate() is None


class OwnError(OSError):
    """An error of a caller, whose arguments are not its fields."""

    def __init__(self, code: int) -> None:
        super().__init__(code, "broken", "schedule.json")


@pytest.mark.parametrize("error", [OwnError(5), FileNotFoundError(5, "broken", "schedule.json")])
async def test_waits_raise_the_error_of_the_schedule_itself(error: OSError) -> None:
    class Broken:
        def next_wait(self, context: PollContext) -> float:
            raise error from LookupError("the cause")

    transport = Answers(answer(200, seen("Executing")))
    async with ExportClient("t", transport=transport, schedule=Broken()) as client:
        run = client.attach("c1", "r1")
        errors = await asyncio.gather(run.wait(), run.wait(), return_exceptions=True)
    assert all(caught is error for caught in errors)
    assert (error.errno, error.filename) == (5, "schedule.json")
    assert isinstance(error.__cause__, LookupError)
    assert "next_wait" in [frame.name for frame in traceback.extract_tb(error.__traceback__)]


async def test_error_of_each_wait_has_the_traceback_of_the_poll(
    run: RunHandle, emulator: Emulator
) -> None:
    emulator.inject("get_run", answer(403, '{"error": {"code": "No", "message": "no"}}'))
    for error in await asyncio.gather(run.wait(), run.wait(), return_exceptions=True):
        assert isinstance(error, PermissionDenied)
        frames = [frame.name for frame in traceback.extract_tb(error.__traceback__)]
        assert "wait" in frames
        assert "parse_run" in frames


async def test_reprs_are_short(run: RunHandle) -> None:
    assert len(repr(run)) < 250
    async for update in run.updates():
        assert run.run_id in repr(update)
        assert update.run.state.value in repr(run)
        assert len(repr(update)) < 150
    assert "trouble=ServerError" in repr(RunUpdate(run=update.run, trouble=ServerError(status=503)))


async def test_handle_without_a_client_says_how_to_get_one(run: RunHandle) -> None:
    with pytest.raises(RuntimeError, match=r"pass it to client\.resume"):
        await pickle.loads(pickle.dumps(run)).wait()


async def test_update_with_a_trouble_pickles(run: RunHandle) -> None:
    update = RunUpdate(run=await run.refresh(), trouble=ServerError(status=503, code="Down"))
    copied = pickle.loads(pickle.dumps(update))
    assert copied.run == update.run
    assert str(copied.trouble) == str(update.trouble)
