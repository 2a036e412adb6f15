"""The dashboard of a served emulator, read with aiohttp and a browser."""

import asyncio
import json
import re
import signal
import subprocess
import sys
import urllib.request
from collections.abc import AsyncIterator, Coroutine, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from attrs import define

from itwin_export_async._protocol.messages import Request, Response
from itwin_export_async.emulator import Emulator, ServerAddress
from tests.emulator.conftest import JSON
from tests.support.browser import Browser, find_browser
from tests.support.servers import web_server
from tests.support.service import AdjustableLoop

pytestmark = pytest.mark.usefixtures("integration")

EPOCH = datetime(2026, 3, 1, 12, 0, 0, tzinfo=UTC)


def run_ahead(work: Coroutine[Any, Any, None]) -> None:
    with asyncio.Runner(loop_factory=AdjustableLoop) as runner:
        runner.run(work)


def set_forward(seconds: float) -> None:
    loop = asyncio.get_running_loop()
    assert isinstance(loop, AdjustableLoop)
    loop.ahead += seconds


@define
class Watched:
    """A served emulator, and a client of its API and its dashboard."""

    emulator: Emulator
    served: ServerAddress
    http: aiohttp.ClientSession

    async def ask(self, method: str, path: str, body: object = None) -> Any:
        headers = {"Authorization": f"Bearer {self.emulator.token()}", "Accept": JSON}
        url = path if "://" in path else f"{self.served.base_url}{path}"
        async with self.http.request(method, url, json=body, headers=headers) as answer:
            text = await answer.text()
            return json.loads(text) if text else answer.headers.get("Location")

    async def connect(self, imodel_id: str, **members: object) -> str:
        body = {"iModelId": imodel_id} | members
        connection_id = (await self.ask("POST", "/export/connections", body))["connection"]["id"]
        assert isinstance(connection_id, str)
        return connection_id

    async def start(self, connection_id: str) -> str:
        """The id of a new run."""
        path = f"/export/connections/{connection_id}/runs"
        location = await self.ask("POST", path, {"exportType": "IFC"})
        assert isinstance(location, str)
        return location.rpartition("/")[2]

    async def page(self) -> str:
        async with self.http.get(f"{self.served.base_url}/") as answer:
            assert answer.status == 200
            assert answer.headers["Content-Type"] == "text/html; charset=utf-8"
            return await answer.text()

    async def state(self) -> dict[str, Any]:
        async with self.http.get(f"{self.served.base_url}/emulator/state") as answer:
            assert answer.status == 200
            assert answer.headers["Cache-Control"] == "no-store"
            state = await answer.json()
            assert isinstance(state, dict)
            return state


@asynccontextmanager
async def watched(**settings: Any) -> AsyncIterator[Watched]:
    emulator = Emulator(seed=5, epoch=EPOCH, **settings)
    async with emulator.serve() as served, aiohttp.ClientSession() as http:
        yield Watched(emulator, served, http)


async def test_dashboard_of_an_empty_emulator() -> None:
    async with watched() as it:
        state = await it.state()
        page = await it.page()
    lists = ("violations", "runs", "connections", "imodels", "files", "requests")
    assert [state[name] for name in lists] == [[]] * 6
    assert state["service"]["address"] == it.served.base_url
    assert state["service"]["now"].startswith("2026-03-01T12:00:0")
    assert state["totals"]["requests"] == 0
    assert "No runs yet" in page
    assert "Violations" not in page


async def test_dashboard_makes_no_requests() -> None:
    async with watched() as it:
        await it.page()
        await it.state()
        async with it.http.head(f"{it.served.base_url}/") as answer:
            assert answer.status == 200
    assert it.emulator.requests == []


async def test_dashboard_is_on_the_api_port_only() -> None:
    async with watched() as it:
        blobs = it.emulator.user_blob("x").partition("/exports")[0]
        for path in ("/", "/emulator/state"):
            async with it.http.get(f"{blobs}{path}") as answer:
                assert answer.status in (400, 403, 404)
            async with it.http.post(f"{it.served.base_url}{path}") as answer:
                assert answer.status == 404
            assert (
                it.emulator.handle(Request(method="GET", url=f"{it.served.base_url}{path}")).status
                == 404
            )


async def in_course(it: Watched) -> None:
    imodel_id = it.emulator.add_imodel("Bridge")
    connection_id = await it.connect(imodel_id, displayName="nightly")
    run_id = await it.start(connection_id)
    (run,) = (await it.state())["runs"]
    assert (run["id"], run["connectionId"], run["service"]) == (run_id, connection_id, "export")
    assert (run["iModelId"], run["iModelName"]) == (imodel_id, "Bridge")
    assert (run["state"], run["result"]) == ("Queued", "Undetermined")
    assert "jobs" not in run
    assert run["progress"] == pytest.approx(0, abs=0.05)
    set_forward(210)
    (run,) = (await it.state())["runs"]
    assert run["state"] == "Executing"
    assert run["progress"] == pytest.approx(0.5, abs=0.05)
    assert run["seconds"] == pytest.approx(420)
    ((task,),) = [job["tasks"] for job in run["jobs"]]
    assert (task["state"], task["result"]) == ("Executing", "Undetermined")
    assert (await it.state())["totals"]["activeRuns"] == 1
    assert (await it.state())["files"] == []
    set_forward(220)
    state = await it.state()
    (run,) = state["runs"]
    assert (run["state"], run["result"], run["progress"]) == ("Completed", "Success", 1)
    output = run["jobs"][0]["tasks"][0]["exportOutputFileId"]
    (file,) = state["files"]
    assert (file["name"], file["path"]) == ("Bridge.ifc", "Bridge.ifc")
    assert it.emulator.read_file(file["id"]) == it.emulator.read_file(output)
    assert (state["totals"]["activeRuns"], state["totals"]["runs"]) == (0, 1)


def test_state_shows_the_progress_of_a_run() -> None:
    async def check() -> None:
        async with watched(run_seconds=420) as it:
            await in_course(it)

    run_ahead(check())


async def test_state_shows_the_jobs_of_a_synchronization() -> None:
    async with watched(run_seconds=0) as it:
        imodel_id = it.emulator.add_imodel("Bridge")
        sources = [
            {"connectorType": "IFC", "storageFileId": it.emulator.add_file(name, b"x")}
            for name in ("a.ifc", "b.ifc")
        ]
        made = await it.ask(
            "POST",
            "/synchronization/imodels/storageconnections",
            {"iModelId": imodel_id, "sourceFiles": sources, "displayName": "in"},
        )
        connection_id = made["connection"]["id"]
        path = f"/synchronization/imodels/storageconnections/{connection_id}/run"
        await it.ask("POST", path)
        state = await it.state()
        page = await it.page()
    (run,) = state["runs"]
    assert run["service"] == "synchronization"
    assert [len(job["tasks"]) for job in run["jobs"]] == [2]
    (connection,) = state["connections"]
    assert (connection["service"], connection["displayName"]) == ("synchronization", "in")
    assert "IFC" in page


async def test_dashboard_shows_errors_of_runs() -> None:
    async with watched(run_seconds=0) as it:
        imodel_id = it.emulator.add_imodel()
        connection_id = await it.connect(imodel_id)
        for result in ("Error", "Canceled", "PartialSuccess"):
            it.emulator.plan_next_run(imodel_id, result)
            await it.start(connection_id)
        it.emulator.user_authorized = False
        path = "/synchronization/imodels/storageconnections"
        sources = [{"connectorType": "IFC", "storageFileId": it.emulator.add_file("a.ifc", b"x")}]
        made = await it.ask("POST", path, {"iModelId": imodel_id, "sourceFiles": sources})
        await it.ask("POST", f"{path}/{made['connection']['id']}/run")
        page = await it.page()
    assert "TAE_BRW_1000: Failed to export your file." in page
    assert "UserNotAuthenticated: User is not authenticated." in page
    for result in ("Error", "Canceled", "PartialSuccess"):
        assert f'class="result">{result}<' in page


async def test_state_has_connections_imodels_and_requests() -> None:
    async with watched() as it:
        imodel_id = it.emulator.add_imodel("Bridge")
        secret_id = it.emulator.add_imodel("Bunker", authorized=False)
        connection_id = await it.connect(imodel_id, authenticationType="Service")
        await it.ask("GET", f"/export/connections/{connection_id}")
        await it.ask("GET", "/nowhere?sig=signed")
        it.emulator.inject("create_run", ConnectionResetError())
        with pytest.raises(aiohttp.ClientConnectionError):
            await it.start(connection_id)
        state = await it.state()
        page = await it.page()
    (connection,) = state["connections"]
    assert connection == {
        "id": connection_id,
        "service": "export",
        "displayName": None,
        "authenticationType": "Service",
        "iModelId": imodel_id,
        "iModelName": "Bridge",
    }
    names = {item["id"]: (item["name"], item["authorized"]) for item in state["imodels"]}
    assert names == {imodel_id: ("Bridge", True), secret_id: ("Bunker", False)}
    newest_first = [(record["operation"], record["status"]) for record in state["requests"]]
    assert newest_first == [
        ("create_run", None),
        ("unknown", 404),
        ("get_connection", 200),
        ("create_connection", 201),
    ]
    assert state["requests"][1]["path"] == "/nowhere"
    assert (state["calls"]["lastMinute"]["made"], state["calls"]["lastHour"]["made"]) == (3, 3)
    assert "no answer" in page
    assert "no access" in page


def test_calls_leave_their_windows() -> None:
    async def check() -> None:
        async with watched() as it:
            imodel_id = it.emulator.add_imodel()
            await it.connect(imodel_id)
            set_forward(61)
            await it.connect(imodel_id)
            calls = (await it.state())["calls"]
            assert (calls["lastMinute"]["made"], calls["lastHour"]["made"]) == (1, 2)
            set_forward(3601)
            calls = (await it.state())["calls"]
            assert (calls["lastMinute"]["made"], calls["lastHour"]["made"]) == (0, 0)

    run_ahead(check())


async def test_dashboard_shows_the_tier_and_its_calls() -> None:
    async with watched(tier="Community") as it:
        imodel_id = it.emulator.add_imodel()
        for _ in range(3):
            await it.connect(imodel_id)
        state = await it.state()
        page = await it.page()
        it.emulator.tier = "Standard"
        calls = (await it.state())["calls"]
    assert state["service"]["tier"] == "Community"
    assert state["calls"] == {
        "lastMinute": {"made": 3, "allowed": 500},
        "lastHour": {"made": 3, "allowed": 5000},
    }
    assert "3 of 500" in page
    assert "<dd>Community</dd>" in page
    assert (calls["lastMinute"]["allowed"], calls["lastHour"]["allowed"]) == (5000, None)


def test_call_over_the_limit_is_a_violation_and_does_not_count() -> None:
    async def check() -> None:
        async with watched(tier="Community") as it:
            imodel_id = it.emulator.add_imodel()
            for _ in range(501):
                await it.ask("GET", f"/export/connections?imodelId={imodel_id}")
            state = await it.state()
            page = await it.page()
        assert state["calls"]["lastMinute"]["made"] == 500
        (violation,) = state["violations"]
        assert (violation["operation"], violation["method"]) == ("list_connections", "GET")
        assert violation["path"] == "/export/connections"
        assert "more calls than the tier allows" in violation["message"]
        assert state["totals"]["violations"] == 1
        assert state["requests"][0]["status"] == 429
        assert 'id="violations">Violations' in page
        assert "more calls than the tier allows" in page

    run_ahead(check())


async def test_dashboard_shows_the_fault_of_a_request() -> None:
    busy = Response(status=429, headers={"Retry-After": "1"})
    async with watched() as it:
        it.emulator.inject("list_connections", busy, delay=0.05)
        await it.ask("GET", "/export/connections?imodelId=x")
        await it.ask("GET", "/export/connections?imodelId=x")
        state = await it.state()
        page = await it.page()
    quiet, scripted = state["requests"]
    assert (scripted["status"], scripted["fault"], quiet["fault"]) == (429, "injected", None)
    assert (scripted["seconds"], quiet["seconds"]) == (pytest.approx(0.05), 0)
    assert [record["number"] for record in state["requests"]] == [2, 1]
    assert state["calls"]["lastMinute"]["made"] == 2
    assert "<em>injected</em>" in page
    assert "after 0.1 s" in page


async def test_long_lists_are_cut_and_counted() -> None:
    async with watched(run_seconds=0) as it:
        connection_id = await it.connect(it.emulator.add_imodel("first"))
        runs = [await it.start(connection_id) for _ in range(60)]
        for number in range(200):
            it.emulator.add_imodel(f"Bridge {number}")
        state = await it.state()
        page = await it.page()
    assert [run["id"] for run in state["runs"]] == runs[:-51:-1]
    assert (state["totals"]["runs"], state["totals"]["imodels"]) == (60, 201)
    assert len(state["imodels"]) == 50
    assert "the latest 50 of 60" in page


HOSTILE = (
    '"><script>document.title = "taken"</script><img src=x onerror=\'document.title="taken"\'>'
)


async def hostile(it: Watched) -> None:
    imodel_id = it.emulator.add_imodel(HOSTILE)
    it.emulator.add_file(HOSTILE, b"x")
    await it.start(await it.connect(imodel_id, displayName=HOSTILE))
    await it.ask("GET", "/export/<script>alert(1)</script>")


async def test_names_are_escaped() -> None:
    async with watched(run_seconds=0) as it:
        await hostile(it)
        page = await it.page()
        async with it.http.get(f"{it.served.base_url}/emulator/dashboard") as answer:
            fragment = await answer.text()
    assert page.count("&quot;&gt;&lt;script&gt;document.title") >= 3
    for text in (page, fragment):
        assert "<img" not in text
        assert "<script>document" not in text
        assert "<script>alert" not in text
    assert page.count("<script>") == 1


async def test_no_secret_is_shown() -> None:
    async with watched(run_seconds=0) as it:
        token, refresh = it.emulator.token(), it.emulator.refresh_token()
        imodel_id = it.emulator.add_imodel()
        await it.start(await it.connect(imodel_id))
        (file,) = (await it.state())["files"]
        url = f"{it.served.base_url}/storage/files/{file['id']}/download"
        headers = {"Authorization": f"Bearer {token}", "Accept": "*/*"}
        async with it.http.get(url, headers=headers) as answer:
            await answer.read()
        seen = await it.page() + json.dumps(await it.state())
    assert "download_file" in seen
    for secret in (token, refresh, it.emulator.client_secret, "sig="):
        assert secret not in seen


async def test_page_loads_nothing_from_other_origins() -> None:
    async with watched() as it:
        page = await it.page()
        async with it.http.get(f"{it.served.base_url}/") as answer:
            policy = answer.headers["Content-Security-Policy"]
    addresses = re.findall(r"""(?:src|href)=["']([^"']*)""", page)
    assert all(address.startswith("data:") for address in addresses)
    assert "default-src 'none'" in policy
    assert "script-src 'sha256-" in policy


async def test_a_browser_shows_the_states_a_run_goes_through(browser: Browser) -> None:
    async def look() -> None:
        async with watched(run_seconds=420) as it:
            run_id = await it.start(await it.connect(it.emulator.add_imodel("Bridge")))
            doms = []
            async with browser.page(it.served.base_url) as page:
                for seconds, expected in ((0, ["Queued"]), (210, EXECUTING), (220, COMPLETED)):
                    set_forward(seconds)
                    await page.advance(1.5)  # the page looks every second
                    await page.until(f"({STATES}).join() === {','.join(expected)!r}")
                    doms.append(await page.html())
            requests = len(it.emulator.requests)
        for dom in doms:
            assert run_id in dom
            assert "Live" in dom
        assert requests == 2

    await asyncio.to_thread(run_ahead, look())


# of all runs, jobs and tasks, as they are on the page
STATES = "[...document.querySelectorAll('.state')].map(each => each.innerText.trim())"
EXECUTING, COMPLETED = ["Executing"] * 3, ["Completed"] * 3


AT_WORK = """{
  window.opened = document.querySelector(".run details");
  opened.open = true;
  opened.firstElementChild.focus();
}"""
UNDISTURBED = """
  opened.isConnected && opened.open && document.activeElement === opened.firstElementChild
"""


async def test_the_page_follows_the_state_and_disturbs_nobody(browser: Browser) -> None:
    async with watched(run_seconds=0) as it:
        await hostile(it)
        before = await it.page()
        imodel_id = it.emulator.add_imodel("Tunnel")
        await it.start(await it.connect(imodel_id, displayName="nightly"))
        async with it.http.get(f"{it.served.base_url}/emulator/dashboard") as shown:
            after = await shown.text()
    paths: list[str] = []

    async def answer(request: web.Request) -> web.Response:
        paths.append(request.path)
        if request.path == "/":
            return web.Response(text=before, content_type="text/html")
        return web.Response(text=after, content_type="text/html")

    async with web_server(answer) as url, browser.page(url) as page:
        await page.value(AT_WORK)
        await page.until("document.body.innerText.includes('Tunnel')")
        requested = len(paths)
        await page.advance(2.5)
        assert await page.value(UNDISTURBED)
        dom = await page.html()
    assert "Tunnel" not in before
    assert dom.count("Tunnel") >= 3
    assert dom.count('class="run"') == 2
    assert "<title>taken" not in dom
    assert paths.count("/") == 1
    assert len(paths) > requested
    assert {*paths} <= {"/", "/emulator/dashboard", "/favicon.ico"}


async def test_the_page_says_when_the_emulator_has_gone(browser: Browser) -> None:
    async with watched() as it:
        page = await it.page()

    async def answer(request: web.Request) -> web.Response:
        if request.path == "/":
            return web.Response(text=page, content_type="text/html")
        return web.Response(status=404)

    async with web_server(answer) as url, browser.page(url) as shown:
        await shown.until("document.body.innerText.includes('does not respond')")


@pytest.mark.parametrize(
    ("ci", "outcome"), [("true", pytest.fail.Exception), ("", pytest.skip.Exception)]
)
def test_missing_browser_fails_in_ci(
    monkeypatch: pytest.MonkeyPatch, ci: str, outcome: type[BaseException]
) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.setenv("CI", ci)
    with pytest.raises(outcome, match="no browser here"):
        find_browser()


@pytest.fixture
def process() -> Iterator["subprocess.Popen[str]"]:
    command = "from itwin_export_async.cli import main; main()"
    process = subprocess.Popen(
        [sys.executable, "-c", command, "emulator", "--port", "0", "--imodels", "2"],
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        yield process
        process.send_signal(signal.SIGINT)


def test_command_prints_the_address_of_the_dashboard(process: "subprocess.Popen[str]") -> None:
    assert process.stdout is not None
    said = next(line for line in process.stdout if "browser" in line)
    address = re.search(r"http://\S+/", said)
    assert address is not None
    with urllib.request.urlopen(address[0], timeout=10) as answer:
        page = answer.read().decode()
    assert "Bridge" in page
    assert "Tunnel" in page
