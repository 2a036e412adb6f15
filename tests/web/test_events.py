"""event_stream: a run as server-sent events."""

import asyncio
from collections.abc import AsyncGenerator

import pytest

from itwin_export_async import ExportClient, FixedSchedule, RunHandle
from itwin_export_async.emulator import Emulator
from itwin_export_async.web import describe_run, event_stream
from tests.support.fakes import answer
from tests.web.events import parse_events, parse_pieces

RETRY, KEEP_ALIVE = b"retry: 3000\n\n", b": keep-alive\n\n"
FORBIDDEN = answer(403, '{"error": {"code": "InsufficientPermissions", "message": "no"}}')


async def started(
    client: ExportClient, emulator: Emulator, result: str = "Success", *, duration: float = 600
) -> RunHandle:
    imodel_id = emulator.add_imodel("Bridge")
    emulator.plan_next_run(imodel_id, result, duration=duration)
    connection = await client.find_or_create_connection(imodel_id, display_name="web")
    return await client.start_run(connection.id)


async def following(stream: AsyncGenerator[bytes, None]) -> bytes:
    """The next event of the stream, after `retry` and comments."""
    async for piece in stream:
        if not piece.startswith((b"retry", b":")):
            return piece
    raise AssertionError("the stream has ended")


async def test_stream_has_every_change_and_ends_with_the_final_state(
    client: ExportClient, emulator: Emulator
) -> None:
    run = await started(client, emulator)
    pieces = [piece async for piece in event_stream(run)]
    assert pieces[0] == RETRY
    *updates, last, end = parse_pieces(pieces)
    assert {event.name for event in (*updates, last)} == {"update"}
    assert [event.data["is_final"] for event in updates] == [False] * len(updates)
    assert len({event.id for event in (*updates, last)}) == len(updates) + 1
    assert end.name == "end"
    assert end.data == last.data == describe_run(await run.refresh())
    assert end.data["outcome"] == "Success"


async def test_what_the_browser_has_seen_is_skipped_in_every_process(emulator: Emulator) -> None:
    async with ExportClient(emulator.token(), transport=emulator) as first:
        run = await started(first, emulator)
        (seen,) = parse_events((await following(event_stream(run))).decode())
        resume_token = run.resume_token
    async with ExportClient(emulator.token(), transport=emulator) as second:
        again = event_stream(second.resume(resume_token), last_event_id=seen.id)
        (event,) = parse_events((await following(again)).decode())
        assert event.id != seen.id
        assert event.data["state"] != seen.data["state"]
        other = event_stream(second.resume(resume_token), last_event_id="unknown")
        (current,) = parse_events((await following(other)).decode())
        assert current == event


async def test_browser_that_has_seen_the_final_state_gets_the_end_alone(
    client: ExportClient, emulator: Emulator
) -> None:
    run = await started(client, emulator)
    last = parse_pieces([piece async for piece in event_stream(run)])[-2]
    events = parse_pieces([p async for p in event_stream(run, last_event_id=last.id)])
    assert [(event.name, event.data) for event in events] == [("end", last.data)]


async def test_silence_is_filled_with_comments(emulator: Emulator) -> None:
    schedule = FixedSchedule(100)
    async with ExportClient(emulator.token(), transport=emulator, schedule=schedule) as client:
        run = await started(client, emulator)
        clock, times = asyncio.get_running_loop().time, []
        stream = event_stream(run, heartbeat=15)
        await following(stream)
        for _ in range(3):
            before = clock()
            assert await anext(stream) == KEEP_ALIVE
            times.append(clock() - before)
        await stream.aclose()
    assert times == pytest.approx([15, 15, 15])


async def test_outage_is_a_trouble_and_the_stream_continues(emulator: Emulator) -> None:
    schedule = FixedSchedule(5)
    async with ExportClient(emulator.token(), transport=emulator, schedule=schedule) as client:
        run = await started(client, emulator)
        stream = event_stream(run)
        await following(stream)
        emulator.inject("get_run", *[503] * 20)
        (trouble,) = parse_events((await following(stream)).decode())
        assert trouble.name == "trouble"
        assert trouble.data["status"] == 503
        assert trouble.data["detail"] == "the export service is not available at the moment"
        *updates, end = parse_pieces([piece async for piece in stream])
    assert (end.name, end.data["outcome"]) == ("end", "Success")
    assert all(event.id for event in updates)
    assert not trouble.id + end.id  # an id would replace that of the latest update


async def test_stream_that_cannot_continue_ends_with_the_public_error(
    client: ExportClient, emulator: Emulator
) -> None:
    run = await started(client, emulator)
    stream = event_stream(run)
    await following(stream)
    emulator.inject("get_run", FORBIDDEN)
    *_, end = parse_pieces([piece async for piece in stream])
    assert end.name == "end"
    assert (end.data["status"], end.data["title"]) == (403, "Forbidden")
    assert end.data["detail"] == "access to the model or to its folder is denied"


async def test_failed_run_ends_with_its_reasons(client: ExportClient, emulator: Emulator) -> None:
    run = await started(client, emulator, "Error")
    *_, end = parse_pieces([piece async for piece in event_stream(run)])
    assert end.data["outcome"] == "Error"
    (failure,) = end.data["failures"]
    assert failure["code"]
    assert failure["text"]
    assert failure["link"] is None or failure["link"].startswith("https://")


async def test_stream_shows_no_id_and_no_address(client: ExportClient, emulator: Emulator) -> None:
    run = await started(client, emulator, "Error")
    text = b"".join([piece async for piece in event_stream(run)]).decode()
    final = await run.refresh()
    ids = [
        run.run_id,
        run.connection_id,
        *(task.id for task in final.tasks),
        *final.output_file_ids,
    ]
    assert not [id for id in ids if id in text]
    assert "api.bentley.com" not in text


async def test_stop_ends_the_stream_at_once(client: ExportClient, emulator: Emulator) -> None:
    run, stop = await started(client, emulator), asyncio.Event()
    loop = asyncio.get_running_loop()
    stream = event_stream(run, stop=stop)
    await following(stream)
    before = loop.time()
    loop.call_later(0.5, stop.set)
    assert [piece async for piece in stream if piece != KEEP_ALIVE] == []
    assert loop.time() - before == pytest.approx(0.5)
    assert [piece async for piece in event_stream(run, stop=stop)] == [RETRY]


async def test_stop_goes_before_an_error_of_the_closing_client(emulator: Emulator) -> None:
    stop = asyncio.Event()
    async with ExportClient(emulator.token(), transport=emulator) as client:
        stream = event_stream(await started(client, emulator), stop=stop)
        await following(stream)
        rest = asyncio.create_task(_read(stream))
        await asyncio.sleep(0)
        stop.set()
    assert await rest == []


async def _read(stream: AsyncGenerator[bytes, None]) -> list[bytes]:
    return [piece async for piece in stream]


async def test_end_of_the_client_without_stop_is_an_error(emulator: Emulator) -> None:
    async with ExportClient(emulator.token(), transport=emulator) as client:
        stream = event_stream(await started(client, emulator))
        await following(stream)
    with pytest.raises(RuntimeError, match="closed"):
        await _read(stream)


async def test_stream_ends_by_itself_at_its_max_age(
    client: ExportClient, emulator: Emulator
) -> None:
    run = await started(client, emulator)
    loop = asyncio.get_running_loop()
    before = loop.time()
    pieces = [piece async for piece in event_stream(run, max_age=40)]
    assert loop.time() - before == pytest.approx(40)
    assert not any(event.name == "end" for event in parse_pieces(pieces))


async def test_stream_that_is_closed_early_leaves_nothing(
    client: ExportClient, emulator: Emulator
) -> None:
    run = await started(client, emulator)
    before = asyncio.all_tasks()
    for pieces in range(4):
        stream = event_stream(run, heartbeat=0.3)
        for _ in range(pieces):
            await anext(stream)
        await stream.aclose()
        assert client.health().runs_polled == 0
    await asyncio.sleep(0)  # the end of the poll task
    assert asyncio.all_tasks() == before


@pytest.mark.parametrize("steps", range(6))
async def test_stream_that_is_cancelled_again_and_again_leaves_nothing(
    client: ExportClient, emulator: Emulator, steps: int
) -> None:
    """As by anyio, which cancels every wait of a cancelled task, those of its clean-up too."""
    run = await started(client, emulator)
    before = asyncio.all_tasks()
    reader = asyncio.create_task(_read(event_stream(run)))
    for _ in range(steps):
        await asyncio.sleep(0)
    while not reader.done():
        reader.cancel()
        await asyncio.sleep(0)
    for _ in range(3):
        await asyncio.sleep(0)
    assert client.health().runs_polled == 0
    assert asyncio.all_tasks() == before


async def test_stream_that_is_cancelled_with_an_unread_update_leaves_nothing(
    client: ExportClient, emulator: Emulator
) -> None:
    run = await started(client, emulator)
    reader = asyncio.create_task(_read(event_stream(run, heartbeat=1e6)))
    async for update in run.updates():
        reader.cancel()  # in the same step of the loop in which it receives the update
        assert update.run
        break
    with pytest.raises(asyncio.CancelledError):
        await reader
    await asyncio.sleep(0)
    assert client.health().runs_polled == 0


async def test_closing_one_stream_does_not_disturb_another(
    client: ExportClient, emulator: Emulator
) -> None:
    run = await started(client, emulator)
    staying = asyncio.create_task(_read(event_stream(run)))
    leaving = event_stream(client.resume(run.resume_token))
    await following(leaving)
    await leaving.aclose()
    assert parse_pieces(await staying)[-1].name == "end"


async def test_all_streams_of_a_run_share_its_polls(emulator: Emulator) -> None:
    async with ExportClient(emulator.token(), transport=emulator) as client:
        run = await started(client, emulator)
        await _read(event_stream(run))
        alone = emulator.count("get_run")
        run = await started(client, emulator)
        handles = [client.resume(run.resume_token) for _ in range(100)]
        streams = await asyncio.gather(*(_read(event_stream(handle)) for handle in handles))
    assert {parse_pieces(stream)[-1].data["outcome"] for stream in streams} == {"Success"}
    assert emulator.count("get_run") - alone <= alone + 2
