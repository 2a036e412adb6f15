"""The session: one service, one identity, one rate limit.

It adds headers and returns responses; `sender` carries the requests. What a response means is for
the protocol modules to say.
"""

import asyncio
import logging
import platform
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Self
from uuid import uuid4
from weakref import WeakValueDictionary

import aiohttp
from attrs import evolve

from itwin_export_async import __version__
from itwin_export_async._errors import ProtocolError
from itwin_export_async._http.client_session import borrowed_headers, check_client_session
from itwin_export_async._http.credentials import Auth, normalize_auth
from itwin_export_async._http.limiter import RateLimitLike, SharedRateLimit
from itwin_export_async._http.rate_limit import RateLimit, RequestStats, SlidingWindows
from itwin_export_async._http.retry import RetryPolicy
from itwin_export_async._http.sender import NOT_OPEN, BeforeSend, Call, RequestSender
from itwin_export_async._http.transport import AiohttpTransport, Transport
from itwin_export_async._protocol.error_responses import without_secrets
from itwin_export_async._protocol.headers import (
    ACCEPT,
    CORRELATION_ID,
    DATE,
    USER_AGENT,
    service_time,
)
from itwin_export_async._protocol.messages import Request, Response, StreamedResponse
from itwin_export_async._protocol.urls import (
    is_loopback,
    is_secure_url,
    origin,
    validate_base_url,
)
from itwin_export_async._redaction import signatures, without_query

log = logging.getLogger("itwin_export_async.http")

BASE_URL = "https://api.bentley.com"
MEDIA_TYPE = "application/vnd.bentley.itwin-platform.v1+json"
_USER_AGENT = (
    f"itwin-export-async/{__version__} "
    f"Python/{platform.python_version()} aiohttp/{aiohttp.__version__}"
)
MAX_REMEMBERED = 10_000  # connections
CLOCK_MAX_AGE = 600.0  # seconds for which the service's clock is known after a response


class Session:
    """Authorized requests to the iTwin Platform. Open it with `async with`, or `open`.

    `auth`: a token, an object with `async get_token()`, or a callable that returns either.
    `base_url`: the API's URL. `rate_limit`: calls that the subscription allows; requests wait
    rather than exceed it. A `RedisRateLimit` shares the limit between processes. `retry`: when
    requests are retried. `request_timeout`: seconds for one sending and its response. `http`: your
    own `aiohttp.ClientSession`, which stays open. `transport`: sends the requests instead of
    aiohttp.
    """

    def __init__(
        self,
        auth: Auth,
        *,
        base_url: str = BASE_URL,
        rate_limit: RateLimitLike = RateLimit.STANDARD,
        retry: RetryPolicy | None = None,
        request_timeout: float = 30.0,
        http: aiohttp.ClientSession | None = None,
        transport: Transport | None = None,
    ) -> None:
        auth = normalize_auth(auth)  # first: frames with locals must not show a plain token
        if http is not None and transport is not None:
            raise ValueError("http and transport exclude each other")
        if http is not None:
            check_client_session(http)
        if not request_timeout > 0:
            raise ValueError(f"request_timeout must be more than 0 seconds, not {request_timeout}")
        if not isinstance(rate_limit, RateLimit | SharedRateLimit):
            raise TypeError(f"rate_limit must be a RateLimit, not {type(rate_limit).__name__}")
        self.base_url = validate_base_url("base_url", base_url)
        self.retry = RetryPolicy() if retry is None else retry
        self.rate_limit = rate_limit
        self.locks: WeakValueDictionary[object, asyncio.Lock] = WeakValueDictionary()
        self._imodel_ids: dict[str, str] = {}  # by connection, for log records
        self._new_connections: dict[str, None] = {}
        self._origin = origin(self.base_url)
        self._allows_plain_http = is_loopback(self.base_url)
        self._auth = auth
        self._timeout = request_timeout
        self._given_transport = transport
        self._http = http
        self._headers = borrowed_headers(http) | {ACCEPT: MEDIA_TYPE, USER_AGENT: _USER_AGENT}
        self._correlation_prefix = str(uuid4())[:-12]
        self._call_numbers = count(1)
        self._sender: RequestSender | None = None  # of the latest opening

    def __repr__(self) -> str:
        sender = getattr(self, "_sender", None)  # a traceback may show a session half-built
        state = "open" if sender is not None and sender.is_open else "closed"
        return f"<Session of {getattr(self, 'base_url', None)}, {state}>"

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def open(self) -> None:
        """Open the session in the running event loop. One that could not be opened stays closed."""
        if self.is_open:
            raise RuntimeError("the session is open already")
        transport = self._given_transport
        if transport is None:
            transport = AiohttpTransport(self._http, read_timeout=self._timeout)
        self._sender = RequestSender(
            transport,
            self._auth,
            rate_limit=self.rate_limit,
            retry=self.retry,
            timeout=self._timeout,
        )
        log.info("client opened: version %s, %s, %s", __version__, self.base_url, self.rate_limit)

    async def aclose(self) -> None:
        """Close the session, in the event loop that opened it. Does nothing if it is closed."""
        sender = self._open_sender
        if sender is None:
            return
        sender.check_open()
        try:
            await sender.close()
        finally:
            if self._given_transport is None:
                await sender.transport.close()

    @property
    def is_open(self) -> bool:
        """Whether the session is open."""
        return self._open_sender is not None

    def check_open(self) -> None:
        """Raise a `RuntimeError` unless the session is open, in the running event loop."""
        self._opened().check_open()

    @property
    def _open_sender(self) -> RequestSender | None:
        sender = self._sender
        return sender if sender is not None and sender.is_open else None

    def _opened(self) -> RequestSender:
        """The sender of the latest opening. Once it is closed, it sends nothing."""
        if self._sender is None:
            raise RuntimeError(NOT_OPEN)
        return self._sender

    @property
    def call_rate(self) -> float:
        """Calls per second that the rate limit allows; infinite without one."""
        sender = self._open_sender
        if sender is None:
            return self._unused_quota.sustainable_rate(0.0)
        return sender.limiter.sustainable_rate

    @property
    def remaining_calls(self) -> int | None:
        """Calls that the rate limit allows now; None without a limit."""
        sender = self._open_sender
        return self._unused_quota.remaining(0.0) if sender is None else sender.limiter.remaining

    @property
    def _unused_quota(self) -> SlidingWindows:
        limit = self.rate_limit
        return SlidingWindows(limit if isinstance(limit, RateLimit) else RateLimit())

    @property
    def stats(self) -> RequestStats:
        """What was sent to the API since the session was opened."""
        return RequestStats() if self._sender is None else self._sender.stats

    @property
    def last_response_at(self) -> datetime | None:
        """When the API last responded, by this machine's clock; None if it has not yet."""
        sender = self._open_sender
        return None if sender is None else _to_datetime(sender, sender.last_response_at)

    @property
    def outage_since(self) -> datetime | None:
        """Since when all requests to the API have failed; None if the last one did not."""
        sender = self._open_sender
        return None if sender is None else _to_datetime(sender, sender.failing_since)

    @property
    def token_expires_at(self) -> datetime | None:
        """When the present access token expires; None if that is not known."""
        return None if self._sender is None else self._sender.tokens.expires_at

    def warn_if_token_ends(self, seconds: float) -> None:
        """Log a warning if the token is fixed and expires within so many seconds."""
        self._opened().tokens.warn_if_it_ends(seconds)

    def service_time(self) -> datetime | None:
        """The service's clock, from the `Date` of the API's latest response.

        It may be slow by the age of a response, and is never fast. None if no response within the
        last 10 minutes had a readable `Date`: then any request to the API makes it known.
        """
        sender = self._open_sender
        if sender is None or sender.service_date is None:
            return None
        date, received_at = sender.service_date
        age = sender.time() - received_at
        time = service_time({DATE: date})
        return None if time is None or age > CLOCK_MAX_AGE else time + timedelta(seconds=age)

    def count_run(self, service: str, outcome: str, seconds: float | None) -> None:
        """Count a finished run for OpenTelemetry. `seconds`: its duration, None if not known."""
        if self._sender is not None and self._sender.metrics is not None:
            self._sender.metrics.record_run(service, outcome, seconds)

    def count_download(self, size: int) -> None:
        """Count bytes that were read of a file for OpenTelemetry."""
        if self._sender is not None and self._sender.metrics is not None:
            self._sender.metrics.record_download(size)

    def remember_imodel(self, connection_id: str, imodel_id: str | None) -> None:
        """Remember the iModel of a connection, so that log records can name it."""
        if imodel_id is not None:
            self._imodel_ids[connection_id] = imodel_id
            if len(self._imodel_ids) > MAX_REMEMBERED:
                del self._imodel_ids[next(iter(self._imodel_ids))]

    def imodel_of(self, connection_id: str) -> str | None:
        """The iModel of a connection, None if it is not known here."""
        return self._imodel_ids.get(connection_id)

    def remember_new_connection(self, connection_id: str) -> None:
        """Remember that this session has just created the connection: it has no earlier runs."""
        self._new_connections[connection_id] = None
        if len(self._new_connections) > MAX_REMEMBERED:
            del self._new_connections[next(iter(self._new_connections))]

    def claim_new_connection(self, connection_id: str) -> bool:
        """Whether this session has created the connection; True only once."""
        if connection_id not in self._new_connections:
            return False
        del self._new_connections[connection_id]
        return True

    async def send(
        self,
        request: Request,
        *,
        retry: RetryPolicy | None = None,
        is_poll: bool = False,
        before_send: BeforeSend | None = None,
    ) -> Response:
        """Send a request to the API and return its response, an error response too.

        `retry` replaces the session's policy. `is_poll`: other requests go first when calls are
        scarce. `before_send` is awaited before each sending, with whether an earlier one may have
        been processed; what it raises ends the call.

        Raises `TransportError` without a response, `TokenError` without a token, `ProtocolError` if
        the token would go to another origin or the response is too large. An error says whether any
        sending `may_have_been_processed`; a response says it by `uncertain_for`.
        """
        call = Call(
            request=request,
            url=self._resolve(request),
            headers={**self._headers, CORRELATION_ID: self._correlation_id(), **request.headers},
            policy=retry or self.retry,
            is_limited=True,
            is_poll=is_poll,
            before_send=before_send,
        )
        sender = self._opened()
        return await sender.send_with_retry(call, sender.send_authorized)

    async def send_blob(self, request: Request) -> Response:
        """Send a request to a blob store and return its response. Its URL is signed: no token."""
        self._check_blob(request)
        sender = self._opened()
        call = sender.plain_call(request)
        response = await sender.send_with_retry(call, sender.send_to_blob_store)
        return without_secrets(response, signatures(request.url))

    @asynccontextmanager
    async def stream_blob(self, request: Request) -> AsyncIterator[StreamedResponse]:
        """Read the response of a blob store in chunks while the block lasts. Not retried."""
        self._check_blob(request)
        sender = self._opened()
        async with sender.blob_slots, sender.transport.stream(request) as stream:
            head = without_secrets(stream.response.for_request(request), signatures(request.url))
            yield evolve(stream, response=head)

    def _check_blob(self, request: Request) -> None:
        self.check_open()
        if not is_secure_url(request.url, allow_loopback=self._allows_plain_http):
            raise ProtocolError(
                message="a signed URL must be https",
                method=request.method,
                url=request.url,
                may_have_been_processed=False,
            )

    def _correlation_id(self) -> str:
        """A UUID: its first four groups are the session's, the last one counts the calls."""
        return f"{self._correlation_prefix}{next(self._call_numbers):012x}"

    def _resolve(self, request: Request) -> str:
        """The absolute URL of a request, which has to be on the origin of the base URL."""
        url = request.url
        if url.startswith("/"):
            return self.base_url + url
        if origin(url) != self._origin:
            raise ProtocolError(
                message=f"{without_query(url)} is not on {self.base_url}, so it gets no token",
                method=request.method,
                url=url,
                may_have_been_processed=False,
            )
        return url


def _to_datetime(sender: RequestSender, loop_time: float | None) -> datetime | None:
    if loop_time is None:
        return None
    return datetime.now(UTC) - timedelta(seconds=sender.time() - loop_time)
