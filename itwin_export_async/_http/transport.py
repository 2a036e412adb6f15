"""aiohttp, and nothing else of the network.

aiohttp would follow a redirect (and so hide a 303), would wait for a pool slot on the clock of its
total timeout, and would keep cookies; here it may do none of that.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from io import BytesIO

import aiohttp
from yarl import URL

from itwin_export_async._protocol.messages import (
    Request,
    Response,
    StreamedResponse,
    Transport,
    TransportError,
)

__all__ = ["AiohttpTransport", "Transport"]

BODY_LIMIT = 16 * 1024 * 1024
_CONNECT = 15.0  # seconds for one attempt to connect
_BUFFER = 256 * 1024  # bytes of a body that may wait to be read
_LARGE = 64 * 1024  # bytes from which a body goes out in pieces
_FAILURES = (aiohttp.ClientError, OSError, UnicodeError)
_NO_BODY = ("Content-Type",)  # what has no body has no kind of body
_NOT_SENT = (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError, UnicodeError)


class AiohttpTransport:
    """The transport over aiohttp: a connector of its own, or that of your `ClientSession`.

    Of a session of yours its connections, proxies' environment, tracing and headers are used; it is
    neither changed nor closed. Its cookies, `auth` and `Authorization` stay out, because they would
    go to every host, the blob store too. `read_timeout` is the longest silence in seconds while a
    body is streamed; sending is bounded by who asks for it.
    """

    def __init__(
        self, http: aiohttp.ClientSession | None = None, *, read_timeout: float = 30.0
    ) -> None:
        self._lender = http
        self._http: aiohttp.ClientSession | None = None
        self._closed = False
        self._streaming = aiohttp.ClientTimeout(
            total=None, sock_connect=_CONNECT, sock_read=read_timeout
        )
        self._sending = aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT)

    async def send(self, request: Request, /) -> Response:
        """The answer with its whole body, which may have at most 16 MiB."""
        try:
            async with await self._opened(request, self._sending) as answer:
                body = await _whole(answer, request)
                return Response(
                    status=answer.status,
                    headers=answer.headers,
                    body=body,
                    method=request.method,
                    url=request.url,
                )
        except _FAILURES as exc:
            raise _no_answer(request, exc) from None  # its text may hold a signed address

    @asynccontextmanager
    async def stream(self, request: Request, /) -> AsyncIterator[StreamedResponse]:
        """The answer, its body to be read while the block lasts."""
        try:
            answer = await self._opened(request, self._streaming)
        except _FAILURES as exc:
            raise _no_answer(request, exc) from None
        async with answer:  # what the block itself raises is no failure of the network
            head = Response(
                status=answer.status,
                headers=answer.headers,
                method=request.method,
                url=request.url,
            )
            yield StreamedResponse(response=head, chunks=_pieces(answer, request))

    async def _opened(
        self, request: Request, timeout: aiohttp.ClientTimeout
    ) -> aiohttp.ClientResponse:
        if self._closed:
            raise RuntimeError("the client was closed")
        if self._http is None:
            self._http = _client_session(self._lender)
        body = request.body
        return await self._http.request(
            request.method,
            URL(request.url, encoded=True),  # signed addresses break when they are rewritten
            allow_redirects=False,
            raise_for_status=False,
            timeout=timeout,
            middlewares=(),
            headers=request.headers,
            skip_auto_headers=_NO_BODY if body is None and request.method != "GET" else None,
            data=BytesIO(body) if body is not None and len(body) > _LARGE else body,
        )

    async def close(self) -> None:
        """Close what is our own. Nothing is sent after that."""
        self._closed = True
        if self._http is not None:
            await self._http.close()


def check_client_session(http: aiohttp.ClientSession) -> None:
    """Raise an error that says why a client session cannot be used, if so."""
    if not isinstance(http, aiohttp.ClientSession):
        raise TypeError(f"http must be an aiohttp.ClientSession, not {type(http).__name__}")
    if hasattr(http, "cache"):
        raise ValueError("http caches answers: a run would never be seen to change")
    if http.closed:
        raise ValueError("http is closed")


def _client_session(lender: aiohttp.ClientSession | None) -> aiohttp.ClientSession:
    if lender is None:
        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0),  # the session counts, not the pool
            cookie_jar=aiohttp.DummyCookieJar(),
            read_bufsize=_BUFFER,
        )
    headers = lender.headers.copy()
    for name in ("Authorization", "Cookie"):
        headers.popall(name, None)
    return aiohttp.ClientSession(
        connector=lender.connector,
        connector_owner=False,
        cookie_jar=aiohttp.DummyCookieJar(),
        read_bufsize=_BUFFER,
        headers=headers,
        trace_configs=lender.trace_configs,
        trust_env=lender.trust_env,
    )


async def _whole(answer: aiohttp.ClientResponse, request: Request) -> bytes:
    pieces: list[bytes] = []
    length = 0
    while piece := await answer.content.readany():
        length += len(piece)
        if length > BODY_LIMIT:
            answer.close()
            raise TransportError(
                message="the answer has more than 16 MiB",
                method=request.method,
                url=request.url,
            )
        pieces.append(piece)
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


async def _pieces(answer: aiohttp.ClientResponse, request: Request) -> AsyncIterator[bytes]:
    try:
        while piece := await answer.content.readany():
            yield piece
    except _FAILURES as exc:
        raise _no_answer(request, exc) from None


def _no_answer(request: Request, exc: Exception) -> TransportError:
    silent = isinstance(exc, asyncio.TimeoutError)
    return TransportError(
        message="the server fell silent" if silent else _reason(exc),
        method=request.method,
        url=request.url,
        may_have_been_processed=not isinstance(exc, _NOT_SENT),
    )


def _reason(exc: Exception) -> str:
    """What aiohttp says went wrong, without an address that may hold a signature."""
    match exc:
        case aiohttp.ClientConnectorError():
            return f"cannot connect to {exc.host}:{exc.port} ({exc.os_error.strerror or 'refused'})"
        case aiohttp.ServerDisconnectedError():
            return "the server closed the connection"
        case aiohttp.ClientPayloadError():
            return "the answer broke off"
        case OSError():
            return exc.strerror or type(exc).__name__
        case UnicodeError():
            return "its host is no name that can be looked up"
        case _:
            return type(exc).__name__
