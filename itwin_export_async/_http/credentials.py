"""Credentials: the values of `auth`, and the OAuth 2 clients among them."""

import asyncio
import inspect
import logging
import os
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any, Protocol, Self, TypeAlias

from attrs import define, field, frozen

from itwin_export_async._errors import TokenError, TransportError
from itwin_export_async._http.threads import call_in_thread
from itwin_export_async._http.transport import AiohttpTransport
from itwin_export_async._models.validators import not_blank
from itwin_export_async._protocol.messages import Request, Response
from itwin_export_async._protocol.oauth import (
    IMS,
    TOKEN_PATH,
    AccessToken,
    TokenResponse,
    parse_token,
    token_request,
)
from itwin_export_async._protocol.urls import validate_base_url
from itwin_export_async._redaction import Secret, redacted

log = logging.getLogger("itwin_export_async.auth")

ROTATE_TIMEOUT = 60.0  # seconds for which `on_rotate` is waited for
LOCK_INTERVAL = 0.05  # seconds between attempts to take a lock that another event loop may hold
_SERVICE_VARIABLES = ("ITP_SERVICE_CLIENT_ID", "ITP_SERVICE_CLIENT_SECRET")
_TOKEN_VARIABLE = "ITWIN_ACCESS_TOKEN"


class TokenProvider(Protocol):
    """An object that provides access tokens."""

    async def get_token(self) -> AccessToken:
        """A token that is valid now."""
        ...


TokenCallable: TypeAlias = Callable[[], str | AccessToken | Awaitable[str | AccessToken]]
Auth: TypeAlias = str | AccessToken | TokenProvider | TokenCallable
SendRequest: TypeAlias = Callable[[Request], Awaitable[Response]]


def _token_url(value: str) -> str:
    return validate_base_url("token_url", value)


@frozen
class ClientCredentials:
    """A service application, which gets tokens in its own name (OAuth 2 client credentials).

    It has access to an iTwin only after `{client_id}@apps.imsoidc.bentley.com` was added there with
    a role.
    """

    client_id: str = field(validator=not_blank)
    client_secret: str = field(validator=not_blank, repr=False)
    scope: str = field(default="itwin-platform", kw_only=True)
    token_url: str = field(default=IMS + TOKEN_PATH, kw_only=True, converter=_token_url)

    @classmethod
    def from_env(cls) -> Self:
        """From `ITP_SERVICE_CLIENT_ID` and `ITP_SERVICE_CLIENT_SECRET`, with the issuer
        `ITP_ISSUER_URL` where that is set. A `ValueError` names a missing variable."""
        issuer = os.environ.get("ITP_ISSUER_URL", "").strip() or IMS
        return cls(
            *map(_required_env, _SERVICE_VARIABLES), token_url=issuer.rstrip("/") + TOKEN_PATH
        )

    @property
    def secrets(self) -> tuple[Secret, ...]:
        """The values that no text may show."""
        return (Secret(self.client_secret),)

    async def get_token(self) -> AccessToken:
        """A new token, fetched over a connection of its own. Raises `TokenError`."""
        async with _own_transport() as send:
            return await self.fetch(send)

    async def fetch(self, send: SendRequest) -> AccessToken:
        """A new token, fetched by `send`. Raises `TokenError`."""
        form: dict[str, str | Secret] = {
            "grant_type": "client_credentials",
            "client_id": self.client_id,
            "client_secret": Secret(self.client_secret),
            "scope": self.scope,
        }
        return (await _post_form(send, self.token_url, form)).token


@define(eq=False)
class RefreshTokenCredentials:
    """A signed-in user, whose tokens are exchanged for a refresh token (OAuth 2).

    The service may issue a new refresh token with each access token. The newest is kept in
    `refresh_token` and passed to `on_rotate` (sync or async), so that you can store it. An error of
    `on_rotate` is logged; both tokens stay in use.
    """

    client_id: str = field(validator=not_blank)
    refresh_token: str = field(validator=not_blank, repr=False)
    client_secret: str | None = field(default=None, kw_only=True, repr=False)
    scope: str = field(default="itwin-platform offline_access", kw_only=True)
    token_url: str = field(default=IMS + TOKEN_PATH, kw_only=True, converter=_token_url)
    on_rotate: Callable[[str], Any] | None = field(default=None, kw_only=True, repr=False)
    _lock: threading.Lock = field(factory=threading.Lock, init=False, repr=False)

    @property
    def secrets(self) -> tuple[Secret, ...]:
        """The values that no text may show."""
        values = (self.refresh_token, self.client_secret)
        return tuple(Secret(value) for value in values if value is not None)

    async def get_token(self) -> AccessToken:
        """A new token, fetched over a connection of its own. Raises `TokenError`."""
        async with _own_transport() as send:
            return await self.fetch(send)

    async def fetch(self, send: SendRequest) -> AccessToken:
        """A new token, fetched by `send`. Raises `TokenError`.

        One exchange at a time: a refresh token is void once it was used.
        """
        async with _held(self._lock):
            granted = await _post_form(send, self.token_url, self._form())
            newest = granted.refresh_token
            if newest is not None and newest != Secret(self.refresh_token):
                self.refresh_token = newest.reveal()
                if self.on_rotate is not None:
                    await _notify(self.on_rotate, newest)
        return granted.token

    def _form(self) -> dict[str, str | Secret]:
        form: dict[str, str | Secret] = {
            "grant_type": "refresh_token",
            "client_id": self.client_id,
            "refresh_token": Secret(self.refresh_token),
            "scope": self.scope,
        }
        if self.client_secret is not None:
            form["client_secret"] = Secret(self.client_secret)
        return form


@asynccontextmanager
async def _held(lock: threading.Lock) -> AsyncIterator[None]:
    """Hold a lock that clients in several event loops share, without blocking any loop."""
    while not lock.acquire(blocking=False):  # noqa: ASYNC110 - its holder may be in another loop
        await asyncio.sleep(LOCK_INTERVAL)
    try:
        yield
    finally:
        lock.release()


async def _notify(on_rotate: Callable[[str], Any], token: Secret) -> None:
    """Pass a new refresh token to its owner, whatever happens to the caller meanwhile."""
    task = asyncio.create_task(_call_on_rotate(on_rotate, token), name="on_rotate")
    try:
        await wait_uninterrupted(task, ROTATE_TIMEOUT)
    finally:
        if not task.done():
            log.error("on_rotate has not returned after %.0f s", ROTATE_TIMEOUT)
        elif not task.cancelled() and (error := task.exception()) is not None:
            name, text = type(error).__name__, redacted(str(error), (token,))
            log.error("on_rotate did not store the new refresh token: %s: %s", name, text)


async def wait_uninterrupted(task: "asyncio.Task[Any]", timeout: float) -> None:
    """Wait for a task, also after the caller was cancelled; raise the cancellation afterwards."""
    deadline = asyncio.get_running_loop().time() + timeout
    cancelled: asyncio.CancelledError | None = None
    while not task.done() and (left := deadline - asyncio.get_running_loop().time()) > 0:
        try:
            await asyncio.wait([task], timeout=left)
        except asyncio.CancelledError as exc:
            cancelled = exc
    if cancelled is not None:
        raise cancelled


async def _call_on_rotate(on_rotate: Callable[[str], Any], token: Secret) -> None:
    if inspect.iscoroutinefunction(on_rotate):
        await on_rotate(token.reveal())
        return
    stored = await call_in_thread(lambda: on_rotate(token.reveal()))
    if inspect.isawaitable(stored):
        await stored


async def _post_form(
    send: SendRequest, url: str, form: Mapping[str, str | Secret]
) -> TokenResponse:
    try:
        response = await send(token_request(url, form))
    except TransportError as exc:
        raise TokenError(message=f"no token: {exc}", is_transient=True) from exc
    secrets = [value for value in form.values() if isinstance(value, Secret)]
    return parse_token(response, datetime.now(UTC), secrets)


@asynccontextmanager
async def _own_transport() -> AsyncIterator[SendRequest]:
    transport = AiohttpTransport()
    try:
        yield transport.send
    finally:
        await transport.close()


def _required_env(name: str) -> str:
    value = os.environ.get(name, "").strip()
    if not value:
        raise ValueError(
            f"the environment variable {name} is not set: set {' and '.join(_SERVICE_VARIABLES)}, "
            f"or set {_TOKEN_VARIABLE} and use ExportClient.from_env()"
        )
    return value


def auth_from_env() -> str | ClientCredentials:
    """`ITWIN_ACCESS_TOKEN` where it is set, otherwise the service application of the environment.

    Without both, a `ValueError` names both ways.
    """
    if token := os.environ.get(_TOKEN_VARIABLE, "").strip():
        return token
    if not any(os.environ.get(name, "").strip() for name in _SERVICE_VARIABLES):
        raise ValueError(
            f"no token: set {_TOKEN_VARIABLE}, or {' and '.join(_SERVICE_VARIABLES)}, "
            "in the environment"
        )
    return ClientCredentials.from_env()


def normalize_auth(auth: Any) -> Auth:
    """The value of `auth`, a plain string as an `AccessToken`. `TypeError` for an unusable one."""
    if isinstance(auth, str):
        return to_token(auth)
    if isinstance(auth, AccessToken) or hasattr(auth, "get_token") or callable(auth):
        return auth  # type: ignore[no-any-return]
    raise TypeError(
        "auth must be a token, an object with get_token(), or a callable that returns a token, "
        f"not {type(auth).__name__}"
    )


def to_token(provided: Any) -> AccessToken:
    """The token that a provider returned, or a caller passed.

    `TypeError` for a value of another type, `ValueError` for a text that fits no header.
    """
    if isinstance(provided, AccessToken):
        return provided
    if not isinstance(provided, str):
        raise TypeError(
            f"a token must be a string or an AccessToken, not {type(provided).__name__}"
        )
    try:
        return AccessToken(provided)
    except ValueError as exc:
        reason = str(exc)
    del provided  # tracebacks with locals show it otherwise
    raise ValueError(reason)
