"""The session: one service, one identity, and every request through the same gate.

It adds the headers, keeps the token where it belongs, repeats what may be repeated, and hands back
answers. What an answer means is for the operations to say.
"""

import asyncio
import logging
import platform
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from math import ceil
from typing import Self
from weakref import WeakValueDictionary

import aiohttp
from attrs import evolve
from multidict import CIMultiDict

from itwin_export_async._errors import ProtocolError, RequestTimeout, TransportError
from itwin_export_async._http.credentials import Auth, normalize_auth
from itwin_export_async._http.limiter import RateLimitLike, SharedRateLimit, create_limiter
from itwin_export_async._http.rate_limit import RateLimit, RequestStats
from itwin_export_async._http.retry import (
    Outcome,
    RetryBudget,
    RetryPolicy,
    dated,
    described,
    is_failure,
    may_have_been_processed,
    settled,
)
from itwin_export_async._http.telemetry import event
from itwin_export_async._http.token_cache import TokenCache
from itwin_export_async._http.transport import AiohttpTransport, Transport, check_client_session
from itwin_export_async._protocol.headers import retry_after
from itwin_export_async._protocol.messages import Request, Response, StreamedResponse
from itwin_export_async._protocol.urls import is_secure_url, origin, validate_base_url
from itwin_export_async._redaction import without_query

log = logging.getLogger(__name__)

BASE_URL = "https://api.bentley.com"
ACCEPT = "application/vnd.bentley.itwin-platform.v1+json"
MAX_CONCURRENT_REQUESTS = (
    50  # so many answers may come at once: the loop stands still for all of them
)
_SLOWEST = 32 * 1024  # bytes a second at which a request may go out and still be in time


class Session:
    """An authorized way to the iTwin Platform, opened by `async with`.

    `auth`: a token, an object with `async get_token()`, or a callable that gives either.
    `base_url`: where the API is. `rate_limit`: how many calls the subscription allows; none goes
    out beyond that, and with a `RedisRateLimit` none of all who share it. `retry`: how often
    requests are repeated. `request_timeout`: seconds for one sending and its answer. `http`: your
    own `aiohttp.ClientSession`, which stays open. `transport`: what carries the requests instead of
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
        self._origin = origin(self.base_url)
        self._auth = normalize_auth(auth)
        self._timeout = request_timeout
        self._transport = transport
        self._http = http
        self._headers = {
            "Accept": ACCEPT,
            "User-Agent": f"itwin-export-async/{version('itwin-export-async')} "
            f"Python/{platform.python_version()} aiohttp/{aiohttp.__version__}",
        }
        self._loop: asyncio.AbstractEventLoop | None = None

    async def __aenter__(self) -> Self:
        if self._loop is not None:
            raise RuntimeError("this session is open already")
        self._loop = asyncio.get_running_loop()
        self._carrier: Transport = self._transport or AiohttpTransport(
            self._http, read_timeout=self._timeout
        )
        self._blob_slots = asyncio.Semaphore(
            MAX_CONCURRENT_REQUESTS
        )  # slow ones must not stop the polls
        self._gate = create_limiter(self.rate_limit, MAX_CONCURRENT_REQUESTS)
        self._budget = RetryBudget()
        self.turns: WeakValueDictionary[object, asyncio.Lock] = WeakValueDictionary()
        self._refusal = Response(status=429)
        self._refusals = 0
        self._calls = self._polls = self._retries = 0
        exchange = partial(self._persist, retry=self.retry, send=self._once)
        self._tokens = TokenCache(self._auth, exchange, self.retry, self._timeout)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._loop = None
        async with AsyncExitStack() as closing:
            if self._transport is None:
                closing.push_async_callback(self._carrier.close)
            closing.push_async_callback(self._gate.close)
            await self._tokens.close()

    @property
    def call_rate(self) -> float:
        """Calls a second that the rate limit leaves, as things stand now; infinite without one."""
        return self._gate.rate

    @property
    def remaining_calls(self) -> int | None:
        """Calls that the rate limit allows now, None without a limit."""
        return self._gate.room

    @property
    def stats(self) -> RequestStats:
        """What has been sent to the API so far."""
        return RequestStats(calls=self._calls, polls=self._polls, retries=self._retries)

    def check_open(self) -> None:
        """Raise a `RuntimeError` unless used inside `async with`, on the loop that opened it."""
        if self._loop is None:
            raise RuntimeError("the client is not open: use it inside `async with`")
        if self._loop is not asyncio.get_running_loop():
            raise RuntimeError("the client belongs to another event loop: open one in each loop")

    async def send(
        self, request: Request, *, retry: RetryPolicy | None = None, is_poll: bool = False
    ) -> Response:
        """The answer to an API request, repeated as the retry policy and its kind allow.

        `retry`: another policy than the session's own, None for that. `is_poll`: when calls are
        scarce, it lets go ahead what moves work on. A refusal is an answer too. Raises
        `TransportError` when none came, `TokenError` without a token, `RateLimited` when the
        service refuses all calls for longer than the policy waits, and `ProtocolError` before the
        token would go to a foreign origin.
        """
        policy = retry or self.retry
        send = partial(self._authorized, policy, is_poll)
        return await self._persist(request, policy, send)

    async def send_blob(self, request: Request) -> Response:
        """The answer of a blob store, repeated as `send` does; the address is signed: no token."""
        self._check_blob(request)
        return await self._persist(request, self.retry, self._blob)

    async def _blob(self, request: Request) -> Outcome:
        async with self._blob_slots:
            return await self._once(request)

    @asynccontextmanager
    async def stream_blob(self, request: Request) -> AsyncIterator[StreamedResponse]:
        """The answer of a blob store, its body to be read while the block lasts; not repeated."""
        self._check_blob(request)
        async with self._blob_slots, self._carrier.stream(request) as stream:
            yield evolve(stream, response=stream.response.to(request))

    def _check_blob(self, request: Request) -> None:
        self.check_open()
        if not is_secure_url(request.url):
            raise ProtocolError(
                message="a signed address must be https", method=request.method, url=request.url
            )

    async def _persist(
        self, request: Request, retry: RetryPolicy, send: Callable[[Request], Awaitable[Outcome]]
    ) -> Response:
        loop = asyncio.get_running_loop()
        doubtful: float | None = None
        attempt = 0
        while True:
            attempt += 1
            self.check_open()  # it may have been closed while this request slept
            sent = loop.time()
            outcome = await send(request)
            wait = retry.next_wait(request, outcome, attempt, now=datetime.now(UTC))
            if wait is None or not self._affords(outcome):
                return settled(outcome, None if doubtful is None else loop.time() - doubtful)
            if doubtful is None and may_have_been_processed(outcome):
                doubtful = sent
            said = described(outcome)
            log.info("%s; attempt %d again in %.1f s", said, attempt, wait)
            event("retry", reason=said, attempt=attempt, wait=wait)
            await asyncio.sleep(wait)
            self._retries += 1

    def _affords(self, outcome: Outcome) -> bool:
        """Whether the budget has room for a repetition; one that was asked for costs nothing."""
        if isinstance(outcome, Response) and "Retry-After" in outcome.headers:
            return True
        if self._budget.is_empty:
            log.warning("too many requests fail: not repeating them any more")
            return False
        self._budget = self._budget.spent()
        return True

    async def _authorized(self, policy: RetryPolicy, is_poll: bool, request: Request) -> Outcome:
        """One sending; a token that is refused is renewed once, and the request repeated once."""
        token, outcome = await self._gated(request, policy, is_poll)
        refused = isinstance(outcome, Response) and outcome.status == 401
        if refused and self._tokens.invalidate(token):
            log.info("the token was refused: asking for a new one")
            _, outcome = await self._gated(request, policy, is_poll)
        return outcome

    async def _gated(
        self, request: Request, policy: RetryPolicy, is_poll: bool
    ) -> tuple[str, Outcome]:
        """One sending, as soon as the rate limit and a pause after a 429 allow it, and its token.

        The token is that of the moment when it goes: an older one may have been refused meanwhile.
        """
        url = self._address(request)
        while True:
            is_probe = await self._gate.enter(is_poll=is_poll, patience=policy.max_retry_after)
            if is_probe is None:
                return "", self._still_refused(request.method, url)
            counted = clears = False
            try:
                token = await self._tokens.get()
                if self._gate.pause_left:  # a 429 has come since it was let in
                    continue
                counted = True
                self._calls += 1
                self._polls += is_poll
                headers = {**self._headers, **request.headers, "Authorization": f"Bearer {token}"}
                outcome = await self._once(request.sent_to(url, headers))
                counted = not isinstance(outcome, TransportError) or outcome.may_have_been_processed
                if not is_failure(outcome):
                    self._budget = self._budget.earned()
                if isinstance(outcome, Response):
                    clears = outcome.status != 429
                    self._heed(outcome)
                return token, outcome
            finally:
                self._gate.leave(is_probe=is_probe, counted=counted, clears=clears)

    def _heed(self, response: Response) -> None:
        """What the answer says of the rate limit holds for all requests."""
        if response.status == 429:
            self._refusal = response
            self._refusals += 1
            asked = retry_after(response.headers, now=datetime.now(UTC))
            self._gate.pause(self.retry.bound(self._refusals) if asked is None else asked)
            return
        self._refusals = 0

    def _still_refused(self, method: str, url: str) -> Response:
        """The refusal that holds for all, as the answer to this request; it is not sent."""
        headers = CIMultiDict(self._refusal.headers)
        headers["Retry-After"] = str(max(1, ceil(self._gate.pause_left)))
        return evolve(self._refusal, headers=headers, method=method, url=url)

    async def _once(self, request: Request) -> Outcome:
        seconds = self._timeout + len(request.body or b"") / _SLOWEST
        try:
            async with asyncio.timeout(seconds) as limit:
                answer = dated(await self._carrier.send(request), now=datetime.now(UTC))
            return answer.to(request)
        except TransportError as error:
            return error if error.url else evolve(error, method=request.method, url=request.url)
        except TimeoutError:
            if not limit.expired():
                raise
            return RequestTimeout(
                message=f"none within {seconds:.4g} s", method=request.method, url=request.url
            )

    def _address(self, request: Request) -> str:
        url = request.url
        if url.startswith("/"):
            return self.base_url + url
        if origin(url) != self._origin:
            raise ProtocolError(
                message=f"{without_query(url)} is not on {self.base_url}, so it gets no token",
                method=request.method,
                url=url,
            )
        return url
