"""Short reprs of models: a log line, never a page."""

from typing import Any

from attrs import Attribute, Factory, fields

from itwin_export_async._models.enums import OpenEnum
from itwin_export_async._redaction import safe_repr

_MISSING = object()
_MAX_NESTED = 200  # characters of the repr of a value inside a value


def short_repr(model: Any) -> str:
    """The fields that differ from their defaults, long texts cut, lists of models as counts.

    It works for a model that is only half built, too.
    """
    shown = []
    for attribute in fields(type(model)):
        value = getattr(model, attribute.name, _MISSING)
        if attribute.repr is not False and value is not _MISSING and value != _default(attribute):
            shown.append(f"{attribute.name}={_brief(value)}")
    return f"{type(model).__name__}({', '.join(shown)})"


def _default(attribute: "Attribute[Any]") -> object:
    default: Any = attribute.default
    return default.factory() if isinstance(default, Factory) else default  # type: ignore[arg-type]


def _brief(value: object) -> str:
    match value:
        case OpenEnum():
            return safe_repr(value.value)
        case tuple() if value and not isinstance(value[0], str):
            return f"<{len(value)}>"
        case str():
            return safe_repr(value)
        case _:
            return safe_repr(value, limit=_MAX_NESTED)
