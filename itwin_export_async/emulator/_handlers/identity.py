"""The identity service: gives tokens to applications, and tells what a token is worth."""

import base64
import binascii
from typing import Any
from urllib.parse import parse_qs, unquote_plus

from itwin_export_async._protocol.messages import Request, Response
from itwin_export_async.emulator._http.messages import ApiError, error, header_of, json_answer
from itwin_export_async.emulator._state.platform import Call, Platform, Token

SCOPE = "itwin-platform"
_USER_SCOPE = f"{SCOPE} offline_access"

_USER_SCOPES = frozenset({"openid", "email", "profile", "organization", "offline_access"})


def add_token(world: Platform, *, lifetime: float, scope: str) -> str:
    """A new access token, good from now for `lifetime` seconds."""
    token = f"emulated-{world.ids.getrandbits(160):040x}"
    now = world.clock.now()
    world.tokens[token] = Token(
        scopes=frozenset(scope.split()), issued_at=now, expires_at=now + lifetime
    )
    return token


def add_refresh_token(world: Platform) -> str:
    """A new refresh token of a user, good for one use."""
    token = f"refresh-{world.ids.getrandbits(160):040x}"
    world.refresh_tokens.add(token)
    return token


def admit(world: Platform, call: Call) -> None:
    """Let a request of the APIs pass, or raise the 401 it deserves."""
    header = header_of(call.request, "Authorization")
    if not header:
        raise _denied(
            "HeaderNotFound",
            "Header Authorization was not found in the request. Access denied.",
        )
    scheme, _, token = header.partition(" ")
    if scheme.lower() != "bearer":
        raise _denied("InvalidAuthorizationScheme", "Authorization scheme must be Bearer.")
    if not token or token != token.strip() or " " in token:
        raise _denied("InvalidHeaderValue", "Header Authorization holds no token.")
    known = world.tokens.get(token)
    if known is None or call.now >= known.expires_at:
        raise _denied(
            "Unauthorized",
            "Access denied due to invalid access_token. "
            "Make sure to provide a valid token for this API endpoint.",
        )
    if SCOPE not in known.scopes:
        raise _denied("RequiredScopeMissing", f"The token lacks the scope {SCOPE}.")


def issue_token(world: Platform, call: Call) -> Response:
    """`POST /connect/token`: the grants of client credentials and of refresh tokens."""
    form = {
        name: values[0]
        for name, values in parse_qs((call.request.body or b"").decode("ascii", "replace")).items()
    }
    match form.get("grant_type"):
        case None:
            return _refusal("invalid_request")
        case "client_credentials":
            return _to_service(world, call.request, form)
        case "refresh_token":
            return _to_user(world, call.request, form)
        case _:
            return _refusal("unsupported_grant_type")


def _to_service(world: Platform, request: Request, form: dict[str, str]) -> Response:
    if _client(request, form) != (world.client_id, world.client_secret):
        return _refusal("invalid_client")
    scope = form.get("scope", SCOPE)
    if _USER_SCOPES & set(scope.split()):
        return _refusal("invalid_scope")
    return json_answer(200, _granted(world, scope))


def _to_user(world: Platform, request: Request, form: dict[str, str]) -> Response:
    """A token for a refresh token, which is used up by it, and the next one of these.

    The application may be a public one, without a secret; a wrong secret is refused.
    """
    named = _client(request, form)
    if named not in ((world.client_id, world.client_secret), (world.client_id, "")):
        return _refusal("invalid_client")
    used = form.get("refresh_token", "")
    if used not in world.refresh_tokens:
        return _refusal("invalid_grant")
    world.refresh_tokens.remove(used)
    granted = _granted(world, form.get("scope", _USER_SCOPE))
    return json_answer(200, granted | {"refresh_token": add_refresh_token(world)})


def _granted(world: Platform, scope: str) -> dict[str, Any]:
    lifetime = world.settings.token_lifetime
    return {
        "access_token": add_token(world, lifetime=lifetime, scope=scope),
        "expires_in": int(lifetime),
        "token_type": "Bearer",
        "scope": scope,
    }


def _client(request: Request, form: dict[str, str]) -> tuple[str, str] | None:
    scheme, _, encoded = header_of(request, "Authorization").partition(" ")
    if scheme.lower() != "basic":
        return form.get("client_id", ""), form.get("client_secret", "")
    try:
        pair = base64.b64decode(encoded, validate=True).decode("ascii")
    except (binascii.Error, UnicodeDecodeError):
        return None
    client_id, _, client_secret = pair.partition(":")
    return unquote_plus(client_id), unquote_plus(client_secret)


def _denied(code: str, message: str) -> ApiError:
    return ApiError(error(401, code, message))


def _refusal(reason: str) -> Response:
    return json_answer(400, {"error": reason})
