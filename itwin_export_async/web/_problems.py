"""Errors as HTTP answers: problem details (RFC 9457) without anything internal."""

from http import HTTPStatus
from math import ceil
from typing import Any

from attrs import field, frozen

from itwin_export_async import (
    AuthorizationRequired,
    Conflict,
    DownloadError,
    ExportError,
    InvalidRequest,
    NotFound,
    PermissionDenied,
    RateLimited,
    RunUnreachable,
    ServerError,
    TokenError,
    TransportError,
)
from itwin_export_async.web._public_text import public_text

RETRY_AFTER = 5  # seconds, where the service names none

_DOWNLOAD_STATUS = {"not_finished": 409, "no_output": 404, "not_available": 404, "disk": 507}


class _RequestError(ExportError):
    """A request of a visitor cannot be answered otherwise."""

    def __str__(self) -> str:
        return self.public


class UnknownExport(_RequestError, LookupError):
    """The id is not one that was signed for this owner."""

    @property
    def public(self) -> str:
        """A sentence for a visitor."""
        return "there is no such export"


class InvalidBody(_RequestError, ValueError):
    """The body of a request is not valid; the text names the field."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message

    @property
    def public(self) -> str:
        """A sentence for a visitor."""
        return self.message


class StartPending(_RequestError):
    """The start takes longer than `start_timeout` and continues; the same request joins it."""

    is_transient = True
    retry_after = 2.0

    @property
    def public(self) -> str:
        """A sentence for a visitor."""
        return "the export is being started; send the same request again"


@frozen(kw_only=True)
class HttpError:
    """An HTTP answer. `body` is the JSON object of a problem document, `headers` have its type."""

    status: int
    headers: dict[str, str] = field(factory=dict)
    body: dict[str, Any] = field(factory=dict)


def http_error(error: BaseException) -> HttpError:
    """The answer for an error. Its text is `error.public`: no URL, path, host or id.

    A `LookupError` (an unknown id) is 404, a `ValueError` or `TypeError` (a wrong argument, with
    its field) 422; anything else that is no `ExportError` is 502.
    """
    status = _status(error)
    headers = {"Content-Type": "application/problem+json", "Cache-Control": "no-store"}
    if status == 503:
        seconds = getattr(error, "retry_after", None)
        headers["Retry-After"] = str(RETRY_AFTER if seconds is None else max(1, ceil(seconds)))
    body = {
        "type": "about:blank",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "detail": _detail(error),
    }
    return HttpError(status=status, headers=headers, body=body)


def _status(error: BaseException) -> int:
    match error:
        case DownloadError():
            return _DOWNLOAD_STATUS.get(error.reason, 502)
        case TimeoutError():
            return 504
        case InvalidRequest():
            return 422
        case PermissionDenied() | AuthorizationRequired():
            return 403
        case NotFound():
            return 404
        case Conflict():
            return 409
        case RateLimited() | ServerError() | TokenError() | TransportError() | RunUnreachable():
            return 503
        case StartPending():
            return 503
        case LookupError():
            return 404
        case ValueError() | TypeError():
            return 422
        case _:
            return 502


def _detail(error: BaseException) -> str:
    match error:
        case ExportError():
            return error.public
        case LookupError():
            return "there is no such export"
        case ValueError() | TypeError():
            return public_text(str(error))
        case _:
            return "the export failed"
