"""The aiohttp session of a transport, and what it takes from a borrowed one."""

import aiohttp

from itwin_export_async._http.proxy import default_proxy

KEEPALIVE_TIMEOUT = 15.0  # seconds after which an idle connection is closed
MAX_CONNECTIONS = 256  # more than a session uses at once, so that no request waits for one
READ_BUFFER = 256 * 1024  # bytes of a body that may wait to be read
OWN_HEADERS = frozenset(  # of which a borrowed session has no say
    {
        "accept", "accept-encoding", "authorization", "connection", "content-length",
        "content-type", "cookie", "host", "proxy-authorization", "transfer-encoding",
        "user-agent", "x-correlation-id",
    }
)  # fmt: skip
_CLASSES = {"request_class": aiohttp.ClientRequest, "response_class": aiohttp.ClientResponse}


def check_client_session(http: aiohttp.ClientSession) -> None:
    """Raise an error that names what of a borrowed session cannot be used."""
    if not isinstance(http, aiohttp.ClientSession):
        raise TypeError(f"http must be an aiohttp.ClientSession, not {type(http).__name__}")
    if hasattr(http, "cache"):
        raise ValueError("http caches responses, so that a run would never be seen to change")
    if http.closed:
        raise ValueError("http is closed")
    # aiohttp has no public access to these three
    if getattr(http, "_middlewares", ()):
        raise ValueError("http has middlewares, which cannot be used: pass a session without them")
    for name, default in _CLASSES.items():
        if getattr(http, f"_{name}", default) is not default:
            raise ValueError(f"http has a {name}, which cannot be used: pass a session without it")
    default_proxy(http)


def borrowed_headers(http: aiohttp.ClientSession | None) -> dict[str, str]:
    """The default headers of a borrowed session that go to the API, and to no other host."""
    if http is None:
        return {}
    return {name: value for name, value in http.headers.items() if name.lower() not in OWN_HEADERS}


def client_session(borrowed: aiohttp.ClientSession | None) -> aiohttp.ClientSession:
    """A session of the transport's own, over the connections of the borrowed one if there is one.

    It keeps no cookies.
    """
    if borrowed is None:
        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                limit=MAX_CONNECTIONS, keepalive_timeout=KEEPALIVE_TIMEOUT
            ),
            cookie_jar=aiohttp.DummyCookieJar(),
            read_bufsize=READ_BUFFER,
        )
    return aiohttp.ClientSession(
        connector=borrowed.connector,
        connector_owner=False,
        cookie_jar=aiohttp.DummyCookieJar(),
        read_bufsize=READ_BUFFER,
        trace_configs=borrowed.trace_configs,
        version=aiohttp.HttpVersion(*borrowed.version),
    )
