"""The token of a session: fetched once for all waiters, refreshed early, invalidated by a 401.

One fetch serves all waiters, also when one of them is cancelled. A provider that takes longer than
`timeout` fails its waiters, but is never called a second time beside itself. After a failure of the
token service the next fetch waits; a requested wait longer than `max_retry_after` fails its waiters
at once. A bug in a provider is raised as it is.
"""

import asyncio
import inspect
import logging
from contextvars import copy_context
from datetime import UTC, datetime
from typing import Any

from itwin_export_async._errors import TokenError
from itwin_export_async._errors.http import copy_error
from itwin_export_async._http.credentials import (
    ROTATE_TIMEOUT,
    Auth,
    ClientCredentials,
    RefreshTokenCredentials,
    SendRequest,
    to_token,
    wait_uninterrupted,
)
from itwin_export_async._http.retry import RetryPolicy
from itwin_export_async._http.threads import call_in_thread
from itwin_export_async._protocol.oauth import AccessToken
from itwin_export_async._redaction import Secret, redacted

log = logging.getLogger("itwin_export_async.auth")

MAX_WAIT = 3600.0  # seconds; a longer requested wait is a mistake of a gateway
REFRESH_MARGIN = 300.0  # seconds before the end of a token at which the next one is fetched


class TokenCache:
    """Provides the session's token.

    `send` carries requests to the token service, `retry` is the backoff after failures, and
    `timeout` the seconds that a waiter gives a provider.
    """

    def __init__(self, auth: Auth, send: SendRequest, retry: RetryPolicy, timeout: float) -> None:
        self._auth = auth
        self._send = send
        self._retry = retry
        self._timeout = timeout
        self._token: AccessToken | None = auth if isinstance(auth, AccessToken) else None
        self._keeps_tokens = True  # False for a provider of plain strings
        self._expires_at: float | None = None  # in the loop's time; None where it is not known
        self._refresh_at: float | None = None
        self._retry_at = 0.0  # no fetch before that, after a failure
        self._last_error: TokenError | None = None
        self._failures = 0
        self._fetch_task: asyncio.Task[AccessToken] | None = None
        self._closed = False
        self._opening = copy_context()

    @property
    def is_renewable(self) -> bool:
        """Whether a new token can be fetched: not for a fixed token."""
        return not isinstance(self._auth, AccessToken)

    @property
    def expires_at(self) -> datetime | None:
        """The end of the present token, None where it is not known."""
        return None if self._token is None else self._token.expires_at

    def warn_if_it_ends(self, seconds: float) -> None:
        """Log a warning where a fixed token ends within so many seconds: nothing renews it."""
        if self._token is None or self.is_renewable:
            return
        left = _seconds_left(self._token)
        if left is not None and left < seconds:
            log.warning(
                "the access token is fixed and ends in %.0f s; pass credentials or a callable as "
                "auth for work that takes longer",
                max(0.0, left),
            )

    @property
    def secrets(self) -> tuple[Secret, ...]:
        """The values that no text may show, besides the token itself."""
        own = isinstance(self._auth, ClientCredentials | RefreshTokenCredentials)
        return self._auth.secrets if own else ()  # type: ignore[union-attr]

    async def get(self) -> AccessToken:
        """The token to send now. A valid one is returned at once, also while it is refreshed.

        Raises `TokenError`, or what a bug in the provider raises.
        """
        return self.get_now() or await self._wait_for_fetch()

    def get_now(self) -> AccessToken | None:
        """The valid token, of which a refresh is started when it is due; None without one."""
        token = self._token
        if token is None or self._is_expired():
            return None
        if self._refresh_at is not None and self._fetch_task is None:
            now = asyncio.get_running_loop().time()
            if now >= max(self._refresh_at, self._retry_at):
                self._start_fetch()
        return token

    def is_current(self, token: AccessToken) -> bool:
        """Whether the token that `get` returned is still the one to send."""
        if not self.is_renewable or not self._keeps_tokens:
            return True
        return token is self._token and not self._is_expired()

    def _is_expired(self) -> bool:
        expires_at = self._expires_at
        return expires_at is not None and asyncio.get_running_loop().time() >= expires_at

    def invalidate(self, token: AccessToken) -> bool:
        """Drop a token that was refused, unless another one has replaced it since.

        Returns whether a retry makes sense: never for a fixed token.
        """
        if not self.is_renewable:
            return False
        if self._token is not None and self._token.value == token.value:
            self._token = None
        return True

    async def close(self) -> None:
        """Stop fetching. A provider that ignores its cancellation is left alone after `timeout`.

        An exchange of a refresh token has `timeout` to finish, because its answer replaces the
        token, and is left alone `ROTATE_TIMEOUT` after its cancellation.
        """
        self._closed = True
        task = self._fetch_task
        if task is None:
            return
        limit = self._timeout
        try:
            if isinstance(self._auth, RefreshTokenCredentials):
                limit = ROTATE_TIMEOUT
                await wait_uninterrupted(task, self._timeout)
        finally:
            task.cancel()
            if not (await asyncio.wait([task], timeout=limit))[0]:
                log.warning("the token provider has not ended %.0f s after its cancellation", limit)

    async def _wait_for_fetch(self) -> AccessToken:
        """Wait for the shared fetch. Cancelling one waiter does not cancel it."""
        now = asyncio.get_running_loop().time()
        if self._fetch_task is None:
            self._check_requested_wait(now)
        task = self._fetch_task or self._start_fetch()
        own = isinstance(self._auth, ClientCredentials | RefreshTokenCredentials)
        rest = max(0.0, self._retry_at - now)
        await asyncio.wait([task], timeout=None if own else rest + self._timeout)
        if not task.done():
            raise TokenError(
                message=f"no token: the provider takes longer than {self._timeout:g} s",
                is_transient=True,
            )
        if task.cancelled():
            if self._closed:
                raise RuntimeError("the client was closed")
            raise TokenError(message="no token: the provider was cancelled", is_transient=True)
        failure = task.exception()
        if failure is None:
            return task.result()
        if isinstance(failure, TokenError) or _is_bug(failure):
            raise copy_error(failure)
        raise _token_error(failure) from failure

    def _check_requested_wait(self, now: float) -> None:
        """Raise the last error at once while the requested wait is longer than the policy's."""
        left = self._retry_at - now
        if self._last_error is not None and left > self._retry.max_retry_after:
            error = copy_error(self._last_error)
            error.retry_after = left
            raise error

    def _start_fetch(self) -> "asyncio.Task[AccessToken]":
        # in the context of the opening, and not inside the first waiter's trace
        context = self._opening.copy()
        self._fetch_task = asyncio.create_task(self._fetch(), context=context)
        self._fetch_task.add_done_callback(self._on_fetch_done)
        return self._fetch_task

    def _on_fetch_done(self, task: "asyncio.Task[AccessToken]") -> None:
        self._fetch_task = None
        error = None if task.cancelled() else task.exception()
        if error is None:
            self._failures, self._last_error = 0, None
            return
        if self._closed:
            return
        if not isinstance(error, TokenError):
            if _is_bug(error):
                log.error("the token provider failed: %s", type(error).__name__)
                return
            error = _token_error(error)
        self._failures, self._last_error = self._failures + 1, error
        requested = error.retry_after
        wait = self._retry.max_delay(self._failures) if requested is None else requested
        wait = min(wait, MAX_WAIT)
        self._retry_at = task.get_loop().time() + wait
        log.warning("%s; next attempt in %.1f s", error, wait)

    async def _fetch(self) -> AccessToken:
        loop = asyncio.get_running_loop()
        if self._failures:
            await asyncio.sleep(max(0.0, self._retry_at - loop.time()))
        token, self._keeps_tokens = await self._call_provider()
        if not self._keeps_tokens:
            self._token = self._expires_at = self._refresh_at = None
            return token
        lifetime = _seconds_left(token)
        if lifetime is None:
            self._expires_at = self._refresh_at = None
        else:
            early = min(REFRESH_MARGIN, lifetime / 2)
            early += self._retry.jitter(early / 5)  # processes do not refresh all at once
            self._expires_at = loop.time() + lifetime
            self._refresh_at = self._expires_at - early
        self._token = token
        log.debug(
            "fetched a token, valid for %s s", "unknown" if lifetime is None else f"{lifetime:.0f}"
        )
        return token

    async def _call_provider(self) -> tuple[AccessToken, bool]:
        """A new token, and whether it may be kept: the caching of strings is the provider's own."""
        if isinstance(self._auth, ClientCredentials | RefreshTokenCredentials):
            return await self._auth.fetch(self._send), True
        return _provided(await _call(getattr(self._auth, "get_token", self._auth)))


def _provided(value: Any) -> tuple[AccessToken, bool]:
    is_kept = isinstance(value, AccessToken)
    try:
        return to_token(value), is_kept
    except (TypeError, ValueError) as exc:
        reason = str(exc)
    del value  # tracebacks with locals show it otherwise
    raise TokenError(message=f"no token from auth: {reason}")


async def _call(provider: Any) -> Any:
    if inspect.iscoroutinefunction(provider) or inspect.iscoroutinefunction(
        type(provider).__call__
    ):
        return await provider()
    provided = await call_in_thread(provider)  # it may block
    return await provided if inspect.isawaitable(provided) else provided


def _is_bug(error: BaseException) -> bool:
    """Whether the provider's code is wrong, rather than its way to the token.

    Python's own errors are bugs, but for those of files, connections and timeouts; errors of
    libraries are not.
    """
    return type(error).__module__ == "builtins" and not isinstance(error, OSError | EOFError)


def _token_error(error: BaseException) -> TokenError:
    reason = redacted(str(error))
    return TokenError(message=f"no token: {type(error).__name__}: {reason}", is_transient=True)


def _seconds_left(token: AccessToken) -> float | None:
    if token.expires_at is None:
        return None
    return (token.expires_at - datetime.now(UTC)).total_seconds()
