"""The example page."""

from collections.abc import Mapping
from importlib.resources import files
from types import MappingProxyType

PAGE_HEADERS: Mapping[str, str] = MappingProxyType(
    {
        "Content-Type": "text/html; charset=utf-8",
        "Cache-Control": "no-cache",
        "Content-Security-Policy": (
            "default-src 'none'; connect-src 'self'; script-src 'unsafe-inline'; "
            "style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
        ),
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
    }
)


def example_page() -> str:
    """The HTML of a page that starts an export, shows its progress and offers the file.

    It has to be served one path segment below the endpoints, as `/exports/page` is, and requests
    nothing of another origin.
    """
    return files("itwin_export_async.web").joinpath("example.html").read_text(encoding="utf-8")
