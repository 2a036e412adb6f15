"""What requests ask for, as far as the services read it alike, or the refusal it deserves."""

import json
from typing import Any, cast

from itwin_export_async.emulator._http.messages import (
    ApiError,
    detail,
    insufficient_permissions,
    invalid,
    invalid_value,
)
from itwin_export_async.emulator._state.connections import IModel
from itwin_export_async.emulator._state.platform import Call

_LARGEST_PAGE = 1000


def json_object(call: Call) -> dict[str, Any] | None:
    """The body, or None when it is no JSON object."""
    try:
        body = json.loads(call.request.body or b"")
    except ValueError:
        return None
    return cast("dict[str, Any]", body) if isinstance(body, dict) else None


def malformed(code: str) -> ApiError:
    """The refusal of a body that is no JSON object."""
    return ApiError(
        invalid(code, detail("InvalidRequestBody", "Error parsing JSON, malformed JSON."))
    )


def page(call: Call, code: str, *, default: int) -> tuple[int, int]:
    """How many items to skip, and how many to show."""
    skip = _number(call, "$skip", 0, code)
    top = _number(call, "$top", default, code)
    if not 1 <= top <= _LARGEST_PAGE:
        raise ApiError(invalid(code, detail("InvalidValue", "Page size is out of limits.", "$top")))
    return max(skip, 0), top


def permitted(imodel: IModel) -> IModel:
    """The iModel, when those who ask may use it."""
    if not imodel.authorized:
        raise ApiError(insufficient_permissions())
    return imodel


def _number(call: Call, name: str, default: int, code: str) -> int:
    try:
        return int(call.query.get(name, default))
    except ValueError:
        raise ApiError(invalid(code, invalid_value(name))) from None
