"""Tokens of Bentley's identity service (IMS), by OAuth 2.

https://developer.bentley.com/apis/overview/authorization/
"""

import binascii
import json
from base64 import urlsafe_b64decode
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from functools import cached_property
from urllib.parse import urlencode

from attrs import Factory, field, frozen

from itwin_export_async._errors import TokenError
from itwin_export_async._protocol.headers import retry_after
from itwin_export_async._protocol.messages import Request, Response
from itwin_export_async._redaction import Secret, redacted, without_query

IMS = "https://ims.bentley.com"
TOKEN_PATH = "/connect/token"
_MAX_LIFETIME = 10 * 365 * 24 * 3600.0
_MAX_JWT = 64 * 1024


def _without_bearer(value: str) -> str:
    """The token alone, where it was copied with the name of its scheme."""
    if not isinstance(value, str):
        return value
    scheme, _, rest = value.strip().partition(" ")
    return rest.strip() if scheme.casefold() == "bearer" else value.strip()


def jwt_expiry(value: str) -> datetime | None:
    """The `exp` of a token that is a JWT, not verified; None for any other token."""
    parts = value.split(".")
    if len(parts) != 3 or len(value) > _MAX_JWT:
        return None
    try:
        claims = json.loads(urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
        expiry = claims["exp"]
        if type(expiry) not in (int, float) or not 0 < expiry < 1e11:
            return None
        return datetime.fromtimestamp(expiry, UTC)
    except (ValueError, TypeError, KeyError, RecursionError, OverflowError, binascii.Error):
        return None


@frozen
class AccessToken:
    """A bearer token and its end, an aware datetime; None where that is not known.

    Without `expires_at`, the `exp` of a token that is a JWT is used.
    """

    value: str = field(repr=False, converter=_without_bearer)
    expires_at: datetime | None = field(
        default=Factory(
            lambda self: jwt_expiry(self.value) if isinstance(self.value, str) else None,
            takes_self=True,
        )
    )

    @cached_property
    def secret(self) -> Secret:
        """The token as a value that no text may show."""
        return Secret(self.value)

    @value.validator
    def _fits_a_header(self, _: object, value: object) -> None:
        if not isinstance(value, str):
            raise TypeError(f"the access token must be a string, not {type(value).__name__}")
        if not value:
            raise ValueError("the access token is empty")
        if not value.isascii() or not value.isprintable() or " " in value:
            raise ValueError("the access token has a character that cannot be in a header")

    @expires_at.validator
    def _aware(self, _: object, value: object) -> None:
        if value is None:
            return
        if not isinstance(value, datetime):
            raise TypeError(f"expires_at must be a datetime, not {type(value).__name__}")
        if value.tzinfo is None:
            raise ValueError("expires_at must be an aware datetime (with a time zone)")


def token_request(url: str, form: Mapping[str, str | Secret]) -> Request:
    """Request a token. Repeatable: an unused token does no harm."""
    plain = {
        name: value.reveal() if isinstance(value, Secret) else value for name, value in form.items()
    }
    return Request(
        method="POST",
        url=url,
        headers={
            "Accept": "application/json",
            "Content-Type": "application/x-www-form-urlencoded",
        },
        body=urlencode(plain).encode(),
        retryable=True,
    )


@frozen(kw_only=True)
class TokenResponse:
    """What the token service granted. `refresh_token` is None where it did not send one."""

    token: AccessToken
    refresh_token: Secret | None


def parse_token(response: Response, now: datetime, secrets: Iterable[Secret] = ()) -> TokenResponse:
    """The tokens of a response, or a `TokenError` with the service's reason.

    `secrets` are the values of the request, which the reason does not repeat.
    """
    granted = _parse(response, now, secrets)
    if isinstance(granted, TokenResponse):
        return granted
    raise TokenError(  # outside the frames that hold the response's members
        message=f"no token from {without_query(response.url)}: {response.status} {granted}",
        is_transient=response.status >= 500 or response.status in (408, 429),
        retry_after=retry_after(response.headers, now=None),
    )


def _parse(response: Response, now: datetime, secrets: Iterable[Secret]) -> TokenResponse | str:
    """The tokens, or the reason why there are none, without secrets."""
    try:
        members = json.loads(response.body)
    except (ValueError, RecursionError):
        return "the response is not JSON"
    if not isinstance(members, dict):
        return "the response is not a JSON object"
    if response.status != 200:
        reason = (members.get("error"), members.get("error_description"))
        return redacted(": ".join(str(part) for part in reason if part), secrets)
    value, refresh = members.get("access_token"), members.get("refresh_token")
    if type(value) is not str or not value:
        return "the response holds no access_token"
    expires_at = _expires_at(members.get("expires_in"), now)
    try:
        token = AccessToken(value) if expires_at is None else AccessToken(value, expires_at)
    except ValueError as exc:
        return str(exc)
    return TokenResponse(
        token=token,
        refresh_token=Secret(refresh) if isinstance(refresh, str) and refresh else None,
    )


def _expires_at(lifetime: object, now: datetime) -> datetime | None:
    """The end of a token; None for a lifetime that makes no sense."""
    if not isinstance(lifetime, int | float) or not 0 < lifetime < _MAX_LIFETIME:
        return None
    return now + timedelta(seconds=lifetime)
