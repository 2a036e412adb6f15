"""The only place that knows JSON: one converter between the service's objects and the models.

What the service sends is trusted as little as its documents allow. `null` is the same as missing,
so a required member that is null is an error and never the text "None"; primitives are strict; an
unknown enumeration value survives; an unknown member stays in `raw`; dates have 0 to 9 digits after
the second, and one that cannot be read, or of year 1 (the service's "none"), is None.

Models are read by hooks of ours, which fill their slots as unpickling does: answers are read all
the time, and `__init__`, whose checks are for what callers pass, takes as long as all the rest.
"""

import json
from collections.abc import Callable, Mapping
from datetime import datetime
from types import NoneType, UnionType
from typing import Any, TypeVar, get_args, get_origin

from attrs import NOTHING, fields, has, validate
from cattrs import Converter
from cattrs.gen import make_dict_unstructure_fn, override

from itwin_export_async._errors import ProtocolError
from itwin_export_async._models import (
    AuthorizationInformation,
    Connection,
    ExportOptions,
    OpenEnum,
    StorageConnection,
)
from itwin_export_async._protocol.dates import date_or_none
from itwin_export_async._protocol.messages import Response

try:
    import orjson
except ImportError:  # the extra `speed` is not installed
    orjson = None  # type: ignore[assignment]

T = TypeVar("T")

_SPELLINGS = {
    "imodel_id": "iModelId",
    "itwin_id": "iTwinId",
    "input": "inputOptions",
    "output": "outputOptions",
}
# fields that the service tells as a link, and the link's name
_LINKS: dict[type[Any], tuple[str, str]] = {
    Connection: ("last_run_url", "lastRun"),
    StorageConnection: ("last_run_url", "lastRun"),
    AuthorizationInformation: ("authorization_url", "authorizationUrl"),
}
Hook = Callable[[Any, Any], Any]
"""Reads a value; cattrs passes the type beside it, which ours know already."""


class _Misfit(ValueError):
    """Something does not fit: `place` is where it stands below what was to be read."""

    def __init__(self, what: str, place: str) -> None:
        super().__init__(what)
        self.place = place


def _misfit(exc: Exception, place: str) -> _Misfit:
    """What does not fit, seen from above `place`."""
    return _Misfit(str(exc), place + (exc.place if isinstance(exc, _Misfit) else ""))


def spelling(name: str) -> str:
    """The service's spelling of a field: `start_date_time` is `startDateTime`."""
    if name in _SPELLINGS:
        return _SPELLINGS[name]
    first, *rest = name.split("_")
    return first + "".join(word.capitalize() for word in rest)


def href(members: Mapping[str, Any], name: str) -> str | None:
    """The address of a link, None where `_links` or the link is missing or null."""
    links = members.get("_links")
    link = links.get(name) if isinstance(links, dict) else None
    address = link.get("href") if isinstance(link, dict) else None
    return address if isinstance(address, str) and address else None


def _strict(kind: type[T], called: str) -> Hook:
    def structure(value: Any, _: Any) -> T:
        if type(value) is not kind:
            raise TypeError(f"expected {called}, got {_shown(value)}")
        return value

    return structure


def _shown(value: object) -> str:
    return value if isinstance(value, str) and len(value) < 40 else type(value).__name__


def _structure_enum(kind: type[OpenEnum], *, or_none: bool = False) -> Hook:
    members = {member.value: member for member in kind}

    def structure(value: Any, _: Any) -> OpenEnum | None:
        if type(value) is not str:
            raise TypeError(f"expected a string, got {_shown(value)}")
        if value == "" and or_none:
            return None
        return members.get(value) or kind(value)

    return structure


def _is_enum(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, OpenEnum)


def _optional_of(kind: Any) -> Any:
    """X where the type is `X | None`, otherwise None."""
    inner = [arg for arg in get_args(kind) if arg is not NoneType]
    return inner[0] if isinstance(kind, UnionType) and len(inner) == 1 else None


def _structure_optional(converter: Converter, kind: Any) -> Hook:
    """How to read `X | None`. None itself never comes: it is the same as missing."""
    inner = _optional_of(kind)
    if inner is datetime:
        return date_or_none
    if _is_enum(inner):  # an empty string stands for "none"
        return _structure_enum(inner, or_none=True)
    return converter.get_structure_hook(inner)


def _structure_class(converter: Converter, cls: type[Any]) -> Hook:
    """How to read an object: members by their hooks, defaults for what is null or missing."""
    linked, link = _LINKS.get(cls, ("", ""))
    told = [field for field in fields(cls) if field.name not in ("raw", linked)]
    members = [
        (spelling(f.name), _filler(cls, f.name), converter.get_structure_hook(f.type), f.default)
        for f in told
    ]
    is_checked = any(field.validator for field in told)
    keep, fill_linked = _filler(cls, "raw"), _filler(cls, linked) if link else None

    def structure(value: Any, _: Any) -> Any:
        if type(value) is not dict:
            raise TypeError(f"expected an object, got {_shown(value)}")
        model, name = object.__new__(cls), ""
        try:
            for name, fill, hook, default in members:
                member = value.get(name)
                if member is not None:
                    fill(model, hook(member, None))
                elif default is not NOTHING:
                    fill(model, default)
                else:
                    raise ValueError("is missing")
        except (TypeError, ValueError) as exc:
            raise _misfit(exc, f".{name}") from exc
        keep(model, value)
        if fill_linked is not None:
            fill_linked(model, href(value, link))
        if is_checked:
            validate(model)
        return model

    return structure


def _filler(cls: type[Any], name: str) -> Callable[[Any, Any], None]:
    """Fills the slot of a model that nobody has seen yet."""
    fill: Callable[[Any, Any], None] = getattr(cls, name).__set__
    return fill


def _structure_list(converter: Converter, kind: Any) -> Hook:
    hook = converter.get_structure_hook(get_args(kind)[0])

    def structure(value: Any, _: Any) -> Any:
        if type(value) is not list:
            raise TypeError(f"expected a list, got {_shown(value)}")
        items: list[Any] = []
        try:
            for item in value:
                items.append(hook(item, None))  # noqa: PERF401 - so many have gone well
        except (TypeError, ValueError) as exc:
            raise _misfit(exc, f"[{len(items)}]") from exc
        return tuple(items)

    return structure


def _is_tuple(kind: Any) -> bool:
    return get_origin(kind) is tuple


def _unstructure_class(converter: Converter, cls: type[Any]) -> Callable[[Any], Any]:
    names = {f.name: override(rename=spelling(f.name)) for f in fields(cls)}
    if cls is ExportOptions:  # the one member that the service requires
        names["export_type"] = override(rename="exportType", omit_if_default=False)
    unstructure: Callable[[Any], Any] = make_dict_unstructure_fn(
        cls,
        converter,
        _cattrs_omit_if_default=True,
        **names,  # type: ignore[arg-type]
    )
    return unstructure


def _converter() -> Converter:
    converter = Converter()
    for kind, called in (
        (str, "a string"),
        (int, "a whole number"),
        (bool, "true or false"),
    ):
        converter.register_structure_hook(kind, _strict(kind, called))
    for enum in OpenEnum.__subclasses__():  # by name, or the hook of str would take them
        converter.register_structure_hook(enum, _structure_enum(enum))
    converter.register_structure_hook_factory(
        lambda t: _optional_of(t) is not None, lambda t: _structure_optional(converter, t)
    )
    converter.register_structure_hook_factory(_is_tuple, lambda t: _structure_list(converter, t))
    converter.register_structure_hook_factory(has, lambda cls: _structure_class(converter, cls))
    converter.register_unstructure_hook_factory(has, lambda cls: _unstructure_class(converter, cls))
    converter.register_unstructure_hook_func(_is_enum, lambda member: member.value)
    converter.register_unstructure_hook_func(_is_tuple, list)
    return converter


_CONVERTER = _converter()


def _loads(body: bytes) -> Any:
    if orjson is not None:
        try:
            return orjson.loads(body)
        except ValueError:  # it is stricter, and what is an answer must not hang on an extra
            pass
    return json.loads(body)


def json_object(response: Response) -> dict[str, Any]:
    """The JSON object that is the answer's body, or a `ProtocolError`."""
    try:
        value = _loads(response.body)
    except (ValueError, RecursionError) as exc:
        raise _broken(response, "the answer is not JSON", is_transient=True) from exc
    if type(value) is not dict:
        raise _broken(response, "the answer is not a JSON object")
    return value


def decode(response: Response, member: str, cls: type[T], *, known: T | None = None) -> T:
    """The model that stands under `member` of the answer, or a `ProtocolError` with the path.

    Without a `member` the answer itself is the model. `known`: what was read last, None where
    nothing was; that very model comes back when the service tells the same again.
    """
    answer = json_object(response)
    value = answer.get(member) if member else answer
    if value is None:
        raise _broken(response, "is missing", path=member)
    if known is not None and getattr(known, "raw", None) == value:
        return known
    return _structured(response, value, member, cls)


def decode_list(response: Response, member: str, cls: type[T]) -> tuple[T, ...]:
    """The models in the list under `member`; null and a missing member are no models."""
    value = json_object(response).get(member)
    if value is None:
        return ()
    return _structured(response, value, member, tuple[cls, ...])  # type: ignore[valid-type]


def encode(value: Any) -> bytes:
    """The JSON of what we send: no nulls, the service's spelling."""
    return json.dumps(_CONVERTER.unstructure(value), separators=(",", ":")).encode()


def _structured(response: Response, value: Any, path: str, cls: type[T]) -> T:
    try:
        return _CONVERTER.structure(value, cls)
    except (TypeError, ValueError) as exc:
        misfit = _misfit(exc, path)
        raise _broken(response, str(misfit), path=misfit.place.lstrip(".")) from exc


def _broken(
    response: Response, message: str, *, path: str = "", is_transient: bool = False
) -> ProtocolError:
    return ProtocolError(
        message=message,
        method=response.method,
        url=response.url,
        path=path,
        is_transient=is_transient,
    )
