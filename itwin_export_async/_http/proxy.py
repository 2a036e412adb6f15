"""The proxy of a transport: that of a borrowed session, or of the environment."""

from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import aiohttp
from attrs import field, frozen
from yarl import URL  # aiohttp takes a proxy with a password only as one of these

from itwin_export_async._redaction import without_query


@frozen(kw_only=True)
class Proxy:
    """A proxy for https, or none: `url` None. `honours_no_proxy`: whether `NO_PROXY` counts."""

    url: URL | None = field(repr=False)
    honours_no_proxy: bool

    @classmethod
    def of(cls, http: aiohttp.ClientSession | None) -> "Proxy":
        """The proxy of a borrowed session; without one, that of the environment."""
        url = None if http is None else default_proxy(http)
        if url is None and (http is None or http.trust_env):
            return cls(url=_environment_proxy(), honours_no_proxy=True)
        return cls(url=url, honours_no_proxy=False)

    @property
    def name(self) -> str:
        """Its URL, without user and password."""
        return without_query(str(self.url))

    def for_url(self, url: str) -> URL | None:
        """The proxy for a request. Plain http is for loopback, and never goes through one."""
        if not url.lower().startswith("https:"):
            return None
        if self.honours_no_proxy and proxy_bypass(urlsplit(url).netloc):
            return None
        return self.url


def default_proxy(http: aiohttp.ClientSession) -> URL | None:
    """The default proxy of a borrowed session, with its user and password."""
    proxy = getattr(http, "_default_proxy", None)  # aiohttp has no public access to it
    if proxy is None:
        return None
    auth = getattr(http, "_default_proxy_auth", None)
    url = _proxy_url("the proxy of http", str(proxy))
    return url if auth is None else url.with_user(auth.login).with_password(auth.password)


def _environment_proxy() -> URL | None:
    """The proxy for https of the environment, such as `HTTPS_PROXY`; None without one."""
    proxy = getproxies().get("https")
    if not proxy:
        return None
    return _proxy_url("HTTPS_PROXY", proxy if "://" in proxy else f"http://{proxy}")


def _proxy_url(name: str, value: str) -> URL:
    try:
        url = URL(value)
    except ValueError:
        url = URL()
    if url.scheme not in ("http", "https") or not url.host:
        raise ValueError(f"{name} must be an http or https URL, not {without_query(value)!r}")
    return url
