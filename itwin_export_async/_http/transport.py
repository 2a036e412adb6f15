"""The transport over aiohttp: the only module that uses the network.

aiohttp would follow redirects (and so hide a 303), keep cookies, read passwords from `.netrc`, send
a borrowed session's headers to every host, and count a wait for its pool in its total timeout. Here
it does none of that.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from io import BytesIO
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import aiohttp
from yarl import URL  # aiohttp takes an encoded URL only as one of these, and re-exports it nowhere

from itwin_export_async._errors import ProtocolError
from itwin_export_async._protocol.headers import CORRELATION_ID
from itwin_export_async._protocol.messages import (
    Request,
    Response,
    StreamedResponse,
    Transport,
    TransportError,
)
from itwin_export_async._redaction import redacted, without_query

__all__ = ["AiohttpTransport", "Transport"]

BODY_LIMIT = 16 * 1024 * 1024
CONNECT_TIMEOUT = 15.0  # seconds for one attempt to connect
KEEPALIVE_TIMEOUT = 15.0  # seconds after which an idle connection is closed
MAX_CONNECTIONS = 256  # more than a session uses at once, so that no request waits for one
MIN_DOWNLOAD_SPEED = 1024  # bytes per second of waiting; a slower body is given up
READ_BUFFER = 256 * 1024  # bytes of a body that may wait to be read
CHUNKED_BODY_FROM = 64 * 1024  # bytes; longer bodies are sent in pieces
SKIP_WITHOUT_BODY = ("Content-Type",)
OWN_HEADERS = frozenset(  # of which a borrowed session has no say
    {
        "accept", "accept-encoding", "authorization", "connection", "content-length",
        "content-type", "cookie", "host", "proxy-authorization", "transfer-encoding",
        "user-agent", "x-correlation-id",
    }
)  # fmt: skip

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
        self._read_timeout = read_timeout
        if http is None or (http.trust_env and _proxy_of(http) is None):
            self._proxy, self._honours_no_proxy = _environment_proxy(), True
        else:
            self._proxy, self._honours_no_proxy = _proxy_of(http), False
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
            self._http = _client_session(self._borrowed)
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
            proxy=None if self._proxy is None else self._proxy_for(request.url),
        )

    def _proxy_for(self, url: str) -> URL | None:
        """The proxy for a request. Plain http is for loopback, and never goes through one."""
        if not url.lower().startswith("https:"):
            return None
        if self._honours_no_proxy and proxy_bypass(urlsplit(url).netloc):
            return None
        return self._proxy

    async def _iter_body(
        self, response: aiohttp.ClientResponse, request: Request
    ) -> AsyncIterator[bytes]:
        """The body in chunks, unless it comes more slowly than `MIN_DOWNLOAD_SPEED`.

        Only the time in which the connection is waited for counts, not the caller's own.
        """
        now = asyncio.get_running_loop().time
        waited, received = 0.0, 0
        error: TransportError
        try:
            while True:
                began_at = now()
                chunk = await response.content.readany()
                waited += now() - began_at
                if not chunk:
                    return
                received += len(chunk)
                if waited > self._read_timeout:
                    if received < MIN_DOWNLOAD_SPEED * waited:
                        raise TimeoutError
                    waited, received = 0.0, 0
                yield chunk
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
                return f"the proxy {self._proxy_name} refused to connect: {reason}"
            case aiohttp.ClientConnectorCertificateError():  # has no `os_error` before 3.13.4
                reason = getattr(exc.certificate_error, "verify_message", "") or "not trusted"
                return f"the certificate of {exc.host}:{exc.port} is not valid: {reason}"
            case aiohttp.ClientProxyConnectionError():
                return f"cannot connect to the proxy {self._proxy_name} ({_strerror(exc)})"
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

    @property
    def _proxy_name(self) -> str:
        return without_query(str(self._proxy))

    async def close(self) -> None:
        """Close the transport's own connections. Nothing is sent after that."""
        self._closed = True
        if self._http is not None:
            await self._http.close()


def check_client_session(http: aiohttp.ClientSession) -> None:
    """Raise an error that names what of a borrowed session cannot be used."""
    if not isinstance(http, aiohttp.ClientSession):
        raise TypeError(f"http must be an aiohttp.ClientSession, not {type(http).__name__}")
    if hasattr(http, "cache"):
        raise ValueError("http caches responses, so that a run would never be seen to change")
    if http.closed:
        raise ValueError("http is closed")
    # aiohttp has no public access to these three
    if getattr(http, "_middlewares", ()):
        raise ValueError("http has middlewares, which cannot be used: pass a session without them")
    if getattr(http, "_request_class", aiohttp.ClientRequest) is not aiohttp.ClientRequest:
        raise ValueError(
            "http has a request_class, which cannot be used: pass a session without it"
        )
    if getattr(http, "_response_class", aiohttp.ClientResponse) is not aiohttp.ClientResponse:
        raise ValueError(
            "http has a response_class, which cannot be used: pass a session without it"
        )
    _proxy_of(http)


def borrowed_headers(http: aiohttp.ClientSession | None) -> dict[str, str]:
    """The default headers of a borrowed session that go to the API, and to no other host."""
    if http is None:
        return {}
    return {name: value for name, value in http.headers.items() if name.lower() not in OWN_HEADERS}


def _client_session(borrowed: aiohttp.ClientSession | None) -> aiohttp.ClientSession:
    if borrowed is None:
        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                limit=MAX_CONNECTIONS, keepalive_timeout=KEEPALIVE_TIMEOUT
            ),
            cookie_jar=aiohttp.DummyCookieJar(),
            read_bufsize=READ_BUFFER,
        )
    return aiohttp.ClientSession(
        connector=borrowed.connector,
        connector_owner=False,
        cookie_jar=aiohttp.DummyCookieJar(),
        read_bufsize=READ_BUFFER,
        trace_configs=borrowed.trace_configs,
        version=aiohttp.HttpVersion(*borrowed.version),
    )


def _proxy_of(http: aiohttp.ClientSession) -> URL | None:
    """The default proxy of a borrowed session, with its user and password."""
    proxy = getattr(http, "_default_proxy", None)  # aiohttp has no public access to it
    if proxy is None:
        return None
    auth = getattr(http, "_default_proxy_auth", None)
    url = _proxy_url("the proxy of http", str(proxy))
    return url if auth is None else url.with_user(auth.login).with_password(auth.password)


def _environment_proxy() -> URL | None:
    """The proxy for https of the environment, such as `HTTPS_PROXY`; None without one."""
    proxy = getproxies().get("https")
    if not proxy:
        return None
    return _proxy_url("HTTPS_PROXY", proxy if "://" in proxy else f"http://{proxy}")


def _proxy_url(name: str, value: str) -> URL:
    try:
        url = URL(value)
    except ValueError:
        url = URL()
    if url.scheme not in ("http", "https") or not url.host:
        raise ValueError(f"{name} must be an http or https URL, not {without_query(value)!r}")
    return url


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
