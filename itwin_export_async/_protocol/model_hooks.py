"""How a model is built from the members of a JSON object, and the object from a model.

The service is trusted as little as its documents allow. `null` is the same as missing, so a
required member that is null is an error and never the text "None"; primitives are strict; an
unknown enumeration value survives; an unknown member stays in `raw`; dates have 0 to 9 digits after
the second, and an unreadable one, or one of year 1 (the service's "none"), is None.

Models are built by hooks of ours, which fill their slots as unpickling does: responses are decoded
all the time, and `__init__`, whose checks are for callers, takes as long as all the rest.
`check_shortcut` says which models that fits.
"""

from collections.abc import Callable, Mapping
from datetime import datetime
from types import MemberDescriptorType, NoneType, UnionType
from typing import Any, TypeVar, get_args, get_origin

from attrs import NOTHING, Factory, fields, has, validate
from cattrs import Converter
from cattrs.gen import make_dict_unstructure_fn, override

from itwin_export_async._models import (
    AuthorizationInformation,
    Connection,
    ExportOptions,
    OpenEnum,
    StorageConnection,
)
from itwin_export_async._protocol.dates import structure_datetime
from itwin_export_async._redaction import safe_repr

T = TypeVar("T")

_WIRE_NAMES = {
    "imodel_id": "iModelId",
    "itwin_id": "iTwinId",
    "input": "inputOptions",
    "output": "outputOptions",
}
# fields that are links in the response, and the link's name
_LINKS: dict[type[Any], tuple[str, str]] = {
    Connection: ("last_run_url", "lastRun"),
    StorageConnection: ("last_run_url", "lastRun"),
    AuthorizationInformation: ("authorization_url", "authorizationUrl"),
}
Hook = Callable[[Any, Any], Any]
"""Decodes a value; the type that cattrs passes is unused: hooks are built per type."""


class DecodeError(ValueError):
    """A value does not fit. `path` is its position below the decoded value."""

    def __init__(self, message: str, path: str) -> None:
        super().__init__(message)
        self.path = path


def below(exc: Exception, path: str) -> DecodeError:
    """The same error, seen from above `path`."""
    return DecodeError(str(exc), path + (exc.path if isinstance(exc, DecodeError) else ""))


def _wire_name(name: str) -> str:
    """The service's name of a field: `start_date_time` is `startDateTime`."""
    if name in _WIRE_NAMES:
        return _WIRE_NAMES[name]
    first, *rest = name.split("_")
    return first + "".join(word.capitalize() for word in rest)


def href(members: Mapping[str, Any], name: str) -> str | None:
    """The URL of a link, None where `_links` or the link is missing or null."""
    links = members.get("_links")
    link = links.get(name) if isinstance(links, dict) else None
    url = link.get("href") if isinstance(link, dict) else None
    return url if isinstance(url, str) and url else None


def _strict(kind: type[T], name: str) -> Hook:
    def structure(value: Any, _: Any) -> T:
        if type(value) is not kind:
            raise TypeError(f"expected {name}, got {_describe(value)}")
        return value

    return structure


def _describe(value: object) -> str:
    return safe_repr(value) if isinstance(value, str) else type(value).__name__


def _structure_enum(kind: type[OpenEnum], *, or_none: bool = False) -> Hook:
    members = {member.value: member for member in kind}

    def structure(value: Any, _: Any) -> OpenEnum | None:
        if type(value) is not str:
            raise TypeError(f"expected a string, got {_describe(value)}")
        member = members.get(value)
        if member is not None:
            return member
        return None if or_none and not value else kind(value)

    return structure


def _is_enum(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, OpenEnum)


def _optional_of(kind: Any) -> Any:
    """X where the type is `X | None`, otherwise None."""
    inner = [arg for arg in get_args(kind) if arg is not NoneType]
    return inner[0] if isinstance(kind, UnionType) and len(inner) == 1 else None


def _structure_optional(converter: Converter, kind: Any) -> Hook:
    """The hook of `X | None`. None itself is never passed: it is the same as missing."""
    inner = _optional_of(kind)
    if inner is datetime:
        return structure_datetime
    if _is_enum(inner):  # an empty string stands for "none"
        return _structure_enum(inner, or_none=True)
    return converter.get_structure_hook(inner)


def check_shortcut(cls: type[Any]) -> None:
    """Raise a `TypeError` for a model that must not be built without its `__init__`."""
    if hasattr(cls, "__attrs_post_init__"):
        raise TypeError(f"{cls.__name__} has a __attrs_post_init__, which decoding would skip")
    for attribute in fields(cls):
        if not isinstance(getattr(cls, attribute.name, None), MemberDescriptorType):
            raise TypeError(f"{cls.__name__}.{attribute.name} is no slot")
        # a converter to an enumeration is what its hook does
        if attribute.converter is not None and not _is_enum(_optional_of(attribute.type)):
            raise TypeError(f"{cls.__name__}.{attribute.name} has a converter")
        if attribute.default is NOTHING or attribute.name == "raw":
            continue
        if isinstance(attribute.default, Factory):  # type: ignore[arg-type]
            raise TypeError(f"{cls.__name__}.{attribute.name} has a default that is made each time")


def _plain_type(kind: Any) -> type[Any] | None:
    """The type of a field whose values are taken as they are; None for all other fields."""
    inner = _optional_of(kind) or kind
    return inner if inner in (str, int, bool) else None


def _structure_class(converter: Converter, cls: type[Any]) -> Hook:
    """The hook of a model: members by their hooks, defaults for what is null or missing."""
    check_shortcut(cls)
    linked, link = _LINKS.get(cls, ("", ""))
    plain = [field for field in fields(cls) if field.name not in ("raw", linked)]
    members = [
        (
            _wire_name(f.name),
            _slot_setter(cls, f.name),
            _plain_type(f.type),
            converter.get_structure_hook(f.type),
            f.default,
        )
        for f in plain
    ]
    is_checked = any(field.validator for field in plain)
    set_raw, set_linked = _slot_setter(cls, "raw"), _slot_setter(cls, linked) if link else None

    def structure(value: Any, _: Any) -> Any:
        if type(value) is not dict:
            raise TypeError(f"expected an object, got {_describe(value)}")
        model, name = object.__new__(cls), ""
        try:
            for name, set_field, plain_type, hook, default in members:
                member = value.get(name)
                if type(member) is plain_type:
                    set_field(model, member)
                elif member is not None:
                    set_field(model, hook(member, None))
                elif default is not NOTHING:
                    set_field(model, default)
                else:
                    raise ValueError("is missing")
        except (TypeError, ValueError) as exc:
            raise below(exc, f".{name}") from exc
        set_raw(model, value)
        if set_linked is not None:
            set_linked(model, href(value, link))
        if is_checked:
            validate(model)
        return model

    return structure


def _slot_setter(cls: type[Any], name: str) -> Callable[[Any, Any], None]:
    """Sets a field of a frozen model that is not shared yet."""
    setter: Callable[[Any, Any], None] = getattr(cls, name).__set__
    return setter


def _structure_list(converter: Converter, kind: Any) -> Hook:
    hook = converter.get_structure_hook(get_args(kind)[0])

    def structure(value: Any, _: Any) -> Any:
        if type(value) is not list:
            raise TypeError(f"expected a list, got {_describe(value)}")
        items: list[Any] = []
        try:
            for item in value:
                items.append(hook(item, None))  # noqa: PERF401 - their number is the index of the failing item
        except (TypeError, ValueError) as exc:
            raise below(exc, f"[{len(items)}]") from exc
        return tuple(items)

    return structure


def _is_tuple(kind: Any) -> bool:
    return get_origin(kind) is tuple


def _unstructure_class(converter: Converter, cls: type[Any]) -> Callable[[Any], Any]:
    names = {f.name: override(rename=_wire_name(f.name)) for f in fields(cls)}
    if cls is ExportOptions:  # the one member that the service requires
        names["export_type"] = override(rename="exportType", omit_if_default=False)
    unstructure: Callable[[Any], Any] = make_dict_unstructure_fn(
        cls,
        converter,
        _cattrs_omit_if_default=True,
        **names,  # type: ignore[arg-type]
    )
    return unstructure


def make_converter() -> Converter:
    """A converter with the hooks of all models."""
    converter = Converter()
    for kind, name in (
        (str, "a string"),
        (int, "a whole number"),
        (bool, "true or false"),
    ):
        converter.register_structure_hook(kind, _strict(kind, name))
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
