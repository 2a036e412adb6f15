"""The services on loopback, behind real sockets."""

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager

from aiohttp import web
from attrs import frozen

from itwin_export_async._protocol.http import Request, Response

_Handle = Callable[[Request], Response]

_LARGEST_BODY = 256 * 1024**2
_GRACE = 0.05


@frozen(kw_only=True)
class Served:
    """Where a served emulator is: the base address of the APIs, and the token endpoint."""

    base_url: str
    token_url: str


@asynccontextmanager
async def serving(handle: _Handle, *, host: str, port: int) -> AsyncIterator[tuple[Served, str]]:
    """Two servers around `handle`, and the address of the second, which is for the blobs."""
    async with AsyncExitStack() as stack:
        base_url = await stack.enter_async_context(_listening(handle, host, port))
        blobs = await stack.enter_async_context(_listening(handle, host, 0))
        yield Served(base_url=base_url, token_url=f"{base_url}/connect/token"), blobs


@asynccontextmanager
async def _listening(handle: _Handle, host: str, port: int) -> AsyncIterator[str]:
    origin = ""

    async def answer(asked: web.BaseRequest) -> web.StreamResponse:
        request = Request(
            method=asked.method,
            url=f"{origin}{asked.raw_path}",
            headers=asked.headers,
            body=await asked.read() or None,
        )
        try:
            response = handle(request)
        except (ConnectionError, TimeoutError):
            return _broken(asked)
        return web.Response(status=response.status, headers=response.headers, body=response.body)

    application = web.Application(client_max_size=_LARGEST_BODY)
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


def _broken(asked: web.BaseRequest) -> web.StreamResponse:
    """An answer that goes nowhere: the connection is torn down first."""
    if asked.transport is not None:  # the client may have gone first
        asked.transport.abort()
    return web.Response()
