"""Where tokens come from: what can be passed as `auth`."""

import inspect
import os
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any, Protocol, Self, TypeAlias

from attrs import define, field, frozen

from itwin_export_async._errors import TokenError, TransportError
from itwin_export_async._http.transport import AiohttpTransport
from itwin_export_async._protocol.messages import Request, Response
from itwin_export_async._protocol.oauth import (
    IMS,
    TOKEN_PATH,
    AccessToken,
    parse_refresh_token,
    parse_token,
    token_request,
)
from itwin_export_async._protocol.urls import validate_base_url


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
    return validate_base_url("token_url", value)


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
        return parse_token(*await _asked(exchange, self.token_url, form))


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
        token, newest = parse_token(response, now), parse_refresh_token(response)
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
        raise TokenError(message=f"no token: {exc}", is_transient=True) from exc
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


def normalize_auth(auth: Any) -> Auth:
    """What can be used as `auth`, or an error that says what could be."""
    if isinstance(auth, str):
        return AccessToken(auth.strip())
    if isinstance(auth, AccessToken) or hasattr(auth, "get_token") or callable(auth):
        return auth  # type: ignore[no-any-return]
    raise TypeError(
        "auth must be a token, an object with get_token(), or a callable that returns a token, "
        f"not {type(auth).__name__}"
    )
