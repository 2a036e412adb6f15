"""202, 303, 409, and lost responses."""

import asyncio
import logging
import pickle
from typing import Any

import pytest

from itwin_export_async import (
    Conflict,
    ExportClient,
    ExportOptions,
    InvalidRequest,
    MemoryRunStore,
    NotFound,
    ProtocolError,
    RetryPolicy,
    RunOrigin,
    ServerError,
    StartTimeout,
    TransportError,
)
from itwin_export_async._runs.starter import IfActive
from itwin_export_async.emulator import Emulator
from itwin_export_async.transport import Request, Response
from tests.support.fakes import Answers, Outcome, answer

RUN = '{"run": {"id": "r1", "state": "Executing", "startDateTime": "2026-11-22T12:00:%02dZ"}}'
RUNS = '{"runs": [%s]}'
GATEWAY = answer(
    404, '{"error": {"code": "ResourceNotFound", "details": [{"code": "OperationNotFound"}]}}'
)
DATE = "Sun, 22 Nov 2026 12:00:30 GMT"


@pytest.fixture
async def connection_id(client: ExportClient, emulator: Emulator) -> str:
    return (await client.create_connection(emulator.add_imodel())).id


async def test_202_starts_a_run(client: ExportClient, connection_id: str) -> None:
    run = await client.start_run(connection_id, ExportOptions(ifc_version="IFC2x3"))
    assert run.origin is RunOrigin.STARTED
    assert not run.joined
    assert run.connection_id == connection_id
    assert run.last is None


async def test_303_joins_the_active_run_of_another_connection_and_warns(
    emulator: Emulator, client: ExportClient, caplog: pytest.LogCaptureFixture
) -> None:
    imodel_id = emulator.add_imodel()
    one = await client.create_connection(imodel_id)
    two = await client.create_connection(imodel_id)
    first = await client.start_run(one.id)
    with caplog.at_level(logging.WARNING, "itwin_export_async"):
        second = await client.start_run(two.id)
    assert second == first
    assert second.origin is RunOrigin.JOINED
    assert second.joined
    assert second.connection_id == one.id
    assert "other options" in caplog.text


@pytest.mark.parametrize(("more", "level"), [({}, "WARNING"), ({"if_active": "join"}, "INFO")])
async def test_start_once_warns_of_a_run_that_is_joined_by_default(
    client: ExportClient,
    connection_id: str,
    caplog: pytest.LogCaptureFixture,
    more: dict[str, Any],
    level: str,
) -> None:
    await client.start_run(connection_id)
    with caplog.at_level(logging.INFO, "itwin_export_async.runs"):
        await client.start_once("k", connection_id, store=MemoryRunStore(), **more)
    (record,) = [record for record in caplog.records if record.message.startswith("joined run")]
    assert record.levelname == level


async def test_303_can_be_waited_for(client: ExportClient, connection_id: str) -> None:
    first = await client.start_run(connection_id)
    second = await client.start_run(connection_id, if_active="wait")
    assert second != first
    assert second.origin is RunOrigin.STARTED
    assert (await first.refresh()).is_final


async def test_303_can_be_an_error_with_a_handle(client: ExportClient, connection_id: str) -> None:
    first = await client.start_run(connection_id)
    with pytest.raises(Conflict, match=first.run_id) as caught:
        await client.start_run(connection_id, if_active="raise")
    assert caught.value.handle == first
    assert pickle.loads(pickle.dumps(caught.value)).handle == first
    assert (await client.start_run(connection_id)).joined


async def test_unknown_if_active_is_refused(client: ExportClient) -> None:
    with pytest.raises(ValueError, match="'join', 'wait' or 'raise', not 'ignore'"):
        await client.start_run("c1", if_active="ignore")  # type: ignore[arg-type]


async def test_lost_race_is_run_again_and_joins_the_winner(
    client: ExportClient, connection_id: str, emulator: Emulator
) -> None:
    emulator.create_conflict_window = 0.2
    runs = await asyncio.gather(*(client.start_run(connection_id) for _ in range(5)))
    assert len(set(runs)) == 1
    assert [run.origin for run in runs].count(RunOrigin.STARTED) == 1
    assert emulator.count("create_run") > 5


async def test_race_lost_for_ever_is_a_conflict(emulator: Emulator) -> None:
    emulator.inject("create_run", *[answer(409, "{}")] * 3)
    retry = RetryPolicy(attempts=3)
    async with ExportClient(emulator.token(), transport=emulator, retry=retry) as client:
        connection = await client.create_connection(emulator.add_imodel())
        with pytest.raises(Conflict):
            await client.start_run(connection.id)
        assert emulator.count("create_run") == 3


@pytest.mark.parametrize(
    "lost", [ConnectionResetError(), TimeoutError(), answer(502, "<html>"), answer(500)]
)
async def test_run_whose_answer_was_lost_is_found_again(
    client: ExportClient,
    connection_id: str,
    emulator: Emulator,
    lost: Outcome,
) -> None:
    emulator.inject("create_run", lost, apply_effect=True)
    run = await client.start_run(connection_id, if_active="raise")
    assert run.origin is RunOrigin.RECOVERED
    assert [seen.id async for seen in client.list_runs(connection_id)] == [run.run_id]


async def test_uncertainty_outlives_a_lost_race(
    client: ExportClient, connection_id: str, emulator: Emulator
) -> None:
    emulator.inject("create_run", ConnectionResetError(), apply_effect=True)
    emulator.inject("create_run", answer(409, "{}"))
    assert (await client.start_run(connection_id)).origin is RunOrigin.RECOVERED


@pytest.mark.parametrize(
    "untouched", [ConnectionRefusedError(), answer(429, "{}"), answer(503, "{}", Retry_After="1")]
)
async def test_request_that_was_not_processed_leaves_no_uncertainty(
    client: ExportClient, connection_id: str, emulator: Emulator, untouched: Outcome
) -> None:
    first = await client.start_run(connection_id)
    emulator.inject("create_run", untouched)
    assert (await client.start_run(connection_id)).origin is RunOrigin.JOINED
    assert first.last is None


async def test_run_that_began_long_before_is_joined_and_not_recovered(
    client: ExportClient, connection_id: str, emulator: Emulator
) -> None:
    await client.start_run(connection_id)
    await asyncio.sleep(30)
    emulator.inject("create_run", ConnectionResetError())
    assert (await client.start_run(connection_id)).origin is RunOrigin.JOINED


async def test_another_connections_run_is_never_ours(
    client: ExportClient, emulator: Emulator
) -> None:
    imodel_id = emulator.add_imodel()
    one = await client.create_connection(imodel_id)
    two = await client.create_connection(imodel_id)
    await client.start_run(one.id)
    emulator.inject("create_run", ConnectionResetError())
    assert (await client.start_run(two.id)).origin is RunOrigin.JOINED


async def test_202_on_the_second_sending_is_a_start(
    client: ExportClient, connection_id: str, emulator: Emulator
) -> None:
    emulator.inject("create_run", ConnectionResetError())
    assert (await client.start_run(connection_id)).origin is RunOrigin.STARTED


async def test_missing_response_is_raised(emulator: Emulator) -> None:
    async with ExportClient("t", transport=Answers(TransportError(message="gone"))) as client:
        with pytest.raises(TransportError):
            await client.start_run("c1")
    async with ExportClient("t", transport=Answers(answer(503, "down"))) as client:
        with pytest.raises(ServerError, match="503: down"):
            await client.start_run("c1")
    async with ExportClient(emulator.token(), transport=emulator) as client:
        with pytest.raises(InvalidRequest, match="connectionId value is not valid"):
            await client.start_run("c1")


@pytest.mark.parametrize(
    "location",
    [
        "/export/connections/c2/runs/r2",
        "https://api.bentley.com/export/connections/c2/runs/r2/",
        "https://API.bentley.com:443/Export/Connections/c2/Runs/r2?x=y",
        "runs/../runs/r2",
    ],
)
async def test_location_is_read_in_every_form(location: str) -> None:
    transport = Answers(answer(202, location=location))
    async with ExportClient("t", transport=transport) as client:
        run = await client.start_run("c2")
    assert (run.connection_id, run.run_id) == ("c2", "r2")


async def test_location_on_another_host_names_the_run_and_gets_no_request() -> None:
    transport = Answers(
        answer(202, Location="https://evil.example/export/connections/c/runs/r"), answer(404)
    )
    async with ExportClient("t", transport=transport) as client:
        run = await client.start_run("c1")
        assert (run.connection_id, run.run_id) == ("c", "r")
        with pytest.raises(NotFound):
            await run.refresh()
    assert {request.url.split("/")[2] for request in transport.requests} == {"api.bentley.com"}


def connection(last_run: str | None) -> str:
    link = f'{{"href": "{last_run}"}}' if last_run else "null"
    return f'{{"connection": {{"id": "c1", "_links": {{"lastRun": {link}}}}}}}'


LAST_RUN = connection("https://api.bentley.com/export/connections/c1/runs/r1")


async def test_without_a_location_the_last_run_counts_if_it_is_new_enough() -> None:
    new = Answers(answer(202, Date=DATE), answer(200, LAST_RUN), answer(200, RUN % 26))
    async with ExportClient("t", transport=new) as client:
        assert (await client.start_run("c1")).run_id == "r1"
    older = '{"id": "r0", "state": "Completed", "startDateTime": "2026-11-22T11:00:00Z"}'
    newer = '{"id": "r2", "state": "Queued"}, {"id": "r3", "state": "Queued", "startDateTime": '
    newer += '"2026-11-22T12:00:29Z"}'
    old = Answers(
        answer(202, Date=DATE),
        answer(200, LAST_RUN),
        answer(200, RUN % 1),
        answer(200, RUNS % f"{older}, {newer}"),
    )
    async with ExportClient("t", transport=old) as client:
        assert (await client.start_run("c1")).run_id == "r2"  # not even begun


@pytest.mark.parametrize("link", [None, "https://api.bentley.com/export/connections/c1/runsr1/"])
async def test_without_a_location_and_a_last_run_the_newest_active_run_is_joined(
    link: str | None,
) -> None:
    ended = '{"id": "r1", "state": "Completed", "startDateTime": "2026-11-22T12:00:00Z"}'
    active = '{"id": "r2", "state": "Queued", "startDateTime": "2026-11-22T11:00:00Z"}'
    transport = Answers(
        answer(303), answer(200, connection(link)), answer(200, RUNS % f"{ended}, {active}")
    )
    async with ExportClient("t", transport=transport) as client:
        run = await client.start_run("c1")
    assert (run.run_id, run.joined) == ("r2", True)


ENDED = RUNS % '{"id": "r1", "state": "Completed", "startDateTime": "2026-11-22T12:00:00Z"}'
UNNAMED = [answer(303), answer(200, connection(None)), answer(200, ENDED)]


async def test_active_run_that_ends_before_it_is_found_is_no_longer_in_the_way() -> None:
    transport = Answers(*UNNAMED, answer(202, Location="/export/connections/c1/runs/r2"))
    async with ExportClient("t", transport=transport) as client:
        run = await client.start_run("c1")
    assert (run.run_id, run.origin) == ("r2", RunOrigin.STARTED)


async def test_active_run_that_is_never_found_breaks_the_contract() -> None:
    transport = Answers(*UNNAMED * 10)
    async with ExportClient("t", transport=transport) as client:
        with pytest.raises(ProtocolError, match="the 303 response named no run"):
            await client.start_run("c1")
    assert len(transport.requests) == 5 * len(UNNAMED)


async def test_run_of_ours_that_ended_before_it_was_found_is_not_started_again() -> None:
    unnamed = answer(303, Date="Sun, 22 Nov 2026 12:00:01 GMT")
    seen = answer(200, ENDED.replace('"runs": [', '"run": ').replace("]", ""))
    transport = Answers(TransportError(message="reset"), unnamed, *UNNAMED[1:], seen)
    async with ExportClient("t", transport=transport) as client:
        run = await client.start_run("c1")
    assert (run.run_id, run.origin) == ("r1", RunOrigin.RECOVERED)


async def test_run_that_cannot_be_named_breaks_the_contract() -> None:
    transport = Answers(answer(202), answer(200, connection(None)), answer(200, '{"runs": null}'))
    async with ExportClient("t", transport=transport) as client:
        with pytest.raises(ProtocolError, match="the 202 response named no run"):
            await client.start_run("c1")


async def test_finished_run_that_is_still_named_is_retried_with_backoff() -> None:
    ended = '{"run": {"id": "r1", "state": "Completed", "result": "Success"}}'
    posts = []

    def serve(request: Request) -> Response:
        if request.method == "GET":
            return answer(200, ended)
        posts.append(asyncio.get_running_loop().time())
        return answer(303, Location="/export/connections/c1/runs/r1")

    async with ExportClient("t", transport=Answers(serve)) as client:
        with pytest.raises(Conflict, match="r1") as caught:
            await client.start_run("c1", if_active="wait")
    assert caught.value.handle is not None
    assert len(posts) < 30
    assert posts[-1] > 60


async def test_run_that_is_gone_is_no_longer_in_the_way() -> None:
    posts: list[Request] = []

    def serve(request: Request) -> Response:
        if request.method == "GET":
            return answer(404, '{"error": {"code": "ConnectionRunNotFound", "message": "gone"}}')
        posts.append(request)
        location = f"/export/connections/c1/runs/r{len(posts)}"
        return answer(303 if len(posts) == 1 else 202, Location=location)

    async with ExportClient("t", transport=Answers(serve)) as client:
        assert (await client.start_run("c1", if_active="wait")).run_id == "r2"


@pytest.mark.parametrize("missing", [GATEWAY, answer(404, "<html>")])
async def test_404_of_a_gateway_or_proxy_on_the_run_that_is_waited_for_is_raised(
    missing: Response,
) -> None:
    joined = answer(303, Location="/export/connections/c1/runs/r1")
    async with ExportClient("t", transport=Answers(joined, missing)) as client:
        with pytest.raises(NotFound):
            await client.start_run("c1", if_active="wait")


async def test_run_found_again_may_be_too_young_to_be_read(
    client: ExportClient, connection_id: str, emulator: Emulator
) -> None:
    unknown = answer(404, '{"error": {"code": "ConnectionRunNotFound", "message": "not yet"}}')
    emulator.inject("create_run", ConnectionResetError(), apply_effect=True)
    emulator.inject("get_run", unknown, unknown)
    assert (await client.start_run(connection_id)).origin is RunOrigin.RECOVERED
    emulator.inject("create_run", ConnectionResetError())
    emulator.inject("get_run", *[unknown] * 100)
    joined = await client.start_run(connection_id)
    assert joined.origin is RunOrigin.JOINED  # after a minute it is held as another request's


@pytest.mark.parametrize("if_active", ["wait", "raise"])
async def test_run_of_a_lost_answer_may_be_unknown_for_most_of_a_minute(
    client: ExportClient, connection_id: str, emulator: Emulator, if_active: IfActive
) -> None:
    unknown = answer(404, '{"error": {"code": "ConnectionRunNotFound", "message": "not yet"}}')
    emulator.inject("create_run", ConnectionResetError(), apply_effect=True)
    emulator.inject("get_run", *[unknown] * 10)
    run = await client.start_run(connection_id, if_active=if_active)
    assert run.origin is RunOrigin.RECOVERED
    assert [seen.id async for seen in client.list_runs(connection_id)] == [run.run_id]


async def test_slow_202_without_a_location_is_still_found() -> None:
    class Slow(Answers):
        async def send(self, request: Request, /) -> Response:
            if request.method == "POST":
                await asyncio.sleep(15)
            return await super().send(request)

    began = answer(200, RUN % 14)  # the answer says 12:00:30
    transport = Slow(answer(202, Date=DATE), answer(200, LAST_RUN), began)
    async with ExportClient("t", transport=transport) as client:
        assert (await client.start_run("c1")).run_id == "r1"


async def test_last_run_that_is_gone_is_looked_for_in_the_list() -> None:
    transport = Answers(
        answer(202, Date=DATE),
        answer(200, LAST_RUN),
        answer(404, "{}"),
        answer(200, RUNS % '{"id": "r9", "state": "Queued"}'),
    )
    async with ExportClient("t", transport=transport) as client:
        assert (await client.start_run("c1")).run_id == "r9"


@pytest.mark.parametrize("options", [{"exportType": None}, "IFC", 0])
async def test_options_of_another_kind_are_refused(client: ExportClient, options: object) -> None:
    with pytest.raises(TypeError, match="options must be ExportOptions"):
        await client.start_run("c1", options)  # type: ignore[arg-type]


async def test_start_that_takes_too_long_is_a_start_timeout(emulator: Emulator) -> None:
    emulator.latency = 20.0
    async with ExportClient(emulator.token(), transport=emulator) as client:
        with pytest.raises(StartTimeout, match=r"after 5 s .* for connection c1") as caught:
            await client.start_run("c1", timeout=5)
        assert caught.value.connection_id == "c1"
        with pytest.raises(ValueError, match="timeout"):
            await client.start_run("c1", timeout=0)


async def test_timeout_error_of_a_transport_is_no_start_timeout() -> None:
    async with ExportClient("t", transport=Answers(TimeoutError("bug"))) as client:
        with pytest.raises(TimeoutError, match="bug") as caught:
            await client.start_run("c1", timeout=5)
    assert not isinstance(caught.value, StartTimeout)


async def test_202_whose_run_is_found_late_is_recovered_and_not_started_again(
    client: ExportClient, emulator: Emulator
) -> None:
    connection = await client.create_connection(emulator.add_imodel())
    emulator.inject("create_run", answer(202, "{}"), apply_effect=True)
    emulator.inject("get_connection", answer(500, "{}"))
    run = await client.start_run(connection.id)
    assert run.origin is RunOrigin.STARTED
    assert len(await client.list_runs(connection.id)) == 1
