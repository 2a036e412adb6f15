"""Error responses as errors.

The documented body is `{"error": {code, message, details}}`. Un-nested bodies, the gateway's
`{statusCode, message}`, empty ones and HTML from proxies have been seen too, with nulls anywhere.
"""

import json
import re
from collections.abc import Iterable, Mapping
from itertools import islice
from typing import Any

from attrs import evolve
from multidict import CIMultiDict  # aiohttp's own headers, which keep repeated names apart

from itwin_export_async._errors import (
    AuthenticationFailed,
    Conflict,
    ErrorDetail,
    ExportError,
    InvalidRequest,
    NotFound,
    PermissionDenied,
    ProtocolError,
    RateLimited,
    ResponseError,
    ServerError,
)
from itwin_export_async._errors.http import MAX_DETAILS
from itwin_export_async._protocol.headers import retry_after
from itwin_export_async._protocol.messages import Response
from itwin_export_async._redaction import (
    MAX_ESCAPED,
    Secret,
    redacted,
    struck_out,
    struck_out_bytes,
    without_query,
)

_BY_STATUS: dict[int, type[ResponseError]] = {
    400: InvalidRequest,
    401: AuthenticationFailed,
    403: PermissionDenied,
    404: NotFound,
    409: Conflict,
    422: InvalidRequest,
    429: RateLimited,
}
_CORRELATION_ID = "x-correlation-id"
_REQUEST_IDS = ("x-request-id", "request-id", "x-ms-request-id", _CORRELATION_ID)
_SECRET_HEADERS = frozenset({"set-cookie", "authorization", "www-authenticate"})
_URL_HEADERS = frozenset({"location", "content-location"})
_MAX_HEADERS = 64
_MAX_BODY = 64 * 1024  # bytes of a body that is no JSON, in which its text is looked for
_MAX_PAGE_TEXT = 100  # characters shown of an HTML page
# Each pattern takes time in proportion to the text.
_HIDDEN = re.compile(
    r"<!--.*?(?:-->|\Z)|<\?xml[^>]*(?:>|\Z)|<(script|style)\b.*?(?:</\1\s*>|\Z)",
    re.DOTALL | re.IGNORECASE,
)
_HTML = re.compile(r"\s*<(?:!doctype html|html|head|body|title|center|h1)\b", re.IGNORECASE)
_TITLE = re.compile(r"<title\b[^<>]*>([^<]*)", re.IGNORECASE)
_TAG = re.compile(r"<[^>]*(?:>|\Z)")


def without_secrets(response: Response, secrets: Iterable[Secret]) -> Response:
    """The response without values that the request held, should the service repeat them.

    The body of an error is cut where escaped values would not be found any more.
    """
    secrets = tuple(secrets)
    body = response.body if response.status < 400 else response.body[:MAX_ESCAPED]
    body = struck_out_bytes(body, secrets)
    headers = response.headers
    if any(struck_out(value, secrets) != value for value in headers.values()):
        headers = CIMultiDict((name, struck_out(text, secrets)) for name, text in headers.items())
    if body is response.body and headers is response.headers:
        return response
    return evolve(response, body=body, headers=headers)


def error_from_response(response: Response) -> ExportError:
    """The error of a response that its operation does not expect."""
    if response.status < 400:
        return ProtocolError(
            message=f"answered {response.status}, which this operation does not expect",
            method=response.method,
            url=response.url,
        )
    kind = _BY_STATUS.get(response.status)
    if kind is None:
        kind = ServerError if response.status >= 500 else ResponseError
    code, message, details, is_nested = _parse_error_body(response.body)
    error = kind(
        status=response.status,
        code=code,
        message=message,
        details=details,
        request_id=next((v for n in _REQUEST_IDS if (v := response.headers.get(n))), None),
        correlation_id=response.headers.get(_CORRELATION_ID) or response.correlation_id,
        method=response.method,
        url=response.url,
        retry_after=retry_after(response.headers, now=None),
        headers=_public_headers(response.headers),
    )
    if not is_nested:
        error.is_from_api = False
    if response.uncertain_for is not None:  # an earlier attempt may have been taken
        error.may_have_been_processed = True
    return error


def _members(body: bytes) -> dict[str, Any]:
    try:
        members = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return members if isinstance(members, dict) else {}


def _parse_error_body(body: bytes) -> tuple[str, str, tuple[ErrorDetail, ...], bool]:
    """The code, message and details of the body, and whether it has the documented form."""
    members = _members(body)
    is_nested = isinstance(members.get("error"), dict)
    error = members["error"] if is_nested else members
    code, message, details = _text(error, "code"), _text(error, "message"), error.get("details")
    if not code and not message:
        message = body[:_MAX_BODY].decode(errors="replace")
    found = [item for item in details if isinstance(item, dict)] if type(details) is list else []
    return (
        code,
        _without_html(message),
        tuple(
            ErrorDetail(
                code=_text(item, "code"),
                message=_text(item, "message"),
                target=_text(item, "target") or None,
            )
            for item in found[:MAX_DETAILS]
        ),
        is_nested,
    )


def _without_html(text: str) -> str:
    """The text; of an HTML page, such as a proxy's, its title or else the start of its text."""
    if not text.lstrip("\ufeff \t\r\n").startswith("<"):
        return text
    page = _HIDDEN.sub(" ", text.removeprefix("\ufeff"))
    if not _HTML.match(page):
        return text
    title = _TITLE.search(page)
    shown = title[1] if title and title[1].strip() else _TAG.sub(" ", page)
    from html import unescape  # its table of names takes a millisecond to load

    shown = redacted(unescape(shown), limit=_MAX_PAGE_TEXT)
    return f"an HTML page: {shown}" if shown else "an HTML page"


def _text(members: Mapping[str, Any], name: str) -> str:
    value = members.get(name)
    return value if isinstance(value, str) else ""


def _public_headers(headers: Mapping[str, str]) -> Mapping[str, str]:
    named = ((name, name.lower(), value) for name, value in headers.items())
    return CIMultiDict(
        (redacted(name), redacted(without_query(value) if folded in _URL_HEADERS else value))
        for name, folded, value in islice(named, _MAX_HEADERS)
        if folded not in _SECRET_HEADERS
    )
