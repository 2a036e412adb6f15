"""Certificates: which the client accepts, and the errors of the others."""

import re
import ssl
from types import SimpleNamespace
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from itwin_export_async import RetryPolicy, Session, TransportError
from itwin_export_async.transport import Request
from tests.support.servers import web_server
from tests.support.tls import Authority, https_server

pytestmark = pytest.mark.usefixtures("integration")

ONCE = RetryPolicy(attempts=1)
GET = Request(method="GET", url="/x?sig=planted")


async def ok(request: web.Request) -> web.StreamResponse:
    return web.Response(text=request.headers["Authorization"])


async def error_of(session: Session) -> TransportError:
    async with session:
        with pytest.raises(TransportError) as caught:
            await session.send(GET)
    assert not caught.value.may_have_been_processed
    assert caught.value.__cause__ is caught.value.__context__ is None
    assert "planted" not in str(caught.value)
    return caught.value


async def test_certificate_of_an_authority_of_a_borrowed_session_is_accepted() -> None:
    authority = Authority()
    connector = aiohttp.TCPConnector(ssl=authority.client_context())
    async with (
        https_server(ok, authority.server_context("localhost")) as url,
        aiohttp.ClientSession(connector=connector) as http,
        Session("t", base_url=url, http=http) as session,
    ):
        assert (await session.send(GET)).body == b"Bearer t"


@pytest.mark.parametrize(
    ("name", "expired", "reason"),
    [
        ("other.example", False, "(?i)hostname mismatch"),
        ("localhost", True, "certificate has expired"),
    ],
)
async def test_certificate_that_does_not_fit_is_a_transport_error(
    name: str, expired: bool, reason: str
) -> None:
    authority = Authority()
    connector = aiohttp.TCPConnector(ssl=authority.client_context())
    async with https_server(ok, authority.server_context(name, expired=expired)) as url:
        async with aiohttp.ClientSession(connector=connector) as http:
            error = await error_of(Session("t", base_url=url, http=http, retry=ONCE))
    host = url.removeprefix("https://")
    assert error.message.startswith(f"the certificate of {host} is not valid: ")
    assert re.search(reason, error.message)


async def test_certificate_of_an_unknown_authority_is_a_transport_error() -> None:
    async with https_server(ok, Authority().server_context("localhost")) as url:
        error = await error_of(Session("t", base_url=url, retry=ONCE))
    assert "is not valid: " in error.message


async def test_server_without_tls_is_a_transport_error() -> None:
    async def plain(request: web.Request) -> web.StreamResponse:
        raise AssertionError

    async with web_server(plain) as url:
        https = url.replace("http://127.0.0.1", "https://localhost")
        error = await error_of(Session("t", base_url=https, retry=ONCE))
    assert error.message.startswith("cannot connect to localhost:")


async def test_certificate_error_of_older_aiohttp_is_a_transport_error() -> None:
    """aiohttp 3.12.0 to 3.13.3 raises one that has no `os_error`."""

    class Older(aiohttp.ClientConnectorCertificateError):
        def __init__(self, key: Any, error: Exception) -> None:
            self._conn_key, self._certificate_error, self.args = key, error, (key, error)

    class Connector(aiohttp.TCPConnector):
        async def connect(self, *_: Any, **__: Any) -> Any:
            key = SimpleNamespace(host="api.example", port=443, is_ssl=True)
            raise Older(key, ssl.SSLCertVerificationError(1, "bad"))

    async with aiohttp.ClientSession(connector=Connector()) as http:
        error = await error_of(Session("t", base_url="https://api.example", http=http, retry=ONCE))
    assert error.message == "the certificate of api.example:443 is not valid: not trusted"
