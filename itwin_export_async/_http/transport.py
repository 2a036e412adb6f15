"""The transport over aiohttp: the only module that uses the network.

aiohttp would follow redirects (and so hide a 303), keep cookies, read passwords from `.netrc`, send
a borrowed session's headers to every host, and count a wait for its pool in its total timeout. Here
it does none of that.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from io import BytesIO

import aiohttp
from yarl import URL  # aiohttp takes an encoded URL only as one of these, and re-exports it nowhere

from itwin_export_async._errors import ProtocolError
from itwin_export_async._http.client_session import client_session
from itwin_export_async._http.proxy import Proxy
from itwin_export_async._protocol.headers import CORRELATION_ID
from itwin_export_async._protocol.messages import (
    Request,
    Response,
    StreamedResponse,
    Transport,
    TransportError,
)
from itwin_export_async._redaction import redacted

__all__ = ["AiohttpTransport", "Transport"]

BODY_LIMIT = 16 * 1024 * 1024
CONNECT_TIMEOUT = 15.0  # seconds for one attempt to connect
CHUNKED_BODY_FROM = 64 * 1024  # bytes; longer bodies are sent in pieces
SKIP_WITHOUT_BODY = ("Content-Type",)

_FAILURES = (aiohttp.ClientError, OSError, UnicodeError)
_NOT_SENT = (
    aiohttp.ClientConnectorError,
    aiohttp.ClientHttpProxyError,
    aiohttp.ConnectionTimeoutError,
    UnicodeError,
)


class AiohttpTransport:
    """The transport over aiohttp, with its own connections or those of a borrowed `ClientSession`.

    A borrowed session lends its connector, tracing, HTTP version and proxy; it is neither changed
    nor closed. Without one, the proxies of the environment are used. Cookies, `auth`, `.netrc` and
    default headers are not: they would go to every host. `read_timeout`: the longest silence in
    seconds while a body is streamed; the caller limits the time of `send`.
    """

    def __init__(
        self, http: aiohttp.ClientSession | None = None, *, read_timeout: float = 30.0
    ) -> None:
        self._borrowed = http
        self._http: aiohttp.ClientSession | None = None
        self._closed = False
        self._proxy = Proxy.of(http)
        self._send_timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_TIMEOUT)
        self._stream_timeout = aiohttp.ClientTimeout(
            total=None, sock_connect=CONNECT_TIMEOUT, sock_read=read_timeout
        )

    async def send(self, request: Request, /) -> Response:
        """Send a request and return the response with its whole body, at most 16 MiB."""
        try:
            async with self._request(request, self._send_timeout) as response:
                chunks = _Chunks([await response.content.readany()])
                if not response.content.at_eof() or len(chunks[0]) > BODY_LIMIT:
                    await _read_rest(chunks, response, request)
                return Response(
                    status=response.status,
                    headers=response.headers,
                    body=chunks[0] if len(chunks) == 1 else b"".join(chunks),
                    method=request.method,
                    url=request.url,
                    correlation_id=request.headers.get(CORRELATION_ID),
                )
        except _FAILURES as exc:
            error = self._transport_error(request, exc)
        raise error  # not within `except`: aiohttp's error holds the request, its token included

    @asynccontextmanager
    async def stream(self, request: Request, /) -> AsyncIterator[StreamedResponse]:
        """Send a request; the body is read while the block lasts."""
        error: TransportError | None = None
        async with AsyncExitStack() as stack:
            try:
                response = await stack.enter_async_context(
                    self._request(request, self._stream_timeout)
                )
            except _FAILURES as exc:  # what the block raises is no failure of the network
                error = self._transport_error(request, exc)
            if error is not None:
                raise error
            head = Response(
                status=response.status,
                headers=response.headers,
                method=request.method,
                url=request.url,
            )
            yield StreamedResponse(response=head, chunks=self._iter_body(response, request))

    def _request(
        self, request: Request, timeout: aiohttp.ClientTimeout
    ) -> AbstractAsyncContextManager[aiohttp.ClientResponse]:
        if self._closed:
            raise RuntimeError("the client was closed")
        if self._borrowed is not None and self._borrowed.closed:
            raise RuntimeError("the aiohttp.ClientSession that was passed as http is closed")
        if self._http is None:
            self._http = client_session(self._borrowed)
        return self._http.request(
            request.method,
            URL(request.url, encoded=True),  # quoting would break the signature of a signed URL
            allow_redirects=False,
            timeout=timeout,
            headers=request.headers,
            skip_auto_headers=(
                SKIP_WITHOUT_BODY if request.body is None and request.method != "GET" else None
            ),
            data=None if request.body is None else _body_of(request.body),
            proxy=None if self._proxy.url is None else self._proxy.for_url(request.url),
        )

    async def _iter_body(
        self, response: aiohttp.ClientResponse, request: Request
    ) -> AsyncIterator[bytes]:
        """The body in chunks. The reader judges their speed."""
        error: TransportError
        try:
            while chunk := await response.content.readany():
                yield chunk
            return
        except _FAILURES as exc:
            error = self._transport_error(request, exc)
        raise error

    def _transport_error(self, request: Request, exc: Exception) -> TransportError:
        return TransportError(
            message=self._describe(exc),
            method=request.method,
            url=request.url,
            may_have_been_processed=not isinstance(exc, _NOT_SENT),
        )

    def _describe(self, exc: Exception) -> str:
        """The failure in a few words, without a URL that may hold a signature."""
        match exc:
            case aiohttp.ClientHttpProxyError():
                reason = redacted(f"{exc.status} {exc.message}"[:100])
                return f"the proxy {self._proxy.name} refused to connect: {reason}"
            case aiohttp.ClientConnectorCertificateError():  # has no `os_error` before 3.13.4
                reason = getattr(exc.certificate_error, "verify_message", "") or "not trusted"
                return f"the certificate of {exc.host}:{exc.port} is not valid: {reason}"
            case aiohttp.ClientProxyConnectionError():
                return f"cannot connect to the proxy {self._proxy.name} ({_strerror(exc)})"
            case aiohttp.ClientConnectorError():
                return f"cannot connect to {exc.host}:{exc.port} ({_strerror(exc)})"
            case aiohttp.ConnectionTimeoutError():
                return f"no connection within {CONNECT_TIMEOUT:g} s"
            case asyncio.TimeoutError():
                return "read timed out"
            case aiohttp.ServerDisconnectedError():
                return "the server closed the connection"
            case aiohttp.ClientPayloadError():
                return "the response is incomplete: the connection broke"
            case OSError():
                return exc.strerror or type(exc).__name__
            case UnicodeError():
                return "invalid host name"
            case _:
                return type(exc).__name__

    async def close(self) -> None:
        """Close the transport's own connections. Nothing is sent after that."""
        self._closed = True
        if self._http is not None:
            await self._http.close()


def _body_of(body: bytes) -> bytes | BytesIO:
    return BytesIO(body) if len(body) > CHUNKED_BODY_FROM else body


class _Chunks(list[bytes]):
    """Parts of a body, which may hold a token: no traceback shows them."""

    def __repr__(self) -> str:
        return f"<{len(self)} chunks>"


async def _read_rest(chunks: _Chunks, response: aiohttp.ClientResponse, request: Request) -> None:
    """Read what follows the first chunk of a body."""
    length = len(chunks[0])
    while length <= BODY_LIMIT:
        if response.content.at_eof():
            return
        chunks.append(await response.content.readany())
        length += len(chunks[-1])
    response.close()
    raise ProtocolError(
        message="the response has more than 16 MiB",
        method=request.method,
        url=request.url,
    )


def _strerror(exc: aiohttp.ClientConnectorError) -> str:
    return exc.os_error.strerror or "refused"
