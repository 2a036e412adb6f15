"""What callers pass us, held against what it can be."""

from collections.abc import Callable
from numbers import Real
from typing import Any

_CALLED: dict[type, str] = {
    bool: "True or False",
    int: "a whole number",
    Real: "a number",
    str: "a string",
}


def instance_of(kind: type) -> Callable[[Any, Any, Any], None]:
    """A validator of fields of this type, `Real` for all kinds of numbers.

    What it raises names the field and never shows the value, which may be a secret.
    """

    def check(_: object, attribute: Any, value: object) -> None:
        if not isinstance(value, kind):
            called = _CALLED.get(kind, kind.__name__)
            raise TypeError(f"{attribute.name} must be {called}, not {type(value).__name__}")

    return check


def checked_timeout(timeout: float | None) -> float | None:
    """The same; a `TypeError` or a `ValueError` for what is no time to wait."""
    if not isinstance(timeout, Real | None):
        raise TypeError(f"timeout must be a number of seconds, not {timeout!r}")
    if timeout is not None and not timeout > 0:
        raise ValueError(f"timeout must be more than 0 seconds, not {timeout}")
    return None if timeout is None else float(timeout)
