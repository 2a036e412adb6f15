"""The services behind real sockets."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from aiohttp import web
from attrs import frozen

from itwin_export_async._protocol.messages import Request, Response
from itwin_export_async.emulator._dashboard.page import fragment, page, policy
from itwin_export_async.emulator._dashboard.snapshot import snapshot
from itwin_export_async.emulator._handlers import control
from itwin_export_async.emulator._http.exchange import Exchange
from itwin_export_async.emulator._http.hosts import (
    authority_of,
    host_of,
    is_allowed_host,
    is_loopback,
    origin_of,
    parse_public_url,
)
from itwin_export_async.emulator._http.messages import (
    LazyResponse,
    body_chunks,
    body_length,
    error,
    json_response,
    no_content,
)
from itwin_export_async.emulator._http.pipeline import Pipeline
from itwin_export_async.emulator._http.webhook_sender import posting_webhooks
from itwin_export_async.emulator._state.platform import PRODUCTION, Endpoints
from itwin_export_async.emulator._virtual_time import VirtualTimeLoop

if TYPE_CHECKING:  # the emulator passes itself
    from itwin_export_async.emulator._emulator import Emulator

_MAX_BODY = 1024**2  # bytes of a request to an API
_SHUTDOWN_SECONDS = 0.05
_LEEWAY = 0.25  # seconds for which a request may have been on its way unnoticed
_BLOBS = "/blobs"
_UNSPECIFIED = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - how clients reach them


@frozen(kw_only=True)
class ServerAddress:
    """Where a served emulator is: the base URL of the APIs, and the token endpoint."""

    base_url: str
    token_url: str


@asynccontextmanager
async def running_server(
    emulator: "Emulator", pipeline: Pipeline, host: str, port: int, public_url: str | None
) -> AsyncIterator[ServerAddress]:
    """Serve a pipeline while the block is active."""
    if isinstance(asyncio.get_running_loop(), VirtualTimeLoop):
        raise RuntimeError(
            "serve() needs real time: call it outside of run_virtual() and itwin_virtual_time, "
            "or pass the emulator as transport="
        )
    base = None if public_url is None else parse_public_url(public_url)
    async with AsyncExitStack() as stack:
        has_blob_port = base is None and is_loopback(host)
        blobs = None
        if has_blob_port:
            blobs = _Server(emulator, pipeline, host, serves_blobs=True)
            await stack.enter_async_context(blobs.running(0))
        server = _Server(emulator, pipeline, host, base=base, blob_server=blobs)
        await stack.enter_async_context(server.running(port))
        endpoints = server.endpoints_at(server.authority)
        known = pipeline.platform.served_endpoints
        known.append(endpoints)
        stack.callback(known.remove, endpoints)
        await stack.enter_async_context(posting_webhooks(emulator.webhook_deliveries))
        yield ServerAddress(base_url=endpoints.api, token_url=endpoints.token)


class _Server:
    """One listening socket, for the APIs or for the blobs."""

    def __init__(
        self,
        emulator: "Emulator",
        pipeline: Pipeline,
        host: str,
        *,
        base: str | None = None,
        serves_blobs: bool = False,
        blob_server: "_Server | None" = None,
    ) -> None:
        self._emulator = emulator
        self._pipeline = pipeline
        self._host = host
        self._base = base
        self._serves_blobs = serves_blobs
        self._blob_server = blob_server
        self._initial = pipeline.platform.copied()
        self._allowed_hosts = {host, socket.gethostname(), socket.getfqdn()}
        if base is not None:
            self._allowed_hosts.add(urlsplit(base).hostname or "")
        self.port = 0

    @property
    def authority(self) -> str:
        """Host and port of this server, as in a URL."""
        return authority_of(_UNSPECIFIED.get(self._host, self._host), self.port)

    @asynccontextmanager
    async def running(self, port: int) -> AsyncIterator[None]:
        """Listen on a port while the block is active; 0 means a free one."""
        application = web.Application()
        application.router.add_route("*", "/{path:.*}", self._answer)
        runner = web.AppRunner(application, access_log=None, shutdown_timeout=_SHUTDOWN_SECONDS)
        await runner.setup()
        try:
            await web.TCPSite(runner, self._host, port).start()
            self.port = runner.addresses[0][1]
            yield
        finally:
            await runner.cleanup()

    def endpoints_at(self, authority: str) -> Endpoints:
        """Return the endpoints for links to a client that called this host and port."""
        base = self._base or f"http://{authority}"
        if self._blob_server is None:
            return Endpoints.served_at(base, f"{base}{_BLOBS}")
        blobs = authority_of(host_of(authority), self._blob_server.port)
        return Endpoints.served_at(base, f"http://{blobs}")

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        host = request.headers.get("Host", "")
        if not is_allowed_host(host, self._allowed_hosts):
            return _web_response(
                error(
                    421,
                    "MisdirectedRequest",
                    "This host is not the emulator's. Use its address, or pass the host as "
                    "public_url to serve() or as --public-url.",
                )
            )
        target = request.raw_path
        if "://" in target.partition("?")[0]:  # the form for proxies
            target = "/" + target.partition("://")[2].partition("/")[2]
        path = target.partition("?")[0]
        if not self._serves_blobs and (path == "/" or path.startswith("/emulator/")):
            return await self._answer_control(request, path, host)
        body = await self._read_body(request, path)
        if body is None:
            return _web_response(error(413, "RequestTooLarge", "The body is too large."))
        exchange = self._pipeline.dispatch(
            Request(
                method=request.method,
                url=self._service_url(target),
                headers=request.headers,
                body=body or None,
            ),
            sent=self._pipeline.auditor.next_order(),
            leeway=_LEEWAY,
            endpoints=None if self._serves_blobs else self.endpoints_at(host or self.authority),
        )
        if exchange.delay:
            await asyncio.sleep(exchange.delay)
        if exchange.breaks or request.transport is None:
            self._pipeline.lost(exchange)
        else:
            self._pipeline.delivered(exchange)
        return await _send(request, exchange)

    def _service_url(self, target: str) -> str:
        """Return the URL that the target of a request has in production."""
        if self._serves_blobs:
            return f"{PRODUCTION.blobs}{target}"
        if self._blob_server is None and target.startswith(f"{_BLOBS}/"):
            return f"{PRODUCTION.blobs}{target.removeprefix(_BLOBS)}"
        if target.partition("?")[0] == "/connect/token":
            return PRODUCTION.token
        return f"{PRODUCTION.api}{target}"

    async def _read_body(self, request: web.BaseRequest, path: str) -> bytes | None:
        """Return the body, None if it is too large."""
        is_blob = self._serves_blobs or path.startswith(f"{_BLOBS}/")
        limit = self._emulator.max_put_bytes if is_blob else _MAX_BODY
        if (request.content_length or 0) > limit + 1:
            return None
        body = bytearray()
        async for chunk in request.content.iter_any():
            body += chunk
            if len(body) > limit + 1:  # one more, so that the blob store itself can refuse it
                return None
        return bytes(body)

    async def _answer_control(
        self, request: web.BaseRequest, path: str, host: str
    ) -> web.StreamResponse:
        """Answer for the dashboard and the control. The pipeline never sees these requests."""
        if _is_foreign(request, {f"http://{host}", origin_of(self._base or "")}):
            message = "Pages of other origins must not control the emulator."
            return _private(error(403, "ForeignOrigin", message))
        method = "GET" if request.method == "HEAD" else request.method
        endpoints = self.endpoints_at(host or self.authority)
        match method, path:
            case "GET", "/":
                return _private(_html(page(snapshot(self._pipeline, endpoints))))
            case "GET", "/emulator/dashboard":
                return _private(_html(fragment(snapshot(self._pipeline, endpoints))))
            case "GET", "/emulator/state":
                return _private(json_response(200, snapshot(self._pipeline, endpoints)))
            case "GET", _ if path in control.READS:
                return _private(control.read(self._emulator, path))
            case "POST", "/emulator/reset":
                self._reset()
                return _private(no_content(204))
            case "POST", _ if path in control.WRITES:
                return _private(await self._write_control(request, path))
            case _:
                known = ", ".join(
                    ("/emulator/state", *control.READS, *control.WRITES, "/emulator/reset")
                )
                return _private(error(404, "ResourceNotFound", f"The control has {known}."))

    async def _write_control(self, request: web.BaseRequest, path: str) -> Response:
        if request.content_type != "application/json":  # a form of another origin cannot send it
            message = "Send the body with Content-Type: application/json."
            return error(415, "UnsupportedMediaType", message)
        body = await self._read_body(request, path)
        if body is None:
            return error(413, "RequestTooLarge", "The body is too large.")
        return control.write(self._emulator, path, body)

    def _reset(self) -> None:
        """Reset the emulator to what it held when it was first served."""
        self._emulator.reset()
        self._pipeline.platform.restore(self._initial)


async def _send(request: web.BaseRequest, exchange: Exchange) -> web.StreamResponse:
    """Send the answer, up to where the connection breaks."""
    response = exchange.answer
    if response is None:
        return break_connection(request)
    if exchange.breaks or isinstance(response, LazyResponse):
        return await _send_chunks(request, response, exchange.truncate_at)
    return _web_response(response)


async def _send_chunks(
    request: web.BaseRequest, response: Response, truncate_at: int | None
) -> web.StreamResponse:
    """Send a body in chunks, up to where the connection breaks."""
    length = body_length(response)
    stream = web.StreamResponse(status=response.status, headers=response.headers)
    stream.content_length = length
    with suppress(ConnectionError):  # the client has disconnected
        await stream.prepare(request)
        for chunk in body_chunks(response, truncate_at):
            await stream.write(chunk)
        if truncate_at is not None and truncate_at < length:
            break_connection(request)
        await stream.write_eof()
    return stream


def break_connection(request: web.BaseRequest) -> web.StreamResponse:
    """Abort the connection of a request. The returned response goes nowhere."""
    if request.transport is not None:  # pragma: no branch - the client may disconnect first
        request.transport.abort()
    return web.Response()


def _web_response(response: Response) -> web.Response:
    return web.Response(status=response.status, headers=response.headers, body=response.body)


def _html(text: str) -> Response:
    headers = {"Content-Type": "text/html; charset=utf-8"}
    return Response(status=200, headers=headers, body=text.encode())


def _private(response: Response) -> web.Response:
    """Return a response of the dashboard or the control, which is never cached or framed."""
    headers = {
        **response.headers,
        "Cache-Control": "no-store",
        "Content-Security-Policy": policy(),
        "X-Content-Type-Options": "nosniff",
    }
    return web.Response(status=response.status, headers=headers, body=response.body)


def _is_foreign(request: web.BaseRequest, own_origins: set[str]) -> bool:
    """Whether a page of another origin sent the request."""
    origin = request.headers.get("Origin")
    site = request.headers.get("Sec-Fetch-Site", "none")
    is_navigation = request.headers.get("Sec-Fetch-Mode") == "navigate" and request.method == "GET"
    if origin is not None and origin not in own_origins:
        return True
    return site not in ("none", "same-origin") and not is_navigation
