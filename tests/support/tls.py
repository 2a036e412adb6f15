"""HTTPS servers with certificates of a test authority, and CONNECT proxies, on loopback."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta

import trustme
from aiohttp import web
from attrs import define, field

from tests.support.servers import Handler


@define
class Authority:
    """A certificate authority; `client_context` trusts it."""

    ca: trustme.CA = field(factory=trustme.CA)

    def client_context(self) -> ssl.SSLContext:
        context = ssl.create_default_context()
        self.ca.configure_trust(context)
        return context

    def server_context(self, name: str, *, expired: bool = False) -> ssl.SSLContext:
        ends = datetime.now(UTC) - timedelta(days=1)
        begins = ends - timedelta(days=30)
        certificate = (
            self.ca.issue_cert(name, not_before=begins, not_after=ends)
            if expired
            else self.ca.issue_cert(name)
        )
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        certificate.configure_cert(context)
        return context


@asynccontextmanager
async def https_server(handler: Handler, context: ssl.SSLContext) -> AsyncIterator[str]:
    """The URL of an HTTPS server, as `https://localhost:PORT`."""
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handler)
    runner = web.AppRunner(app, shutdown_timeout=0)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context).start()
    try:
        yield f"https://localhost:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


@define
class Proxy:
    """A CONNECT proxy: `url`, and the heads of the requests that it got."""

    url: str = ""
    heads: list[str] = field(factory=list)

    @property
    def targets(self) -> list[str]:
        return [head.splitlines()[0] for head in self.heads]


@asynccontextmanager
async def connect_proxy(refusal: str | None = None) -> AsyncIterator[Proxy]:
    """A proxy that connects to any host, or refuses with this status line."""
    proxy, tunnels = Proxy(), set[asyncio.Task[None]]()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        proxy.heads.append((await reader.readuntil(b"\r\n\r\n")).decode())
        if refusal is not None:
            writer.write(f"HTTP/1.1 {refusal}\r\nContent-Length: 0\r\n\r\n".encode())
            writer.close()
            return
        host, _, port = proxy.heads[-1].split()[1].rpartition(":")
        upstream, downstream = await asyncio.open_connection(host, int(port))
        writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        for source, target in ((reader, downstream), (upstream, writer)):
            tunnels.add(asyncio.create_task(_pipe(source, target)))

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        proxy.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        yield proxy
        server.close()
        if tunnels:
            await asyncio.wait(tunnels, timeout=5)


async def _pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(ConnectionError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    writer.close()
    with suppress(ConnectionError):
        await writer.wait_closed()
