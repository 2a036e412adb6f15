"""Runs and connections made twice: when it is a violation, and when the client could not know."""

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest

from itwin_export_async._protocol.messages import Response, TransportError
from itwin_export_async.emulator import Emulator, run_virtual
from tests.emulator.conftest import Caller

CallerOf = Callable[[Emulator], Any]

RUN = {"exportType": "IFC"}
CONNECTIONS = "/export/connections"


def kinds(emulator: Emulator) -> list[str]:
    return [violation.kind for violation in emulator.violations]


class Exports:
    """A connection, and a client whose first start of a run is lost."""

    def __init__(self, *, once: bool = False, result: str = "Success") -> None:
        self.emulator = Emulator(run_seconds=100)
        self.emulator.forbid_repeat_runs = once
        self.token = self.emulator.token(lifetime=1e6)
        imodel_id = self.emulator.add_imodel()
        self.emulator.plan_next_run(imodel_id, result)
        body = {"iModelId": imodel_id}
        made = json.loads(self("POST", CONNECTIONS, body).body)["connection"]
        self.path = f"{CONNECTIONS}/{made['id']}"
        self.address = ""

    def __call__(self, method: str, path: str, body: object = None) -> Response:
        return Caller(self.emulator, self.token)(method, path, body)

    def start(self, **members: object) -> Response:
        return self("POST", f"{self.path}/runs", RUN | members)

    def start_and_lose(self) -> None:
        self.emulator.inject("create_run", ConnectionResetError(), apply_effect=True)
        with pytest.raises(ConnectionResetError):
            self.start()

    def start_and_be_misinformed(self) -> None:
        self.emulator.inject("create_run", Response(status=500), apply_effect=True)
        assert self.start().status == 500

    def list(self) -> str:
        """The address of the only run."""
        (run,) = json.loads(self("GET", f"{self.path}/runs").body)["runs"]
        return f"{self.path}/runs/{run['id']}"


def test_lost_start_of_an_ended_run_is_no_violation() -> None:
    for lose in (Exports.start_and_lose, Exports.start_and_be_misinformed):
        for once in (False, True):
            exports = Exports(once=once)

            async def main(exports: Exports = exports, lose: Any = lose) -> None:
                lose(exports)
                await asyncio.sleep(200)
                assert exports.start().status == 202

            run_virtual(main())
            exports.emulator.assert_no_violations()


def test_client_that_listed_a_lost_run_must_not_start_another() -> None:
    exports = Exports()

    async def main() -> None:
        exports.start_and_lose()
        exports.list()
        await asyncio.sleep(200)
        assert exports.start(ifcVersion="IFC4.3").status == 202, "another export"
        exports.emulator.assert_no_violations()
        await asyncio.sleep(200)
        assert exports.start().status == 202

    run_virtual(main())
    assert kinds(exports.emulator) == ["run started twice"]
    assert "although the client knew run" in exports.emulator.violations[0].message


@pytest.mark.parametrize("result", ["Error", "Canceled"])
def test_failed_run_may_be_started_again(result: str) -> None:
    for once in (False, True):
        exports = Exports(once=once, result=result)

        async def main(exports: Exports = exports) -> None:
            exports.start_and_lose()
            exports("GET", exports.list())
            exports.list()
            await asyncio.sleep(200)
            assert exports.start().status == 202

        run_virtual(main())
        exports.emulator.assert_no_violations()


def test_client_that_polled_a_lost_run_may_start_another() -> None:
    async def found_by_starting(exports: Exports) -> None:
        assert exports.start().status == 303
        exports.list()

    async def found_by_looking(exports: Exports) -> None:
        exports("GET", exports.list())

    for take_up in (found_by_starting, found_by_looking):
        for once, violations in ((False, []), (True, ["run started twice"])):
            exports = Exports(once=once)

            async def main(exports: Exports = exports, take_up: Any = take_up) -> None:
                exports.start_and_lose()
                await take_up(exports)
                await asyncio.sleep(200)
                assert exports.start().status == 202

            run_virtual(main())
            assert kinds(exports.emulator) == violations


def test_answered_start_settles_the_lost_one() -> None:
    exports = Exports()

    async def main() -> None:
        exports.start_and_lose()
        await asyncio.sleep(200)
        assert exports.start().status == 202
        await asyncio.sleep(200)
        exports("GET", f"{exports.path}/runs")
        assert exports.start().status == 202

    run_virtual(main())
    exports.emulator.assert_no_violations()


def test_repeat_run_is_a_violation_only_with_forbid_repeat_runs() -> None:
    for once, violations in ((False, []), (True, ["run started twice"])):
        exports = Exports(once=once)

        async def main(exports: Exports = exports) -> None:
            exports.start()
            exports("GET", exports.path)
            await asyncio.sleep(200)
            exports.start()

        run_virtual(main())
        assert kinds(exports.emulator) == violations


def test_link_to_the_last_run_names_a_lost_run_too() -> None:
    exports = Exports(once=True)

    async def main() -> None:
        exports.start_and_lose()
        exports("GET", exports.path)
        await asyncio.sleep(200)
        exports.start()

    run_virtual(main())
    assert kinds(exports.emulator) == ["run started twice"]


def test_303_names_a_lost_run_of_another_connection() -> None:
    exports = Exports(once=True)
    imodel_id = next(iter(exports.emulator.imodels))

    async def main() -> None:
        other = json.loads(exports("POST", CONNECTIONS, {"iModelId": imodel_id}).body)
        exports.start_and_lose()
        path = f"{CONNECTIONS}/{other['connection']['id']}/runs"
        assert exports("POST", path, RUN).status == 303
        assert exports("GET", f"{CONNECTIONS}?imodelId={imodel_id}").status == 200
        await asyncio.sleep(200)
        exports.start()

    run_virtual(main())
    assert kinds(exports.emulator) == ["run started twice"]


def test_303_to_a_run_that_was_not_lost_is_ignored() -> None:
    exports = Exports()
    exports.start_and_lose()
    other = exports.emulator.add_imodel()
    made = json.loads(exports("POST", CONNECTIONS, {"iModelId": other}).body)["connection"]
    path = f"{CONNECTIONS}/{made['id']}/runs"
    assert [exports("POST", path, RUN).status for _ in range(2)] == [202, 303]
    exports.emulator.assert_no_violations()


def test_client_that_gives_up_has_lost_the_answer(caller_of: CallerOf) -> None:
    exports = Exports(once=True)
    call = caller_of(exports.emulator)

    async def main() -> None:
        exports.emulator.inject("create_run", None, delay=40)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(30):
                await exports.emulator.send(call.request("POST", f"{exports.path}/runs", RUN))
        await asyncio.sleep(200)
        assert exports.start().status == 202

    run_virtual(main())
    exports.emulator.assert_no_violations()


def test_duplicate_synchronizations_are_detected_too(caller_of: CallerOf) -> None:
    emulator = Emulator(run_seconds=100)
    emulator.forbid_repeat_runs = True
    call = caller_of(emulator)
    source = {"storageFileId": emulator.add_file("a.dwg", b"a"), "connectorType": "DWG"}
    body = {"iModelId": emulator.add_imodel(), "sourceFiles": [source]}
    base = "/synchronization/imodels/storageconnections"
    path = f"{base}/{json.loads(call('POST', base, body).body)['connection']['id']}/run"

    async def main() -> None:
        for body in (None, None, b"no JSON", b"no JSON"):
            assert call("POST", path, body).status == 202
            await asyncio.sleep(200)

    run_virtual(main())
    assert kinds(emulator) == ["run started twice"] * 2


class Connections:
    """A client whose first creation of a connection is lost."""

    def __init__(self, caller_of: CallerOf) -> None:
        self.emulator = Emulator()
        self.call = caller_of(self.emulator)
        self.body = {"iModelId": self.emulator.add_imodel(), "displayName": "nightly"}

    def create(self) -> str:
        answer = self.call("POST", CONNECTIONS, self.body)
        assert answer.status == 201
        connection_id = json.loads(answer.body)["connection"]["id"]
        assert isinstance(connection_id, str)
        return connection_id

    def lose(self, *, after: bool = True) -> None:
        self.emulator.inject("create_connection", ConnectionResetError(), apply_effect=after)
        with pytest.raises(ConnectionResetError):
            self.create()

    def list(self) -> list[str]:
        found = self.call("GET", f"{CONNECTIONS}?imodelId={self.body['iModelId']}")
        return [item["id"] for item in json.loads(found.body)["connections"]]


@pytest.fixture
def connections(caller_of: CallerOf) -> Connections:
    return Connections(caller_of)


def test_lost_connection_must_be_listed_first(connections: Connections) -> None:
    connections.list()
    connections.lose()
    connections.create()
    assert kinds(connections.emulator) == ["connection made twice"]
    connections.create()
    assert len(connections.emulator.violations) == 1


def test_connection_created_behind_an_error_is_lost_too(
    connections: Connections,
) -> None:
    emulator = connections.emulator
    connections.list()
    emulator.inject("create_connection", Response(status=502), apply_effect=True)
    assert connections.call("POST", CONNECTIONS, connections.body).status == 502
    connections.create()
    assert kinds(emulator) == ["connection made twice"]


def test_client_that_listed_a_lost_connection_must_not_create_another(
    connections: Connections,
) -> None:
    connections.list()
    connections.lose()
    assert len(connections.list()) == 1
    connections.create()
    assert kinds(connections.emulator) == ["connection made twice"]


def test_connection_that_was_not_created_may_be_created(connections: Connections) -> None:
    connections.lose(after=False)
    assert connections.list() == []
    connections.create()
    connections.create()
    connections.emulator.assert_no_violations()


def test_deleted_connection_may_be_created_again(connections: Connections) -> None:
    connections.lose()
    (connection_id,) = connections.list()
    connections.call("DELETE", f"{CONNECTIONS}/{connection_id}")
    connections.create()
    connections.emulator.assert_no_violations()


def test_client_that_listed_before_the_creation_is_not_blamed(connections: Connections) -> None:
    assert connections.list() == []
    assert connections.list() == []
    connections.lose()
    connections.create()
    connections.emulator.assert_no_violations()


def test_concurrent_creation_is_not_blamed(connections: Connections) -> None:
    emulator, call = connections.emulator, connections.call

    async def send(wait: float) -> int:
        await asyncio.sleep(wait)
        return (await emulator.send(call.request("POST", CONNECTIONS, connections.body))).status

    async def main() -> None:
        emulator.inject("create_connection", ConnectionResetError(), apply_effect=True)
        first, second = await asyncio.gather(send(0), send(0.005), return_exceptions=True)
        assert isinstance(first, TransportError)
        assert second == 201

    run_virtual(main())
    emulator.assert_no_violations()
