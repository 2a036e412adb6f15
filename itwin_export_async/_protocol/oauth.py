"""Tokens from Bentley's identity service (IMS), by OAuth 2.

https://developer.bentley.com/apis/overview/authorization/
"""

from datetime import datetime, timedelta
from urllib.parse import urlencode

from attrs import field, frozen

from itwin_export_async._errors import ExportError, TokenError
from itwin_export_async._protocol.codec import json_object
from itwin_export_async._protocol.headers import retry_after
from itwin_export_async._protocol.messages import Request, Response
from itwin_export_async._redaction import redacted, without_query

IMS = "https://ims.bentley.com"
TOKEN_PATH = "/connect/token"
_LONGEST = 10 * 365 * 24 * 3600


@frozen
class AccessToken:
    """A bearer token, and until when it holds (an aware datetime; None when that is not known)."""

    value: str = field(repr=False)
    expires_at: datetime | None = field(default=None)

    @value.validator
    def _fits_a_header(self, _: object, value: object) -> None:
        if not isinstance(value, str) or not value.strip():
            raise ValueError("the access token is empty")
        if not value.isascii() or not value.isprintable() or " " in value:
            raise ValueError("the access token has a character that cannot be in a header")

    @expires_at.validator
    def _aware(self, _: object, value: object) -> None:
        if value is None:
            return
        if not isinstance(value, datetime):
            raise TypeError(f"expires_at must be a datetime, not {value!r}")
        if value.tzinfo is None:
            raise ValueError("expires_at must be an aware datetime (with a time zone)")


def token_request(url: str, form: dict[str, str]) -> Request:
    """Ask for a token. Repeatable: an unused token does no harm."""
    return Request(
        method="POST",
        url=url,
        headers={
            "Accept": "application/json",
            "Content-Type": "application/x-www-form-urlencoded",
        },
        body=urlencode(form).encode(),
        retryable=True,
    )


def parse_token(response: Response, now: datetime) -> AccessToken:
    """The token of an answer, or a `TokenError` with the service's reason."""
    try:
        answer = json_object(response)
    except ExportError as exc:
        raise _refused(response, "its answer is not JSON") from exc
    if response.status != 200:
        code, text = answer.get("error"), answer.get("error_description")
        raise _refused(response, ": ".join(str(part) for part in (code, text) if part))
    value, lifetime = answer.get("access_token"), answer.get("expires_in")
    if type(value) is not str or not value:
        raise _refused(response, "its answer holds no access_token")
    try:
        return AccessToken(value, _ends(lifetime, now))
    except ValueError as exc:
        raise _refused(response, str(exc)) from exc


def parse_refresh_token(response: Response) -> str | None:
    """The refresh token that came with a token, None where there was none."""
    value = json_object(response).get("refresh_token")
    return value if isinstance(value, str) and value else None


def _ends(lifetime: object, now: datetime) -> datetime | None:
    """When a token ends; a lifetime that makes no sense is not known."""
    if not isinstance(lifetime, int | float) or not 0 < lifetime < _LONGEST:
        return None
    return now + timedelta(seconds=lifetime)


def _refused(response: Response, reason: str) -> TokenError:
    return TokenError(
        message=f"no token from {without_query(response.url)}: "
        f"{response.status} {redacted(reason)}",
        is_transient=response.status >= 500 or response.status in (408, 429),
        retry_after=retry_after(response.headers, now=None),
    )
