"""The identity service: it issues access tokens, and the APIs check them."""

import base64
import binascii
from typing import Any
from urllib.parse import parse_qs, unquote_plus

from itwin_export_async._protocol.messages import Request, Response
from itwin_export_async.emulator._http.messages import (
    ApiError,
    error,
    header_of,
    json_response,
)
from itwin_export_async.emulator._http.router import open_to_all
from itwin_export_async.emulator._state.platform import Platform, RequestContext, Token

SCOPE = "itwin-platform"
_USER_SCOPE = f"{SCOPE} offline_access"
_USER_SCOPES = frozenset({"openid", "email", "profile", "organization", "offline_access"})


def authenticate(platform: Platform, context: RequestContext) -> Token:
    """Return the token of a request to the APIs. Raises the 401 that the request deserves."""
    header = header_of(context.request, "Authorization")
    if not header:
        raise _unauthorized(
            "HeaderNotFound",
            "Header Authorization was not found in the request. Access denied.",
        )
    scheme, _, token = header.partition(" ")
    if scheme.lower() != "bearer":
        raise _unauthorized("InvalidAuthorizationScheme", "Authorization scheme must be Bearer.")
    if not token or token != token.strip() or " " in token:
        raise _unauthorized("InvalidHeaderValue", "Header Authorization holds no token.")
    known = platform.tokens.get(token)
    if known is None or context.now >= known.expires_at:
        raise _unauthorized(
            "Unauthorized",
            "Access denied due to invalid access_token. "
            "Make sure to provide a valid token for this API endpoint.",
        )
    if SCOPE not in known.scopes:
        raise _unauthorized("RequiredScopeMissing", f"The token lacks the scope {SCOPE}.")
    return known


@open_to_all("identity", "POST", "/connect/token")
def issue_token(platform: Platform, context: RequestContext) -> Response:
    """Issue a token for the grants `client_credentials` and `refresh_token`."""
    body = (context.request.body or b"").decode("ascii", "replace")
    form = {name: values[0] for name, values in parse_qs(body).items()}
    match form.get("grant_type"):
        case None:
            return _oauth_error("invalid_request")
        case "client_credentials":
            return _issue_to_service(platform, context.request, form)
        case "refresh_token":
            return _issue_to_user(platform, context.request, form)
        case _:
            return _oauth_error("unsupported_grant_type")


def _issue_to_service(platform: Platform, request: Request, form: dict[str, str]) -> Response:
    if _credentials(request, form) != (platform.client_id, platform.client_secret):
        return _oauth_error("invalid_client")
    scope = form.get("scope", SCOPE)
    if _USER_SCOPES & set(scope.split()):
        return _oauth_error("invalid_scope")
    return json_response(200, _grant(platform, scope))


def _issue_to_user(platform: Platform, request: Request, form: dict[str, str]) -> Response:
    """Issue a token for a refresh token, which is used up, and a new refresh token.

    The application may be a public one, without a secret. A wrong secret is refused.
    """
    credentials = _credentials(request, form)
    if credentials not in (
        (platform.client_id, platform.client_secret),
        (platform.client_id, ""),
    ):
        return _oauth_error("invalid_client")
    refresh_token = form.get("refresh_token", "")
    if refresh_token not in platform.refresh_tokens:
        return _oauth_error("invalid_grant")
    platform.refresh_tokens.remove(refresh_token)
    grant = _grant(platform, form.get("scope", _USER_SCOPE), is_user=True)
    return json_response(200, grant | {"refresh_token": platform.add_refresh_token()})


def _grant(platform: Platform, scope: str, *, is_user: bool = False) -> dict[str, Any]:
    lifetime = platform.settings.token_lifetime
    return {
        "access_token": platform.add_token(lifetime=lifetime, scope=scope, is_user=is_user),
        "expires_in": int(lifetime),
        "token_type": "Bearer",
        "scope": scope,
    }


def _credentials(request: Request, form: dict[str, str]) -> tuple[str, str] | None:
    scheme, _, encoded = header_of(request, "Authorization").partition(" ")
    if scheme.lower() != "basic":
        return form.get("client_id", ""), form.get("client_secret", "")
    try:
        decoded = base64.b64decode(encoded, validate=True).decode("ascii")
    except (binascii.Error, ValueError):
        return None
    client_id, _, client_secret = decoded.partition(":")
    return unquote_plus(client_id), unquote_plus(client_secret)


def _unauthorized(code: str, message: str) -> ApiError:
    return ApiError(error(401, code, message))


def _oauth_error(reason: str) -> Response:
    return json_response(400, {"error": reason})
