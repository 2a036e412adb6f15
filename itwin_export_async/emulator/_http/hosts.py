"""Hosts and authorities of URLs, and which of them can be the emulator's own."""

from collections.abc import Container
from ipaddress import ip_address
from urllib.parse import urlsplit

_PRIVATE_SUFFIXES = (".localhost", ".local", ".internal", ".test")


def is_allowed_host(authority: str, known_hosts: Container[str]) -> bool:
    """Whether a `Host` header can be the emulator's, so that DNS rebinding is refused."""
    host = host_of(authority).lower()
    if not authority or host in known_hosts or "." not in host:
        return True  # a name without dots is never a public one
    return _is_ip(host) or host.endswith(_PRIVATE_SUFFIXES)


def origin_of(url: str) -> str:
    """Return the origin of a URL."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"


def parse_public_url(url: str) -> str:
    """Return a base URL without its last slash. Raises `ValueError` for another URL."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query:
        raise ValueError(f"public_url must be an http or https URL, got {url!r}")
    return url.rstrip("/")


def authority_of(host: str, port: int) -> str:
    """Return host and port as in a URL."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def host_of(authority: str) -> str:
    """Return the host of an authority, without brackets."""
    if authority.startswith("["):
        return authority[1:].partition("]")[0]
    return authority.rpartition(":")[0] or authority


def _is_ip(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


def is_loopback(host: str) -> bool:
    """Whether the host is this machine only."""
    return host == "localhost" or (_is_ip(host) and ip_address(host).is_loopback)
