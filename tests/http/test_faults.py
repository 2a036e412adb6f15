"""Faults and hostile responses over real sockets."""

import asyncio
import gc
import json
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web

from itwin_export_async import (
    AccessToken,
    ClientCredentials,
    ExportClient,
    FixedSchedule,
    ProtocolError,
    RefreshTokenCredentials,
    RequestTimeout,
    ResponseError,
    RetryPolicy,
    RunOrigin,
    ServerError,
    Session,
    TokenError,
)
from itwin_export_async.emulator import Emulator
from itwin_export_async.transport import Request
from tests.support.fakes import answer
from tests.support.processes import until
from tests.support.servers import web_server

pytestmark = pytest.mark.usefixtures("integration")

ONCE = RetryPolicy(attempts=1)
QUICK = RetryPolicy(initial=0.01, maximum=0.05)


async def test_request_timeout_bounds_a_slow_body() -> None:
    async def trickle(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Length": "1000"})
        await response.prepare(request)
        for _ in range(1000):
            await response.write(b" ")
            await asyncio.sleep(0.05)
        return response

    async with web_server(trickle) as url:
        async with ExportClient("t", base_url=url, retry=ONCE, request_timeout=0.3) as client:
            with pytest.raises(RequestTimeout, match=r"no response within 0\.3 s"):
                await client.get_run("c1", "r1")


@pytest.mark.parametrize(
    ("body", "path"),
    [("<html>", ""), ('{"run": ', ""), ('{"run": []}', "run"), ('{"run": {"id": 5}}', "run.id")],
)
async def test_unreadable_body_is_a_protocol_error(body: str, path: str) -> None:
    async def garbage(request: web.Request) -> web.StreamResponse:
        return web.Response(text=body)

    async with web_server(garbage) as url, ExportClient("t", base_url=url) as client:
        with pytest.raises(ProtocolError) as caught:
            await client.get_run("c1", "r1")
    assert caught.value.path == path


async def test_html_error_page_keeps_status_and_title() -> None:
    page = "<html><head><title>502 Bad Gateway</title></head>" + "x" * 1000

    async def proxy(request: web.Request) -> web.StreamResponse:
        return web.Response(status=502, text=page, content_type="text/html")

    async with web_server(proxy) as url:
        async with ExportClient("t", base_url=url, retry=ONCE) as client:
            with pytest.raises(ServerError) as caught:
                await client.get_run("c1", "r1")
    assert (caught.value.status, caught.value.message) == (502, "an HTML page: 502 Bad Gateway")


async def test_foreign_urls_of_a_service_never_get_the_token() -> None:
    elsewhere: list[web.Request] = []
    here: list[web.Request] = []

    async def foreign(request: web.Request) -> web.StreamResponse:
        elsewhere.append(request)
        return web.Response(text="{}")

    async with web_server(foreign) as evil:

        async def service(request: web.Request) -> web.StreamResponse:
            here.append(request)
            there = f"{evil}/export/connections/c1/runs/r1"
            if request.method == "POST":
                return web.Response(status=202, headers={"Location": there})
            links = {"next": {"href": f"{evil}/export/connections?$skip=1"}}
            connection = {"id": str(len(here)), "_links": {"lastRun": {"href": there}}}
            page = {"connections": [connection] if len(here) < 4 else [], "_links": links}
            return web.json_response(page)

        async with web_server(service) as url, ExportClient("t", base_url=url) as client:
            run = await client.start_run("c1")
            assert (run.connection_id, run.run_id) == ("c1", "r1")
            assert len([c async for c in client.list_connections("m")]) == 2
            with pytest.raises(ProtocolError, match="gets no token"):
                await client.session.send(Request(method="GET", url=f"{evil}/complete"))
    assert not elsewhere
    assert all(request.host in url for request in here)


OPERATIONS: dict[str, Callable[[ExportClient, Path], Awaitable[object]]] = {
    "create_connection": lambda client, _: client.create_connection("m"),
    "get_connection": lambda client, _: client.get_connection("c"),
    "list_connections": lambda client, _: anext(client.list_connections("m")),
    "delete_connection": lambda client, _: client.delete_connection("c"),
    "get_run": lambda client, _: client.get_run("c", "r"),
    "list_runs": lambda client, _: anext(client.list_runs("c")),
    "get_authorization": lambda client, _: client.get_authorization("https://x.example"),
    "get_file": lambda client, _: client.storage.get_file("f"),
    "refresh": lambda client, _: client.attach("c", "r").refresh(),
}


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_operation_follows_no_redirect(operation: str, status: int, tmp_path: Path) -> None:
    seen: list[str] = []

    async def redirect(request: web.Request) -> web.StreamResponse:
        seen.append(request.path)
        return web.Response(status=status, headers={"Location": "/elsewhere"})

    async with web_server(redirect) as url, ExportClient("t", base_url=url) as client:
        with pytest.raises(ProtocolError, match=f"answered {status}"):
            await OPERATIONS[operation](client, tmp_path)
    assert len(seen) == 1
    assert seen != ["/elsewhere"]


async def test_skewed_service_clock_changes_nothing() -> None:
    """Its clock is three hours ahead: retry delays and recovered runs go by its own time."""
    skew = timedelta(hours=3)
    posts, polls = 0, list[float]()

    async def service(request: web.Request) -> web.StreamResponse:
        nonlocal posts
        now = datetime.now(UTC) + skew
        headers = {"Date": format_datetime(now, usegmt=True)}
        if request.method == "POST":
            posts += 1
            if posts == 1:
                assert request.transport is not None
                request.transport.abort()
            headers["Location"] = "/export/connections/c1/runs/r1"
            return web.Response(status=303, headers=headers)
        polls.append(time.monotonic())
        run = {"id": "r1", "state": "Completed", "result": "Success"}
        run["startDateTime"] = (now - timedelta(seconds=1)).isoformat()
        if len(polls) == 2:
            later = format_datetime(now + timedelta(seconds=2), usegmt=True)
            return web.Response(status=503, headers=headers | {"Retry-After": later})
        return web.json_response({"run": run}, headers=headers)

    async with web_server(service) as url:
        async with ExportClient("t", base_url=url, retry=QUICK) as client:
            run = await client.start_run("c1", if_active="raise")
            assert run.origin is RunOrigin.RECOVERED
            await run.refresh()
    assert 1 < polls[2] - polls[1] < 60  # the date in Retry-After has whole seconds


async def served(emulator: Emulator, url: str, token_url: str) -> ExportClient:
    auth = ClientCredentials(emulator.client_id, emulator.client_secret, token_url=token_url)
    return ExportClient(auth, base_url=url, retry=QUICK, schedule=FixedSchedule(0.05))


async def test_wait_survives_an_outage_of_the_token_service() -> None:
    emulator = Emulator(seed=1, run_seconds=1.0, token_lifetime=0.6)
    async with emulator.serve() as at, await served(emulator, at.base_url, at.token_url) as client:
        connection = await client.create_connection(emulator.add_imodel())
        run = await client.start_run(connection.id)
        emulator.inject("issue_token", *[answer(503, '{"error": "down"}')] * 12)
        assert (await run.wait(timeout=30)).is_final
        assert emulator.count("issue_token") > 12


async def test_token_service_that_stays_down_is_a_token_error() -> None:
    emulator = Emulator(seed=1)
    async with emulator.serve() as at, await served(emulator, at.base_url, at.token_url) as client:
        emulator.inject("issue_token", *[ConnectionResetError()] * 5)
        with pytest.raises(TokenError, match="no token") as caught:
            await client.get_run("c1", "r1")
        assert caught.value.is_transient


async def test_expired_token_is_renewed_once_for_fifty_callers() -> None:
    emulator = Emulator(seed=1)
    async with emulator.serve() as at, await served(emulator, at.base_url, at.token_url) as client:
        imodel_id = emulator.add_imodel()
        await client.create_connection(imodel_id)
        emulator.token_lifetime = 3600
        emulator.inject("create_connection", *[answer(401, "{}")] * 50)
        calls = [asyncio.create_task(client.create_connection(imodel_id)) for _ in range(50)]
        await asyncio.sleep(0)
        calls[0].cancel()
        results = await asyncio.gather(*calls, return_exceptions=True)
        assert isinstance(results[0], asyncio.CancelledError)
        assert emulator.count("issue_token") == 2


async def test_refresh_token_rotates_and_the_newest_is_kept() -> None:
    forms: list[dict[str, str]] = []
    stored: list[str] = []

    async def ims(request: web.Request) -> web.StreamResponse:
        forms.append({name: str(value) for name, value in (await request.post()).items()})
        granted = {"access_token": f"a{len(forms)}", "refresh_token": f"r{len(forms)}"}
        return web.json_response(granted | {"expires_in": 3600})

    async def store(token: str) -> None:
        stored.append(token)

    async with web_server(ims) as url:
        auth = RefreshTokenCredentials(
            "app", "r0", client_secret="planted", token_url=f"{url}/connect/token", on_rotate=store
        )
        assert (await auth.get_token()).value == "a1"
        auth.on_rotate = stored.append
        assert (await auth.get_token()).value == "a2"
        auth.on_rotate = None
        async with Session(auth, base_url=url) as session:
            await session.send(Request(method="GET", url="/x"))
    assert [form["refresh_token"] for form in forms[:3]] == ["r0", "r1", "r2"]
    assert forms[0] | {"refresh_token": "r0"} == {
        "grant_type": "refresh_token",
        "client_id": "app",
        "client_secret": "planted",
        "refresh_token": "r0",
        "scope": "itwin-platform offline_access",
    }
    assert stored == ["r1", "r2"]
    assert auth.refresh_token.startswith("r")
    assert "planted" not in repr(auth)
    assert "r3" not in repr(auth)


async def test_refresh_token_stays_without_a_rotation() -> None:
    async def ims(request: web.Request) -> web.StreamResponse:
        return web.json_response({"access_token": "a", "expires_in": 60})

    async with web_server(ims) as url:
        auth = RefreshTokenCredentials("app", "r0", token_url=url)
        assert isinstance(await auth.get_token(), AccessToken)
    assert auth.refresh_token == "r0"


async def test_borrowed_session_is_neither_closed_nor_changed() -> None:
    headers: list[dict[str, str]] = []

    async def service(request: web.Request) -> web.StreamResponse:
        headers.append(dict(request.headers))
        response = web.json_response({"connection": {"id": "c1"}})
        response.set_cookie("from", "service")
        return response

    mine = {"Authorization": "Basic planted", "X-Team": "bridges", "accept": "text/html"}
    async with web_server(service) as url:
        async with aiohttp.ClientSession(headers=mine, raise_for_status=True) as http:
            async with ExportClient("t", base_url=url, http=http) as client:
                await client.get_connection("c1")
                await client.session.send_blob(Request(method="GET", url=f"{url}/blob"))
            assert not http.closed
            assert not len(http.cookie_jar)
            assert dict(http.headers) == mine
            async with http.get(url) as response:
                assert response.status == 200
    assert headers[0]["Authorization"] == "Bearer t"
    assert headers[0]["X-Team"] == "bridges"
    assert headers[0]["Accept"].startswith("application/vnd.bentley")
    assert "X-Team" not in headers[1]
    assert "Authorization" not in headers[1]


async def test_borrowed_session_that_caches_or_is_closed_is_refused() -> None:
    with pytest.warns(DeprecationWarning, match="discouraged"):

        class Caching(aiohttp.ClientSession):  # as aiohttp-client-cache does
            cache = object()

    async with Caching() as http:
        with pytest.raises(ValueError, match="caches responses"):
            ExportClient("t", http=http)
    async with aiohttp.ClientSession() as plain:
        pass
    with pytest.raises(ValueError, match="http is closed"):
        ExportClient("t", http=plain)


async def test_cancelled_client_closes_everything() -> None:
    emulator = Emulator(seed=1)

    async def use(base_url: str) -> None:
        async with ExportClient(emulator.token(), base_url=base_url) as client:
            run = await client.start_run((await client.create_connection(imodel_id)).id)
            async with asyncio.TaskGroup() as group:
                for _ in range(20):
                    group.create_task(client.resume(run).wait())

    async with emulator.serve() as at:
        imodel_id = emulator.add_imodel()
        before = asyncio.all_tasks()
        task = asyncio.create_task(use(at.base_url))
        await asyncio.sleep(0.3)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        left = [t for t in asyncio.all_tasks() - before if "RequestHandler" not in repr(t)]
        assert not left
    gc.collect()  # what is left open would warn now, and a warning is an error


async def test_two_clients_share_no_state() -> None:
    seen: dict[str, set[str]] = {"/a": set(), "/b": set()}

    async def service(request: web.Request) -> web.StreamResponse:
        seen[request.path[:2]].add(request.headers["Authorization"])
        if request.path.startswith("/a"):
            return web.Response(status=429, headers={"Retry-After": "200"})
        return web.json_response({"connection": {"id": "c1"}})

    async with web_server(service) as url:
        one, two = (
            ExportClient("one", base_url=f"{url}/a"),
            ExportClient("two", base_url=f"{url}/b"),
        )
        async with one, two:
            stuck = asyncio.create_task(one.get_connection("c1"))
            await until(lambda: bool(seen["/a"]))
            await two.get_connection("c1")
            stuck.cancel()
            await asyncio.wait([stuck])
    assert seen == {"/a": {"Bearer one"}, "/b": {"Bearer two"}}


async def test_error_holds_the_services_error_body() -> None:
    body = json.loads(
        (Path(__file__).parents[1] / "examples/export.create_run.422.json").read_text()
    )

    async def refuse(request: web.Request) -> web.StreamResponse:
        return web.json_response(body, status=422, headers={"x-correlation-id": "abc"})

    async with web_server(refuse) as url, ExportClient("t", base_url=url) as client:
        with pytest.raises(ResponseError) as caught:
            await client.start_run("c1")
    error = caught.value
    assert (error.status, error.code) == (422, "InvalidConnectionRunRequest")
    assert [detail.target for detail in error.details] == ["imodelId", "imodelId", "connectionId"]
    assert error.request_id == "abc"
