"""The forms of answers: JSON documents, errors of the platform, and bodies generated on the fly."""

import json
from collections.abc import Iterator
from typing import Any

from attrs import evolve, frozen
from multidict import CIMultiDict, CIMultiDictProxy

from itwin_export_async._protocol.messages import Request, Response
from itwin_export_async.emulator._state.blobs import Content, chunks


class ApiError(Exception):
    """Ends an operation with an error response."""

    def __init__(self, response: Response) -> None:
        super().__init__(response)
        self.response = response


@frozen(kw_only=True)
class LazyResponse(Response):
    """A response whose body is generated while it is sent: `content` from `first` up to `stop`."""

    content: Content
    first: int
    stop: int


def body_chunks(response: Response, length: int | None = None) -> Iterator[bytes]:
    """Yield the body, or its first `length` bytes, in chunks."""
    count = body_length(response) if length is None else min(length, body_length(response))
    if isinstance(response, LazyResponse):
        return chunks(response.content, response.first, response.first + count)
    return chunks(response.body, 0, count)


def body_length(response: Response) -> int:
    """Return the length of the body in bytes."""
    if isinstance(response, LazyResponse):
        return response.stop - response.first
    return len(response.body)


def materialize(response: Response) -> Response:
    """Return the response with its body in memory."""
    if not isinstance(response, LazyResponse):
        return response
    return _with_body(response, b"".join(body_chunks(response)))


def without_body(response: Response) -> Response:
    """Return the response with an empty body."""
    return _with_body(response, b"")


def header_of(request: Request, name: str) -> str:
    """Return a header of a request in any letter case, an empty string if it is absent."""
    if name in request.headers:
        return request.headers[name]
    wanted = name.lower()
    return next((value for key, value in request.headers.items() if key.lower() == wanted), "")


def json_response(status: int, payload: dict[str, Any]) -> Response:
    """Return a JSON document."""
    return Response(
        status=status,
        headers={"Content-Type": "application/json"},
        body=json.dumps(payload).encode(),
    )


def no_content(status: int, *, location: str | None = None) -> Response:
    """Return a response without body and content type, with a `Location` if one is given."""
    return Response(status=status, headers={} if location is None else {"Location": location})


def ids_in_location(response: Response) -> tuple[str, str]:
    """Return the connection id and the run id in a `Location`."""
    *_, connection_id, _, run_id = response.headers["Location"].split("/")
    return connection_id, run_id


def detail(code: str, message: str, target: str | None = None) -> dict[str, str]:
    """Return one entry of an error's `details`."""
    entry = {"code": code, "message": message}
    return entry if target is None else entry | {"target": target}


def error(status: int, code: str, message: str, *details: dict[str, str]) -> Response:
    """Return an error in the platform's shape."""
    members: dict[str, Any] = {"code": code, "message": message}
    if details:
        members["details"] = list(details)
    return json_response(status, {"error": members})


def invalid(code: str, *details: dict[str, str]) -> Response:
    """Return the 422 of an operation."""
    return error(422, code, "Cannot perform operation.", *details)


def invalid_value(target: str) -> dict[str, str]:
    """Return the detail for a value that is not accepted."""
    return detail("InvalidValue", f"Provided {target} value is not valid.", target)


def not_provided(name: str) -> dict[str, str]:
    """Return the detail for a member that is absent."""
    return detail("MissingRequiredProperty", f"{name} was not provided.", name)


def insufficient_permissions() -> Response:
    """Return the 403 of every operation."""
    return error(
        403,
        "InsufficientPermissions",
        "The user has insufficient permissions for the requested operation.",
    )


def operation_not_found() -> Response:
    """Return the gateway's 404: no such path, or no such version in `Accept`."""
    return error(
        404,
        "ResourceNotFound",
        "The requested resource was not found. Verify the API URL and the Accept header.",
        detail("OperationNotFound", "Unable to match incoming request to an operation."),
    )


def bad_request() -> Response:
    """Return the gateway's 400 for a URL that cannot be parsed."""
    return error(400, "InvalidRequest", "The request URL is malformed.")


def with_date(response: Response, request: Request, date: str) -> Response:
    """Return the response to this request with a `Date` header, unless it has one.

    The names of its headers keep their letter case.
    """
    headers = response.headers
    if "Date" not in headers:
        dated = CIMultiDict(headers)
        dated["Date"] = date
        headers = CIMultiDictProxy(dated)
    if isinstance(response, LazyResponse):
        return evolve(response, headers=headers, method=request.method, url=request.url)
    return Response(
        status=response.status,
        headers=headers,
        body=response.body,
        method=request.method,
        url=request.url,
    )


def _with_body(response: Response, body: bytes) -> Response:
    return Response(
        status=response.status,
        headers=response.headers,
        body=body,
        method=response.method,
        url=response.url,
    )
