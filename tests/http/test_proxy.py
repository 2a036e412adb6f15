"""Proxies, `.netrc`, and what of a borrowed session goes to which host."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web

from itwin_export_async import (
    ClientCredentials,
    ExportClient,
    RetryPolicy,
    Session,
    TransportError,
)
from itwin_export_async.transport import Request
from tests.support.servers import web_server
from tests.support.tls import Authority, connect_proxy, https_server

pytestmark = pytest.mark.real_time

ONCE = RetryPolicy(attempts=1)
GET = Request(method="GET", url="/x")
PROXY_VARIABLES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY")


@pytest.fixture(autouse=True)
def _no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in PROXY_VARIABLES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


async def ok(request: web.Request) -> web.StreamResponse:
    return web.Response(text=request.headers["Authorization"])


@asynccontextmanager
async def https_api() -> AsyncIterator[tuple[str, aiohttp.TCPConnector]]:
    """An API, and a connector that trusts its certificate."""
    authority = Authority()
    async with https_server(ok, authority.server_context("localhost")) as url:
        yield url, aiohttp.TCPConnector(ssl=authority.client_context())


async def send(session: Session) -> bytes:
    async with session:
        return (await session.send(GET)).body


async def refusal(session: Session) -> TransportError:
    with pytest.raises(TransportError) as caught:
        await send(session)
    assert not caught.value.may_have_been_processed
    assert caught.value.__context__ is None
    return caught.value


@pytest.mark.parametrize("scheme", ["http://", ""])
async def test_proxy_of_the_environment_is_used(
    scheme: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with connect_proxy("502 Bad Gateway") as proxy:
        monkeypatch.setenv("HTTPS_PROXY", proxy.url.replace("http://", scheme))
        error = await refusal(Session("t", base_url="https://localhost:1", retry=ONCE))
    assert proxy.targets == ["CONNECT localhost:1 HTTP/1.1"]
    assert "Authorization" not in proxy.heads[0]
    assert error.message == f"the proxy {proxy.url} refused to connect: 502 Bad Gateway"


async def test_proxy_of_the_environment_carries_a_borrowed_session_that_trusts_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with https_api() as (url, connector), connect_proxy() as proxy:
        monkeypatch.setenv("https_proxy", proxy.url)
        async with aiohttp.ClientSession(connector=connector, trust_env=True) as http:
            assert await send(Session("t", base_url=url, http=http)) == b"Bearer t"
    assert proxy.targets == [f"CONNECT {url.removeprefix('https://')} HTTP/1.1"]


@pytest.mark.parametrize("no_proxy", ["localhost", "*", "example.com,localhost"])
async def test_no_proxy_names_hosts_that_are_reached_directly(
    no_proxy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with https_api() as (url, connector), connect_proxy() as proxy:
        monkeypatch.setenv("HTTPS_PROXY", proxy.url)
        monkeypatch.setenv("NO_PROXY", no_proxy)
        async with aiohttp.ClientSession(connector=connector, trust_env=True) as http:
            assert await send(Session("t", base_url=url, http=http)) == b"Bearer t"
    assert not proxy.heads


async def test_borrowed_session_without_trust_in_the_environment_uses_no_proxy_of_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with https_api() as (url, connector), connect_proxy() as proxy:
        monkeypatch.setenv("HTTPS_PROXY", proxy.url)
        async with aiohttp.ClientSession(connector=connector) as http:
            assert await send(Session("t", base_url=url, http=http)) == b"Bearer t"
    assert not proxy.heads


async def test_proxy_of_a_borrowed_session_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "*")  # is about the environment's proxies
    async with https_api() as (url, connector), connect_proxy() as proxy:
        proxy_url = proxy.url.replace("//", "//me:planted@")
        async with aiohttp.ClientSession(connector=connector, proxy=proxy_url) as http:
            assert await send(Session("t", base_url=url, http=http)) == b"Bearer t"
    assert proxy.targets == [f"CONNECT {url.removeprefix('https://')} HTTP/1.1"]
    assert "Proxy-Authorization: Basic bWU6cGxhbnRlZA==" in proxy.heads[0]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of aiohttp 3.14
async def test_proxy_auth_of_a_borrowed_session_is_used() -> None:
    async with connect_proxy("407 Proxy Authentication Required") as proxy:
        auth = aiohttp.BasicAuth("me", "planted")
        async with aiohttp.ClientSession(proxy=proxy.url, proxy_auth=auth) as http:
            session = Session("t", base_url="https://localhost:1", http=http, retry=ONCE)
            error = await refusal(session)
    assert "Proxy-Authorization: Basic bWU6cGxhbnRlZA==" in proxy.heads[0]
    assert f"the proxy {proxy.url} refused to connect: 407" in error.message
    assert "planted" not in f"{error} {error!r}"


async def test_proxy_that_is_down_is_named() -> None:
    async with connect_proxy() as proxy:
        pass
    async with aiohttp.ClientSession(proxy=proxy.url) as http:
        session = Session("t", base_url="https://localhost:1", http=http, retry=ONCE)
        error = await refusal(session)
    assert error.message.startswith(f"cannot connect to the proxy {proxy.url} (")


async def test_refusal_of_a_proxy_is_retried_also_for_an_unsafe_request() -> None:
    async with connect_proxy("503 Busy") as proxy:
        async with aiohttp.ClientSession(proxy=proxy.url) as http:
            quick = RetryPolicy(attempts=3, initial=0.01)
            url = "https://localhost:1"
            async with Session("t", base_url=url, http=http, retry=quick) as session:
                with pytest.raises(TransportError, match="503 Busy"):
                    await session.send(Request(method="POST", url="/export/connections"))
                assert session.remaining_calls == 5000
    assert len(proxy.heads) == 3


@pytest.mark.parametrize("value", ["socks5://127.0.0.1:1", "http://", "http://me:planted@h:port"])
async def test_unusable_proxy_is_refused_by_name(
    value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", value)
    with pytest.raises(ValueError, match="HTTPS_PROXY must be an http or https URL") as caught:
        await Session("t").open()
    assert "planted" not in str(caught.value)
    async with aiohttp.ClientSession(proxy=value if "port" not in value else "ftp://x") as http:
        with pytest.raises(ValueError, match="the proxy of http must be"):
            Session("t", http=http)


async def test_plain_http_to_loopback_never_goes_through_a_proxy(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with web_server(ok) as url, connect_proxy("403 Forbidden") as proxy:
        monkeypatch.setenv("HTTP_PROXY", proxy.url)
        monkeypatch.setenv("HTTPS_PROXY", proxy.url)
        assert await send(Session("t", base_url=url)) == b"Bearer t"
        async with aiohttp.ClientSession(proxy=proxy.url) as http:
            assert await send(Session("t", base_url=url, http=http)) == b"Bearer t"
    assert not proxy.heads


async def test_no_host_gets_a_password_of_netrc_or_a_header_of_a_borrowed_session(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("default login me password planted\n")
    monkeypatch.setenv("NETRC", str(netrc))
    seen: dict[str, dict[str, str]] = {}

    async def service(request: web.Request) -> web.StreamResponse:
        seen[request.path] = dict(request.headers)
        return web.json_response({"access_token": "t", "connection": {"id": "c1"}})

    async with web_server(service) as url:
        auth = ClientCredentials("id", "secret", token_url=f"{url}/connect/token")
        async with aiohttp.ClientSession(trust_env=True, headers={"X-Team": "bridges"}) as http:
            async with ExportClient(auth, base_url=url, http=http) as client:
                await client.get_connection("c1")
                await client.session.send_blob(Request(method="GET", url=f"{url}/blob"))
    assert {path: headers.get("Authorization") for path, headers in seen.items()} == {
        "/connect/token": None,
        "/export/connections/c1": "Bearer t",
        "/blob": None,
    }
    assert [path for path, headers in seen.items() if "X-Team" in headers] == [
        "/export/connections/c1"
    ]


async def test_borrowed_session_that_cannot_be_carried_over_is_refused_by_name() -> None:
    class OwnRequest(aiohttp.ClientRequest):
        pass

    class OwnResponse(aiohttp.ClientResponse):
        pass

    async def middleware(
        request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType
    ) -> aiohttp.ClientResponse:
        return await handler(request)

    for http, name in (
        (aiohttp.ClientSession(middlewares=(middleware,)), "middlewares"),
        (aiohttp.ClientSession(request_class=OwnRequest), "request_class"),
        (aiohttp.ClientSession(response_class=OwnResponse), "response_class"),
    ):
        async with http:
            with pytest.raises(ValueError, match=f"http has .*{name}"):
                Session("t", http=http)


async def test_borrowed_session_that_was_closed_later_is_named() -> None:
    async with aiohttp.ClientSession() as http:
        session = Session("t", base_url="https://localhost:1", http=http)
        await session.open()
    with pytest.raises(RuntimeError, match="passed as http is closed"):
        await session.send(GET)
    await session.aclose()
