"""Synchronizations in the emulator over time, against the service's documented answers."""

import asyncio
import uuid
from collections.abc import Callable
from typing import Any

import pytest

from itwin_export_async.emulator import Emulator, run_virtual
from tests.emulator.shapes import read, shape

Example = Callable[[str], Any]
Caller = Any

PATH = "/synchronization/imodels/storageconnections"
WHOLE = {"Prefer": "return=representation"}


def connect(
    call: Caller, emulator: Emulator, imodel_id: str, *connectors: str, **members: object
) -> str:
    """The path of a new storage connection with a file for each connector."""
    files = [
        {"storageFileId": emulator.add_file("a", b""), "connectorType": connector}
        for connector in connectors or ("DWG",)
    ]
    answer = call("POST", PATH, {"iModelId": imodel_id, "sourceFiles": files} | members)
    assert answer.status == 201
    return f"{PATH}/{read(answer)['connection']['id']}"


def start(call: Caller, path: str) -> str:
    answer = call("POST", f"{path}/run")
    assert (answer.status, answer.body) == (202, b"")
    assert answer.headers["Location"].startswith(f"https://api.bentley.com{path}/runs/")
    location = answer.headers["Location"]
    assert isinstance(location, str)
    return location


def test_a_run_of_a_partial_success_is_the_documented_one(
    call: Caller, emulator: Emulator, example: Example
) -> None:
    imodel_id = emulator.add_imodel()
    emulator.plan_next_run(imodel_id, "PartialSuccess", service="synchronization")
    emulator.plan_next_run(imodel_id, "Error", service="export")
    golden = example("sync.get_run.200")
    del golden["run"]["error"]  # it has its own test

    async def main() -> None:
        path = connect(call, emulator, imodel_id)
        location = start(call, path)
        await asyncio.sleep(421)
        answer = call("GET", location)
        assert answer.status == 200
        assert shape(read(answer)) == shape(golden)
        run, golden_run = read(answer)["run"], golden["run"]
        assert run["connectionId"] == path.rpartition("/")[2]
        for name in ("phase", "state", "result"):
            assert run[name] == golden_run[name]
        job, golden_job = run["jobs"][0], golden_run["jobs"][0]
        assert (job["result"], job["connectorType"]) == ("PartialSuccess", "DWG")
        task, golden_task = job["tasks"][0], golden_job["tasks"][0]
        for name in ("result", "error", "details", "retryAttempts"):
            assert task[name] == golden_task[name]

    run_virtual(main())


def test_run_without_consent_fails(call: Caller, emulator: Emulator, example: Example) -> None:
    emulator.user_authorized = False
    imodel_id = emulator.add_imodel()

    async def main() -> None:
        location = start(call, connect(call, emulator, imodel_id))
        assert "error" not in read(call("GET", location))["run"]
        await asyncio.sleep(300)
        run = read(call("GET", location))["run"]
        assert (run["state"], run["result"]) == ("Completed", "Error")
        assert run["error"] == example("sync.get_run.200")["run"]["error"]
        assert "jobs" not in run
        assert run["phase"] == "Preprocessor"
        service = connect(call, emulator, imodel_id, authenticationType="Service")
        location = start(call, service)
        await asyncio.sleep(421)
        assert read(call("GET", location))["run"]["result"] == "Success"

    run_virtual(main())


def test_a_run_has_a_job_for_each_connector_and_a_task_for_each_file(
    call: Caller, emulator: Emulator
) -> None:
    async def main() -> None:
        path = connect(call, emulator, emulator.add_imodel(), "DWG", "MSTN", "DWG")
        files = read(call("GET", f"{path}/sourcefiles"))["sourceFiles"]
        location = start(call, path)
        await asyncio.sleep(421)
        jobs = read(call("GET", location))["run"]["jobs"]
        assert [job["connectorType"] for job in jobs] == ["DWG", "MSTN"]
        file_ids = [[task["storageFileId"] for task in job["tasks"]] for job in jobs]
        ids = [file["storageFileId"] for file in files]
        assert file_ids == [[ids[0], ids[2]], [ids[1]]]
        names = {job["id"] for job in jobs} | {t["id"] for job in jobs for t in job["tasks"]}
        assert len(names) == 5
        assert all("exportOutputFileId" not in task for job in jobs for task in job["tasks"])

    run_virtual(main())


def test_run_passes_its_states(call: Caller, emulator: Emulator) -> None:
    async def main() -> list[Any]:
        location = start(call, connect(call, emulator, emulator.add_imodel()))
        polls = []
        for _ in range(430):
            polls.append(read(call("GET", location))["run"])
            await asyncio.sleep(1)
        return polls

    polls = run_virtual(main())
    states = list(dict.fromkeys(run["state"] for run in polls))
    assert [state for state in states if state != "NotStarted"] == [
        "Queued",
        "WaitingToExecute",
        "Executing",
        "Finalizing",
        "Completed",
    ]
    assert list(dict.fromkeys(run["phase"] for run in polls)) == ["Preprocessor", "MasterFile"]
    for run in polls:
        assert (run["result"] == "Undetermined") is (run["state"] != "Completed")
        assert ("jobs" in run) is (run["state"] not in ("Queued", "NotStarted"))
        for job in run.get("jobs", []):
            for task in job.get("tasks", []):
                assert "storageFileId" in task
                assert ("details" in task) is (task["state"] == "Completed")


@pytest.mark.parametrize("result", ["Error", "TimedOut", "Canceled"])
def test_run_ends_as_planned(call: Caller, emulator: Emulator, result: str) -> None:
    imodel_id = emulator.add_imodel()
    emulator.plan_next_run(imodel_id, result, duration=10, service="synchronization")

    async def main() -> None:
        path = connect(call, emulator, imodel_id)
        first = start(call, path)
        await asyncio.sleep(11)
        run = read(call("GET", first))["run"]
        (task,) = run["jobs"][0]["tasks"]
        assert run["result"] == run["jobs"][0]["result"] == task["result"] == result
        assert ("error" in task) is (result != "Canceled")
        second = start(call, path)
        await asyncio.sleep(421)
        assert read(call("GET", second))["run"]["result"] == "Success"

    run_virtual(main())


def test_each_imodel_has_one_active_run_in_each_service(
    call: Caller, emulator: Emulator, example: Example
) -> None:
    emulator.create_conflict_window = 2.0

    async def main() -> None:
        imodel_id = emulator.add_imodel()
        mine, theirs = (connect(call, emulator, imodel_id) for _ in range(2))
        location = start(call, theirs)
        conflict = call("POST", f"{mine}/run")
        assert conflict.status == 409
        assert read(conflict) == example("sync.run_storage_connection.older.409")
        await asyncio.sleep(2)
        joined = call("POST", f"{mine}/run")
        assert (joined.status, joined.body) == (303, b"")
        assert joined.headers["Location"] == location
        call.start(call.connect(imodel_id))
        await asyncio.sleep(419)
        assert start(call, mine) != location

    run_virtual(main())


def test_list_of_runs_is_minimal_by_default(
    call: Caller, emulator: Emulator, example: Example
) -> None:
    emulator.run_seconds = 1

    async def main() -> None:
        path = connect(call, emulator, emulator.add_imodel())
        started = set()
        for _ in range(3):
            started.add(start(call, path).rpartition("/")[2])
            await asyncio.sleep(2)
        answer = call("GET", f"{path}/runs?$skip=0&$top=1")
        assert answer.status == 200
        golden = example("sync.get_runs.minimal.200")
        assert shape(read(answer)) == shape(golden)
        assert read(call("GET", f"{path}/runs?$skip=100&$top=100"))["_links"] == golden["_links"]
        listed = read(call("GET", f"{path}/runs"))["runs"]
        assert {run["id"] for run in listed} == started
        whole = read(call("GET", f"{path}/runs?$skip=1", headers=WHOLE))["runs"]
        assert [run["id"] for run in whole] == [run["id"] for run in listed[1:]]
        assert {"run": whole[0]} == read(call("GET", f"{path}/runs/{whole[0]['id']}"))
        active = start(call, path).rpartition("/")[2]
        results = {run["id"]: run["result"] for run in read(call("GET", f"{path}/runs"))["runs"]}
        assert results[active] == "Undetermined"
        assert call("GET", f"{path}/runs?$top=x").status == 422

    run_virtual(main())


def test_an_unknown_run_is_not_found(call: Caller, emulator: Emulator, example: Example) -> None:
    path = connect(call, emulator, emulator.add_imodel())
    unknown = call("GET", f"{path}/runs/{uuid.UUID(int=1)}")
    assert unknown.status == 404
    assert read(unknown) == example("sync.get_run.older.404")


def test_requests_are_counted_by_operation(call: Caller, emulator: Emulator) -> None:
    path = connect(call, emulator, emulator.add_imodel())
    location = start(call, path)
    call("GET", location)
    call("GET", f"{path}/runs")
    names = [record.operation for record in emulator.requests]
    assert names == [
        "create_storage_connection",
        "start_synchronization",
        "get_synchronization",
        "list_synchronizations",
    ]
