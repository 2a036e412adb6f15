"""The services on loopback, behind real sockets."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress

from aiohttp import web
from attrs import frozen

from itwin_export_async._protocol.messages import Request, Response
from itwin_export_async.emulator._http.exchange import Exchange
from itwin_export_async.emulator._http.messages import Streamed, body_of, length_of
from itwin_export_async.emulator._http.pipeline import Gateway

_Pages = Mapping[str, Callable[[], Response]]

_LARGEST_BODY = 1024**3
_GRACE = 0.05
_LEEWAY = 0.25  # seconds for which a request may have been on its way unseen


@frozen(kw_only=True)
class ServerAddress:
    """Where a served emulator is: the base address of the APIs, and the token endpoint."""

    base_url: str
    token_url: str


@asynccontextmanager
async def serving(
    gateway: Gateway, *, host: str, port: int, pages: _Pages
) -> AsyncIterator[tuple[ServerAddress, str]]:
    """Two servers before the gateway, and the address of the second, which is for the blobs.

    The first has `pages` of its own besides, which the gateway never sees.
    """
    async with AsyncExitStack() as stack:
        base_url = await stack.enter_async_context(_listening(gateway, host, port, pages))
        blobs = await stack.enter_async_context(_listening(gateway, host, 0, {}))
        yield ServerAddress(base_url=base_url, token_url=f"{base_url}/connect/token"), blobs


@asynccontextmanager
async def _listening(gateway: Gateway, host: str, port: int, pages: _Pages) -> AsyncIterator[str]:
    origin = ""

    async def answer(asked: web.BaseRequest) -> web.StreamResponse:
        request = Request(
            method=asked.method,
            url=f"{origin}{asked.raw_path}",
            headers=asked.headers,
            body=await asked.read() or None,
        )
        exchange = gateway.begin(request, sent=gateway.judge.next_order(), leeway=_LEEWAY)
        if exchange.late:
            await asyncio.sleep(exchange.late)
        if exchange.breaks or asked.transport is None:
            gateway.lost(exchange)
        else:
            gateway.delivered(exchange)
        return await _told(asked, exchange)

    async def show(asked: web.BaseRequest) -> web.Response:
        shown = pages[asked.path]()
        return web.Response(status=shown.status, headers=shown.headers, body=shown.body)

    application = web.Application(client_max_size=_LARGEST_BODY)
    for path in pages:
        application.router.add_get(path, show)
    application.router.add_route("*", "/{path:.*}", answer)
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=_GRACE)
    await runner.setup()
    try:
        await web.TCPSite(runner, host, port).start()
        bound_port = runner.addresses[0][1]
        origin = f"http://{f'[{host}]' if ':' in host else host}:{bound_port}"
        yield origin
    finally:
        await runner.cleanup()


async def _told(asked: web.BaseRequest, exchange: Exchange) -> web.StreamResponse:
    """The answer, as far as it goes."""
    response = exchange.answer
    if response is None:
        return _broken(asked)
    if exchange.breaks or isinstance(response, Streamed):
        return await _sent(asked, response, exchange.stop)
    return web.Response(status=response.status, headers=response.headers, body=response.body)


async def _sent(asked: web.BaseRequest, response: Response, stop: int | None) -> web.StreamResponse:
    """The answer, its body made and sent some at a time, up to where the connection breaks."""
    length = length_of(response)
    sending = web.StreamResponse(status=response.status, headers=response.headers)
    sending.content_length = length
    with suppress(ConnectionError):  # the client has gone
        await sending.prepare(asked)
        for piece in body_of(response, stop):
            await sending.write(piece)
        if stop is not None and stop < length:
            _broken(asked)
        await sending.write_eof()
    return sending


def _broken(asked: web.BaseRequest) -> web.StreamResponse:
    """An answer that goes nowhere: the connection is torn down first."""
    if asked.transport is not None:  # the client may have gone first
        asked.transport.abort()
    return web.Response()
