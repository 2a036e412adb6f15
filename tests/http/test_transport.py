"""Real sockets: aiohttp on our side, the emulator or a server that misbehaves on the other."""

import asyncio
import socket
import struct
import traceback
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web

from itwin_export_async import (
    ClientCredentials,
    ExecutionResult,
    ExportClient,
    ExportOptions,
    FixedSchedule,
    ProtocolError,
    Request,
    RetryPolicy,
    Session,
    TransportError,
)
from itwin_export_async._http.session import MAX_CONCURRENT_REQUESTS
from itwin_export_async._http.transport import BODY_LIMIT, AiohttpTransport
from itwin_export_async.emulator import Emulator
from tests.support.servers import web_server

pytestmark = pytest.mark.usefixtures("integration")

SECRET = "planted"
ONCE = RetryPolicy(attempts=1)


@asynccontextmanager
async def raw_server(*replies: bytes | None) -> AsyncIterator[str]:
    """A server that says these bytes, a connection each, and hangs up; None says nothing."""
    left, served = list(replies), asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        reply = left.pop(0)
        if reply is None:
            await reader.read()  # until the client hangs up
        writer.write(reply or b"")
        writer.close()
        await writer.wait_closed()
        served.set()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        if replies:
            await served.wait()


async def test_the_whole_way_from_an_imodel_to_a_file(tmp_path: Path) -> None:
    emulator = Emulator(seed=3, run_seconds=0.5)
    async with emulator.serve() as served:
        auth = ClientCredentials(
            emulator.client_id, emulator.client_secret, token_url=served.token_url
        )
        imodel_id = emulator.add_imodel("Bridge")
        async with ExportClient(
            auth, base_url=served.base_url, schedule=FixedSchedule(0.1)
        ) as client:
            connection = await client.find_or_create_connection(imodel_id, display_name="nightly")
            run = await client.start_run(connection.id, ExportOptions(ifc_version="IFC4.3"))
            joined = await client.start_run(connection.id)
            assert joined == run
            assert joined.joined
            final = await run.wait(timeout=30)
            (path,) = await run.download(tmp_path)
    assert final.outcome is ExecutionResult.SUCCESS
    assert path.read_bytes() == emulator.read_file(final.output_file_ids[0])
    assert path.read_bytes().startswith(b"ISO-10303-21;")
    assert 401 not in [request.status for request in emulator.requests]


async def get(base_url: str, *, timeout: float = 30.0) -> tuple[int, bytes]:
    async with Session("t", base_url=base_url, retry=ONCE, request_timeout=timeout) as session:
        response = await session.send(Request(method="GET", url=f"/x?sig={SECRET}"))
        return response.status, response.body


WHOLE = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (b"", "closed the connection"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{", "broke off"),
        (b"rubbish\r\n\r\n", "BadStatusLine|BadHttpMessage|ClientResponseError"),
    ],
)
async def test_a_broken_answer_is_no_answer(reply: bytes, reason: str) -> None:
    async with raw_server(reply) as url:
        with pytest.raises(TransportError, match=reason) as caught:
            await get(url)
    assert caught.value.may_have_been_processed
    text = "".join(traceback.format_exception(caught.value))
    assert SECRET not in text


async def test_a_reset_connection_is_no_answer() -> None:
    async def reset(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        linger = struct.pack("ii", 1, 0)  # hang up without a word
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        writer.transport.abort()

    server = await asyncio.start_server(reset, "127.0.0.1", 0)
    async with server:
        with pytest.raises(TransportError, match="reset") as caught:
            await get(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
    assert caught.value.may_have_been_processed


async def test_a_broken_answer_is_asked_for_again() -> None:
    async with raw_server(b"", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{", WHOLE) as url:
        quick = RetryPolicy(initial=0.01)
        async with Session("t", base_url=url, retry=quick) as session:
            assert (await session.send(Request(method="GET", url="/x"))).body == b"{}"


async def test_a_silent_server_is_given_up() -> None:
    async with raw_server(None) as url:
        with pytest.raises(TransportError):
            await get(url, timeout=0.2)


async def test_an_unreachable_host_is_named_and_surely_saw_nothing() -> None:
    async with raw_server() as url:
        pass
    with pytest.raises(TransportError, match=r"cannot connect to 127\.0\.0\.1:\d+") as caught:
        await get(url)
    assert not caught.value.may_have_been_processed


async def test_a_host_that_does_not_exist_is_named() -> None:
    with pytest.raises(TransportError, match=r"cannot connect to nowhere\.invalid") as caught:
        await get("https://nowhere.invalid")
    assert not caught.value.may_have_been_processed


@pytest.mark.parametrize(("size", "fits"), [(BODY_LIMIT, True), (BODY_LIMIT + 1, False)])
async def test_a_body_has_at_most_16_mib(size: int, fits: bool) -> None:
    async def big(request: web.Request) -> web.StreamResponse:
        return web.Response(body=bytes(size))

    async with web_server(big) as url:
        if fits:
            assert await get(url) == (200, bytes(size))
        else:
            with pytest.raises(TransportError, match="more than 16 MiB"):
                await get(url)


async def test_no_redirect_is_followed_and_no_cookie_kept() -> None:
    seen: list[web.Request] = []

    async def redirect(request: web.Request) -> web.StreamResponse:
        seen.append(request)
        response = web.Response(status=303, headers={"Location": "/elsewhere"})
        response.set_cookie("a", "b")
        return response

    async with web_server(redirect) as url, Session("t", base_url=url) as session:
        for method in ("GET", "POST", "DELETE"):
            assert (await session.send(Request(method=method, url="/x"))).status == 303
    assert [request.path for request in seen] == ["/x"] * 3
    assert not any(request.cookies for request in seen)


async def test_a_path_goes_out_byte_for_byte() -> None:
    async def echo(request: web.Request) -> web.StreamResponse:
        return web.Response(text=request.raw_path)

    async with web_server(echo) as url, Session("t", base_url=url) as session:
        path = "/a%2Fb/%C3%A4?sig=a%2Fb%2Bc%3D&$top=1"
        assert (await session.send(Request(method="GET", url=path))).body.decode() == path


@pytest.mark.parametrize(("body", "kind"), [(None, None), (b"{}", "application/json")])
async def test_only_a_body_has_a_kind(body: bytes | None, kind: str | None) -> None:
    told: list[str | None] = []

    async def note(request: web.Request) -> web.StreamResponse:
        told.append(request.headers.get("Content-Type"))
        return web.Response(status=204)

    headers = {"Content-Type": kind} if kind else {}
    async with web_server(note) as url, Session("t", base_url=url) as session:
        await session.send(Request(method="POST", url="/x", headers=headers, body=body))
    assert told == [kind]


async def test_a_session_of_yours_is_used_and_left_open() -> None:
    async def no(request: web.Request) -> web.StreamResponse:
        return web.Response(status=404, text=request.headers["Authorization"])

    async with web_server(no) as url, aiohttp.ClientSession(raise_for_status=True) as http:
        async with Session("t", base_url=url, http=http) as session:
            assert (await session.send(Request(method="GET", url="/x"))).body == b"Bearer t"
        assert not http.closed


async def test_more_requests_than_slots_are_all_answered() -> None:
    at_once = most = 0

    async def slow(request: web.Request) -> web.StreamResponse:
        nonlocal at_once, most
        at_once += 1
        most = max(most, at_once)
        await asyncio.sleep(0.01)
        at_once -= 1
        return web.Response()

    async with web_server(slow) as url, Session("t", base_url=url) as session:
        requests = [session.send(Request(method="GET", url="/x")) for _ in range(300)]
        answers = await asyncio.gather(*requests)
    assert [answer.status for answer in answers] == [200] * 300
    assert most == MAX_CONCURRENT_REQUESTS


async def test_a_stream_that_breaks_off_is_no_answer() -> None:
    reply = b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nabc"
    async with raw_server(reply) as url:
        transport = AiohttpTransport()
        got = b""
        with pytest.raises(TransportError, match="broke off"):
            async with transport.stream(Request(method="GET", url=url)) as stream:
                assert stream.response.status == 200
                async for chunk in stream.chunks:
                    got += chunk
        assert got == b"abc"
        await transport.close()
        await transport.close()


async def test_credentials_get_a_token_on_their_own() -> None:
    emulator = Emulator(seed=1)
    async with emulator.serve() as served:
        auth = ClientCredentials(
            emulator.client_id, emulator.client_secret, token_url=served.token_url
        )
        token = await auth.get_token()
        async with ExportClient(token, base_url=served.base_url) as client:
            await client.create_connection(emulator.add_imodel())
    assert token.expires_at is not None


async def test_a_blob_address_without_https_is_refused() -> None:
    async with Session("t") as session:
        with pytest.raises(ProtocolError, match="must be https"):
            async with session.stream_blob(Request(method="GET", url="http://blobs.example/")):
                pass


async def test_a_host_that_is_no_name_is_refused() -> None:
    with pytest.raises(ValueError, match="base_url"):
        Session("t", base_url=f"https://{'a' * 70}.com")


async def test_nothing_is_opened_after_closing() -> None:
    transport = AiohttpTransport()
    await transport.close()
    with pytest.raises(RuntimeError, match="closed"):
        await transport.send(Request(method="GET", url="http://127.0.0.1:1"))
    async with aiohttp.ClientSession() as http:
        with pytest.raises(TransportError, match="no name that can be looked up"):
            url = f"https://{'a' * 70}.com/"
            await AiohttpTransport(http).send(Request(method="GET", url=url))
