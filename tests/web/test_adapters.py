"""The endpoints of both adapters, behind real servers."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from io import BytesIO
from typing import Any

import aiohttp
import httpx
import pytest
from aiohttp import web
from fastapi import FastAPI, Request

from itwin_export_async import ExportClient
from itwin_export_async.web.aiohttp import ExportRoutes
from itwin_export_async.web.fastapi import ExportRouter
from tests.support.fakes import answer
from tests.support.processes import until
from tests.support.service import Service
from tests.web.conftest import AFTER_RUN
from tests.web.events import events_of, next_event
from tests.web.sites import (
    DEFAULTS,
    PREFIX,
    Site,
    aiohttp_site,
    fastapi_site,
    owner_by_header,
    owner_of_request,
    owner_of_request_async,
    served,
    served_aiohttp,
)

pytestmark = pytest.mark.usefixtures("integration")
on_both = pytest.mark.parametrize("site", [fastapi_site, aiohttp_site])
MakeClient = Callable[[], ExportClient]


@asynccontextmanager
async def visiting(
    site: Site, make_client: MakeClient, **options: Any
) -> AsyncIterator[aiohttp.ClientSession]:
    """A visitor of a site. No task is left after it."""
    before = asyncio.all_tasks()
    async with site(client=make_client, **options) as url:
        connector = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(f"{url}/", connector=connector) as visitor:
            yield visitor
    await asyncio.sleep(0.05)
    assert asyncio.all_tasks() <= before


async def start(visitor: aiohttp.ClientSession, service: Service, **more: Any) -> dict[str, Any]:
    """Start an export of a new iModel."""
    body = {"imodel_id": service.emulator.add_imodel("Brücke"), **more}
    async with visitor.post("exports", json=body) as response:
        assert response.status == 202, await response.text()
        started: dict[str, Any] = await response.json()
        assert response.headers["Location"] == started["status_url"]
    return started


async def problem(response: aiohttp.ClientResponse) -> tuple[int, str]:
    """The status and the text of a problem document."""
    assert response.content_type == "application/problem+json"
    body = await response.json(content_type=None)
    assert body["status"] == response.status
    return response.status, body["detail"]


@on_both
async def test_export_is_started_followed_and_downloaded(
    site: Site, service: Service, make_client: MakeClient
) -> None:
    async with visiting(site, make_client) as visitor:
        started = await start(visitor, service, options={"ifc_version": "IFC4.3"})
        assert started["status_url"] == f"{PREFIX}/exports/{started['id']}"
        async with visitor.get(started["status_url"]) as response:
            assert response.headers["Cache-Control"] == "no-store"
            assert not (await response.json())["is_final"]
        async with visitor.get(started["file_url"]) as response:
            assert await problem(response) == (409, "the export is not finished")
        async with visitor.get(started["events_url"]) as response:
            assert response.headers["X-Accel-Buffering"] == "no"
            assert "no-cache" in response.headers["Cache-Control"]
            first = await next_event(response)
            service.advance(AFTER_RUN)
            *_, end = [event async for event in events_of(response)]
        assert (first.name, first.data["outcome"]) == ("update", None)
        assert (end.name, end.data["outcome"]) == ("end", "Success")
        async with visitor.get(started["file_url"]) as response:
            whole = await response.read()
            etag = response.headers["ETag"]
            assert response.headers["Content-Disposition"].endswith("''Br%C3%BCcke.ifc")
            assert whole.startswith(b"ISO-10303-21;")
        async with visitor.head(started["file_url"]) as response:
            assert (response.status, response.content_length) == (200, len(whole))
            assert response.headers["ETag"] == etag
        headers = {"Range": "bytes=5-9", "If-Range": etag}
        async with visitor.get(started["file_url"], headers=headers) as response:
            assert (response.status, await response.read()) == (206, whole[5:10])
        headers["If-Range"] = '"other"'
        async with visitor.get(started["file_url"], headers=headers) as response:
            assert (response.status, await response.read()) == (200, whole)
        headers = {"Range": "bytes=99999999-"}
        async with visitor.get(started["file_url"], headers=headers) as response:
            assert (response.status, await response.read()) == (416, b"")
            assert response.headers["Content-Range"] == f"bytes */{len(whole)}"
    service.emulator.assert_no_violations()


@on_both
async def test_last_event_id_skips_what_the_browser_has_seen(
    site: Site, service: Service, make_client: MakeClient
) -> None:
    async with visiting(site, make_client, heartbeat=0.05, max_age=0.5) as visitor:
        started = await start(visitor, service)
        async with visitor.get(started["events_url"]) as response:
            seen = await next_event(response)
        headers = {"Last-Event-ID": seen.id}
        async with visitor.get(started["events_url"], headers=headers) as response:
            text = await response.text()  # it ends by its max_age
    assert "event:" not in text
    assert text.count(": keep-alive\n\n") > 2


@on_both
async def test_unknown_ids_are_404_without_a_difference(
    site: Site, service: Service, make_client: MakeClient
) -> None:
    async with visiting(site, make_client) as visitor:
        started = await start(visitor, service)
        id = started["id"]
        bodies, before = set(), service.emulator.count("get_run")
        for other, owner in ((id, "you"), (f"{id[:-1]}-", "me"), (f"x{id}", "me"), ("x", "me")):
            for path in ("", "/events", "/file"):
                url = f"exports/{other}{path}"
                async with visitor.get(url, headers={"X-Owner": owner}) as response:
                    assert response.status == 404
                    headers = sorted(set(response.headers) - {"Date", "Server"})
                    bodies.add((await response.text(), tuple(headers)))
        assert len(bodies) == 1
        assert service.emulator.count("get_run") == before


@on_both
async def test_owner_callable_decides_first(
    site: Site, service: Service, make_client: MakeClient
) -> None:
    async with visiting(site, make_client) as visitor:
        for method, path in (("POST", ""), ("GET", "/x"), ("GET", "/x/events"), ("GET", "/x/file")):
            url = f"exports{path}"
            async with visitor.request(method, url, headers={"X-Owner": ""}) as response:
                assert response.status == 401
                assert "sign in" in await response.text()
    assert not service.emulator.requests


async def test_owner_callable_of_aiohttp_may_be_async(
    service: Service, make_client: MakeClient
) -> None:
    async with visiting(aiohttp_site, make_client, owner=owner_of_request_async) as visitor:
        assert (await start(visitor, service))["id"]


BAD_BODIES = [
    (b"no json", "the body is not JSON"),
    (b"", "the body is not JSON"),
    (b"\xff\xfe", "the body is not JSON"),
    (b"[" * 100_000, "the body is not JSON"),
    (b"[]", "the body is not a JSON object"),
    (b"{}", "imodel_id is missing"),
    (b'{"imodel_id": 7}', "imodel_id is missing"),
    (b'{"imodel_id": "m", "x": 1}', "'x' is no field"),
    (b'{"imodel_id": "m", "options": {"ifc": 1}}', "options.ifc is no option"),
    (b'{"imodel_id": "m", "options": {"ifc_version": []}}', "options: ifc_version"),
]


@on_both
async def test_bad_body_is_422_and_names_the_field(
    site: Site, service: Service, make_client: MakeClient
) -> None:
    headers = {"Content-Type": "application/json; charset=utf-8"}
    async with visiting(site, make_client) as visitor:
        for data, text in BAD_BODIES:
            async with visitor.post("exports", data=data, headers=headers) as response:
                status, detail = await problem(response)
                assert status == 422
                assert detail.startswith(text)
        body = json.dumps({"imodel_id": service.emulator.add_imodel()})
        for kind in ("text/plain", "application/x-www-form-urlencoded"):
            other = {"Content-Type": kind}  # that a page elsewhere can send unseen
            async with visitor.post("exports", data=body, headers=other) as response:
                assert await problem(response) == (
                    422,
                    "the body is not JSON; send it with Content-Type: application/json",
                )
        too_long = BytesIO(b" " * (1024 * 1024 + 1))
        async with visitor.post("exports", data=too_long, headers=headers) as response:
            assert response.status in (413, 422)
    assert not service.emulator.requests


@on_both
async def test_errors_of_the_service_have_their_statuses(
    site: Site, service: Service, make_client: MakeClient
) -> None:
    emulator = service.emulator
    async with visiting(site, make_client) as visitor:
        emulator.inject("list_connections", answer(429, Retry_After="1000"))
        async with visitor.post("exports", json={"imodel_id": emulator.add_imodel()}) as response:
            assert (await problem(response))[0] == 503
            assert response.headers["Retry-After"] == "1000"
    async with visiting(site, make_client) as visitor:
        async with visitor.post("exports", json={"imodel_id": "unknown"}) as response:
            assert (await problem(response))[0] in (404, 422)
        hidden = emulator.add_imodel(authorized=False)
        async with visitor.post("exports", json={"imodel_id": hidden}) as response:
            assert (await problem(response))[0] == 403
        imodel_id = emulator.add_imodel()
        emulator.plan_next_run(imodel_id, "Error", duration=0)
        async with visitor.post("exports", json={"imodel_id": imodel_id}) as response:
            started = await response.json()
        async with visitor.get(started["events_url"]) as response:
            *_, end = [event async for event in events_of(response)]
        assert end.data["outcome"] == "Error"
        assert end.data["failures"]
        async with visitor.get(started["file_url"]) as response:
            assert await problem(response) == (404, "the export made no file")
        started = await start(visitor, service)
        service.advance(AFTER_RUN)
        emulator.inject("get_blob", 403, 403, 403, 403, 403)
        async with visitor.get(started["file_url"]) as response:
            assert (await problem(response))[0] == 502


@on_both
async def test_may_export_refuses_before_anything_is_sent(
    site: Site, service: Service, make_client: MakeClient
) -> None:
    async with visiting(site, make_client, may_export=lambda *_: False) as visitor:
        body = {"imodel_id": service.emulator.add_imodel()}
        async with visitor.post("exports", json=body) as response:
            assert (await problem(response))[0] == 403
    assert not service.emulator.requests


@on_both
async def test_slow_start_is_503_and_joined_when_sent_again(
    site: Site, service: Service, make_client: MakeClient
) -> None:
    service.emulator.inject("create_run", None, delay=1)
    body = {"imodel_id": service.emulator.add_imodel()}
    async with visiting(site, make_client, start_timeout=0.2) as visitor:
        statuses: list[int] = []
        while statuses[-1:] != [202]:
            async with visitor.post("exports", json=body) as response:
                statuses.append(response.status)
                if response.status == 503:
                    assert response.headers["Retry-After"] == "2"
                else:
                    assert not (await response.json())["joined"]
    assert statuses[0] == 503
    assert service.emulator.count("create_run") == 1


@on_both
async def test_health_is_503_during_an_outage(
    site: Site, service: Service, make_client: MakeClient
) -> None:
    async with visiting(site, make_client) as visitor:
        async with visitor.get("exports/health") as response:
            assert (response.status, (await response.json())["ok"]) == (200, True)
        started = await start(visitor, service)
        async with visitor.get(started["events_url"]) as stream:
            await next_event(stream)
            service.emulator.inject("get_run", *[403] * 2000)
            assert (await next_event(stream)).name == "trouble"
            async with visitor.get("exports/health") as response:
                health = await response.json()
    assert (response.status, health["ok"], health["runs_polled"]) == (503, False, 1)


@on_both
async def test_visitor_that_leaves_ends_their_stream_and_nothing_else(
    site: Site, service: Service, make_client: MakeClient
) -> None:
    clients: list[ExportClient] = []

    def client() -> ExportClient:
        clients.append(make_client())
        return clients[-1]

    async with visiting(site, client) as visitor:
        shared, alone = await start(visitor, service), await start(visitor, service)
        staying = await visitor.get(shared["events_url"])
        await next_event(staying)
        for left in (shared, alone):
            stream = await visitor.get(left["events_url"])
            await next_event(stream)
            stream.close()
        await until(lambda: clients[0].health().runs_polled == 1)
        service.advance(AFTER_RUN)
        *_, end = [event async for event in events_of(staying)]
        assert end.data["outcome"] == "Success"


@on_both
async def test_visitor_that_leaves_during_a_download_disturbs_nothing(
    site: Site, service: Service, make_client: MakeClient
) -> None:
    async with visiting(site, make_client) as visitor:
        started = await start(visitor, service)
        service.advance(AFTER_RUN)
        response = await visitor.get(started["file_url"])
        response.close()
        async with visitor.get(started["file_url"]) as response:
            assert (await response.read()).startswith(b"ISO-10303-21;")


@on_both
async def test_file_that_breaks_off_does_not_look_complete(
    site: Site, service: Service, make_client: MakeClient, caplog: pytest.LogCaptureFixture
) -> None:
    async with visiting(site, make_client) as visitor:
        started = await start(visitor, service)
        service.advance(AFTER_RUN)
        service.emulator.inject("get_blob", None, truncate_after=100)
        service.emulator.inject("get_blob", 404)
        async with visitor.get(started["file_url"]) as response:
            assert response.status == 200
            with pytest.raises(aiohttp.ClientPayloadError):
                await response.read()


async def test_location_is_right_under_mount_and_root_path(
    service: Service, make_client: MakeClient
) -> None:
    opened: list[str] = []

    @asynccontextmanager
    async def own(_: FastAPI) -> AsyncIterator[dict[str, str]]:
        opened.append("begin")
        yield {"mine": "state"}
        opened.append("end")

    def router() -> ExportRouter:
        return ExportRouter(**DEFAULTS, owner=owner_by_header, client=make_client)

    async def check(url: str, path: str, *, as_seen_by_server: str | None = None) -> None:
        async with aiohttp.ClientSession(url) as visitor:
            body = {"imodel_id": service.emulator.add_imodel()}
            seen = path if as_seen_by_server is None else as_seen_by_server
            async with visitor.post(f"{seen}/exports", json=body) as response:
                started = await response.json()
                assert response.headers["Location"] == f"{path}/exports/{started['id']}"

    exports = router()
    app = FastAPI(lifespan=exports.wrap_lifespan(own))  # behind an existing lifespan
    app.include_router(exports, prefix="/a b/ü")

    @app.get("/state")
    async def state(request: Request) -> str:
        return str(request.state.mine)

    async with served(app) as url:
        await check(url, "/a%20b/%C3%BC")
        async with aiohttp.ClientSession(url) as visitor, visitor.get("/state") as response:
            assert await response.json() == "state"
    assert opened == ["begin", "end"]

    exports = router()
    inner, outer = FastAPI(), FastAPI(lifespan=exports.lifespan)
    inner.include_router(exports, prefix="/v1")
    outer.mount("/mounted", inner)
    async with served(outer) as url:
        await check(url, "/mounted/v1")

    app = FastAPI()  # the router brings its lifespan
    app.include_router(router(), prefix="/v1")
    async with served(app, root_path="/proxied") as url:
        await check(url, "/proxied/v1", as_seen_by_server="/v1")

    exports = router()
    app = FastAPI()
    app.include_router(exports)
    transport = httpx.ASGITransport(app, root_path="/proxied")  # which leaves the path as it is
    async with (
        exports.lifespan(app),
        httpx.AsyncClient(transport=transport, base_url="http://test") as client,
    ):
        body = {"imodel_id": service.emulator.add_imodel()}
        location = (await client.post("/exports", json=body)).headers["Location"]
        assert location.startswith("/proxied/exports/")


async def test_location_is_right_in_a_subapplication_of_aiohttp(
    service: Service, make_client: MakeClient
) -> None:
    exports = ExportRoutes(**DEFAULTS, owner=owner_of_request, client=make_client)
    app, sub = web.Application(), web.Application()
    exports.setup(sub, prefix="/v1/")
    app.add_subapp("/mounted", sub)
    async with served_aiohttp(app) as url, aiohttp.ClientSession(url) as visitor:
        body = {"imodel_id": service.emulator.add_imodel()}
        async with visitor.post("/mounted/v1/exports", json=body) as response:
            started = await response.json()
        assert started["status_url"] == f"/mounted/v1/exports/{started['id']}"
        async with visitor.get(started["status_url"]) as response:
            assert response.status == 200


async def test_location_names_no_other_host(service: Service, make_client: MakeClient) -> None:
    """A path may begin with a variable part: two slashes would make a host of it."""
    exports = ExportRouter(**DEFAULTS, owner=owner_by_header, client=make_client)
    app = FastAPI()
    app.include_router(exports, prefix="/{tenant:path}")
    async with served(app) as url, aiohttp.ClientSession() as visitor:
        body = {"imodel_id": service.emulator.add_imodel()}
        async with visitor.post(f"{url}//other.example/exports", json=body) as response:
            assert response.status == 202
            assert response.headers["Location"].startswith("/other.example/exports/")


def test_schema_is_typed() -> None:
    exports = ExportRouter(**DEFAULTS, owner=owner_by_header, page=True)
    app = FastAPI()
    app.include_router(exports, prefix=PREFIX)
    schema = app.openapi()
    assert set(schema["paths"]) == {
        f"{PREFIX}/exports",
        f"{PREFIX}/exports/health",
        f"{PREFIX}/exports/{{id}}",
        f"{PREFIX}/exports/{{id}}/events",
        f"{PREFIX}/exports/{{id}}/file",
    }
    start = schema["paths"][f"{PREFIX}/exports"]["post"]
    body = start["requestBody"]["content"]["application/json"]["schema"]
    assert body["required"] == ["imodel_id"]
    assert body["properties"]["options"]["properties"]["model_ids"]["type"] == "array"
    accepted = start["responses"]["202"]["content"]["application/json"]["schema"]
    assert accepted == {"$ref": "#/components/schemas/StartResponse"}
    for status in ("403", "404", "409", "422", "502", "503", "504"):
        problem = start["responses"][status]["content"]["application/problem+json"]["schema"]
        assert set(problem["properties"]) == {"type", "title", "status", "detail"}
    state = schema["components"]["schemas"]["StatusResponse"]["properties"]
    assert state["failures"]["items"] == {"$ref": "#/components/schemas/Failure"}
    events = schema["paths"][f"{PREFIX}/exports/{{id}}/events"]["get"]
    assert "text/event-stream" in events["responses"]["200"]["content"]
