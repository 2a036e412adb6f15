"""How a refusal of the service becomes an error.

The documented body is `{"error": {code, message, details}}`; un-nested ones, the gateway's
`{statusCode, message}`, empty ones and HTML from proxies have been seen too, with nulls anywhere.
"""

import json
from collections.abc import Mapping
from typing import Any

from multidict import CIMultiDict

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
from itwin_export_async._protocol.headers import retry_after
from itwin_export_async._protocol.messages import Response
from itwin_export_async._redaction import redacted, without_query

_BY_STATUS: dict[int, type[ResponseError]] = {
    400: InvalidRequest,
    401: AuthenticationFailed,
    403: PermissionDenied,
    404: NotFound,
    409: Conflict,
    422: InvalidRequest,
    429: RateLimited,
}
_REQUEST_IDS = ("x-correlation-id", "x-request-id", "request-id", "x-ms-request-id")
_SECRET_HEADERS = frozenset({"set-cookie", "authorization", "www-authenticate"})
_ADDRESS_HEADERS = frozenset({"location", "content-location"})
_BODY_SHOWN = 500


def refusal(response: Response) -> ExportError:
    """The error that an answer outside its operation's contract stands for."""
    if response.status < 400:
        return ProtocolError(
            message=f"answered {response.status}, which this operation never does",
            method=response.method,
            url=response.url,
        )
    kind = _BY_STATUS.get(response.status)
    if kind is None:
        kind = ServerError if response.status >= 500 else ResponseError
    code, message, details = _told(response.body)
    return kind(
        status=response.status,
        code=code,
        message=message,
        details=details,
        request_id=next((v for n in _REQUEST_IDS if (v := response.headers.get(n))), None),
        method=response.method,
        url=response.url,
        retry_after=retry_after(response.headers, now=None),
        headers=_shown(response.headers),
    )


def _told(body: bytes) -> tuple[str, str, tuple[ErrorDetail, ...]]:
    try:
        told = json.loads(body)
    except (ValueError, RecursionError):
        told = None
    if not isinstance(told, dict):
        told = {}
    error = told["error"] if isinstance(told.get("error"), dict) else told
    code, message, details = _text(error, "code"), _text(error, "message"), error.get("details")
    if not code and not message:
        text = body[: 4 * _BODY_SHOWN].decode(errors="replace")  # a character has 4 bytes at most
        message = redacted(text[:_BODY_SHOWN].strip())
    return (
        code,
        message,
        tuple(
            ErrorDetail(
                code=_text(detail, "code"),
                message=_text(detail, "message"),
                target=_text(detail, "target") or None,
            )
            for detail in (details if isinstance(details, list) else ())
            if isinstance(detail, dict)
        ),
    )


def _text(members: Mapping[str, Any], name: str) -> str:
    value = members.get(name)
    return redacted(value) if isinstance(value, str) else ""


def _shown(headers: Mapping[str, str]) -> Mapping[str, str]:
    told = ((name, name.lower(), redacted(value)) for name, value in headers.items())
    return CIMultiDict(
        (name, without_query(value) if folded in _ADDRESS_HEADERS else value)
        for name, folded, value in told
        if folded not in _SECRET_HEADERS
    )
