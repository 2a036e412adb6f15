"""The identity service: gives tokens to service applications, and tells what a token is worth."""

import base64
import binascii
from urllib.parse import parse_qs, unquote_plus

from itwin_export_async._protocol.http import Request, Response
from itwin_export_async.emulator._answers import Refused, error, header_of, json_answer
from itwin_export_async.emulator._world import Call, Token, World

SCOPE = "itwin-platform"

_USER_SCOPES = frozenset({"openid", "email", "profile", "organization", "offline_access"})


def add_token(world: World, *, lifetime: float, scope: str) -> str:
    """A new access token, good from now for `lifetime` seconds."""
    token = f"emulated-{world.ids.getrandbits(160):040x}"
    world.tokens[token] = Token(
        scopes=frozenset(scope.split()), expires_at=world.clock.now() + lifetime
    )
    return token


def admit(world: World, request: Request) -> None:
    """Let a request of the APIs pass, or raise the 401 it deserves."""
    header = header_of(request, "Authorization")
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
    if known is None or world.clock.now() >= known.expires_at:
        raise _denied(
            "Unauthorized",
            "Access denied due to invalid access_token. "
            "Make sure to provide a valid token for this API endpoint.",
        )
    if SCOPE not in known.scopes:
        raise _denied("RequiredScopeMissing", f"The token lacks the scope {SCOPE}.")


def issue_token(world: World, call: Call) -> Response:
    """`POST /connect/token`: the client credentials grant."""
    form = {
        name: values[0]
        for name, values in parse_qs((call.request.body or b"").decode("ascii", "replace")).items()
    }
    if "grant_type" not in form:
        return _refusal("invalid_request")
    if form["grant_type"] != "client_credentials":
        return _refusal("unsupported_grant_type")
    if _client(call.request, form) != (world.client_id, world.client_secret):
        return _refusal("invalid_client")
    scope = form.get("scope", SCOPE)
    if _USER_SCOPES & set(scope.split()):
        return _refusal("invalid_scope")
    lifetime = world.settings.token_lifetime
    return json_answer(
        200,
        {
            "access_token": add_token(world, lifetime=lifetime, scope=scope),
            "expires_in": int(lifetime),
            "token_type": "Bearer",
            "scope": scope,
        },
    )


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


def _denied(code: str, message: str) -> Refused:
    return Refused(error(401, code, message))


def _refusal(reason: str) -> Response:
    return json_answer(400, {"error": reason})
