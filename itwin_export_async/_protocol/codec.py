"""The only module that reads and writes JSON: responses to models, requests to bytes.

Errors are raised outside `except` blocks, so that no half-built model and no response body is
reachable from them.
"""

import json
from typing import Any, TypeVar

from itwin_export_async._errors import ProtocolError
from itwin_export_async._protocol.messages import Response
from itwin_export_async._protocol.model_hooks import below, make_converter

try:
    import orjson
except ImportError:  # the extra `speed` is not installed
    orjson = None  # type: ignore[assignment]

T = TypeVar("T")

_CONVERTER = make_converter()


def _loads(body: bytes) -> Any:
    """The JSON value, None where the body is no JSON."""
    if orjson is not None:
        try:
            return orjson.loads(body)
        except ValueError:  # orjson is stricter; results must not depend on it
            pass
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return None


def json_object(response: Response) -> dict[str, Any]:
    """The JSON object that is the response's body, or a `ProtocolError`."""
    value = _loads(response.body)
    if type(value) is dict:
        return value
    if value is None and response.body.strip() != b"null":
        raise _protocol_error(response, "the response is not JSON", is_transient=True)
    raise _protocol_error(response, "the response is not a JSON object")


def decode(response: Response, member: str, cls: type[T], *, known: T | None = None) -> T:
    """The model under `member` of the response, or a `ProtocolError` with the path.

    Without a `member` the response itself is the model. `known`: the latest snapshot, None without
    one; it is returned where the service sends the same again.
    """
    members = json_object(response)
    value = members.get(member) if member else members
    if value is None:
        raise _protocol_error(response, "is missing", path=member)
    if known is not None and getattr(known, "raw", None) == value:
        return known
    return _structured(response, value, member, cls)


def decode_list(response: Response, member: str, cls: type[T]) -> tuple[T, ...]:
    """The models in the list under `member`; null and a missing member are an empty list."""
    value = json_object(response).get(member)
    if value is None:
        return ()
    return _structured(response, value, member, tuple[cls, ...])  # type: ignore[valid-type]


def encode(value: Any) -> bytes:
    """The JSON of a request: no nulls, the service's names."""
    return json.dumps(_CONVERTER.unstructure(value), separators=(",", ":")).encode()


def _structured(response: Response, value: Any, path: str, cls: type[T]) -> T:
    try:
        return _CONVERTER.structure(value, cls)
    except (TypeError, ValueError) as exc:
        misfit = below(exc, path)
    del value
    raise _protocol_error(response, str(misfit), path=misfit.path.lstrip("."))


def _protocol_error(
    response: Response, message: str, *, path: str = "", is_transient: bool = False
) -> ProtocolError:
    return ProtocolError(
        message=message,
        method=response.method,
        url=response.url,
        path=path,
        is_transient=is_transient,
    )
