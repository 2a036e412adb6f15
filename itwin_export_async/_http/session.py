"""The session: one service, one identity, one rate limit.

It adds headers and token, retries what may be retried, and returns responses. What a response means
is for the protocol modules to say.
"""

import asyncio
import logging
import platform
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime, timedelta
from itertools import count
from math import ceil
from typing import Any, Self, TypeAlias
from uuid import uuid4
from weakref import WeakValueDictionary

import aiohttp
from attrs import define, evolve

from itwin_export_async import __version__
from itwin_export_async._errors import (
    ExportError,
    ProtocolError,
    RequestTimeout,
    TransportError,
)
from itwin_export_async._http.credentials import Auth, normalize_auth
from itwin_export_async._http.limiter import (
    RateLimitLike,
    RequestLimiter,
    SharedRateLimit,
    create_limiter,
)
from itwin_export_async._http.rate_limit import RateLimit, RequestStats, SlidingWindows
from itwin_export_async._http.retry import (
    Outcome,
    RetryBudget,
    RetryPolicy,
    describe,
    is_429,
    is_failure,
    may_have_been_processed,
    requested_delay,
    unwrap,
    with_date,
)
from itwin_export_async._http.shared_timeout import SharedTimeout
from itwin_export_async._http.telemetry import SessionMetrics, add_event, session_metrics
from itwin_export_async._http.token_cache import TokenCache
from itwin_export_async._http.transport import (
    AiohttpTransport,
    Transport,
    borrowed_headers,
    check_client_session,
)
from itwin_export_async._protocol.error_responses import without_secrets
from itwin_export_async._protocol.headers import (
    ACCEPT,
    AUTHORIZATION,
    CORRELATION_ID,
    DATE,
    REQUEST_IDS,
    RETRY_AFTER,
    USER_AGENT,
    service_time,
)
from itwin_export_async._protocol.messages import Request, Response, StreamedResponse
from itwin_export_async._protocol.oauth import AccessToken
from itwin_export_async._protocol.urls import (
    is_loopback,
    is_secure_url,
    operation_name,
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
MAX_CONCURRENT_REQUESTS = 50  # handling more responses at once would block the event loop
MIN_UPLOAD_SPEED = 32 * 1024  # bytes per second that a request's body may take of the timeout
MAX_REMEMBERED_IMODELS = 10_000
CLOCK_MAX_AGE = 600.0  # seconds for which the service's clock is known after a response

BeforeSend: TypeAlias = Callable[[bool], Awaitable[None]]
"""Awaited before each sending of a request, when nothing but the sending is left to do.

The argument says whether an earlier sending of the request may have been processed.
"""


@define(eq=False, kw_only=True)
class _Call:
    """One request of a caller, its absolute URL and its headers, and how far it has come."""

    request: Request
    url: str
    headers: Mapping[str, str]
    policy: RetryPolicy
    is_limited: bool = False  # passes the limiter, which waits out the pause after a 429
    is_poll: bool = False
    before_send: BeforeSend | None = None
    attempt: int = 0
    sent_at: float = 0.0  # in the loop's time: when the latest sending began
    uncertain_since: float | None = None  # when the first began that may have been processed

    @property
    def operation(self) -> str:
        return operation_name(self.request.method, self.url)

    @property
    def log_fields(self) -> dict[str, Any]:
        return {"itwin": {"operation": self.operation, "attempt": self.attempt}}


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
        self._origin = origin(self.base_url)
        self._allows_plain_http = is_loopback(self.base_url)
        self._auth = auth
        self._timeout = request_timeout
        self._own_transport = transport is None
        self._given_transport = transport
        self._http = http
        self._headers = borrowed_headers(http) | {ACCEPT: MEDIA_TYPE, USER_AGENT: _USER_AGENT}
        self._correlation_prefix = str(uuid4())[:-12]
        self._call_numbers = count(1)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._transport: Transport
        self._tokens: TokenCache | None = None
        self._limiter: RequestLimiter | None = None
        self.metrics: SessionMetrics | None = None
        self._reset()

    def _reset(self) -> None:
        self._budget = RetryBudget()
        self._budget_was_empty = False
        self._last_429 = Response(status=429)
        self._consecutive_429s = 0
        self._calls = self._polls = self._retries = 0
        self._service_date: tuple[str, float] | None = None  # and the loop's time of its response
        self._last_response_at: float | None = None
        self._failing_since: float | None = None

    def __repr__(self) -> str:
        is_open = getattr(self, "_loop", None) is not None  # a traceback may show it half-built
        return f"<Session of {getattr(self, 'base_url', None)}, {'open' if is_open else 'closed'}>"

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def open(self) -> None:
        """Open the session in the running event loop. One that could not be opened stays closed."""
        if self._loop is not None:
            raise RuntimeError("the session is open already")
        self._reset()
        self._transport = self._given_transport or AiohttpTransport(
            self._http, read_timeout=self._timeout
        )
        self._blob_slots = asyncio.Semaphore(MAX_CONCURRENT_REQUESTS)  # slow blobs delay no poll
        self._limiter = create_limiter(self.rate_limit, MAX_CONCURRENT_REQUESTS)
        self._timeouts = SharedTimeout()
        self.metrics = session_metrics()
        self._tokens = TokenCache(self._auth, self._send_token_request, self.retry, self._timeout)
        self._loop = asyncio.get_running_loop()
        self._time = self._loop.time
        log.info("client opened: version %s, %s, %s", __version__, self.base_url, self.rate_limit)

    async def aclose(self) -> None:
        """Close the session, in the event loop that opened it. Does nothing if it is closed."""
        if self._loop is None:
            return
        self.check_open()
        limiter, self._limiter, self._loop = self._limiter, None, None
        async with AsyncExitStack() as stack:
            if self._own_transport:
                stack.push_async_callback(self._transport.close)
            assert limiter is not None
            stack.push_async_callback(limiter.close)
            stack.callback(self._timeouts.close)
            await self._opened_tokens.close()

    @property
    def call_rate(self) -> float:
        """Calls per second that the rate limit allows; infinite without one."""
        if self._limiter is not None:
            return self._limiter.sustainable_rate
        return self._unused_quota.sustainable_rate(0.0)

    @property
    def remaining_calls(self) -> int | None:
        """Calls that the rate limit allows now; None without a limit."""
        if self._limiter is not None:
            return self._limiter.remaining
        return self._unused_quota.remaining(0.0)

    @property
    def _unused_quota(self) -> SlidingWindows:
        limit = self.rate_limit
        return SlidingWindows(limit if isinstance(limit, RateLimit) else RateLimit())

    @property
    def stats(self) -> RequestStats:
        """What was sent to the API since the session was opened."""
        return RequestStats(calls=self._calls, polls=self._polls, retries=self._retries)

    @property
    def last_response_at(self) -> datetime | None:
        """When the API last responded, by this machine's clock; None if it has not yet."""
        return self._to_datetime(self._last_response_at)

    @property
    def outage_since(self) -> datetime | None:
        """Since when all requests to the API have failed; None if the last one did not."""
        return self._to_datetime(self._failing_since)

    @property
    def is_open(self) -> bool:
        """Whether the session is open."""
        return self._loop is not None

    @property
    def token_expires_at(self) -> datetime | None:
        """When the present access token expires; None if that is not known."""
        return None if self._tokens is None else self._tokens.expires_at

    def warn_if_token_ends(self, seconds: float) -> None:
        """Log a warning if the token is fixed and expires within so many seconds."""
        self._opened_tokens.warn_if_it_ends(seconds)

    @property
    def _opened_tokens(self) -> TokenCache:
        assert self._tokens is not None
        return self._tokens

    def _to_datetime(self, loop_time: float | None) -> datetime | None:
        if loop_time is None or self._loop is None:
            return None
        return datetime.now(UTC) - timedelta(seconds=self._loop.time() - loop_time)

    def service_time(self) -> datetime | None:
        """The service's clock, from the `Date` of the API's latest response.

        It may be slow by the age of a response, and is never fast. None if no response within the
        last 10 minutes had a readable `Date`: then any request to the API makes it known.
        """
        if self._service_date is None or self._loop is None:
            return None
        date, received_at = self._service_date
        age = self._loop.time() - received_at
        time = service_time({DATE: date})
        return None if time is None or age > CLOCK_MAX_AGE else time + timedelta(seconds=age)

    def remember_imodel(self, connection_id: str, imodel_id: str | None) -> None:
        """Remember the iModel of a connection, so that log records can name it."""
        if imodel_id is not None:
            self._imodel_ids[connection_id] = imodel_id
            if len(self._imodel_ids) > MAX_REMEMBERED_IMODELS:
                del self._imodel_ids[next(iter(self._imodel_ids))]

    def imodel_of(self, connection_id: str) -> str | None:
        """The iModel of a connection, None if it is not known here."""
        return self._imodel_ids.get(connection_id)

    def check_open(self) -> None:
        """Raise a `RuntimeError` unless the session is open, in the running event loop."""
        if self._loop is None:
            raise RuntimeError("the client is not open: use it inside `async with`")
        if self._loop is not asyncio.get_running_loop():
            raise RuntimeError("the client belongs to another event loop: open one in each loop")

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
        call = _Call(
            request=request,
            url=self._resolve(request),
            headers={**self._headers, CORRELATION_ID: self._correlation_id(), **request.headers},
            policy=retry or self.retry,
            is_limited=True,
            is_poll=is_poll,
            before_send=before_send,
        )
        return await self._send_with_retry(call, self._send_authorized)

    async def send_blob(self, request: Request) -> Response:
        """Send a request to a blob store and return its response. Its URL is signed: no token."""
        self._check_blob(request)
        response = await self._send_with_retry(self._unlimited(request), self._send_to_blob_store)
        return without_secrets(response, signatures(request.url))

    @asynccontextmanager
    async def stream_blob(self, request: Request) -> AsyncIterator[StreamedResponse]:
        """Read the response of a blob store in chunks while the block lasts. Not retried."""
        self._check_blob(request)
        async with self._blob_slots, self._transport.stream(request) as stream:
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

    async def _send_token_request(self, request: Request) -> Response:
        return await self._send_with_retry(self._unlimited(request), self._send_as_is)

    def _unlimited(self, request: Request) -> _Call:
        return _Call(request=request, url=request.url, headers=request.headers, policy=self.retry)

    async def _send_with_retry(
        self, call: _Call, send: Callable[[_Call], Awaitable[Outcome]]
    ) -> Response:
        while True:
            call.attempt += 1
            self.check_open()  # it may have been closed during the delay
            try:
                outcome = await send(call)
            except ExportError as error:
                if call.uncertain_since is not None:
                    error.may_have_been_processed = True
                raise
            if not is_failure(outcome):
                break
            now = datetime.now(UTC)
            delay = call.policy.next_delay(call.request, outcome, call.attempt, now=now)
            if delay is None or not self._take_from_retry_budget(call, outcome, now):
                break
            if call.uncertain_since is None and may_have_been_processed(outcome):
                call.uncertain_since = call.sent_at
            self._report_retry(call, outcome, delay)
            if not (call.is_limited and is_429(outcome)):
                await asyncio.sleep(delay)
        since = call.uncertain_since
        return unwrap(outcome, None if since is None else self._time() - since)

    def _take_from_retry_budget(self, call: _Call, outcome: Outcome, now: datetime) -> bool:
        """Take one retry from the budget; one that the service asks for is free."""
        if call.policy.is_free(outcome, call.attempt, now=now):
            return True
        if self._budget.is_empty:
            if not self._budget_was_empty:
                log.warning("retry budget exhausted; requests fail without a retry")
            self._budget_was_empty = True
            return False
        self._budget = self._budget.debit()
        return True

    def _report_retry(self, call: _Call, outcome: Outcome, delay: float) -> None:
        self._retries += 1
        reason = describe(outcome)
        log.debug("%s; retry %d in %.1f s", reason, call.attempt, delay, extra=call.log_fields)
        add_event("retry", reason=reason, attempt=call.attempt, wait=delay)
        if self.metrics is not None:
            self.metrics.record_retry(call.operation)

    async def _send_authorized(self, call: _Call) -> Outcome:
        """Send once, as soon as the rate limit and a pause allow.

        The token is fetched before a slot is taken, so that no slot waits for a token service, and
        once more if it was replaced while the request was in the queue. After a 401 the token is
        renewed, and the request is sent once more.
        """
        limiter, tokens = self._limiter, self._opened_tokens
        assert limiter is not None
        is_checked = is_renewed = False
        while True:
            token = tokens.get_now() or await tokens.get()
            is_probe = limiter.acquire_now()
            is_queued = is_probe is None
            if is_probe is None:
                is_probe = await self._wait_for_slot(call, limiter)
            if is_probe is None:
                return self._last_429_response(call, limiter.pause_left)
            counted = succeeded = False
            try:
                if is_queued and not is_checked and not tokens.is_current(token):
                    is_checked = True
                    continue
                if call.before_send is not None:
                    await call.before_send(call.uncertain_since is not None)
                if limiter.pause_left:  # a 429 came after the request was admitted
                    continue
                counted = True
                self._calls += 1
                self._polls += call.is_poll
                outcome = await self._send_once(
                    call,
                    call.request.with_target(  # no local: a traceback would show the token
                        call.url, {**call.headers, AUTHORIZATION: f"Bearer {token.value}"}
                    ),
                )
                if isinstance(outcome, Response):
                    outcome = self._without_secrets(outcome, token, call)
                    succeeded = outcome.status != 429
                else:
                    counted = outcome.may_have_been_processed
                self._on_outcome(call, outcome, limiter)
            finally:
                limiter.release(is_probe=is_probe, counted=counted, succeeded=succeeded)
            is_401 = isinstance(outcome, Response) and outcome.status == 401
            if not is_401 or is_renewed or not tokens.invalidate(token):
                return outcome
            log.debug("401: renewing the token", extra=call.log_fields)
            is_renewed, is_checked = True, False

    async def _wait_for_slot(self, call: _Call, limiter: RequestLimiter) -> bool | None:
        """Wait in the queue of the limiter; returns as its `acquire`."""
        queued_at = self._time()
        is_probe = await limiter.acquire(
            is_poll=call.is_poll, max_pause=call.policy.max_retry_after
        )
        if self.metrics is not None:
            self.metrics.record_wait(self._time() - queued_at)
        return is_probe

    def _without_secrets(self, response: Response, token: AccessToken, call: _Call) -> Response:
        """The response without the secrets of its request, if the service repeats them."""
        if response.status < 400 and token.value.encode() not in response.body:
            return response  # on the path of every poll
        secrets = (token.secret, *self._opened_tokens.secrets, *call.request.secrets)
        return without_secrets(response, secrets)

    def _on_outcome(self, call: _Call, outcome: Outcome, limiter: RequestLimiter) -> None:
        """What the outcome of one request says about all requests."""
        now = self._time()
        if is_failure(outcome):
            if self._failing_since is None:
                self._failing_since = call.sent_at
        else:
            self._failing_since = None
            self._budget = self._budget.credit()
            self._budget_was_empty = self._budget_was_empty and self._budget.is_empty
        if isinstance(outcome, Response):
            self._last_response_at = now
            if (date := outcome.headers.get(DATE)) is not None:
                self._service_date = date, now
            if outcome.status == 429:
                self._pause(outcome, limiter)
            else:
                self._consecutive_429s = 0
        if self.metrics is not None:
            status = outcome.status if isinstance(outcome, Response) else None
            self.metrics.record_request(
                call.operation, status, now - call.sent_at, limiter.remaining
            )

    def _pause(self, response: Response, limiter: RequestLimiter) -> None:
        """After a 429, pause all requests: as long as the service asks, and not less than the
        backoff after so many 429s. Responses that come during a pause are one 429 together."""
        self._last_429 = response
        if not limiter.pause_left:
            self._consecutive_429s += 1
        requested = requested_delay(response, now=datetime.now(UTC)) or 0.0
        limiter.pause(max(requested, self.retry.max_delay(self._consecutive_429s)))

    def _last_429_response(self, call: _Call, pause_left: float) -> Response:
        """The 429 that pauses all requests, as the response to this one, which is not sent."""
        headers = {
            name: value
            for name, value in self._last_429.headers.items()
            if name.lower() not in {*REQUEST_IDS, RETRY_AFTER.lower()}
        }
        headers[RETRY_AFTER] = str(max(1, ceil(pause_left)))
        response = evolve(self._last_429, headers=headers, url="")
        return response.for_request(call.request.with_target(call.url, call.headers))

    async def _send_to_blob_store(self, call: _Call) -> Outcome:
        async with self._blob_slots:
            return await self._send_as_is(call)

    async def _send_as_is(self, call: _Call) -> Outcome:
        return await self._send_once(call, call.request)

    async def _send_once(self, call: _Call, request: Request) -> Outcome:
        call.sent_at = self._time()
        seconds = self._timeout + len(request.body or b"") / MIN_UPLOAD_SPEED
        try:
            async with asyncio.timeout(None) as timeout:
                self._timeouts.add(timeout, call.sent_at + seconds)
                try:
                    response = await self._transport.send(request)
                finally:
                    self._timeouts.remove(timeout)
        except TransportError as error:
            return error if error.url else evolve(error, method=request.method, url=request.url)
        except TimeoutError:
            if not timeout.expired():
                raise
            return RequestTimeout(
                message=f"no response within {seconds:.4g} s",
                method=request.method,
                url=request.url,
            )
        if RETRY_AFTER in response.headers:
            response = with_date(response, now=datetime.now(UTC))
        return response.for_request(request)

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
