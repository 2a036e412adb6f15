"""Tokens: where they come from, and one keeper per session that has a good one ready.

A token is fetched once for all who wait for it, renewed before it ends while the old one still
works, and forgotten when the service refuses it.
"""

import asyncio
import inspect
import logging
import os
from collections.abc import Awaitable, Callable
from copy import copy
from datetime import UTC, datetime
from typing import Any, Protocol, Self, TypeAlias

from attrs import define, field, frozen

from itwin_export_async._errors import TokenError, TransportError, redacted
from itwin_export_async._protocol.addresses import checked_base
from itwin_export_async._protocol.http import Request, Response
from itwin_export_async._protocol.identity import (
    IMS,
    TOKEN_PATH,
    AccessToken,
    read_refresh_token,
    read_token,
    token_request,
)
from itwin_export_async._protocol.retry import RetryPolicy
from itwin_export_async._transport import AiohttpTransport

log = logging.getLogger(__name__)

RENEW_EARLY = 300.0  # seconds before the end of a token at which the next one is fetched


class TokenProvider(Protocol):
    """Whatever can produce a token when asked."""

    async def get_token(self) -> AccessToken:
        """A token that is good now."""
        ...


TokenCallable: TypeAlias = Callable[[], "str | AccessToken | Awaitable[str | AccessToken]"]
Auth: TypeAlias = str | AccessToken | TokenProvider | TokenCallable
Exchange: TypeAlias = Callable[[Request], Awaitable[Response]]


def _filled(instance: object, attribute: Any, value: Any) -> None:
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"{attribute.name} must be a string that is not empty")


def _token_url(value: Any) -> str:
    return checked_base("token_url", value)


@frozen
class ClientCredentials:
    """A service application: it gets tokens in its own name (OAuth 2 client credentials).

    It sees an iTwin only once its address `{client_id}@apps.imsoidc.bentley.com` was added there
    with a role.
    """

    client_id: str = field(validator=_filled)
    client_secret: str = field(validator=_filled, repr=False)
    scope: str = field(default="itwin-platform", kw_only=True)
    token_url: str = field(default=IMS + TOKEN_PATH, kw_only=True, converter=_token_url)

    @classmethod
    def from_env(cls) -> Self:
        """From `ITP_SERVICE_CLIENT_ID` and `ITP_SERVICE_CLIENT_SECRET`, the issuer from
        `ITP_ISSUER_URL` where that is set. A missing one is a `ValueError` that names it."""
        issuer = os.environ.get("ITP_ISSUER_URL") or IMS
        return cls(
            _variable("ITP_SERVICE_CLIENT_ID"),
            _variable("ITP_SERVICE_CLIENT_SECRET"),
            token_url=issuer.rstrip("/") + TOKEN_PATH,
        )

    async def get_token(self) -> AccessToken:
        """A new token, fetched over a connection of its own. Raises `TokenError`."""
        return await _alone(self.fetch)

    async def fetch(self, exchange: Exchange) -> AccessToken:
        """A new token by way of `exchange`, which sends a request and brings the answer."""
        form = {
            "grant_type": "client_credentials",
            "client_id": self.client_id,
            "client_secret": self.client_secret,
            "scope": self.scope,
        }
        return read_token(*await _asked(exchange, self.token_url, form))


@define(eq=False)
class RefreshTokenCredentials:
    """A user who has signed in: tokens come by way of their refresh token (OAuth 2).

    The service may hand out a new refresh token with each token; the newest is kept in
    `refresh_token` and given to `on_rotate` (sync or async), so that you can store it.
    """

    client_id: str = field(validator=_filled)
    refresh_token: str = field(validator=_filled, repr=False)
    client_secret: str | None = field(default=None, kw_only=True, repr=False)
    scope: str = field(default="itwin-platform offline_access", kw_only=True)
    token_url: str = field(default=IMS + TOKEN_PATH, kw_only=True, converter=_token_url)
    on_rotate: Callable[[str], Any] | None = field(default=None, kw_only=True, repr=False)

    async def get_token(self) -> AccessToken:
        """A new token, fetched over a connection of its own. Raises `TokenError`."""
        return await _alone(self.fetch)

    async def fetch(self, exchange: Exchange) -> AccessToken:
        """A new token by way of `exchange`, which sends a request and brings the answer."""
        form = {
            "grant_type": "refresh_token",
            "client_id": self.client_id,
            "refresh_token": self.refresh_token,
            "scope": self.scope,
        }
        if self.client_secret is not None:
            form["client_secret"] = self.client_secret
        response, now = await _asked(exchange, self.token_url, form)
        token, newest = read_token(response, now), read_refresh_token(response)
        if newest is not None and newest != self.refresh_token:
            self.refresh_token = newest
            if self.on_rotate is not None:
                stored = self.on_rotate(newest)
                if inspect.isawaitable(stored):
                    await stored
        return token


async def _asked(exchange: Exchange, url: str, form: dict[str, str]) -> tuple[Response, datetime]:
    """The token service's answer, and when it came."""
    try:
        response = await exchange(token_request(url, form))
    except TransportError as exc:
        raise TokenError(message=f"no token: {exc}", passing=True) from exc
    return response, datetime.now(UTC)


async def _alone(fetch: Callable[[Exchange], Awaitable[AccessToken]]) -> AccessToken:
    transport = AiohttpTransport()
    try:
        return await fetch(transport.send)
    finally:
        await transport.close()


def _variable(name: str) -> str:
    value = os.environ.get(name, "")
    if not value.strip():
        raise ValueError(f"the environment variable {name} is not set")
    return value.strip()


def auth_from_env() -> "str | ClientCredentials":
    """`ITWIN_ACCESS_TOKEN` where it is set, otherwise the service application of the environment.

    With neither, a `ValueError` names what could be set.
    """
    if token := os.environ.get("ITWIN_ACCESS_TOKEN", "").strip():
        return token
    names = ("ITP_SERVICE_CLIENT_ID", "ITP_SERVICE_CLIENT_SECRET")
    if not any(os.environ.get(name, "").strip() for name in names):
        raise ValueError(
            "no token: set ITWIN_ACCESS_TOKEN, or ITP_SERVICE_CLIENT_ID and "
            "ITP_SERVICE_CLIENT_SECRET, in the environment"
        )
    return ClientCredentials.from_env()


def checked_auth(auth: Any) -> Auth:
    """What can be used as `auth`, or an error that says what could be."""
    if isinstance(auth, str):
        return AccessToken(auth.strip())
    if isinstance(auth, AccessToken) or hasattr(auth, "get_token") or callable(auth):
        return auth  # type: ignore[no-any-return]
    raise TypeError(
        "auth must be a token, an object with get_token(), or a callable that returns a token, "
        f"not {type(auth).__name__}"
    )


class TokenKeeper:
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

    async def get(self) -> str:
        """The token to send now. One that still works is not waited for while it is renewed."""
        token, now = self._token, asyncio.get_running_loop().time()
        if token is None or (self._ends is not None and now >= self._ends):
            return (await self._fetched()).value
        if self._due is not None and now >= max(self._due, self._rest) and self._fetching is None:
            self._begin_fetch()
        return token.value

    def invalidate(self, sent: str) -> bool:
        """Forget the token that was refused, unless another has taken its place since.

        Says whether asking once more makes sense: never for a fixed token.
        """
        if isinstance(self._auth, AccessToken):
            return False
        if self._token is not None and self._token.value == sent:
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
            raise TokenError(message="no token: what provides it was cancelled", passing=True)
        error = task.exception()
        if error is None:
            return task.result()
        if isinstance(error, TokenError):
            raise copy(error) from error.__cause__
        raise TokenError(
            message=f"no token: {type(error).__name__}: {redacted(str(error))}", passing=True
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
        wait = self._retry.bound(self._failures) if asked is None else asked
        self._rest = task.get_loop().time() + wait
        log.warning("no new token (%s); not asking again for %.1f s", type(error).__name__, wait)

    async def _fetch(self) -> AccessToken:
        loop = asyncio.get_running_loop()
        if self._failures:
            await asyncio.sleep(max(0.0, self._rest - loop.time()))
        told = await self._ask()
        token = AccessToken(told.strip()) if isinstance(told, str) else told
        if not isinstance(token, AccessToken):
            raise TokenError(message=f"auth gave a {type(token).__name__} where a token belongs")
        lifetime = _seconds_left(token)
        if lifetime is None:
            self._ends = self._due = None
            self._token = None if isinstance(told, str) else token  # a string is not ours to keep
        else:
            early = min(RENEW_EARLY, lifetime / 2)
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
