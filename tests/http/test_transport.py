"""Real sockets: aiohttp on our side, the emulator or a server that misbehaves on the other."""

import asyncio
import socket
import struct
import traceback
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

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
    RetryPolicy,
    Session,
    TransportError,
)
from itwin_export_async._http.sender import MAX_CONCURRENT_REQUESTS
from itwin_export_async._http.transport import BODY_LIMIT, AiohttpTransport
from itwin_export_async.emulator import Emulator
from itwin_export_async.transport import Request
from tests.support.servers import web_server

pytestmark = pytest.mark.usefixtures("integration")

SECRET = "planted"
ONCE = RetryPolicy(attempts=1)


@asynccontextmanager
async def raw_server(*replies: bytes | None) -> AsyncIterator[str]:
    """A server that sends these bytes, one item a connection, and closes it; None sends nothing."""
    left, served = list(replies), asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        reply = left.pop(0)
        if reply is None:
            await reader.read()  # until the client closes the connection
        writer.write(reply or b"")
        writer.close()
        await writer.wait_closed()
        served.set()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        if replies:
            await served.wait()


async def test_export_works_over_real_sockets(tmp_path: Path) -> None:
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


async def get(
    base_url: str, *, timeout: float = 30.0, retry: RetryPolicy = ONCE
) -> tuple[int, bytes]:
    async with Session("t", base_url=base_url, retry=retry, request_timeout=timeout) as session:
        response = await session.send(Request(method="GET", url=f"/x?sig={SECRET}"))
        return response.status, response.body


WHOLE = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (b"", "closed the connection"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{", "the connection broke"),
        (b"rubbish\r\n\r\n", "BadStatusLine|BadHttpMessage|ClientResponseError"),
    ],
)
async def test_broken_response_is_a_transport_error(reply: bytes, reason: str) -> None:
    async with raw_server(reply) as url:
        with pytest.raises(TransportError, match=reason) as caught:
            await get(url)
    assert caught.value.may_have_been_processed
    text = "".join(traceback.format_exception(caught.value))
    assert SECRET not in text


async def test_connection_reset_is_a_transport_error() -> None:
    async def reset(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        linger = struct.pack("ii", 1, 0)  # close without a response
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        writer.transport.abort()

    server = await asyncio.start_server(reset, "127.0.0.1", 0)
    async with server:
        with pytest.raises(TransportError, match="reset") as caught:
            await get(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
    assert caught.value.may_have_been_processed


async def test_broken_response_is_retried() -> None:
    async with raw_server(b"", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{", WHOLE) as url:
        quick = RetryPolicy(initial=0.01)
        async with Session("t", base_url=url, retry=quick) as session:
            assert (await session.send(Request(method="GET", url="/x"))).body == b"{}"


async def test_silent_server_is_a_transport_error() -> None:
    async with raw_server(None) as url:
        with pytest.raises(TransportError):
            await get(url, timeout=0.2)


async def test_refused_connection_names_the_host_and_was_not_processed() -> None:
    async with raw_server() as url:
        pass
    with pytest.raises(TransportError, match=r"cannot connect to 127\.0\.0\.1:\d+") as caught:
        await get(url)
    assert not caught.value.may_have_been_processed


async def test_unknown_host_is_named() -> None:
    with pytest.raises(TransportError, match=r"cannot connect to nowhere\.invalid") as caught:
        await get("https://nowhere.invalid")
    assert not caught.value.may_have_been_processed


@pytest.mark.parametrize(("size", "fits"), [(BODY_LIMIT, True), (BODY_LIMIT + 1, False)])
async def test_body_has_at_most_16_mib(size: int, fits: bool) -> None:
    requests_sent = 0

    async def big(request: web.Request) -> web.StreamResponse:
        nonlocal requests_sent
        requests_sent += 1
        return web.Response(body=bytes(size))

    async with web_server(big) as url:
        if fits:
            assert await get(url) == (200, bytes(size))
        else:
            with pytest.raises(ProtocolError, match="more than 16 MiB") as caught:
                await get(url, retry=RetryPolicy(initial=0.01))
            assert caught.value.url == f"{url}/x"
            assert requests_sent == 1


async def test_transport_follows_no_redirect_and_keeps_no_cookie() -> None:
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


async def test_url_is_sent_byte_for_byte() -> None:
    async def echo(request: web.Request) -> web.StreamResponse:
        return web.Response(text=request.raw_path)

    async with web_server(echo) as url, Session("t", base_url=url) as session:
        path = "/a%2Fb/%C3%A4?sig=a%2Fb%2Bc%3D&$top=1"
        assert (await session.send(Request(method="GET", url=path))).body.decode() == path


@pytest.mark.parametrize(("body", "kind"), [(None, None), (b"{}", "application/json")])
async def test_content_type_is_sent_only_with_a_body(body: bytes | None, kind: str | None) -> None:
    kinds: list[str | None] = []

    async def note(request: web.Request) -> web.StreamResponse:
        kinds.append(request.headers.get("Content-Type"))
        return web.Response(status=204)

    headers = {"Content-Type": kind} if kind else {}
    async with web_server(note) as url, Session("t", base_url=url) as session:
        await session.send(Request(method="POST", url="/x", headers=headers, body=body))
    assert kinds == [kind]


async def test_borrowed_session_is_used_and_left_open() -> None:
    async def no(request: web.Request) -> web.StreamResponse:
        return web.Response(status=404, text=request.headers["Authorization"])

    async with web_server(no) as url, aiohttp.ClientSession(raise_for_status=True) as http:
        async with Session("t", base_url=url, http=http) as session:
            assert (await session.send(Request(method="GET", url="/x"))).body == b"Bearer t"
        assert not http.closed


async def test_requests_beyond_the_concurrency_limit_wait() -> None:
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


async def test_broken_stream_is_a_transport_error() -> None:
    reply = b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nabc"
    async with raw_server(reply) as url:
        transport = AiohttpTransport()
        got = b""
        with pytest.raises(TransportError, match="the connection broke"):
            async with transport.stream(Request(method="GET", url=url)) as stream:
                assert stream.response.status == 200
                async for chunk in stream.chunks:
                    got += chunk
        assert got == b"abc"
        await transport.close()
        await transport.close()


async def test_credentials_get_a_token_without_a_session() -> None:
    emulator = Emulator(seed=1)
    async with emulator.serve() as served:
        auth = ClientCredentials(
            emulator.client_id, emulator.client_secret, token_url=served.token_url
        )
        token = await auth.get_token()
        async with ExportClient(token, base_url=served.base_url) as client:
            await client.create_connection(emulator.add_imodel())
    assert token.expires_at is not None


async def test_blob_url_without_https_is_refused() -> None:
    async with Session("t") as session:
        with pytest.raises(ProtocolError, match="must be https"):
            async with session.stream_blob(Request(method="GET", url="http://blobs.example/")):
                pass


async def test_invalid_host_name_is_refused() -> None:
    with pytest.raises(ValueError, match="base_url"):
        Session("t", base_url=f"https://{'a' * 70}.com")


async def test_closed_transport_sends_nothing() -> None:
    transport = AiohttpTransport()
    await transport.close()
    with pytest.raises(RuntimeError, match="closed"):
        await transport.send(Request(method="GET", url="http://127.0.0.1:1"))
    async with aiohttp.ClientSession() as http:
        with pytest.raises(TransportError, match="invalid host name"):
            url = f"https://{'a' * 70}.com/"
            await AiohttpTransport(http).send(Request(method="GET", url=url))


async def test_stream_that_falls_silent_is_a_transport_error() -> None:
    async def silence(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Length": "1000"})
        await response.prepare(request)
        await response.write(b" ")
        await asyncio.sleep(1)
        return response

    async with web_server(silence) as url:
        transport = AiohttpTransport(read_timeout=0.2)
        with pytest.raises(TransportError, match="read timed out") as caught:
            async with transport.stream(Request(method="GET", url=url)) as stream:
                async for _ in stream.chunks:
                    pass
        await transport.close()
    assert caught.value.__context__ is None


async def test_slow_reader_of_a_fast_stream_is_no_error() -> None:
    size = 3 * 1024 * 1024

    async def big(request: web.Request) -> web.StreamResponse:
        return web.Response(body=bytes(size))

    async with web_server(big) as url:
        transport, received = AiohttpTransport(read_timeout=0.1), 0
        async with transport.stream(Request(method="GET", url=url)) as stream:
            async for chunk in stream.chunks:
                received += len(chunk)
                if received < size / 3:
                    await asyncio.sleep(0.15)
        await transport.close()
    assert received == size


async def test_stream_may_be_slower_than_the_read_timeout_while_it_flows() -> None:
    async def steady(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        for _ in range(20):
            await response.write(bytes(4096))
            await asyncio.sleep(0.03)
        return response

    async with web_server(steady) as url:
        transport, received = AiohttpTransport(read_timeout=0.2), 0
        async with transport.stream(Request(method="GET", url=url)) as stream:
            async for chunk in stream.chunks:
                received += len(chunk)
        await transport.close()
    assert received == 20 * 4096


async def test_stream_of_an_unreachable_host_is_a_transport_error() -> None:
    async with raw_server() as url:
        pass
    transport = AiohttpTransport()
    with pytest.raises(TransportError, match="cannot connect") as caught:
        async with transport.stream(Request(method="GET", url=f"{url}/?sig={SECRET}")):
            pass
    await transport.close()
    assert SECRET not in "".join(traceback.format_exception(caught.value))
    assert caught.value.__context__ is None


@pytest.mark.parametrize("head", [b"X-Long: " + b"x" * 100_000, b"X: y\r\n" * 20_000])
async def test_response_with_too_large_headers_is_a_transport_error(head: bytes) -> None:
    async with raw_server(b"HTTP/1.1 200 OK\r\n" + head + b"\r\n\r\n") as url:
        with pytest.raises(TransportError) as caught:
            await get(url)
    assert len(str(caught.value)) < 200


async def test_large_body_is_sent_in_chunks_and_read_whole() -> None:
    async def size(request: web.Request) -> web.StreamResponse:
        return web.Response(text=str(len(await request.read())))

    async with web_server(size) as url, Session("t", base_url=url) as session:
        for length in (0, 10, 200_000):
            request = Request(method="PUT", url="/x", body=bytes(length))
            assert (await session.send(request)).body == str(length).encode()


async def test_timeout_shows_no_token_in_the_locals_of_our_frames() -> None:
    """Neither the token of the request nor one in a body that was read in part."""

    async def halfway(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Length": "1000"})
        await response.prepare(request)
        await response.write(f'{{"access_token": "{SECRET}'.encode())
        await done.wait()
        return response

    done = asyncio.Event()
    async with web_server(halfway) as url:
        async with Session(SECRET, base_url=url, retry=ONCE) as session:
            with pytest.raises(TimeoutError) as caught:
                async with asyncio.timeout(0.3):
                    await session.send(Request(method="GET", url="/x"))
        done.set()
    shown = "".join(our_locals(caught.value))
    assert "chunks" in shown
    assert SECRET not in shown


def our_locals(error: BaseException | None) -> list[str]:
    """The locals of our frames in the tracebacks of an error and its causes."""
    found = []
    while error is not None:
        for frame, _ in traceback.walk_tb(error.__traceback__):
            if "itwin_export_async" in frame.f_code.co_filename:
                found.append(repr(dict(frame.f_locals)))
        error = error.__cause__ or error.__context__
    return found


async def test_connection_timeout_was_not_processed() -> None:
    class Slow(aiohttp.TCPConnector):
        async def connect(self, *_: Any, **__: Any) -> Any:
            raise aiohttp.ConnectionTimeoutError

    async with aiohttp.ClientSession(connector=Slow()) as http:
        async with Session("t", http=http, retry=ONCE) as session:
            with pytest.raises(TransportError, match="no connection within 15 s") as caught:
                await session.send(Request(method="GET", url="/x"))
    assert not caught.value.may_have_been_processed
