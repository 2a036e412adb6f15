"""The forms that answers come in."""

import json
from typing import Any

from itwin_export_async._protocol.http import Request, Response


class Refused(Exception):
    """An operation ends here, with this answer."""

    def __init__(self, response: Response) -> None:
        super().__init__(response)
        self.response = response


def header_of(request: Request, name: str) -> str:
    """A header of the request, in whatever letter case it was sent, or an empty string."""
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
