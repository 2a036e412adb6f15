"""How one request gets through. Each step calls the next one:

    send_with_retry   attempts, the delays between them, and their budget
    send_authorized   token, rate limit, 401 (a new token, once), 429 (a pause of all requests)
    _send_once        timeout and transport

`retry` decides on attempts and delays, `limiter` on slots and pauses, `token_cache` on tokens.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime
from math import ceil
from typing import Any, TypeAlias

from attrs import define, evolve

from itwin_export_async._errors import ExportError, RequestTimeout, TransportError
from itwin_export_async._http.credentials import Auth
from itwin_export_async._http.limiter import RateLimitLike, create_limiter
from itwin_export_async._http.rate_limit import RequestStats
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
from itwin_export_async._http.telemetry import add_event, session_metrics
from itwin_export_async._http.token_cache import TokenCache
from itwin_export_async._http.transport import Transport
from itwin_export_async._protocol.error_responses import without_secrets
from itwin_export_async._protocol.headers import AUTHORIZATION, DATE, REQUEST_IDS, RETRY_AFTER
from itwin_export_async._protocol.messages import Request, Response
from itwin_export_async._protocol.oauth import AccessToken
from itwin_export_async._protocol.urls import operation_name

log = logging.getLogger("itwin_export_async.http")

MAX_CONCURRENT_REQUESTS = 50  # handling more responses at once would block the event loop
MIN_UPLOAD_SPEED = 32 * 1024  # bytes per second that a request's body may take of the timeout
NOT_OPEN = "the client is not open: use it inside `async with`"

BeforeSend: TypeAlias = Callable[[bool], Awaitable[None]]
"""Awaited before each sending of a request, when nothing but the sending is left to do.

The argument says whether an earlier sending of the request may have been processed.
"""


@define(eq=False, kw_only=True)
class Call:
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


class RequestSender:
    """Sends the requests of an open session, and notes what their outcomes say of the service.

    `send_with_retry` takes the step to repeat: `send_authorized` or `send_to_blob_store`.
    """

    def __init__(
        self,
        transport: Transport,
        auth: Auth,
        *,
        rate_limit: RateLimitLike,
        retry: RetryPolicy,
        timeout: float,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self.time = self._loop.time
        self.is_open = True
        self.transport = transport
        self.blob_slots = asyncio.Semaphore(MAX_CONCURRENT_REQUESTS)  # slow blobs delay no poll
        self.limiter = create_limiter(rate_limit, MAX_CONCURRENT_REQUESTS)
        self.tokens = TokenCache(auth, self._send_token_request, retry, timeout)
        self.metrics = session_metrics()
        self.last_response_at: float | None = None  # as the next two, in the loop's time
        self.failing_since: float | None = None
        self.service_date: tuple[str, float] | None = None  # and the time of its response
        self._retry = retry
        self._timeout = timeout
        self._timeouts = SharedTimeout()
        self._budget = RetryBudget()
        self._budget_was_empty = False
        self._last_429 = Response(status=429)
        self._consecutive_429s = 0
        self._calls = self._polls = self._retries = 0

    @property
    def stats(self) -> RequestStats:
        """What was sent to the API."""
        return RequestStats(calls=self._calls, polls=self._polls, retries=self._retries)

    def check_open(self) -> None:
        """Raise a `RuntimeError` if the session was closed, or is open in another event loop."""
        if not self.is_open:
            raise RuntimeError(NOT_OPEN)
        if self._loop is not asyncio.get_running_loop():
            raise RuntimeError("the client belongs to another event loop: open one in each loop")

    async def close(self) -> None:
        """Send no further request. The transport stays open."""
        self.is_open = False
        try:
            await self.tokens.close()
        finally:
            self._timeouts.close()
            await self.limiter.close()

    async def send_with_retry(
        self, call: Call, send: Callable[[Call], Awaitable[Outcome]]
    ) -> Response:
        """Send until there is an outcome that is not retried; return or raise it."""
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
        return unwrap(outcome, None if since is None else self.time() - since)

    async def send_authorized(self, call: Call) -> Outcome:
        """Send once, as soon as the rate limit and a pause allow.

        After a 401 the token is renewed, and the request is sent once more.
        """
        limiter = self.limiter
        is_renewed = False
        while True:
            admission = await self._admit(call)
            if admission is None:
                return self._last_429_response(call)
            token, is_probe = admission
            counted = succeeded = False
            try:
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
                self._on_outcome(call, outcome)
            finally:
                limiter.release(is_probe=is_probe, counted=counted, succeeded=succeeded)
            is_401 = isinstance(outcome, Response) and outcome.status == 401
            if not is_401 or is_renewed or not self.tokens.invalidate(token):
                return outcome
            log.debug("401: renewing the token", extra=call.log_fields)
            is_renewed = True

    async def _admit(self, call: Call) -> tuple[AccessToken, bool] | None:
        """A token and a slot of the limiter, with whether the request is a probe.

        None, without a slot, if a pause is longer than the caller waits. The token is fetched
        before a slot is taken, so that no slot waits for a token service, and once more if it was
        replaced while the request was in the queue.
        """
        limiter, tokens = self.limiter, self.tokens
        is_checked = False
        while True:
            token = tokens.get_now() or await tokens.get()
            is_probe = limiter.acquire_now()
            if is_probe is not None:
                return token, is_probe
            is_probe = await self._wait_for_slot(call)
            if is_probe is None:
                return None
            if is_checked or tokens.is_current(token):
                return token, is_probe
            limiter.release(is_probe=is_probe, counted=False, succeeded=False)
            is_checked = True

    async def send_to_blob_store(self, call: Call) -> Outcome:
        """Send once, as soon as a slot for blobs is free."""
        async with self.blob_slots:
            return await self._send_once(call)

    async def _send_token_request(self, request: Request) -> Response:
        return await self.send_with_retry(self.plain_call(request), self._send_once)

    def plain_call(self, request: Request) -> Call:
        """The call of a request that gets no token and passes no limiter."""
        return Call(request=request, url=request.url, headers=request.headers, policy=self._retry)

    async def _send_once(self, call: Call, request: Request | None = None) -> Outcome:
        """Send `request`, or the call's own where it is None, within the timeout."""
        if request is None:
            request = call.request
        call.sent_at = self.time()
        seconds = self._timeout + len(request.body or b"") / MIN_UPLOAD_SPEED
        try:
            async with asyncio.timeout(None) as timeout:
                self._timeouts.add(timeout, call.sent_at + seconds)
                try:
                    response = await self.transport.send(request)
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

    def _take_from_retry_budget(self, call: Call, outcome: Outcome, now: datetime) -> bool:
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

    def _report_retry(self, call: Call, outcome: Outcome, delay: float) -> None:
        self._retries += 1
        reason = describe(outcome)
        log.debug("%s; retry %d in %.1f s", reason, call.attempt, delay, extra=call.log_fields)
        add_event("retry", reason=reason, attempt=call.attempt, wait=delay)
        if self.metrics is not None:
            self.metrics.record_retry(call.operation)

    async def _wait_for_slot(self, call: Call) -> bool | None:
        """Wait in the queue of the limiter; returns as its `acquire`."""
        queued_at = self.time()
        is_probe = await self.limiter.acquire(
            is_poll=call.is_poll, max_pause=call.policy.max_retry_after
        )
        if self.metrics is not None:
            self.metrics.record_wait(self.time() - queued_at)
        return is_probe

    def _without_secrets(self, response: Response, token: AccessToken, call: Call) -> Response:
        """The response without the secrets of its request, if the service repeats them."""
        if response.status < 400 and token.value.encode() not in response.body:
            return response  # on the path of every poll
        secrets = (token.secret, *self.tokens.secrets, *call.request.secrets)
        return without_secrets(response, secrets)

    def _on_outcome(self, call: Call, outcome: Outcome) -> None:
        """What the outcome of one request says about all requests."""
        now = self.time()
        if is_failure(outcome):
            if self.failing_since is None:
                self.failing_since = call.sent_at
        else:
            self.failing_since = None
            self._budget = self._budget.credit()
            self._budget_was_empty = self._budget_was_empty and self._budget.is_empty
        if isinstance(outcome, Response):
            self.last_response_at = now
            if (date := outcome.headers.get(DATE)) is not None:
                self.service_date = date, now
            if outcome.status == 429:
                self._pause_all(call, outcome)
            else:
                self._consecutive_429s = 0
        if self.metrics is not None:
            status = outcome.status if isinstance(outcome, Response) else None
            self.metrics.record_request(
                call.operation, status, now - call.sent_at, self.limiter.remaining
            )

    def _pause_all(self, call: Call, response: Response) -> None:
        """After a 429, pause all requests: as long as the service asks, and not less than the
        backoff after so many 429s. Responses that come during a pause are one 429 together."""
        self._last_429 = response
        is_first = not self.limiter.pause_left
        self._consecutive_429s += is_first
        requested = requested_delay(response, now=datetime.now(UTC)) or 0.0
        seconds = max(requested, self._retry.max_delay(self._consecutive_429s))
        if is_first:
            message = "%s: all requests paused for %.1f s"
            log.warning(message, describe(response), seconds, extra=call.log_fields)
        self.limiter.pause(seconds)

    def _last_429_response(self, call: Call) -> Response:
        """The 429 that pauses all requests, as the response to this one, which is not sent."""
        headers = {
            name: value
            for name, value in self._last_429.headers.items()
            if name.lower() not in {*REQUEST_IDS, RETRY_AFTER.lower()}
        }
        headers[RETRY_AFTER] = str(max(1, ceil(self.limiter.pause_left)))
        response = evolve(self._last_429, headers=headers, url="")
        return response.for_request(call.request.with_target(call.url, call.headers))
