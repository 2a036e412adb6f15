"""What clients must not do: each violation committed on purpose, and what is none of them."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest
from yarl import URL

from itwin_export_async._protocol.messages import Request, Response, TransportError
from itwin_export_async.emulator import Emulator, ServerAddress, run_virtual
from tests.support.processes import until

Caller = Any
CallerOf = Callable[[Emulator], Any]

PATH = "/export/connections/x"
RUN = {"exportType": "IFC"}


def kinds(emulator: Emulator) -> list[str]:
    return [violation.kind for violation in emulator.violations]


def busy(status: int, seconds: str) -> Response:
    return Response(status=status, headers={"Retry-After": seconds})


def test_correct_export_has_no_violations(caller_of: CallerOf) -> None:
    emulator = Emulator(run_seconds=100, tier="Community")
    call = caller_of(emulator)

    async def main() -> None:
        address = call.start(call.connect(emulator.add_imodel()), ifcVersion="IFC4.3")
        await asyncio.sleep(100)
        run = json.loads(call("GET", address).body)["run"]
        file_id = run["jobs"][0]["tasks"][0]["exportOutputFileId"]
        accept = {"Accept": "application/vnd.bentley.itwin-platform.v1+octet-stream"}
        found = call("GET", f"/storage/files/{file_id}/download", headers=accept)
        blob = Request(method="GET", url=found.headers["Location"])
        async with emulator.stream(blob) as stream:
            assert b"".join([piece async for piece in stream.chunks])

    run_virtual(main())
    assert emulator.violations == []
    emulator.assert_no_violations()


def test_violations_are_named_in_the_assertion(call: Caller, emulator: Emulator) -> None:
    call("GET", PATH, headers={"User-Agent": "", "Accept": "application/json"})
    with pytest.raises(AssertionError) as caught:
        emulator.assert_no_violations()
    message = str(caught.value)
    assert message.startswith("2 violations of the client:\n  ")
    assert "no User-Agent header" in message
    assert (
        "Accept is 'application/json', so that the request does not match get_connection" in message
    )
    assert f"GET {PATH} (unknown)" in message
    first = emulator.violations[0]
    assert (first.kind, first.method, first.path) == ("no User-Agent", "GET", PATH)
    assert first.operation == "unknown"
    assert first.at == emulator.requests[0].at


def test_each_cause_is_recorded_once(call: Caller, emulator: Emulator) -> None:
    for _ in range(100):
        call("GET", PATH, headers={"User-Agent": "", "Accept": ""})
    assert kinds(emulator) == ["no User-Agent", "wrong Accept"]
    assert "there is no Accept header" in emulator.violations[1].message
    call("GET", "/export/nonsense")
    assert len(emulator.violations) == 2, "what does not exist anyway is no fault of the header"


@pytest.mark.parametrize(
    ("path", "body", "violations"),
    [
        ("", {"iModelId": "x", "displayName": "a", "authenticationType": "User"}, []),
        ("", {"iModelId": "x", "displayName": None}, ["null member"]),
        ("", {"imodelId": "x", "projectId": "y"}, ["unknown member"] * 2),
        ("/x/runs", RUN | {"inputOptions": {"modelIds": ["0x1"]}}, []),
        ("/x/runs", RUN | {"inputOptions": {"savedViewId": None}}, ["null member"]),
        ("/x/runs", RUN | {"outputOptions": {"location": {"a": 1}}}, ["unknown member"]),
        ("/x/runs", RUN | {"ifcVersion": None, "a": 1}, ["null member", "unknown member"]),
        ("/x/runs", b"no JSON", []),
        ("/x/runs", [1], []),
    ],
)
def test_unknown_and_null_members_are_violations(
    call: Caller, emulator: Emulator, path: str, body: object, violations: list[str]
) -> None:
    call("POST", f"/export/connections{path}", body)
    call("POST", f"/export/connections{path}", body)
    assert kinds(emulator) == violations


def test_token_to_a_foreign_host_is_a_violation(call: Caller, emulator: Emulator) -> None:
    headers = {"Authorization": f"Bearer {call.token}"}
    own = emulator.user_blob("a", content=b"a")
    emulator.handle(Request(method="GET", url=own))
    assert emulator.violations == []
    emulator.handle(Request(method="GET", url=own, headers=headers))
    assert kinds(emulator) == ["token to a foreign host"]
    assert emulator.violations[0].message.endswith("went to callersblobs.blob.core.windows.net")
    with pytest.raises(ConnectionRefusedError):
        emulator.handle(Request(method="GET", url="https://example.com/x", headers=headers))
    with pytest.raises(ConnectionRefusedError):
        emulator.handle(Request(method="GET", url="https://example.com/x"))
    assert emulator.violations[1].message.endswith("went to example.com")
    url = "https://ims.bentley.com/connect/token"
    emulator.handle(Request(method="POST", url=url, headers={"Authorization": "Basic eDp5"}))
    assert len(emulator.violations) == 2
    emulator.handle(Request(method="POST", url=url, headers=headers))
    assert emulator.violations[2].message.endswith("went to ims.bentley.com")


def test_redirect_followed_with_the_token_is_a_violation(call: Caller, emulator: Emulator) -> None:
    found = call("GET", f"/storage/files/{emulator.add_file('a.ifc', b'a')}/download")
    call("GET", found.headers["Location"])
    assert kinds(emulator) == ["redirect with token"]


def test_call_before_the_end_of_a_429_pause_is_a_violation(caller_of: CallerOf) -> None:
    emulator = Emulator()
    call, other = caller_of(emulator), caller_of(emulator)

    async def main() -> None:
        emulator.inject("get_connection", busy(429, "10"))
        call("GET", PATH)
        other("GET", PATH)
        emulator.handle(Request(method="GET", url=emulator.user_blob("a")))
        await asyncio.sleep(10)
        call("GET", PATH)
        emulator.assert_no_violations()
        emulator.inject("get_connection", busy(429, "10"), busy(429, "10"))
        call("GET", PATH)
        await asyncio.sleep(9)
        call("GET", PATH)
        call("POST", "/export/connections", {})
        await asyncio.sleep(5)
        call("GET", "/export/connections")

    run_virtual(main())
    assert kinds(emulator) == ["called too soon"], "all in a row are one cause"
    assert emulator.violations[0].message.startswith("1.00 s sooner than the Retry-After")


def test_repetition_before_the_end_of_a_503_pause_is_a_violation(caller_of: CallerOf) -> None:
    emulator = Emulator()
    call = caller_of(emulator)

    async def main() -> None:
        for unspecific in (busy(500, "10"), busy(503, "rubbish"), Response(status=429)):
            emulator.inject("get_connection", unspecific)
            call("GET", PATH)
            call("GET", PATH)
        emulator.inject("get_connection", busy(503, "10"))
        call("GET", PATH)
        call("GET", f"{PATH}y")
        call("GET", f"{PATH}/runs")
        emulator.assert_no_violations()
        await asyncio.sleep(9.96)
        call("GET", PATH)
        emulator.assert_no_violations()
        emulator.quirks = "retry_date"
        emulator.inject("get_connection", busy(429, "10"))
        call("GET", PATH)
        await asyncio.sleep(8)
        call("GET", f"{PATH}/runs")

    run_virtual(main())
    assert kinds(emulator) == ["called too soon"]
    assert emulator.violations[0].operation == "list_runs"


def test_equal_request_of_another_task_is_no_repetition(caller_of: CallerOf) -> None:
    emulator = Emulator()
    call = caller_of(emulator)
    emulator.inject("get_connection", busy(503, "10"))

    async def ask(times: int) -> None:
        for _ in range(times):
            await emulator.send(call.request("GET", PATH))

    async def main() -> None:
        await asyncio.create_task(ask(1))
        await asyncio.create_task(ask(2))
        emulator.assert_no_violations()
        emulator.inject("get_connection", busy(503, "10"))
        await asyncio.create_task(ask(2))

    run_virtual(main())
    assert kinds(emulator) == ["called too soon"]


def test_code_outside_of_tasks_is_one_caller(call: Caller, emulator: Emulator) -> None:
    emulator.inject("get_connection", busy(503, "10"))
    call("GET", PATH)
    emulator.assert_no_violations()
    call("GET", PATH)
    assert kinds(emulator) == ["called too soon"]


def test_concurrent_requests_are_not_too_soon(caller_of: CallerOf) -> None:
    emulator = Emulator()
    call = caller_of(emulator)
    emulator.inject("get_connection", busy(429, "10"))

    async def main() -> None:
        requests = [emulator.send(call.request("GET", PATH)) for _ in range(5)]
        answers = await asyncio.gather(*requests)
        assert [answer.status for answer in answers] == [429, 404, 404, 404, 404]
        emulator.assert_no_violations()
        await emulator.send(call.request("GET", PATH))

    run_virtual(main())
    assert kinds(emulator) == ["called too soon"]


def test_the_latest_of_many_pauses_and_refused_tokens_are_remembered(caller_of: CallerOf) -> None:
    emulator = Emulator()
    call = caller_of(emulator)

    async def main() -> None:
        for number in range(1200):
            emulator.inject("get_connection", busy(503, "1"), Response(status=401))
            call("GET", f"{PATH}{number}")
            last = {"Authorization": f"Bearer {number}"}
            call("GET", f"{PATH}other", headers=last)
            await asyncio.sleep(0.1)
        emulator.assert_no_violations()
        call("GET", f"{PATH}1199")
        call("GET", f"{PATH}other", headers=last)

    run_virtual(main())
    assert kinds(emulator) == ["called too soon", "refused token used again"]


def test_call_over_the_limit_is_a_violation(caller_of: CallerOf) -> None:
    emulator = Emulator(tier="Community")
    call = caller_of(emulator)

    async def main() -> None:
        for _ in range(500):
            call("GET", PATH)
        emulator.assert_no_violations()
        caller_of(emulator)("GET", PATH)
        caller_of(emulator)("GET", PATH)
        await asyncio.sleep(60)
        for _ in range(500):
            call("GET", PATH)
        caller_of(emulator)("GET", PATH)

    run_virtual(main())
    assert kinds(emulator) == ["over the limit", "over the limit"]
    assert emulator.violations[0].message.startswith("more calls than the tier allows")


def test_refused_token_used_again_is_a_violation(caller_of: CallerOf) -> None:
    emulator = Emulator()
    call, other = caller_of(emulator), caller_of(emulator)
    emulator.inject("get_connection", Response(status=401))

    async def main() -> None:
        under_way = asyncio.create_task(emulator.send(call.request("GET", f"{PATH}/runs")))
        await asyncio.sleep(0.005)
        await emulator.send(call.request("GET", PATH))
        await under_way
        call("GET", PATH, headers={"Authorization": ""})
        call("GET", PATH, headers={"Authorization": ""})
        other("GET", PATH)
        emulator.assert_no_violations()
        call("GET", PATH)
        call("GET", PATH)

    run_virtual(main())
    assert kinds(emulator) == ["refused token used again"]


def test_unread_body_is_a_violation(emulator: Emulator) -> None:
    request = Request(method="GET", url=emulator.user_blob("a", content=bytes(200_000)))
    empty = Request(method="GET", url=emulator.user_blob("b", content=b""))
    missing = Request(method="GET", url=emulator.user_blob("c"))

    async def leave(error: BaseException | None = None) -> None:
        async with emulator.stream(request) as stream:
            async for _ in stream.chunks:
                if error is not None:
                    raise error
                return

    async def main() -> None:
        for unread in (empty, missing):
            async with emulator.stream(unread):
                pass
        with pytest.raises(KeyError):
            await leave(KeyError())
        with pytest.raises(asyncio.CancelledError):
            await leave(asyncio.CancelledError())
        emulator.inject("get_blob", None, truncate_after=70_000)
        with pytest.raises(TransportError):
            async with emulator.stream(request) as stream:
                _ = [piece async for piece in stream.chunks]
        async with emulator.stream(request) as stream:
            _ = [piece async for piece in stream.chunks]
        emulator.assert_no_violations()
        await leave()
        await leave()
        async with emulator.stream(request):
            pass

    run_virtual(main())
    assert kinds(emulator) == ["body left unread"]


@asynccontextmanager
async def served(emulator: Emulator) -> AsyncIterator[tuple[ServerAddress, aiohttp.ClientSession]]:
    headers = {
        "Authorization": f"Bearer {emulator.token()}",
        "Accept": "application/vnd.bentley.itwin-platform.v1+json",
    }
    async with emulator.serve() as there, aiohttp.ClientSession(headers=headers) as http:
        yield there, http


@pytest.mark.usefixtures("integration")
async def test_violations_are_found_over_sockets() -> None:
    emulator = Emulator()
    async with served(emulator) as (there, http):
        url = f"{there.base_url}/export/connections/x"
        emulator.inject(
            "get_connection", Response(status=401), busy(503, "9"), None, busy(429, "9")
        )
        for _ in range(5):
            async with http.get(url) as answer:
                await answer.read()
        await asyncio.sleep(0.3)  # longer than a request may have been on its way
        async with http.get(url) as answer:
            await answer.read()
        assert sorted(kinds(emulator)) == ["called too soon", "refused token used again"]
        file_id = emulator.add_file("a.ifc", b"a")
        url = f"{there.base_url}/storage/files/{file_id}/download"
        async with http.get(url, allow_redirects=False) as answer:
            location = URL(answer.headers["Location"], encoded=True)
        async with http.get(location) as answer:
            assert answer.status == 400
        assert kinds(emulator)[-1] == "redirect with token"


@pytest.mark.usefixtures("integration")
async def test_client_that_gives_up_over_sockets_has_lost_the_answer() -> None:
    emulator = Emulator()
    async with served(emulator) as (there, http):
        url = f"{there.base_url}/export/connections"
        body = {"iModelId": emulator.add_imodel()}
        emulator.inject("create_connection", None, delay=0.3)
        given_up = asyncio.create_task(http.post(url, json=body))
        await until(lambda: emulator.count("create_connection") == 1)
        given_up.cancel()
        await asyncio.wait([given_up])
        await asyncio.sleep(0.5)
        async with http.post(URL(url), json=body) as answer:
            assert answer.status == 201
    assert kinds(emulator) == ["connection made twice"]
