"""The forms that answers come in."""

import json
from collections.abc import Iterator
from typing import Any

from attrs import evolve, frozen
from multidict import CIMultiDict, CIMultiDictProxy

from itwin_export_async._protocol.messages import Request, Response
from itwin_export_async.emulator._state.contents import Content, pieces


class ApiError(Exception):
    """An operation ends here, with this answer."""

    def __init__(self, response: Response) -> None:
        super().__init__(response)
        self.response = response


@frozen(kw_only=True)
class Streamed(Response):
    """An answer whose body is made while it is sent: a content from `first` up to `stop`."""

    content: Content
    first: int
    stop: int


def body_of(response: Response, length: int | None = None) -> Iterator[bytes]:
    """The body, or its first `length` bytes, some of it at a time."""
    count = length_of(response) if length is None else min(length, length_of(response))
    if isinstance(response, Streamed):
        return pieces(response.content, response.first, response.first + count)
    return pieces(response.body, 0, count)


def whole(response: Response) -> Response:
    """The same answer, its body made and held."""
    if not isinstance(response, Streamed):
        return response
    return _with_body(response, b"".join(body_of(response)))


def head_of(response: Response) -> Response:
    """The same answer without its body."""
    return _with_body(response, b"")


def header_of(request: Request, name: str) -> str:
    """A header of the request, in whatever letter case it was sent, or an empty string."""
    if name in request.headers:
        return request.headers[name]
    wanted = name.lower()
    return next((text for key, text in request.headers.items() if key.lower() == wanted), "")


def json_answer(status: int, payload: dict[str, Any]) -> Response:
    """A JSON document."""
    return Response(
        status=status,
        headers={"Content-Type": "application/json"},
        body=json.dumps(payload).encode(),
    )


def empty(status: int, *, location: str | None = None) -> Response:
    """An answer without body and content type, pointing to `location` if one is given."""
    return Response(status=status, headers={} if location is None else {"Location": location})


def detail(code: str, message: str, target: str | None = None) -> dict[str, str]:
    """One line of an error's `details`."""
    line = {"code": code, "message": message}
    return line if target is None else line | {"target": target}


def error(status: int, code: str, message: str, *details: dict[str, str]) -> Response:
    """A refusal as the platform words it."""
    said: dict[str, Any] = {"code": code, "message": message}
    if details:
        said["details"] = list(details)
    return json_answer(status, {"error": said})


def invalid(code: str, *details: dict[str, str]) -> Response:
    """The 422 of an operation, with what is wrong."""
    return error(422, code, "Cannot perform operation.", *details)


def invalid_value(target: str) -> dict[str, str]:
    """The line that says a value is not accepted."""
    return detail("InvalidValue", f"Provided {target} value is not valid.", target)


def insufficient_permissions() -> Response:
    """The 403 of every operation."""
    return error(
        403,
        "InsufficientPermissions",
        "The user has insufficient permissions for the requested operation.",
    )


def operation_not_found() -> Response:
    """The gateway's own 404: no such path, or no such version in Accept."""
    return error(
        404,
        "ResourceNotFound",
        "The requested resource was not found. Verify the API URL and the Accept header.",
        detail("OperationNotFound", "Unable to match incoming request to an operation."),
    )


def dated(response: Response, request: Request, date: str) -> Response:
    """The answer to this request: it tells the time, unless it does already.

    Its headers keep the letter case that they were given.
    """
    headers = response.headers
    if "Date" not in headers:
        told = CIMultiDict(headers)
        told["Date"] = date
        headers = CIMultiDictProxy(told)
    if isinstance(response, Streamed):
        return evolve(response, headers=headers, method=request.method, url=request.url)
    return Response(
        status=response.status,
        headers=headers,
        body=response.body,
        method=request.method,
        url=request.url,
    )


def length_of(response: Response) -> int:
    """How many bytes its body has."""
    if isinstance(response, Streamed):
        return response.stop - response.first
    return len(response.body)


def _with_body(response: Response, body: bytes) -> Response:
    return Response(
        status=response.status,
        headers=response.headers,
        body=body,
        method=response.method,
        url=response.url,
    )
