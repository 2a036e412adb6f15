"""URLs: which of them may get the token, how ids become path segments, what a Location names.

The bearer token goes only to the origin of the base URL, over https. Plain http is for loopback.
Ids are opaque, and each is one path segment.
"""

import re
from ipaddress import ip_address
from typing import Any
from urllib.parse import quote, unquote, urljoin, urlsplit

from attrs import frozen

from itwin_export_async._protocol.messages import Response
from itwin_export_async._redaction import holds_secret, safe_repr, without_query

_PLAIN_SEGMENT = re.compile(r"[A-Za-z0-9_-]+")  # needs no quoting
_REQUEST_TARGET = re.compile(r"[^\s#\x00-\x1f\x7f]+")  # goes into a request line unchanged
_DEFAULT_PORTS = {"https": 443, "http": 80}
_RESOURCES = frozenset(
    {
        "export", "synchronization", "storage", "imodels", "itwins", "accesscontrol", "users",
        "connections", "storageconnections", "sourcefiles", "runs", "run", "files", "folders",
        "authorizationinformation", "authorization", "download", "complete", "list", "search",
        "content", "namedversions", "changesets", "permissions", "me", "root", "tree", "reports",
    }
)  # fmt: skip


def quote_segment(name: str, value: Any) -> str:
    """An id as one path segment. `name` is the argument that an error names."""
    if isinstance(value, str) and _PLAIN_SEGMENT.fullmatch(value):
        return value
    return quote(validate_id(name, value), safe="")


def validate_id(name: str, value: Any) -> str:
    """The id, or an error that names the argument: empty, not a string, or not fit for a path."""
    if not isinstance(value, str):
        raise TypeError(f"{name} must be a string, not {type(value).__name__}")
    if not value.strip():
        raise ValueError(f"{name} is empty")
    if value in (".", "..") or not value.isprintable() or value != value.strip():
        raise ValueError(f"{name} {safe_repr(value)} is not an id")
    if holds_secret(value) and not _PLAIN_SEGMENT.fullmatch(value):  # an id may begin like a token
        raise ValueError(f"{name} {safe_repr(value)} is a URL, not an id")
    return value


def operation_name(method: str, url: str) -> str:
    """The operation of a request, for logs and metrics, such as `GET /export/connections/{id}`.

    Every segment that is no resource of the services is shown as `{id}`, so that there are few
    different names and none holds an id.
    """
    path = urlsplit(without_query(url)).path
    segments = [
        part if part in _RESOURCES else "{id}" for part in path.casefold().split("/") if part
    ]
    return f"{method} /{'/'.join(segments)}"


def origin(url: str) -> tuple[str, str, int | None]:
    """Scheme, host and port."""
    parts = urlsplit(url)
    return parts.scheme, (parts.hostname or ""), parts.port or _DEFAULT_PORTS.get(parts.scheme)


def is_loopback(url: str) -> bool:
    """Whether the host is this machine itself."""
    host = urlsplit(url).hostname or ""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def is_secure_url(url: str, *, allow_loopback: bool = True) -> bool:
    """Whether secrets may be sent there: over https, or over plain http to loopback if allowed."""
    try:
        scheme, host, _ = origin(url)
        host.encode("idna")
    except ValueError:  # UnicodeError is one
        return False
    if not host:
        return False
    return scheme == "https" or (scheme == "http" and allow_loopback and is_loopback(url))


def is_valid_signed_url(url: str) -> bool:
    """Whether a signed URL is secure and can be requested unchanged.

    One with a user is not: that would become an `Authorization` header.
    """
    return (
        _REQUEST_TARGET.fullmatch(url) is not None
        and is_secure_url(url)
        and "@" not in urlsplit(url).netloc
    )


def validate_base_url(name: str, url: Any) -> str:
    """The base URL without its trailing slash, or an error that names the argument."""
    if not isinstance(url, str):
        raise TypeError(f"{name} must be a string, not {url!r}")
    base: str = url.strip()
    shown = without_query(base)
    if base != shown:
        raise ValueError(f"{name} {shown!r} must not hold a user, query or fragment")
    if not is_secure_url(base):
        raise ValueError(f"{name} {base!r} must be an https URL (plain http only to loopback)")
    return base.rstrip("/")


@frozen(kw_only=True)
class RunAddress:
    """The run that a Location or a link names."""

    connection_id: str
    run_id: str


def run_address(response: Response, href: str) -> RunAddress | None:
    """The run that a URL in a response names, None if it names none.

    The URL is absolute, or relative to the request's. Only the two ids are used: host, query,
    trailing slash and the case of the fixed words do not matter.
    """
    try:
        path = urlsplit(urljoin(response.url, href)).path
    except ValueError:
        return None
    match [unquote(part) for part in path.split("/") if part]:
        case [*_, connections, connection_id, runs, run_id] if (
            connections.casefold().endswith("connections") and runs.casefold() == "runs"
        ):
            return _validated(connection_id, run_id)
        case _:
            return None


def _validated(connection_id: str, run_id: str) -> RunAddress | None:
    try:
        return RunAddress(
            connection_id=validate_id("connection_id", connection_id),
            run_id=validate_id("run_id", run_id),
        )
    except ValueError:
        return None
