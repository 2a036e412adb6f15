"""The Export API of the emulator against the service's documented answers."""

import asyncio
import base64
import json
import uuid
from collections.abc import Callable
from datetime import datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Any

import pytest

from itwin_export_async._protocol.messages import Response
from itwin_export_async.emulator import Emulator, run_virtual

Example = Callable[[str], Any]
Caller = Any

RUNS_OF_A_STRANGER = f"/export/connections/{uuid.UUID(int=1)}/runs"


def read(answer: Response) -> Any:
    assert answer.headers["Content-Type"] == "application/json"
    return json.loads(answer.body)


def shape(value: object) -> object:
    """All member names and kinds of values, without the values."""
    match value:
        case dict():
            return {name: shape(inner) for name, inner in value.items()}
        case list():
            return [shape(inner) for inner in value]
        case _:
            return type(value).__name__


def without_last_run(payload: Any) -> Any:
    del payload["connection"]["_links"]["lastRun"]
    return payload


def test_a_new_connection_has_the_documented_members(
    call: Caller, emulator: Emulator, example: Example
) -> None:
    body = example("export.create_connection.request") | {"iModelId": emulator.add_imodel()}
    answer = call("POST", "/export/connections", body)
    assert answer.status == 201
    golden = without_last_run(example("export.create_connection.201"))
    assert shape(read(answer)) == shape(golden)
    connection = read(answer)["connection"]
    assert connection["displayName"] == "30"
    assert connection["iModelId"] == body["iModelId"]
    assert connection["_links"]["iModel"]["href"].endswith(f"/imodels/{body['iModelId']}")


def test_connection_ids_hold_the_imodel_id(call: Caller, emulator: Emulator) -> None:
    imodel_id = emulator.add_imodel()
    connection_id = call.connect(imodel_id)
    assert len(connection_id) == 43
    both = base64.urlsafe_b64decode(connection_id + "=")
    assert str(uuid.UUID(bytes_le=both[:16])) == imodel_id


def test_the_last_run_is_linked_once_there_is_one(
    call: Caller, emulator: Emulator, example: Example
) -> None:
    connection_id = call.connect(emulator.add_imodel(), displayName="30")
    location = call.start(connection_id)
    answer = call("GET", f"/export/connections/{connection_id}")
    assert answer.status == 200
    assert shape(read(answer)) == shape(example("export.get_connection.200"))
    assert read(answer)["connection"]["_links"]["lastRun"]["href"] == location


def test_optional_members_of_a_connection_have_defaults(call: Caller, emulator: Emulator) -> None:
    answer = call("POST", "/export/connections", {"iModelId": emulator.add_imodel()})
    connection = read(answer)["connection"]
    assert connection["authenticationType"] == "User"
    assert connection["displayName"] is None


@pytest.mark.parametrize(
    ("body", "code", "target"),
    [
        (b"", "MissingRequestBody", None),
        (b"{", "InvalidRequestBody", None),
        (b"[]", "InvalidRequestBody", None),
        (b"\xff", "InvalidRequestBody", None),
        ({}, "MissingRequiredProperty", "imodelId"),
        ({"imodelId": str(uuid.UUID(int=1))}, "MissingRequiredProperty", "imodelId"),
        ({"iModelId": "bridge"}, "InvalidValue", "imodelId"),
        ({"iModelId": 7}, "InvalidValue", "imodelId"),
        ({"iModelId": str(uuid.UUID(int=1)), "displayName": 7}, "InvalidValue", "displayName"),
        (
            {"iModelId": str(uuid.UUID(int=1)), "authenticationType": "Robot"},
            "InvalidValue",
            "authenticationType",
        ),
    ],
)
def test_a_connection_is_refused_with_the_reason(
    call: Caller, example: Example, body: object, code: str, target: str | None
) -> None:
    answer = call("POST", "/export/connections", body)
    assert answer.status == 422
    error, golden = read(answer)["error"], example("export.create_connection.422")["error"]
    assert (error["code"], error["message"]) == (golden["code"], golden["message"])
    (line,) = error["details"]
    assert (line["code"], line.get("target")) == (code, target)
    if target in (None, "imodelId") and code != "MissingRequestBody":
        assert line in golden["details"]


def test_an_unknown_imodel_is_not_found(call: Caller) -> None:
    answer = call("POST", "/export/connections", {"iModelId": str(uuid.UUID(int=1))})
    assert answer.status == 404
    assert read(answer)["error"]["code"] == "iModelNotFound"


def test_imodel_without_access_is_forbidden(
    call: Caller, emulator: Emulator, example: Example
) -> None:
    imodel_id = emulator.add_imodel(authorized=False)
    created = call("POST", "/export/connections", {"iModelId": imodel_id})
    listed = call("GET", f"/export/connections?imodelId={imodel_id}")
    assert created.status == listed.status == 403
    assert read(created) == read(listed) == example("platform.error.403")


def test_a_page_of_connections_has_the_links_of_the_service(
    call: Caller, emulator: Emulator, example: Example
) -> None:
    imodel_id = emulator.add_imodel()
    emulator.page_size = 2
    ids = [call.connect(imodel_id, displayName=str(n)) for n in range(3)]
    call.connect(emulator.add_imodel())
    call.start(ids[2])
    first = read(call("GET", f"/export/connections?imodelId={imodel_id}"))
    assert [item["id"] for item in first["connections"]] == ids[:2]
    path = f"/export/connections?iModelId={imodel_id}&$skip=2&$top=50"
    second = call("GET", path)
    assert second.status == 200
    assert shape(read(second)) == shape(example("export.get_connections.200"))
    assert [item["id"] for item in read(second)["connections"]] == ids[2:]
    links = {name: link["href"] for name, link in read(second)["_links"].items()}
    assert links == {
        "self": "https://api.bentley.com/export/connections?$skip=2&$top=50",
        "prev": "https://api.bentley.com/export/connections?$skip=0&$top=50",
        "next": "https://api.bentley.com/export/connections?$skip=152&$top=50",
    }


@pytest.mark.parametrize(
    ("query", "line"),
    [
        ("$top=0", ("$top", "Page size is out of limits.")),
        ("$top=1001", ("$top", "Page size is out of limits.")),
        ("$top=many", ("$top", "Provided $top value is not valid.")),
        ("$skip=few", ("$skip", "Provided $skip value is not valid.")),
    ],
)
def test_page_sizes_have_limits(
    call: Caller, emulator: Emulator, example: Example, query: str, line: tuple[str, str]
) -> None:
    connection_id = call.connect(emulator.add_imodel())
    answer = call("GET", f"/export/connections/{connection_id}/runs?{query}")
    assert answer.status == 422
    error, golden = read(answer)["error"], example("export.get_runs.422")["error"]
    assert (error["code"], error["message"]) == (golden["code"], golden["message"])
    assert [(said["target"], said["message"]) for said in error["details"]] == [line]
    golden_lines = [(said["target"], said["message"]) for said in golden["details"]]
    assert ("limits" in line[1]) is (line in golden_lines)


def test_connections_are_listed_of_a_known_imodel_only(call: Caller, example: Example) -> None:
    missing = call("GET", "/export/connections?$top=5")
    assert missing.status == 422
    assert read(missing)["error"]["details"] == [
        example("export.get_runs.422")["error"]["details"][0]
    ]
    unknown = call("GET", f"/export/connections?imodelId={uuid.UUID(int=1)}")
    assert unknown.status == 404
    assert read(unknown) == example("export.get_connection.404")


def test_a_deleted_connection_is_gone(call: Caller, emulator: Emulator, example: Example) -> None:
    path = f"/export/connections/{call.connect(emulator.add_imodel())}"
    deleted = call("DELETE", path)
    assert (deleted.status, deleted.body) == (204, b"")
    assert "Content-Type" not in deleted.headers
    for method in "GET", "DELETE":
        answer = call(method, path)
        assert answer.status == 404
        assert read(answer) == example("export.delete_connection.404")


def test_a_connection_in_use_cannot_be_deleted(
    call: Caller, emulator: Emulator, example: Example
) -> None:
    async def main() -> None:
        connection_id = call.connect(emulator.add_imodel())
        call.start(connection_id)
        answer = call("DELETE", f"/export/connections/{connection_id}")
        assert answer.status == 409
        assert read(answer) == example("export.delete_connection.409")
        await asyncio.sleep(421)
        assert call("DELETE", f"/export/connections/{connection_id}").status == 204

    run_virtual(main())


def test_malformed_connection_id_is_a_422_where_documented(call: Caller, example: Example) -> None:
    deleted = call("DELETE", "/export/connections/nonsense")
    assert deleted.status == 422
    assert read(deleted) == example("export.delete_connection.422")
    started = call("POST", "/export/connections/aGk/runs", {"exportType": "IFC"})
    assert started.status == 422
    golden = example("export.create_run.422")["error"]
    assert read(started)["error"]["code"] == golden["code"]
    assert read(started)["error"]["details"] == golden["details"][2:]
    assert call("GET", "/export/connections/nonsense").status == 404


def test_a_run_is_accepted_without_a_body(call: Caller, emulator: Emulator) -> None:
    connection_id = call.connect(emulator.add_imodel())
    path = f"/export/connections/{connection_id}/runs"
    answer = call("POST", path, {"exportType": "IFC"})
    assert (answer.status, answer.body) == (202, b"")
    assert answer.headers["Location"].startswith(f"https://api.bentley.com{path}/")
    assert call("GET", answer.headers["Location"]).status == 200


def test_all_documented_options_are_accepted(
    call: Caller, emulator: Emulator, example: Example
) -> None:
    body = example("export.create_run.request")
    body["inputOptions"]["modelIds"] = ["0x1c"]
    call.start(call.connect(emulator.add_imodel()), **body)


@pytest.mark.parametrize(
    ("body", "target"),
    [
        ({"exportType": None}, "exportType"),
        ({"exportType": "LandXML"}, "exportType"),
        ({"exportType": "IFC", "ifcVersion": "IFC5"}, "ifcVersion"),
        ({"exportType": "IFC", "ifcVersion": None}, "ifcVersion"),
        ({"exportType": "IFC", "speed": "high"}, "speed"),
        ({"exportType": "IFC", "inputOptions": None}, "inputOptions"),
        ({"exportType": "IFC", "outputOptions": []}, "outputOptions"),
        ({"exportType": "IFC", "inputOptions": {"modelIds": []}}, "inputOptions.modelIds"),
        ({"exportType": "IFC", "inputOptions": {"modelIds": [1]}}, "inputOptions.modelIds"),
        ({"exportType": "IFC", "inputOptions": {"modelIds": "0x1"}}, "inputOptions.modelIds"),
        ({"exportType": "IFC", "inputOptions": {"changesetId": 4}}, "inputOptions.changesetId"),
        (
            {"exportType": "IFC", "inputOptions": {"mappingFileBlobUrl": "https://x"}},
            "inputOptions.mappingFileBlobUrl",
        ),
        (
            {"exportType": "IFC", "outputOptions": {"location": "USER_BLOBS_STORAGE"}},
            "outputOptions.location",
        ),
        ({"exportType": "IFC", "outputOptions": {"saveLogs": "yes"}}, "outputOptions.saveLogs"),
        ({}, "exportType"),
    ],
)
def test_a_run_is_refused_with_the_reason(
    call: Caller, emulator: Emulator, example: Example, body: object, target: str
) -> None:
    connection_id = call.connect(emulator.add_imodel())
    answer = call("POST", f"/export/connections/{connection_id}/runs", body)
    assert answer.status == 422
    error, golden = read(answer)["error"], example("export.create_run.422")["error"]
    assert (error["code"], error["message"]) == (golden["code"], golden["message"])
    assert [line["target"] for line in error["details"]] == [target]
    assert call("GET", f"/export/connections/{connection_id}").status == 200


def test_run_of_an_unknown_connection_is_not_found(call: Caller, example: Example) -> None:
    answer = call("POST", RUNS_OF_A_STRANGER, {"exportType": "IFC"})
    assert answer.status == 404
    assert read(answer) == example("export.create_run.404")


def test_active_run_causes_303_on_every_connection_of_its_imodel(
    call: Caller, emulator: Emulator
) -> None:
    async def main() -> None:
        imodel_id = emulator.add_imodel()
        mine, theirs = call.connect(imodel_id), call.connect(imodel_id)
        location = call.start(theirs)
        answer = call("POST", f"/export/connections/{mine}/runs", {"exportType": "IFC"})
        assert (answer.status, answer.body) == (303, b"")
        assert answer.headers["Location"] == location
        await asyncio.sleep(420.01)
        assert call.start(mine) != location

    run_virtual(main())


def test_simultaneous_creations_conflict(
    call: Caller, emulator: Emulator, example: Example
) -> None:
    emulator.create_conflict_window = 2.0

    async def main() -> None:
        connection_id = call.connect(emulator.add_imodel())
        path = f"/export/connections/{connection_id}/runs"
        request = call.request("POST", path, {"exportType": "IFC"})
        first, second = await asyncio.gather(emulator.send(request), emulator.send(request))
        assert (first.status, second.status) == (202, 409)
        assert read(second) == example("export.create_run.409")
        await asyncio.sleep(2)
        third = await emulator.send(request)
        assert (third.status, third.headers["Location"]) == (303, first.headers["Location"])

    run_virtual(main())


def test_a_run_of_a_partial_success_is_the_documented_one(
    call: Caller, emulator: Emulator, example: Example
) -> None:
    imodel_id = emulator.add_imodel()
    emulator.plan_next_run(imodel_id, "PartialSuccess")
    golden = example("export.get_run.200")

    async def main() -> None:
        location = call.start(call.connect(imodel_id))
        await asyncio.sleep(421)
        answer = call("GET", location)
        assert answer.status == 200
        assert shape(read(answer)) == shape(golden)
        assert tasks_of(read(answer))[0]["error"] == tasks_of(golden)[0]["error"]
        assert read(answer)["run"]["result"] == "PartialSuccess"

    run_virtual(main())


def tasks_of(payload: Any) -> Any:
    return payload["run"]["jobs"][0]["tasks"]


def test_runs_can_contradict_themselves_as_documented(
    call: Caller, emulator: Emulator, example: Example
) -> None:
    imodel_id = emulator.add_imodel()
    emulator.plan_next_run(imodel_id, "Success", task_result="Error", duration=60)
    golden = example("export.get_runs.200")

    async def main() -> None:
        connection_id = call.connect(imodel_id)
        call.start(connection_id)
        await asyncio.sleep(61)
        answer = call("GET", f"/export/connections/{connection_id}/runs")
        assert answer.status == 200
        assert shape(read(answer)) == shape(golden)
        run, golden_run = read(answer)["runs"][0], golden["runs"][0]
        for path in (["result"], ["jobs", 0, "result"], ["jobs", 0, "tasks", 0, "error"]):
            assert at(run, path) == at(golden_run, path)

    run_virtual(main())


def at(value: Any, path: list[Any]) -> Any:
    for step in path:
        value = value[step]
    return value


@pytest.mark.parametrize(
    ("result", "has_error"),
    [("Error", True), ("TimedOut", True), ("Canceled", False), ("Skipped", False)],
)
def test_a_run_without_success_has_no_file(
    call: Caller, emulator: Emulator, result: str, has_error: bool
) -> None:
    imodel_id = emulator.add_imodel()
    emulator.plan_next_run(imodel_id, result)

    async def main() -> None:
        location = call.start(call.connect(imodel_id))
        await asyncio.sleep(421)
        run = read(call("GET", location))
        (task,) = tasks_of(run)
        assert run["run"]["result"] == task["result"] == result
        assert "exportOutputFileId" not in task
        assert ("error" in task) is has_error

    run_virtual(main())


def test_run_with_user_blob_storage_names_no_file(call: Caller, emulator: Emulator) -> None:
    async def main() -> None:
        location = call.start(
            call.connect(emulator.add_imodel()),
            outputOptions={"location": "USER_BLOB_STORAGE", "outputSasUrl": "https://mine"},
        )
        await asyncio.sleep(421)
        run = read(call("GET", location))
        assert run["run"]["result"] == "Success"
        assert "exportOutputFileId" not in tasks_of(run)[0]

    run_virtual(main())


FAMILY = ["Queued", "NotStarted", "WaitingToExecute", "Executing", "Finalizing", "Completed"]


@pytest.mark.parametrize("seed", range(6))
def test_run_passes_its_states(caller_of: Callable[[Emulator], Any], seed: int) -> None:
    emulator = Emulator(seed=seed, run_seconds=100)
    call = caller_of(emulator)

    async def main() -> list[Any]:
        location = call.start(call.connect(emulator.add_imodel()))
        polls = []
        for _ in range(203):
            polls.append(read(call("GET", location))["run"])
            await asyncio.sleep(0.5)
        return polls

    polls = run_virtual(main())
    states = list(dict.fromkeys(run["state"] for run in polls))
    assert states in (FAMILY, [state for state in FAMILY if state != "NotStarted"])
    for run in polls:
        is_final = run["state"] == "Completed"
        assert (run["result"] == "Undetermined") is not is_final
        assert ("endDateTime" in run) is is_final
        assert ("jobs" in run) is (run["state"] not in ("Queued", "NotStarted"))
        for job in run.get("jobs", []):
            assert job["state"] in (run["state"], "Completed")
            assert ("tasks" in job) is (run["state"] != "WaitingToExecute")
            for task in job.get("tasks", []):
                assert ("exportOutputFileId" in task) is (task["state"] == "Completed")
    last = polls[199]
    assert [last["state"], *(job["state"] for job in last["jobs"])] == ["Finalizing", "Completed"]
    assert last["jobs"][0]["result"] == last["jobs"][0]["tasks"][0]["result"] == "Success"
    assert polls[0]["state"] == "Queued"
    assert polls[199]["state"] == "Finalizing"
    assert polls[200]["state"] == "Completed"


def test_some_runs_pass_not_started(caller_of: Callable[[Emulator], Any]) -> None:
    emulator = Emulator()
    call = caller_of(emulator)

    async def main() -> tuple[int, list[float]]:
        locations = [call.start(call.connect(emulator.add_imodel())) for _ in range(101)]
        seconds = [run["seconds"] for run in emulator.state()["runs"]]
        passed = set()
        for _ in range(100):
            for location in locations:
                if read(call("GET", location))["run"]["state"] == "NotStarted":
                    passed.add(location)
            await asyncio.sleep(3)
        return len(passed), seconds

    passed, seconds = run_virtual(main())
    assert 0.3 < passed / 101 < 0.7
    assert 300 < sorted(seconds)[25] < 560


def test_speed_divides_the_duration_of_runs(caller_of: Callable[[Emulator], Any]) -> None:
    emulator = Emulator(speed=10, run_seconds=(100, 200))
    call = caller_of(emulator)

    async def main() -> None:
        location = call.start(call.connect(emulator.add_imodel()))
        await asyncio.sleep(9.99)
        assert read(call("GET", location))["run"]["state"] != "Completed"
        await asyncio.sleep(10.02)
        assert read(call("GET", location))["run"]["state"] == "Completed"

    run_virtual(main())


def test_dates_are_utc_and_agree_with_the_date_header(call: Caller, emulator: Emulator) -> None:
    async def main() -> None:
        connection_id = call.connect(emulator.add_imodel())
        await asyncio.sleep(1.2345678)
        location = call.start(connection_id)
        await asyncio.sleep(500)
        answer = call("GET", location)
        run = read(answer)["run"]
        assert run["startDateTime"] == "2026-03-01T12:00:01.7345678Z"
        assert run["endDateTime"] == "2026-03-01T12:07:01.7345678Z"
        task = tasks_of({"run": run})[0]
        dates = [run["startDateTime"], task["startDateTime"], task["endDateTime"]]
        assert dates == sorted(dates)
        date = parsedate_to_datetime(answer.headers["Date"])
        assert answer.headers["Date"] == "Sun, 01 Mar 2026 12:08:21 GMT"
        assert date - datetime.fromisoformat(run["endDateTime"]) < timedelta(seconds=80)

    run_virtual(main())


def test_runs_are_listed_in_no_order_of_time(call: Caller, emulator: Emulator) -> None:
    emulator.run_seconds = 1

    async def main() -> None:
        connection_id = call.connect(emulator.add_imodel())
        started = []
        for _ in range(12):
            started.append(call.start(connection_id).rpartition("/")[2])
            await asyncio.sleep(2)
        path = f"/export/connections/{connection_id}/runs"
        whole = read(call("GET", path))
        ids = [run["id"] for run in whole["runs"]]
        assert set(ids) == set(started)
        assert ids not in (started, started[::-1])
        assert "connectionId" not in whole["runs"][0]
        page = read(call("GET", f"{path}?$skip=10&$top=5"))
        assert [run["id"] for run in page["runs"]] == ids[10:]
        address = f"https://api.bentley.com{path}"
        assert {name: link["href"] for name, link in page["_links"].items()} == {
            "self": f"{address}&$skip=10&$top=5",
            "next": f"{address}&$skip=15&$top=5",
        }
        assert read(call("GET", f"{path}?$skip=12"))["runs"] == []

    run_virtual(main())


def test_an_unknown_run_is_not_found(call: Caller, emulator: Emulator, example: Example) -> None:
    connection_id = call.connect(emulator.add_imodel())
    unknown = call("GET", f"/export/connections/{connection_id}/runs/{uuid.UUID(int=1)}")
    assert unknown.status == 404
    assert read(unknown) == example("sync.get_run.older.404")
    stranger = call("GET", f"{RUNS_OF_A_STRANGER}/{uuid.UUID(int=1)}")
    assert stranger.status == 404
    assert read(stranger) == example("export.get_connection.404")


@pytest.mark.parametrize("consents", [True, False])
def test_consent_page_returns_to_the_caller(
    call: Caller, emulator: Emulator, example: Example, consents: bool
) -> None:
    emulator.user_authorized = consents
    path = "/export/authorizationInformation?redirectUrl=https%3A%2F%2FmyUrl.com"
    answer = call("GET", path)
    assert answer.status == 200
    golden = example("export.authorization_information.200")
    golden["authorizationInformation"]["isUserAuthorized"] = consents
    assert read(answer) == golden


@pytest.mark.parametrize(
    "query", ["", "?redirectUrl=", "?redirectUrl=%2Fback", "?redirectUrl=http:%2F%2F["]
)
def test_redirect_url_must_be_absolute(call: Caller, example: Example, query: str) -> None:
    answer = call("GET", f"/export/authorizationinformation{query}")
    assert answer.status == 422
    assert read(answer) == example("export.authorization_information.422")
