"""Addresses: which ones may see the token, how ids go into a path, and what a Location says.

The bearer token goes to one origin only, that of the API's base address, and only over https
(plain http is for loopback). Ids are opaque and travel as one path segment each.
"""

import re
from ipaddress import ip_address
from typing import Any
from urllib.parse import quote, unquote, urljoin, urlsplit

from attrs import frozen

from itwin_export_async._errors import ProtocolError
from itwin_export_async._protocol.messages import Response
from itwin_export_async._redaction import holds_secret, safe_repr, without_query

_PLAIN = re.compile(r"[A-Za-z0-9_-]+")  # an id that is a path segment as it stands
_WHOLE = re.compile(r"[^\s#\x00-\x1f\x7f]+")  # what a request line can hold to the letter
_PORTS = {"https": 443, "http": 80}


def segment(name: str, value: Any) -> str:
    """An id as one path segment. `name` is what the caller knows it by."""
    if isinstance(value, str) and _PLAIN.fullmatch(value):
        return value
    return quote(validate_id(name, value), safe="")


def validate_id(name: str, value: Any) -> str:
    """The id itself, or an error that names it: empty, not a string, or not fit for a path."""
    if not isinstance(value, str):
        raise TypeError(f"{name} must be a string, not {type(value).__name__}")
    if not value.strip():
        raise ValueError(f"{name} is empty")
    if value in (".", "..") or not value.isprintable() or value != value.strip():
        raise ValueError(f"{name} {safe_repr(value)} is not an id")
    if holds_secret(value):
        raise ValueError(f"{name} {safe_repr(value)} is a URL, not an id")
    return value


def origin(url: str) -> tuple[str, str, int | None]:
    """Scheme, host and port."""
    parts = urlsplit(url)
    return parts.scheme, (parts.hostname or ""), parts.port or _PORTS.get(parts.scheme)


def is_loopback(url: str) -> bool:
    """Whether the address is this machine's own."""
    host = urlsplit(url).hostname or ""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def is_secure_url(url: str) -> bool:
    """Whether secrets may travel there: https, or plain http to loopback."""
    try:
        scheme, host, _ = origin(url)
        host.encode("idna")
    except ValueError:  # a UnicodeError is one
        return False
    return bool(host) and (scheme == "https" or (scheme == "http" and is_loopback(url)))


def is_valid_signed_url(address: str) -> bool:
    """Whether a signed address is safe and can be asked to the letter.

    A user in it would become an `Authorization`.
    """
    return (
        _WHOLE.fullmatch(address) is not None
        and is_secure_url(address)
        and "@" not in urlsplit(address).netloc
    )


def validate_base_url(name: str, url: Any) -> str:
    """A base address without its trailing slash, or an error that names it."""
    if not isinstance(url, str):
        raise TypeError(f"{name} must be a string, not {url!r}")
    address: str = url.strip()
    shown = without_query(address)
    if address != shown:
        raise ValueError(f"{name} {shown!r} must not hold a user, query or fragment")
    if not is_secure_url(address):
        raise ValueError(
            f"{name} {address!r} must be an https address (plain http only for this machine itself)"
        )
    return address.rstrip("/")


@frozen(kw_only=True)
class RunAddress:
    """Which run a Location or a link names."""

    connection_id: str
    run_id: str


def run_address(response: Response, href: str, *, base_url: str) -> RunAddress | None:
    """The run that an address in an answer names, None when it names none.

    The address is absolute, or relative to the request's own; a query, a trailing slash and
    another case of the fixed words do not matter. One of a foreign origin is a `ProtocolError`.
    """
    try:
        url = urljoin(response.url, href)
        foreign = origin(url) != origin(base_url)
        words = [unquote(word) for word in urlsplit(url).path.split("/") if word]
    except ValueError:
        return None
    if foreign:
        raise ProtocolError(
            message=f"the answer points to a foreign host, {without_query(url)}",
            method=response.method,
            url=response.url,
        )
    match words:
        case [*_, connections, connection_id, runs, run_id] if (
            connections.casefold().endswith("connections") and runs.casefold() == "runs"
        ):
            return _checked(connection_id, run_id)
        case _:
            return None


def _checked(connection_id: str, run_id: str) -> RunAddress | None:
    try:
        return RunAddress(
            connection_id=validate_id("connection_id", connection_id),
            run_id=validate_id("run_id", run_id),
        )
    except ValueError:
        return None
