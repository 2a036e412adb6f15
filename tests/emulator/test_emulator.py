"""The emulator as a whole: its clock, routes, scripts and records, and as a transport."""

import asyncio
import json
import time
import uuid
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Any

import pytest

from itwin_export_async._protocol.messages import Request, Response, Transport, TransportError
from itwin_export_async.emulator import Emulator, RequestRecord, run_virtual

Example = Callable[[str], Any]
Caller = Any
CallerOf = Callable[[Emulator], Any]

PATH = "/export/connections"


def history(emulator: Emulator, call: Caller) -> list[bytes]:
    """All answers of a run followed to its end, and its output."""

    async def main() -> list[bytes]:
        answers = []
        location = call.start(call.connect(emulator.add_imodel()))
        for _ in range(30):
            await asyncio.sleep(60)
            answers.append(call("GET", location).body)
        output = json.loads(answers[-1])["run"]["jobs"][0]["tasks"][0]["exportOutputFileId"]
        location = call("GET", f"/storage/files/{output}/download").headers["Location"]
        return [*answers, location.encode(), emulator.read_file(output)]

    return run_virtual(main())


def test_equal_seeds_give_equal_answers(caller_of: CallerOf) -> None:
    epoch = datetime(2026, 1, 1, tzinfo=UTC)
    emulators = [Emulator(seed=seed, epoch=epoch) for seed in (5, 5, 6)]
    one, same, other = [history(emulator, caller_of(emulator)) for emulator in emulators]
    assert one == same
    assert one != other
    assert emulators[0].client_secret == emulators[1].client_secret != emulators[2].client_secret


def test_additional_token_does_not_change_runs(caller_of: CallerOf) -> None:
    def states(tokens: int) -> list[str]:
        emulator = Emulator(seed=5)
        for _ in range(tokens):
            emulator.token()
        answers = history(emulator, caller_of(emulator))[:30]
        return [json.loads(answer)["run"]["state"] for answer in answers]

    assert states(0) == states(3)


def test_clock_starts_at_its_epoch(caller_of: CallerOf) -> None:
    emulator = Emulator()
    date = parsedate_to_datetime(caller_of(emulator)("GET", PATH).headers["Date"])
    assert abs(datetime.now(UTC) - date) < timedelta(seconds=10)
    with pytest.raises(ValueError, match="time zone"):
        Emulator(epoch=datetime(2026, 1, 1))


@pytest.mark.parametrize(
    ("at", "stamp"),
    [
        (0, "2026-01-01T00:00:00Z"),
        (86399.5, "2026-01-01T23:59:59.5Z"),
        (0.1234567, "2026-01-01T00:00:00.1234567Z"),
        (0.123456, "2026-01-01T00:00:00.123456Z"),
        (0.99999999, "2026-01-01T00:00:01Z"),
    ],
)
def test_stamps_have_up_to_seven_digits(caller_of: CallerOf, at: float, stamp: str) -> None:
    emulator = Emulator(epoch=datetime(2026, 1, 1, tzinfo=UTC), token_lifetime=1e6)
    call = caller_of(emulator)

    async def main() -> str:
        connection_id = call.connect(emulator.add_imodel())
        await asyncio.sleep(at)
        location = call.start(connection_id)
        return str(json.loads(call("GET", location).body)["run"]["startDateTime"])

    assert run_virtual(main()) == stamp


def test_clock_continues_from_loop_to_loop(caller_of: CallerOf) -> None:
    emulator = Emulator()
    call = caller_of(emulator)

    async def main() -> None:
        await emulator.send(call.request("GET", PATH))
        await asyncio.sleep(100)
        call("GET", PATH)

    call("GET", PATH)
    run_virtual(main())
    call("GET", PATH)
    run_virtual(main())
    moments = [record.at for record in emulator.requests]
    assert moments == sorted(moments)
    assert moments[2] - moments[1] == pytest.approx(100)
    assert moments[3] - moments[2] < 5
    assert 200 <= moments[-1] < 210


@pytest.mark.parametrize(
    ("method", "path", "headers"),
    [
        ("GET", "/export/nothing", {}),
        ("PUT", "/export/connections", {}),
        ("GET", "/", {}),
        ("GET", "/export/connections", {"Accept": "application/json"}),
        (
            "GET",
            "/export/connections",
            {"Accept": "application/vnd.bentley.itwin-platform.v2+json"},
        ),
        ("GET", "/export/connections", {"Accept": ""}),
        ("GET", "https://ims.bentley.com/export/connections", {}),
    ],
)
def test_unknown_operations_get_the_404_of_the_gateway(
    call: Caller,
    emulator: Emulator,
    example: Example,
    method: str,
    path: str,
    headers: dict[str, str],
) -> None:
    answer = call(method, path, headers=headers)
    assert answer.status == 404
    assert json.loads(answer.body) == example("platform.error.404.operation_not_found")
    assert emulator.count("unknown") == 1


def test_paths_ignore_letter_case_and_ids_do_not(call: Caller, emulator: Emulator) -> None:
    connection_id = call.connect(emulator.add_imodel())
    assert call("GET", f"/Export/CONNECTIONS/{connection_id}/").status == 200
    assert call("GET", f"https://API.bentley.com{PATH}/{connection_id}").status == 200
    assert call("GET", f"/export/connections/{connection_id.swapcase()}").status == 404
    escaped = "".join(f"%{ord(letter):02X}" for letter in connection_id)
    assert call("GET", f"/export/connections/{escaped}").status == 200


def test_all_stages_exist_and_no_other_host(call: Caller, emulator: Emulator) -> None:
    connection_id = call.connect(emulator.add_imodel())
    assert call("GET", f"https://qa-api.bentley.com{PATH}/{connection_id}").status == 200
    with pytest.raises(ConnectionRefusedError, match=r"example\.com"):
        call("GET", "https://example.com/export/connections")
    assert emulator.requests[-1].status is None
    assert emulator.requests[-1].operation == "unknown"


def test_requests_are_recorded(call: Caller, emulator: Emulator) -> None:
    call("GET", f"{PATH}?imodelId=x")
    (record,) = emulator.requests
    assert record == RequestRecord(
        number=1,
        at=record.at,
        operation="list_connections",
        method="GET",
        path=PATH,
        status=404,
        answered_at=record.at,
    )
    assert emulator.count("list_connections") == 1
    assert emulator.count("get_run") == 0


def test_imodels_are_named(emulator: Emulator) -> None:
    bridge, road = emulator.add_imodel(), emulator.add_imodel("Road")
    assert emulator.imodels == {bridge: "Bridge", road: "Road"}
    uuid.UUID(bridge)


def test_injected_answers_come_in_order_before_the_real_one(
    call: Caller, emulator: Emulator
) -> None:
    busy = Response(status=503, headers={"Retry-After": "7"})
    dated = Response(status=500, headers={"date": "Sun, 06 Nov 1994 08:49:37 GMT"})
    emulator.inject("list_connections", busy, dated, ConnectionResetError())
    first, second = call("GET", PATH), call("GET", PATH)
    assert (first.status, first.headers["retry-after"]) == (503, "7")
    assert first.url == "https://api.bentley.com/export/connections"
    assert "Date" in first.headers
    assert second.headers["Date"] == "Sun, 06 Nov 1994 08:49:37 GMT"
    with pytest.raises(ConnectionResetError):
        call("GET", PATH)
    assert call("GET", PATH).status == 422
    assert [record.status for record in emulator.requests] == [503, 500, None, 422]


@pytest.mark.parametrize("after", [False, True])
def test_lost_answer_can_have_an_effect(call: Caller, emulator: Emulator, after: bool) -> None:
    connection_id = call.connect(emulator.add_imodel())
    emulator.inject("create_run", TimeoutError(), apply_effect=after)
    path = f"/export/connections/{connection_id}/runs"
    with pytest.raises(TimeoutError):
        call("POST", path, {"exportType": "IFC"})
    again = call("POST", path, {"exportType": "IFC"})
    assert again.status == (303 if after else 202)


@pytest.mark.parametrize(
    ("failure", "sent"),
    [
        (ConnectionRefusedError("no server"), False),
        (ConnectionResetError("gone"), True),
        (TimeoutError(), True),
    ],
)
def test_broken_connection_is_a_transport_error(
    call: Caller, emulator: Emulator, failure: ConnectionError | TimeoutError, sent: bool
) -> None:
    emulator.inject("list_connections", failure)
    with pytest.raises(TransportError) as caught:
        run_virtual(emulator.send(call.request("GET", f"{PATH}?sig=secret")))
    assert caught.value.may_have_been_processed is sent
    assert caught.value.message == (str(failure) or "TimeoutError")
    assert (caught.value.method, caught.value.url) == ("GET", f"https://api.bentley.com{PATH}")
    assert caught.value.__cause__ is failure


def test_emulator_is_a_transport(emulator: Emulator) -> None:
    content = bytes(200_000)
    transport: Transport = emulator

    async def main() -> None:
        loop = asyncio.get_running_loop()
        headers = {
            "Authorization": f"Bearer {emulator.token()}",
            "Accept": "application/vnd.bentley.itwin-platform.v1+json",
        }
        file_id = emulator.add_file("a.ifc", content)
        url = f"https://api.bentley.com/storage/files/{file_id}/download"
        began = loop.time()
        answer = await transport.send(Request(method="GET", url=url, headers=headers))
        assert loop.time() - began == pytest.approx(emulator.latency)
        blob = Request(method="GET", url=answer.headers["Location"])
        async with transport.stream(blob) as stream:
            assert stream.response.status == 200
            assert stream.response.body == b""
            assert stream.response.headers["Content-Length"] == "200000"
            pieces = [piece async for piece in stream.chunks]
        assert len(pieces) == 4
        assert b"".join(pieces) == content
        await transport.close()

    run_virtual(main())


def test_mistakes_in_tests_are_named(emulator: Emulator) -> None:
    with pytest.raises(
        ValueError, match=r"unknown operation 'create_runs' \(did you mean create_run\?\)"
    ):
        emulator.inject("create_runs", ConnectionResetError())
    with pytest.raises(
        ValueError, match=r"unknown operation 'start_run'.*: use one of .*create_run"
    ):
        emulator.count("start_run")
    with pytest.raises(ValueError, match="no iModel 'nonsense'"):
        emulator.plan_next_run("nonsense", "Error")
    with pytest.raises(ValueError, match="unknown service 'imports'"):
        emulator.plan_next_run(emulator.add_imodel(), service="imports")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="speed"):
        Emulator(speed=0)
    with pytest.raises(ValueError, match="page_size"):
        Emulator(page_size=0)


def test_plan_may_be_for_several_runs_or_for_all(caller_of: CallerOf) -> None:
    emulator = Emulator(run_seconds=0)
    call = caller_of(emulator)
    imodel_id = emulator.add_imodel()
    emulator.plan_next_run(imodel_id, "Error", times=2)
    emulator.plan_next_run(imodel_id, "Canceled", times=None)
    connection_id = call.connect(imodel_id)
    locations = [call.start(connection_id) for _ in range(4)]
    runs = [json.loads(call("GET", location).body)["run"] for location in locations]
    assert [run["result"] for run in runs] == ["Error", "Error", "Canceled", "Canceled"]


def test_expired_tokens_are_forgotten(caller_of: CallerOf) -> None:
    emulator = Emulator()
    call = caller_of(emulator)
    for _ in range(10_001):
        emulator.token(lifetime=0)
    assert call("GET", PATH).status == 422


def test_thousands_of_runs_at_once_are_fast(caller_of: CallerOf) -> None:
    emulator = Emulator()
    call = caller_of(emulator)
    began = time.monotonic()
    for _ in range(2000):
        call("GET", call.start(call.connect(emulator.add_imodel())))
    assert time.monotonic() - began < 20


@pytest.mark.parametrize("stage", ["api", "qa-api", "dev-api"])
def test_links_name_the_stage_that_was_called(call: Caller, emulator: Emulator, stage: str) -> None:
    base = f"https://{stage}.bentley.com"
    body = {"iModelId": emulator.add_imodel()}
    connection = json.loads(call("POST", f"{base}{PATH}", body).body)["connection"]
    assert connection["_links"]["iModel"]["href"].startswith(f"{base}/imodels/")
    run = call("POST", f"{base}{PATH}/{connection['id']}/runs", {"exportType": "IFC"})
    assert run.headers["Location"].startswith(f"{base}{PATH}/")
    assert call("GET", run.headers["Location"]).status == 200


def test_a_new_connection_can_be_absent_from_lists_for_a_while(caller_of: CallerOf) -> None:
    emulator = Emulator(connection_visibility_delay=3)
    call = caller_of(emulator)

    async def main() -> None:
        imodel_id = emulator.add_imodel()
        path = f"{PATH}?imodelId={imodel_id}"
        body = {"iModelId": imodel_id}
        emulator.inject("create_connection", TimeoutError(), apply_effect=True)
        with pytest.raises(TimeoutError):
            call("POST", PATH, body)
        assert json.loads(call("GET", path).body)["connections"] == []
        connection_id = call.connect(imodel_id)
        assert call("GET", f"{PATH}/{connection_id}").status == 200
        emulator.assert_no_violations()  # the first connection was not visible yet
        await asyncio.sleep(3)
        assert len(json.loads(call("GET", path).body)["connections"]) == 2

    run_virtual(main())
