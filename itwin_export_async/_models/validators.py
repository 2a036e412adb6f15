"""Validators and converters of values that callers pass, on attrs' own.

What they raise names the field. It never shows a value that may be a secret, as attrs' own
`instance_of` would.
"""

from collections.abc import Callable, Mapping
from numbers import Real
from typing import Any, TypeVar

from itwin_export_async._models.enums import AuthenticationType, OpenEnum
from itwin_export_async._redaction import safe_repr

E = TypeVar("E", bound=OpenEnum)
TYPE_NAMES: Mapping[type, str] = {
    bool: "True or False",
    int: "a whole number",
    Real: "a number",
    str: "a string",
}


def instance_of(kind: type) -> Callable[[Any, Any, Any], None]:
    """A validator of fields of this type, `Real` for all kinds of numbers."""

    def check(_: object, attribute: Any, value: object) -> None:
        if not isinstance(value, kind):
            name = TYPE_NAMES.get(kind, kind.__name__)
            raise TypeError(f"{attribute.name} must be {name}, not {type(value).__name__}")

    return check


_is_string = instance_of(str)


def not_blank(instance: Any, attribute: Any, value: Any) -> None:
    """A validator of strings that are neither empty nor blank, and hold no NUL."""
    _is_string(instance, attribute, value)
    text = str(value)
    if not text.strip():
        raise ValueError(f"{attribute.name} is empty")
    if "\0" in text:
        raise ValueError(f"{attribute.name} {safe_repr(text)} contains a NUL")


def parse_enum(enum: type[E], name: str, value: Any) -> E:
    """The member that `value` is or names. Another value is an error that contains `name`."""
    if isinstance(value, enum):
        return value
    if not isinstance(value, str):
        raise TypeError(f"{name} must be a string or {enum.__name__}, not {safe_repr(value)}")
    for member in enum:
        if member.value.casefold() == value.casefold():
            return member
    known = ", ".join(repr(member.value) for member in enum)
    shown = safe_repr(value)
    raise ValueError(
        f"{name} {shown} is not one of {known} (a newer one passes as {enum.__name__}({shown}))"
    )


def parse_authentication_type(value: AuthenticationType | str | None) -> AuthenticationType | None:
    """The type as a member of its enum, None if it is left to the service."""
    return None if value is None else parse_enum(AuthenticationType, "authentication_type", value)


def validate_timeout(timeout: float | None) -> float | None:
    """The timeout in seconds, None for none. `TypeError` or `ValueError` for any other value."""
    if not isinstance(timeout, Real | None):
        raise TypeError(f"timeout must be a number of seconds, not {safe_repr(timeout)}")
    if timeout is not None and not timeout > 0:
        raise ValueError(f"timeout must be more than 0 seconds, not {timeout}")
    return None if timeout is None else float(timeout)
