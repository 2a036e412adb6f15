"""Injected faults: truncated bodies, delayed answers, and real answers between them."""

import asyncio
import json
from collections.abc import Callable
from typing import Any

import aiohttp
import pytest
from yarl import URL

from itwin_export_async._protocol.messages import Request, Response, TransportError
from itwin_export_async.emulator import Emulator, SparseContent, run_virtual

Caller = Any
CallerOf = Callable[[Emulator], Any]

CONTENT = bytes(range(256)) * 1000


def blob_of(emulator: Emulator, content: bytes | SparseContent = CONTENT) -> Request:
    return Request(method="GET", url=emulator.user_blob("a", content=content))


async def read(emulator: Emulator, request: Request) -> bytes:
    """What comes of a body until it ends or breaks."""
    got = b""
    with pytest.raises(TransportError, match="within the answer"):
        async with emulator.stream(request) as stream:
            assert stream.response.status == 200
            async for piece in stream.chunks:
                got += piece
    return got


@pytest.mark.parametrize("content", [CONTENT, SparseContent(300_000)])
@pytest.mark.parametrize("after_bytes", [0, 1, 100_000])
def test_connection_breaks_after_so_many_bytes(
    emulator: Emulator, content: bytes | SparseContent, after_bytes: int
) -> None:
    request = blob_of(emulator, content)
    emulator.inject("get_blob", None, truncate_after=after_bytes)
    assert run_virtual(read(emulator, request)) == content[:after_bytes]
    assert emulator.requests[-1].fault == "injected"
    assert emulator.handle(request).body == content[:]


def test_truncated_body_is_a_broken_connection_for_send(emulator: Emulator) -> None:
    request = blob_of(emulator)
    emulator.inject("get_blob", None, None, truncate_after=7)
    with pytest.raises(ConnectionResetError, match="within the answer"):
        emulator.handle(request)
    with pytest.raises(TransportError) as caught:
        run_virtual(emulator.send(request))
    assert caught.value.may_have_been_processed
    emulator.inject("get_blob", None, Response(status=500, body=b"short"), truncate_after=256_000)
    assert emulator.handle(request).body == CONTENT
    assert emulator.handle(request).body == b"short"


def test_delayed_answer_has_its_effect_first(caller_of: CallerOf) -> None:
    emulator = Emulator(run_seconds=100)
    call = caller_of(emulator)
    connection_id = call.connect(emulator.add_imodel())
    start = call.request("POST", f"/export/connections/{connection_id}/runs", {"exportType": "IFC"})

    async def main() -> None:
        loop = asyncio.get_running_loop()
        emulator.inject("create_run", None, delay=40)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(30):
                await emulator.send(start)
        assert (await emulator.send(start)).status == 303
        emulator.inject("create_run", ConnectionResetError("gone"), delay=5)
        began = loop.time()
        with pytest.raises(TransportError, match="gone"):
            await emulator.send(start)
        assert loop.time() - began == pytest.approx(5 + emulator.latency)

    run_virtual(main())
    late, prompt, broken = emulator.requests[-3:]
    assert (late.status, late.fault) == (202, "injected")
    assert late.answered_at == pytest.approx(late.at + 40)
    assert prompt.answered_at == prompt.at
    assert prompt.fault is None
    assert (broken.status, broken.answered_at, broken.fault) == (None, None, "injected")


def test_real_answer_can_stand_between_faults(call: Caller, emulator: Emulator) -> None:
    connection_id = call.connect(emulator.add_imodel())
    busy = Response(status=503)
    emulator.inject("get_connection", busy, None, busy)
    path = f"/export/connections/{connection_id}"
    assert [call("GET", path).status for _ in range(4)] == [503, 200, 503, 200]


def test_simultaneous_starts_have_one_winner(caller_of: CallerOf) -> None:
    emulator = Emulator(run_seconds=100)
    emulator.create_conflict_window = 0.5
    call = caller_of(emulator)
    connections = [call.connect(imodel) for imodel in [emulator.add_imodel()] * 5]

    async def start(connection_id: str) -> int:
        path = f"/export/connections/{connection_id}/runs"
        return (await emulator.send(call.request("POST", path, {"exportType": "IFC"}))).status

    async def main() -> None:
        answers = await asyncio.gather(*(start(each) for each in connections))
        assert sorted(answers) == [202, 409, 409, 409, 409]
        await asyncio.sleep(0.5)
        answers = await asyncio.gather(*(start(each) for each in connections))
        assert answers == [303] * 5
        await asyncio.sleep(100)
        assert await start(connections[3]) == 202

    run_virtual(main())


def test_an_export_without_consent_fails_as_a_synchronization_does(caller_of: CallerOf) -> None:
    emulator = Emulator(run_seconds=100)
    emulator.user_authorized = False
    call = caller_of(emulator)

    async def ended(kind: str) -> Any:
        location = call.start(call.connect(emulator.add_imodel(), authenticationType=kind))
        await asyncio.sleep(100)
        return json.loads(call("GET", location).body)["run"]

    async def main() -> None:
        refused = await ended("User")
        assert refused["error"] == {
            "errorKey": "UserNotAuthenticated",
            "description": "User is not authenticated.",
        }
        assert (refused["state"], refused["result"]) == ("Completed", "Error")
        assert "jobs" not in refused
        assert (await ended("Service"))["result"] == "Success"

    run_virtual(main())


def test_records_are_kept_within_bounds_and_counted_beyond(
    call: Caller, emulator: Emulator
) -> None:
    emulator.max_recorded_requests = 100
    for number in range(1, 501):
        call("GET", "/export/connections")
        assert emulator.requests[-1].number == number
        assert len(emulator.requests) <= 110
    assert len(emulator.requests) >= 100
    assert emulator.count("list_connections") == 500
    assert emulator.count("get_connection") == 0


@pytest.mark.usefixtures("integration")
async def test_served_bodies_break_and_answers_are_delayed() -> None:
    emulator = Emulator()
    async with emulator.serve(), aiohttp.ClientSession() as http:
        sparse = SparseContent(2_000_000)
        for content in (CONTENT, sparse):
            url = URL(emulator.user_blob("a", content=content), encoded=True)
            emulator.inject("get_blob", None, truncate_after=100_000)
            got = b""
            with pytest.raises(aiohttp.ClientPayloadError):
                async with http.get(url) as answer:
                    assert answer.headers["Content-Length"] == str(len(content))
                    async for piece in answer.content.iter_any():
                        got += piece
            assert got == content[: len(got)]
            assert len(got) <= 100_000
            emulator.inject("get_blob", None, delay=0.05)
            async with http.get(url) as answer:
                assert await answer.read() == content[:]
            emulator.inject("get_blob", Response(status=500, body=b"abcdef"), truncate_after=3)
            with pytest.raises(aiohttp.ClientPayloadError):
                async with http.get(url) as answer:
                    await answer.read()
