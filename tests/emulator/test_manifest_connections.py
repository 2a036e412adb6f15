"""Manifest connections and diagnostic reports of the Synchronization API."""

import json
from typing import Any

import pytest

from itwin_export_async._protocol.messages import Request
from itwin_export_async.emulator import Emulator
from tests.emulator.shapes import read, shape

Caller = Any
PATH = "/synchronization/imodels/manifestconnections"
FULL = {"Prefer": "return=representation"}


@pytest.fixture
def emulator() -> Emulator:
    return Emulator(seed=1, run_seconds=0)


@pytest.fixture
def connection(call: Caller, emulator: Emulator, example: Any) -> dict[str, Any]:
    body = example("sync.create_manifest_connection.request")
    answer = call("POST", PATH, body | {"iModelId": emulator.add_imodel()})
    assert answer.status == 201
    created: dict[str, Any] = read(answer)["connection"]
    return created


def test_a_manifest_connection_lives_as_documented(
    call: Caller, emulator: Emulator, connection: dict[str, Any]
) -> None:
    path = f"{PATH}/{connection['id']}"
    assert (connection["displayName"], connection["authenticationType"]) == ("30", "User")
    assert read(call("GET", path))["connection"] == connection
    listed = read(call("GET", f"{PATH}?imodelId={connection['iModelId']}"))
    assert listed["connections"] == [{"id": connection["id"], "displayName": "30"}]
    assert "iModelId=" in listed["_links"]["self"]["href"]
    (full,) = read(call("GET", PATH, headers=FULL))["connections"]
    assert full == connection
    updated = read(call("PUT", path, {"displayName": "31"}))["connection"]
    assert updated["displayName"] == "31"
    assert (
        call("GET", f"/synchronization/imodels/storageconnections/{connection['id']}").status == 404
    )
    assert call("DELETE", path).status == 204
    answer = call("GET", path)
    assert answer.status == 404
    assert json.loads(answer.body)["error"]["code"] == "ManifestConnectionNotFound"


@pytest.mark.parametrize(
    ("sources", "code"),
    [
        (None, "MissingRequiredProperty"),
        ([], "MissingRequiredProperty"),
        ("x", "InvalidValue"),
        ([1], "InvalidValue"),
        ([{}], "MissingRequiredProperty"),
        ([{"sourceFileId": ""}], "InvalidValue"),
    ],
)
def test_sources_of_a_manifest_connection_are_checked(
    call: Caller, emulator: Emulator, sources: object, code: str
) -> None:
    answer = call("POST", PATH, {"iModelId": emulator.add_imodel(), "sourceFiles": sources})
    assert answer.status == 422
    error = json.loads(answer.body)["error"]
    assert error["code"] == "InvalidManifestConnectionRequest"
    assert [detail["code"] for detail in error["details"]] == [code]


def test_source_files_of_a_manifest_connection(
    call: Caller, connection: dict[str, Any], example: Any
) -> None:
    path = f"{PATH}/{connection['id']}/sourcefiles"
    (first,) = read(call("GET", path))["sourceFiles"]
    answer = call("POST", path, {"sourceFileId": "b.dgn"})
    assert answer.status == 201
    added = read(answer)["sourceFile"]
    assert added.keys() == {"id", "sourceFileId", "_links"}
    assert call("POST", path, {"sourceFileId": "b.dgn"}).status == 409
    updated = read(call("PUT", f"{path}/{added['id']}", {"sourceFileId": "c.dgn"}))["sourceFile"]
    assert read(call("GET", f"{path}/{added['id']}"))["sourceFile"] == updated
    assert call("DELETE", f"{path}/{first['id']}").status == 204
    answer = call("PUT", f"{path}/{first['id']}", {"sourceFileId": "d.dgn"})
    assert answer.status == 404
    assert json.loads(answer.body) == example("sync.update_manifest_source_file.404")


def test_a_manifest_run_has_a_task_for_each_file(
    call: Caller, connection: dict[str, Any], example: Any
) -> None:
    runs = f"{PATH}/{connection['id']}/runs"
    answer = call("POST", runs, example("sync.create_manifest_run.request"))
    assert (answer.status, answer.body) == (202, b"")
    location = answer.headers["Location"]
    assert f"{runs}/" in location
    run = read(call("GET", location))["run"]
    assert [job["connectorType"] for job in run["jobs"]] == ["MSTN", "CIVIL"]
    assert [job["tasks"][0]["sourceFileId"] for job in run["jobs"]] == ["f5b36238", "a7c36238"]
    assert shape(run["jobs"][0]["tasks"][0]["details"]) == shape(
        example("sync.get_run.200")["run"]["jobs"][0]["tasks"][0]["details"]
    )
    (listed,) = read(call("GET", runs))["runs"]
    assert listed == {"id": run["id"], "state": "Completed", "result": "Success"}


@pytest.mark.parametrize(
    "files",
    [
        None,
        [],
        [1],
        [{"id": "a", "name": "a.dgn", "url": "https://example.com/a.dgn"}],
        [{"id": 1, "name": "a.dgn", "url": "https://example.com/a.dgn", "action": "bridge"}],
        [{"id": "a", "name": "a", "url": "https://example.com/a", "action": "burn"}],
        [{"id": "a", "name": "a", "url": "x", "action": "bridge", "children": "b"}],
        [{"id": "a", "name": "a", "url": "x", "action": "bridge", "children": [{}]}],
    ],
)
def test_a_manifest_is_checked(call: Caller, connection: dict[str, Any], files: object) -> None:
    answer = call("POST", f"{PATH}/{connection['id']}/runs", {"sourceFiles": files})
    assert answer.status == 422
    assert json.loads(answer.body)["error"]["code"] == "InvalidManifestConnectionRunRequest"


def test_a_manifest_has_bounded_depth(call: Caller, connection: dict[str, Any]) -> None:
    file: dict[str, Any] = {"id": "a", "name": "a", "url": "x", "action": "bridge"}
    for _ in range(150):
        file = file | {"children": [file]}
    answer = call("POST", f"{PATH}/{connection['id']}/runs", {"sourceFiles": [file]})
    assert answer.status == 422


def test_storage_and_manifest_runs_exclude_each_other(
    call: Caller, emulator: Emulator, connection: dict[str, Any], example: Any
) -> None:
    emulator.run_seconds = 100
    storage = "/synchronization/imodels/storageconnections"
    body = {
        "iModelId": connection["iModelId"],
        "sourceFiles": [
            {"storageFileId": emulator.add_file("a", b"x"), "connectorType": "IFC"},
        ],
    }
    other = read(call("POST", storage, body))["connection"]["id"]
    started = call("POST", f"{storage}/{other}/run").headers["Location"]
    manifest = example("sync.create_manifest_run.request")
    answer = call("POST", f"{PATH}/{connection['id']}/runs", manifest)
    assert (answer.status, answer.headers["Location"]) == (303, started)


def test_reports_are_listed_for_each_task(
    call: Caller, emulator: Emulator, connection: dict[str, Any], example: Any
) -> None:
    emulator.plan_next_run(connection["iModelId"], "Error", service="synchronization")
    manifest = example("sync.create_manifest_run.request")
    location = call("POST", f"{PATH}/{connection['id']}/runs", manifest).headers["Location"]
    run_id = location.rpartition("/")[2]
    path = f"/synchronization/reports?imodelId={connection['iModelId']}&runId={run_id}"
    reports = read(call("GET", path))["reports"]
    assert len(reports) == 2
    assert reports[0].keys() == {
        *("id", "imodelId", "runId", "taskId", "sasUri", "createdTimeStamp"),
    }
    assert len(reports[0]["id"]) == 43
    assert (
        read(call("GET", f"{path}&taskId={reports[1]['taskId']}"))["reports"][0]["id"]
        == (reports[1]["id"])
    )
    assert read(call("GET", f"{path}x"))["reports"] == []
    blob = emulator.handle(Request(method="GET", url=reports[0]["sasUri"]))
    report = json.loads(blob.body)
    assert report["context"]["imodelid"] == connection["iModelId"]
    (record,) = report["filerecords"][0]["auditrecords"]
    assert record["auditinfo"]["level"] == "Error"


@pytest.mark.parametrize(
    ("query", "targets"),
    [
        ("", ["iModelId", "runId"]),
        ("imodelId=x&runId=y", ["iModelId"]),
        ("imodelId={}&runId=y&taskId=z", ["taskId"]),
    ],
)
def test_reports_check_their_parameters(
    call: Caller, emulator: Emulator, query: str, targets: list[str]
) -> None:
    answer = call("GET", f"/synchronization/reports?{query.format(emulator.add_imodel())}")
    assert answer.status == 422
    error = json.loads(answer.body)["error"]
    assert error["code"] == "InvalidBadgersRequest"
    assert [detail["target"] for detail in error["details"]] == targets
