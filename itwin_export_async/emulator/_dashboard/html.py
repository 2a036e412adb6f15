"""HTML out of Python values, escaped unless it says that it is HTML already."""

from collections.abc import Iterable
from html import escape


class Html(str):
    """Markup that is done: it is not escaped again."""

    __slots__ = ()


def element(name: str, *inner: str, **attributes: object) -> Html:
    """An element around texts, which are escaped, and markup, which is not.

    A trailing underscore of an attribute's name is left out, one inside is a hyphen. None leaves
    out the attribute.
    """
    said = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(str(value))}"'
        for key, value in attributes.items()
        if value is not None
    )
    return Html(f"<{name}{said}>{joined(inner)}</{name}>")


def joined(parts: Iterable[str]) -> Html:
    """Texts, which are escaped, and markup, which is not, in a row."""
    return Html("".join(part if isinstance(part, Html) else escape(part) for part in parts))
