"""The web applications of the README, behind real servers and before a real browser."""

import asyncio
import importlib
import json
import re
import sys
from base64 import urlsafe_b64decode
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import aiohttp
import pytest
import uvicorn
from aiohttp import web

from itwin_export_async import (
    AuthenticationFailed,
    AuthorizationRequired,
    ExportClient,
    ExportError,
    FixedSchedule,
    InvalidRequest,
    NotFound,
    PermissionDenied,
    ProtocolError,
    RateLimited,
    RequestTimeout,
    RunTimeout,
    RunUnreachable,
    ServerError,
    TokenError,
    TransportError,
)
from itwin_export_async.emulator import Emulator
from tests.support.browser import Browser
from tests.support.environment import environment
from tests.support.fakes import answer
from tests.support.processes import until
from tests.support.readme import example_files
from tests.support.service import Service, serving

FILES = example_files()
NAMES = ("web_exports", "app_fastapi", "app_aiohttp")


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The code blocks, as the modules that they name, and the page beside them."""
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in NAMES:
        monkeypatch.delitem(sys.modules, name, raising=False)


def fresh(name: str) -> ModuleType:
    """The module, run anew: an application serves once."""
    sys.modules.pop(name, None)
    return importlib.import_module(name)


@asynccontextmanager
async def fastapi_site() -> AsyncIterator[str]:
    app = fresh("app_fastapi").app
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error", ws="none"))
    serving = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.01)
    try:
        port = server.servers[0].sockets[0].getsockname()[1]
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        await serving


@asynccontextmanager
async def aiohttp_site(*, handler_cancellation: bool = True) -> AsyncIterator[str]:
    app = fresh("app_aiohttp").app
    runner = web.AppRunner(app, handler_cancellation=handler_cancellation)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


RUN_SECONDS, INTERVAL = 1000.0, 0.02
ITEMS = "[...document.querySelectorAll('li')].map(item => item.innerText)"
Site = Callable[[], AbstractAsyncContextManager[str]]
on_both = pytest.mark.parametrize("site", [fastapi_site, aiohttp_site])


@pytest.fixture
def service(integration: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[Service]:
    """The service, served; the environment names it. A run ends when the test lets time pass."""
    emulator = Emulator(seed=1, run_seconds=RUN_SECONDS)
    with serving(emulator) as service:
        for name, value in environment(emulator, service.served).items():
            monkeypatch.setenv(name, value)
        often = partial(ExportClient.from_env, schedule=FixedSchedule(INTERVAL))
        monkeypatch.setattr(ExportClient, "from_env", often)
        yield service


@pytest.fixture
def emulator(service: Service) -> Emulator:
    return service.emulator


@asynccontextmanager
async def visiting(site: Site) -> AsyncIterator[aiohttp.ClientSession]:
    """A visitor's session with the application, and no task that is left after it."""
    before = asyncio.all_tasks()
    async with site() as url:
        connector = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(url, connector=connector) as visitor:
            yield visitor
    await asyncio.sleep(0)
    assert asyncio.all_tasks() <= before


async def export(visitor: aiohttp.ClientSession, imodel_id: str) -> str:
    async with visitor.post("/exports", json={"imodel_id": imodel_id}) as told:
        assert told.status == 202
        address: str = (await told.json())["export"]
        assert told.headers["Location"] == address
    return address


async def events_of(stream: aiohttp.ClientResponse) -> AsyncIterator[dict[str, Any]]:
    """What the events say, until they end."""
    assert stream.content_type == "text/event-stream"
    async for line in stream.content:
        if line.startswith(b"data: "):
            yield json.loads(line.removeprefix(b"data: "))


async def next_event(stream: aiohttp.ClientResponse) -> dict[str, Any]:
    async for event in events_of(stream):
        return event
    raise AssertionError("the stream has ended")


async def told_by(visitor: aiohttp.ClientSession, address: str) -> list[dict[str, Any]]:
    """What the events said, until they ended."""
    async with visitor.get(f"{address}/events", timeout=aiohttp.ClientTimeout(60)) as stream:
        return [event async for event in events_of(stream)]


@on_both
@pytest.mark.usefixtures("integration")
@pytest.mark.usefixtures("files")
async def test_an_export_is_started_looked_at_followed_and_fetched(
    site: Site, service: Service
) -> None:
    async with visiting(site) as visitor:
        imodel_id = service.emulator.add_imodel("Bridge")
        address = await export(visitor, imodel_id)
        assert re.fullmatch(r"/exports/[\w-]+", address)
        assert await export(visitor, imodel_id) == address  # the second visitor joins
        async with visitor.get(address) as look:
            assert look.status == 200
            assert (await look.json())["state"] != "Completed"
        async with visitor.get(f"{address}/file") as early:
            assert early.status == 404
        async with visitor.get(f"{address}/events") as stream:
            first = await next_event(stream)
            service.advance(RUN_SECONDS)
            *_, last = [event async for event in events_of(stream)]
        assert first["state"] != "Completed"
        assert last["outcome"] == "Success"
        async with visitor.get(f"{address}/file") as file:
            assert file.status == 200
            assert "Bridge.ifc" in file.headers["Content-Disposition"]
            assert (await file.read()).startswith(b"ISO-10303-21;")
        async with visitor.get("/") as page:
            assert page.content_type == "text/html"


@on_both
@pytest.mark.usefixtures("integration")
@pytest.mark.usefixtures("files")
async def test_500_who_wait_for_20_runs_cost_what_20_do(site: Site, service: Service) -> None:
    emulator, clock = service.emulator, asyncio.get_running_loop().time
    async with visiting(site) as visitor:
        addresses = [await export(visitor, emulator.add_imodel()) for _ in range(20)]
        streams = [await visitor.get(f"{addresses[n % 20]}/events") for n in range(500)]
        assert all([await next_event(stream) for stream in streams])
        before, began = emulator.count("get_run"), clock()
        await until(lambda: emulator.count("get_run") >= before + 200)
        polls, seconds = emulator.count("get_run") - before, clock() - began
        service.advance(RUN_SECONDS)
        ends = [[event async for event in events_of(stream)][-1] for stream in streams]
    assert [end["outcome"] for end in ends] == ["Success"] * 500
    assert polls <= 20 * (seconds / INTERVAL + 2)


@on_both
@pytest.mark.usefixtures("integration")
@pytest.mark.usefixtures("files")
async def test_a_visitor_who_leaves_disturbs_nobody_and_leaves_nothing(
    site: Site, service: Service
) -> None:
    emulator = service.emulator
    async with visiting(site) as visitor:
        emulator.plan_next_run(alone := emulator.add_imodel(), duration=1e6)
        address, left = await export(visitor, emulator.add_imodel()), await export(visitor, alone)
        staying = asyncio.create_task(told_by(visitor, address))
        for gone in (address, left):
            stream = await visitor.get(f"{gone}/events")
            assert await next_event(stream)
            stream.close()
        await no_longer_polled(emulator, left, beside=address)
        service.advance(RUN_SECONDS)
        assert (await staying)[-1]["outcome"] == "Success"
        async with visitor.get(left) as look:
            assert (await look.json())["state"] != "Completed"


async def no_longer_polled(emulator: Emulator, address: str, *, beside: str) -> None:
    """Wait until a run is polled no more while another one still is."""

    def polls(of: str) -> int:
        name = of.removeprefix("/exports/")
        run_id = json.loads(urlsafe_b64decode(name + "=" * (-len(name) % 4)))["run"]
        return sum(request.path.endswith(run_id) for request in emulator.requests[:])

    seen, since = polls(address), polls(beside)

    def is_left() -> bool:
        nonlocal seen, since
        if polls(address) > seen:
            seen, since = polls(address), polls(beside)
        return polls(beside) >= since + 5

    await until(is_left)


@on_both
@pytest.mark.usefixtures("integration")
@pytest.mark.usefixtures("files")
async def test_a_stream_is_never_silent_for_long(
    site: Site, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with visiting(site) as visitor:
        monkeypatch.setattr(sys.modules["web_exports"], "PULSE", 0.05)
        address = await export(visitor, service.emulator.add_imodel())
        async with visitor.get(f"{address}/events") as stream:
            assert stream.headers["X-Accel-Buffering"] == "no"
            for _ in range(5):
                assert await stream.content.readuntil(b": it goes on\n\n")
            service.advance(RUN_SECONDS)
            events = (await stream.text()).split("\n\n")
    assert [event for event in events if event.startswith("event: end")] == events[-2:-1]


@pytest.mark.usefixtures("files")
async def test_a_run_that_ends_without_a_result_ends_the_stream() -> None:
    emulator = Emulator(seed=1)
    imodel_id = emulator.add_imodel()
    emulator.plan_next_run(imodel_id, "Undetermined", duration=60)
    async with ExportClient(emulator.token(), transport=emulator) as client:
        connection = await client.find_or_create_connection(imodel_id, display_name="web")
        run = await client.start_run(connection.id)
        said = [event async for event in fresh("web_exports").events(run)]
    assert b": it goes on\n\n" in said
    assert said[-1].startswith(b"event: end\n")
    assert b'"outcome": "Undetermined"' in said[-1]


@pytest.mark.usefixtures("files")
async def test_the_end_of_the_client_ends_the_stream() -> None:
    emulator = Emulator(seed=1)
    imodel_id = emulator.add_imodel()
    emulator.plan_next_run(imodel_id, duration=600)
    async with ExportClient(emulator.token(), transport=emulator) as client:
        connection = await client.find_or_create_connection(imodel_id, display_name="web")
        stream = fresh("web_exports").events(await client.start_run(connection.id))
        assert (await anext(stream)).startswith(b"event: update")
    with pytest.raises(RuntimeError, match="closed"):
        [event async for event in stream]


@pytest.mark.usefixtures("integration")
@pytest.mark.usefixtures("files")
async def test_a_server_that_cancels_nothing_notices_who_left_by_the_next_pulse(
    emulator: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with visiting(partial(aiohttp_site, handler_cancellation=False)) as visitor:
        monkeypatch.setattr(sys.modules["web_exports"], "PULSE", 0.05)
        kept, left = [await export(visitor, emulator.add_imodel()) for _ in range(2)]
        staying = await visitor.get(f"{kept}/events")
        stream = await visitor.get(f"{left}/events")
        assert await next_event(stream)
        stream.close()
        await no_longer_polled(emulator, left, beside=kept)
        staying.close()


@on_both
@pytest.mark.usefixtures("integration")
@pytest.mark.usefixtures("files")
async def test_what_goes_wrong_has_its_status(site: Site, emulator: Emulator) -> None:
    async with visiting(site) as visitor:
        for name in ("nonsense", "x", "eyJ2IjoxfQ"):
            async with visitor.get(f"/exports/{name}") as told:
                assert told.status == 404
        for body in ("{}", "[]", '"text"', *(f'{{"imodel_id": {i}}}' for i in ("null", '" "', 7))):
            headers = {"Content-Type": "application/json"}
            async with visitor.post("/exports", data=body, headers=headers) as told:
                assert (told.status, (await told.json())["error"]) == (422, "InvalidRequest")
        async with visitor.post("/exports", data="no json", headers=headers) as told:
            assert told.status == 422
        emulator.inject("list_connections", answer(429, Retry_After="1000"))
        async with visitor.post("/exports", json={"imodel_id": emulator.add_imodel()}) as told:
            assert (told.status, told.headers["Retry-After"]) == (503, "1000")
            assert (await told.json())["error"] == "RateLimited"
    async with visiting(site) as visitor:
        imodel_id = emulator.add_imodel()
        emulator.plan_next_run(imodel_id, "Error", duration=0)
        address = await export(visitor, imodel_id)
        end = (await told_by(visitor, address))[-1]
        assert (end["outcome"], end["has_file"]) == ("Error", False)
        async with visitor.get(address) as look:
            assert look.status == 200  # a failed run is a good answer
            assert (await look.json())["outcome"] == "Error"
        unknown = re.sub("^/exports/", "", address)
        emulator.inject("get_run", *[answer(403)] * 5)
        assert (await told_by(visitor, f"/exports/{unknown}"))[-1]["error"] == "PermissionDenied"


@pytest.mark.usefixtures("files")
def test_every_error_has_its_status() -> None:
    refusal: Any = fresh("web_exports").refusal
    expected: list[tuple[ExportError, int]] = [
        (InvalidRequest(status=422), 422),
        (AuthenticationFailed(status=401), 502),
        (PermissionDenied(status=403), 403),
        (NotFound(status=404), 404),
        (RateLimited(status=429, retry_after=17.2), 503),
        (ServerError(status=500), 503),
        (AuthorizationRequired(url="https://consent.example/"), 403),
        (TransportError(message="reset"), 502),
        (RequestTimeout(message="late"), 504),
        (TokenError(message="none"), 502),
        (ProtocolError(message="odd"), 502),
        (RunTimeout(connection_id="c", run_id="r"), 504),
        (RunUnreachable(connection_id="c", run_id="r"), 503),
    ]
    assert [refusal(error)[0] for error, _ in expected] == [status for _, status in expected]
    assert refusal(RateLimited(status=429, retry_after=17.2))[1] == {"Retry-After": "18"}
    assert refusal(ServerError(status=503))[1] == {"Retry-After": "30"}
    assert refusal(AuthorizationRequired(url="u"))[2]["url"] == "u"


@on_both
@pytest.mark.usefixtures("integration")
@pytest.mark.usefixtures("files")
async def test_the_page_shows_the_states_and_ends_with_a_link(
    site: Site, service: Service, browser: Browser
) -> None:
    async with site() as url, aiohttp.ClientSession(url) as visitor:
        address = await export(visitor, service.emulator.add_imodel("Bridge"))
        async with browser.page(f"{url}/#{address}") as page:
            await page.until("document.querySelector('li') !== null")
            service.advance(RUN_SECONDS)
            await page.until("document.querySelector('a') !== null")
            shown = await page.value(ITEMS)
            link = await page.value("document.querySelector('a').getAttribute('href')")
            assert await page.value("document.querySelector('a').innerText") == "Download"
    assert len(shown) > 1
    assert shown[-1] == "Success"
    assert link == f"{address}/file"


@on_both
@pytest.mark.usefixtures("integration")
@pytest.mark.usefixtures("files")
async def test_a_person_fills_in_the_form_sees_the_states_and_fetches_the_file(
    site: Site, service: Service, browser: Browser, monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:  # fmt: skip
    imodel_id = service.emulator.add_imodel("Bridge")
    async with site() as url, browser.page(url, downloads=tmp_path) as shown:
        monkeypatch.setattr(sys.modules["web_exports"], "PULSE", 0.1)
        await shown.value("window.isTheSame = true")
        await shown.click("input")
        await shown.type(imodel_id)
        await shown.click("button")
        await shown.until("document.querySelectorAll('li').length > 0")
        assert await shown.value("document.querySelector('li:last-child').innerText") != "Success"
        assert await shown.value("document.querySelector('a') === null")
        service.advance(RUN_SECONDS / 2)
        await shown.until("document.querySelector('li:last-child').innerText == 'Executing'")
        service.advance(RUN_SECONDS / 2)
        await shown.until("document.querySelector('a') !== null")
        states = await shown.value(ITEMS)
        assert len(states) > 2
        assert states[-2:] == ["Completed", "Success"]
        await shown.click("a")
        file = tmp_path / "Bridge.ifc"
        await until(lambda: file.exists() and file.stat().st_size > 0)  # empty until it is whole
        assert file.read_bytes().startswith(b"ISO-10303-21;")
        assert await shown.value("window.isTheSame")
    assert service.emulator.count("create_run") == 1


@on_both
@pytest.mark.usefixtures("integration")
@pytest.mark.usefixtures("files")
async def test_the_page_says_what_was_refused(
    site: Site, emulator: Emulator, browser: Browser
) -> None:
    async with site() as url, browser.page(url) as shown:
        await shown.click("input")
        await shown.type("unknown")
        await shown.click("button")
        await shown.until("document.querySelectorAll('li').length > 0")
        assert "422" in await shown.value("document.querySelector('li').innerText")
        assert await shown.value("location.hash") == ""
    assert emulator.count("create_run") == 0
