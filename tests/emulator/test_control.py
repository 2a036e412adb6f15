"""The control of a served emulator over HTTP."""

import asyncio
import json
from collections.abc import AsyncIterator
from io import BytesIO
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import pytest
from attrs import define
from yarl import URL

from itwin_export_async.emulator import Emulator

pytestmark = pytest.mark.usefixtures("integration")

V1 = "application/vnd.bentley.itwin-platform.v1+json"


@define
class Control:
    """A served emulator and a session."""

    emulator: Emulator
    url: str
    http: aiohttp.ClientSession

    async def post(self, path: str, body: object = None, **headers: str) -> tuple[int, Any]:
        async with self.http.post(
            f"{self.url}/emulator/{path}", json=body, headers=headers
        ) as answer:
            text = await answer.text()
            return answer.status, json.loads(text) if text else None

    async def get(self, path: str, **headers: str) -> tuple[int, Any]:
        async with self.http.get(f"{self.url}{path}", headers=headers) as answer:
            text = await answer.text()
            return answer.status, json.loads(text) if text.startswith("{") else text

    async def api(self, method: str, path: str, body: object = None) -> int:
        headers = {
            "Authorization": f"Bearer {self.emulator.token()}",
            "Accept": V1,
        }
        async with self.http.request(
            method, f"{self.url}{path}", json=body, headers=headers
        ) as answer:
            await answer.read()
            return answer.status


@pytest.fixture
async def control() -> AsyncIterator[Control]:
    emulator = Emulator(seed=1, run_seconds=0)
    emulator.add_imodel("Bridge")
    async with emulator.serve() as served, aiohttp.ClientSession() as http:
        yield Control(emulator, served.base_url, http)


async def test_plans_decide_the_next_runs(control: Control) -> None:
    (imodel_id,) = control.emulator.imodels
    plan = {"iModelId": imodel_id, "result": "Error", "task_result": "Success", "times": 2}
    assert await control.post("plans", plan) == (204, None)
    await control.api("POST", "/export/connections", {"iModelId": imodel_id})
    (connection,) = control.emulator.state()["connections"]
    runs = f"/export/connections/{connection['id']}/runs"
    for _ in range(3):
        assert await control.api("POST", runs, {"exportType": "IFC"}) == 202
    status, state = await control.get("/emulator/state")
    assert status == 200
    assert [run["result"] for run in state["runs"]] == ["Success", "Error", "Error"]
    assert state["runs"][1]["jobs"][0]["result"] == "Success"


async def test_faults_meet_the_next_requests(control: Control) -> None:
    fault = {"operation": "list_connections", "status": 503, "headers": {"Retry-After": 7}}
    assert await control.post("faults", fault | {"times": 2, "body": {"a": 1}}) == (204, None)
    for _ in range(2):
        async with control.http.get(
            f"{control.url}/export/connections", headers={"Accept": V1}
        ) as answer:
            assert (answer.status, answer.headers["Retry-After"]) == (503, "7")
            assert await answer.json() == {"a": 1}
    for failure in ("reset", "timeout", "refused"):
        fault = {"operation": "create_connection", "failure": failure, "applyEffect": True}
        assert (await control.post("faults", fault))[0] == 204
        with pytest.raises(aiohttp.ClientError):
            await control.api("POST", "/export/connections")
    fault = {"operation": "list_connections", "delay": 0.01}
    assert (await control.post("faults", fault))[0] == 204
    status, found = await control.get("/emulator/violations")
    assert (status, found["unmetFaults"]) == (200, ["list_connections: a delayed answer"])
    assert await control.api("GET", "/export/connections") == 422
    requests = (await control.get("/emulator/requests"))[1]["requests"]
    assert [request["status"] for request in requests] == [503, 503, None, None, None, 422]
    assert {request["fault"] for request in requests} == {"injected"}


async def test_violations_are_listed(control: Control) -> None:
    async with control.http.get(
        f"{control.url}/export/connections", headers={"User-Agent": ""}
    ) as answer:
        assert answer.status == 404
    violations = (await control.get("/emulator/violations"))[1]["violations"]
    assert {violation["kind"] for violation in violations} == {"no User-Agent", "wrong Accept"}
    assert violations[0].keys() == {"kind", "message", "at", "operation", "method", "path"}


async def test_imodels_and_their_history_can_be_added(control: Control) -> None:
    status, created = await control.post("imodels", {"name": "Tunnel"})
    assert (status, control.emulator.imodels[created["id"]]) == (201, "Tunnel")
    imodel = {"imodelId": created["id"]}
    status, changeset = await control.post("changesets", imodel)
    assert (status, len(changeset["id"])) == (201, 40)
    version = imodel | {"name": "v1", "changesetId": changeset["id"]}
    assert (await control.post("namedversions", version))[0] == 201
    scope = {"scopeId": created["id"], "permissions": ["imodels_webview"]}
    assert (await control.post("permissions", scope))[0] == 204
    (item, _) = control.emulator.state()["imodels"]
    assert (item["changesets"], item["namedVersions"], item["authorized"]) == (1, ["v1"], False)


async def test_a_reset_restores_what_was_served_first(control: Control) -> None:
    (imodel_id,) = control.emulator.imodels
    token = control.emulator.token()
    await control.post("imodels", {"name": "Tunnel"})
    await control.post("changesets", {"imodelId": imodel_id})
    await control.post("faults", {"operation": "get_run", "status": 500})
    await control.api("POST", "/export/connections", {"iModelId": imodel_id})
    for _ in range(2):
        assert await control.post("reset") == (204, None)
        state = (await control.get("/emulator/state"))[1]
        assert state["connections"] == state["requests"] == state["unmetFaults"] == []
        assert [item["name"] for item in state["imodels"]] == ["Bridge"]
        assert state["imodels"][0]["changesets"] == 0
        assert await control.api("POST", "/export/connections", {"iModelId": imodel_id}) == 201
        ids = {control.emulator.add_imodel(), imodel_id}
        assert len(ids) == 2
    assert token not in json.dumps(control.emulator.state())


@pytest.mark.parametrize(
    ("path", "body", "sentence"),
    [
        ("plans", {}, "the body lacks imodel_id"),
        ("plans", {"imodelId": "x"}, "there is no iModel 'x'"),
        ("plans", [], "the body must be a JSON object"),
        (
            "plans",
            {"imodelId": "x", "seconds": 3},
            "unknown member 'seconds': use any of imodel_id",
        ),
        ("faults", {"operation": "get_runs", "status": 500}, "did you mean get_run?"),
        ("faults", {"operation": "get_run", "status": "500"}, "from 200 to 599, got '500'"),
        ("faults", {"operation": "get_run", "failure": "fire"}, "failure must be one of reset"),
        ("faults", {"operation": "get_run", "times": 0}, "times must be an integer from 1"),
        (
            "faults",
            {"operation": "get_run", "status": 500, "headers": []},
            "headers must be an obj",
        ),
        ("permissions", {"scopeId": "x"}, "the body lacks permissions"),
    ],
)
async def test_mistakes_are_named(control: Control, path: str, body: object, sentence: str) -> None:
    status, answer = await control.post(path, body)
    assert status == 422
    assert sentence in answer["error"]["message"]


async def test_broken_bodies_are_answered(control: Control) -> None:
    headers = {"Content-Type": "application/json"}
    for body, expected in ((b"{", 422), (b"[" * 100_000, 422), (BytesIO(bytes(2_000_000)), 413)):
        async with control.http.post(
            f"{control.url}/emulator/plans", data=body, headers=headers
        ) as answer:
            assert answer.status == expected
    async with control.http.post(f"{control.url}/emulator/plans", data=b"{}") as answer:
        assert answer.status == 415


async def test_unknown_paths_of_the_control_are_named(control: Control) -> None:
    status, answer = await control.get("/emulator/nothing")
    assert status == 404
    assert "/emulator/state, /emulator/violations" in answer["error"]["message"]
    assert control.emulator.requests == []


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    ],
)
async def test_pages_of_other_origins_are_refused(
    control: Control, headers: dict[str, str]
) -> None:
    assert (await control.post("reset", **headers))[0] == 403
    assert (await control.get("/emulator/state", **headers))[0] == 403


async def test_pages_of_the_own_origin_are_served(control: Control) -> None:
    own = {"Origin": control.url, "Sec-Fetch-Site": "same-origin"}
    assert (await control.get("/emulator/state", **own))[0] == 200
    link = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}
    assert (await control.get("/", **link))[0] == 200
    assert (await control.post("reset", **link))[0] == 403


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("evil.example:80", 421),
        ("evil.example", 421),
        ("localhost:1", 200),
        ("emulator:8080", 200),
        ("192.168.1.7:8080", 200),
        ("[::1]:8080", 200),
        ("emulator.localhost", 200),
        ("host.docker.internal:8321", 200),
    ],
)
async def test_unknown_hosts_are_refused(control: Control, host: str, status: int) -> None:
    assert (await control.get("/emulator/state", Host=host))[0] == status
    address = urlsplit(control.emulator.user_blob("a", content=b"a"))
    blob = f"{address.scheme}://{address.netloc}{address.path}"
    async with control.http.get(blob, headers={"Host": host}) as answer:
        assert answer.status == (421 if status == 421 else 403)


async def test_the_public_host_is_known() -> None:
    emulator = Emulator()
    async with emulator.serve(public_url="https://itwin.example.com"), aiohttp.ClientSession():
        pass
    async with emulator.serve(host="localhost") as served, aiohttp.ClientSession() as http:
        async with http.get(f"{served.base_url}/emulator/state") as answer:
            assert answer.status == 200


async def test_requests_without_a_host_and_for_proxies_are_answered(control: Control) -> None:
    address = urlsplit(control.url)
    for lines in (
        "GET /emulator/state HTTP/1.0",
        f"GET {control.url}/emulator/state HTTP/1.1\r\nHost: {address.netloc}\r\nConnection: close",
    ):
        reader, writer = await asyncio.open_connection(address.hostname, address.port)
        writer.write(f"{lines}\r\n\r\n".encode())
        assert b" 200 " in await reader.readline()
        writer.close()
        await writer.wait_closed()


async def test_bodies_and_uploads_are_bounded() -> None:
    emulator = Emulator(max_put_bytes=1000, max_stored_bytes=2500)
    headers = {"x-ms-blob-type": "BlockBlob"}
    async with emulator.serve() as served, aiohttp.ClientSession() as http:

        async def put(name: str, size: int, comp: str = "") -> int:
            url = URL(emulator.user_blob(name) + comp, encoded=True)
            async with http.put(url, data=BytesIO(bytes(size)), headers=headers) as answer:
                return answer.status

        assert await put("a", 1000) == 201
        assert await put("a", 1001) == 413
        assert await put("a", 5_000_000) == 413
        assert await put("a", 1000) == 201  # replaces the first
        assert await put("b", 1000) == 201
        assert await put("c", 1000) == 507
        assert await put("c", 600, "&comp=block&blockid=AA==") == 507
        async with http.post(
            f"{served.base_url}/export/connections", data=BytesIO(bytes(10**7))
        ) as answer:
            assert answer.status == 413

        async def chunks() -> AsyncIterator[bytes]:
            for _ in range(20):
                yield bytes(100_000)

        async with http.post(f"{served.base_url}/export/connections", data=chunks()) as answer:
            assert answer.status == 413
