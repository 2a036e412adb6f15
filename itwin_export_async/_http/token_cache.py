"""One keeper per session that has a good token ready.

A token is fetched once for all who wait for it, renewed before it ends while the old one still
works, and forgotten when the service refuses it. Whatever a provider of yours raises is a
`TokenError`, and one that fails is left in peace for longer and longer.
"""

import asyncio
import inspect
import logging
from collections.abc import Callable
from copy import copy
from datetime import UTC, datetime
from typing import Any

from itwin_export_async._errors import TokenError
from itwin_export_async._http.credentials import (
    Auth,
    ClientCredentials,
    Exchange,
    RefreshTokenCredentials,
)
from itwin_export_async._http.retry import RetryPolicy
from itwin_export_async._protocol.oauth import AccessToken
from itwin_export_async._redaction import redacted

log = logging.getLogger(__name__)

REFRESH_MARGIN = 300.0  # seconds before the end of a token at which the next one is fetched


class TokenCache:
    """Has the session's token ready.

    `exchange` carries requests to the token service, `retry` says how long to leave a failing one
    in peace, and `patience` how many seconds a provider may take.
    """

    def __init__(self, auth: Auth, exchange: Exchange, retry: RetryPolicy, patience: float) -> None:
        self._auth = auth
        self._exchange = exchange
        self._retry = retry
        self._patience = patience
        self._token: AccessToken | None = auth if isinstance(auth, AccessToken) else None
        self._ends: float | None = None  # in the loop's time; None where it is not known
        self._due: float | None = None  # when the next one is fetched
        self._failures = 0
        self._rest = 0.0  # until when a failing provider is left in peace
        self._fetching: asyncio.Task[AccessToken] | None = None
        self._closed = False
        self._refused: AccessToken | None = None

    async def get(self) -> AccessToken:
        """The token to send now. One that still works is not waited for while it is renewed."""
        token, now = self._token, asyncio.get_running_loop().time()
        if token is None or (self._ends is not None and now >= self._ends):
            return await self._fetched()
        if self._due is not None and now >= max(self._due, self._rest) and self._fetching is None:
            self._begin_fetch()
        return token

    def is_current(self, token: AccessToken) -> bool:
        """Whether the token has not been refused, nor replaced after that."""
        return token is self._token or (self._token is None and token is not self._refused)

    def invalidate(self, sent: AccessToken) -> bool:
        """Forget the token that was refused, unless another has taken its place since.

        Says whether asking once more makes sense: never for a fixed token.
        """
        if isinstance(self._auth, AccessToken):
            return False
        self._refused = sent
        if self._token is not None and self._token.value == sent.value:
            self._token = None
        return True

    async def close(self) -> None:
        """End a fetch that is still under way."""
        self._closed = True
        if self._fetching is not None:
            self._fetching.cancel()
            await asyncio.wait([self._fetching])

    async def _fetched(self) -> AccessToken:
        """A new token, by one fetch for all who wait; it goes on though any of them is cancelled.

        Each gets an error of its own.
        """
        task = self._fetching or self._begin_fetch()
        await asyncio.wait([task])
        if task.cancelled():
            if self._closed:
                raise RuntimeError("the client was closed")
            raise TokenError(message="no token: what provides it was cancelled", is_transient=True)
        error = task.exception()
        if error is None:
            return task.result()
        if isinstance(error, TokenError):
            raise copy(error) from error.__cause__
        raise TokenError(
            message=f"no token: {type(error).__name__}: {redacted(str(error))}", is_transient=True
        ) from error

    def _begin_fetch(self) -> "asyncio.Task[AccessToken]":
        self._fetching = asyncio.create_task(self._fetch())
        self._fetching.add_done_callback(self._settle)
        return self._fetching

    def _settle(self, task: "asyncio.Task[AccessToken]") -> None:
        self._fetching = None
        error = None if task.cancelled() else task.exception()
        if error is None:
            self._failures = 0
            return
        self._failures += 1
        asked = error.retry_after if isinstance(error, TokenError) else None
        wait = self._retry.max_delay(self._failures) if asked is None else asked
        self._rest = task.get_loop().time() + wait
        log.warning("no new token (%s); not asking again for %.1f s", type(error).__name__, wait)

    async def _fetch(self) -> AccessToken:
        loop = asyncio.get_running_loop()
        if self._failures:
            await asyncio.sleep(max(0.0, self._rest - loop.time()))
        told = await self._ask()
        self._refused = None
        token = AccessToken(told.strip()) if isinstance(told, str) else told
        if not isinstance(token, AccessToken):
            raise TokenError(message=f"auth gave a {type(token).__name__} where a token belongs")
        lifetime = _seconds_left(token)
        if lifetime is None:
            self._ends = self._due = None
            self._token = None if isinstance(told, str) else token  # a string is not ours to keep
        else:
            early = min(REFRESH_MARGIN, lifetime / 2)
            early += self._retry.jitter(early / 5)  # many processes do not renew all at once
            self._ends, self._due = loop.time() + lifetime, loop.time() + lifetime - early
            self._token = token
        log.debug("fetched a token, good for %s s", "unknown" if lifetime is None else lifetime)
        return token

    async def _ask(self) -> str | AccessToken:
        auth = self._auth
        if isinstance(auth, ClientCredentials | RefreshTokenCredentials):
            return await auth.fetch(self._exchange)
        ask: Any = getattr(auth, "get_token", auth)
        async with asyncio.timeout(self._patience):
            if inspect.iscoroutinefunction(ask) or inspect.iscoroutinefunction(type(ask).__call__):
                told = ask()
            else:
                told = await asyncio.to_thread(_called, ask)  # it may block
            return await told if inspect.isawaitable(told) else told  # type: ignore[no-any-return]


def _called(ask: Callable[[], Any]) -> Any:
    try:
        return ask()
    except StopIteration as exc:  # which no future can carry
        raise RuntimeError("what provides the token has come to its end") from exc


def _seconds_left(token: AccessToken) -> float | None:
    if token.expires_at is None:
        return None
    return (token.expires_at - datetime.now(UTC)).total_seconds()
