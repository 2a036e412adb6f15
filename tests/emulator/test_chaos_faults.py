"""Faults by chance: each kind alone, and all of them by seed."""

import asyncio
import json
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from itwin_export_async._protocol.messages import Request, Response
from itwin_export_async.emulator import Chaos, Emulator, run_virtual

Caller = Any
CallerOf = Callable[[Emulator], Any]

NONE: dict[str, Any] = dict.fromkeys(
    (
        "rate_limit_storms",
        "errors",
        "resets",
        "losses",
        "truncations",
        "delays",
        "token_deaths",
        "races",
        "unknown_young_runs",
        "expired_signatures",
    ),
    0.0,
)


def only(seed: int = 0, **rates: Any) -> Chaos:
    return Chaos(seed=seed, **(NONE | rates))


def started(call: Caller, emulator: Emulator) -> tuple[str, str]:
    """The path of a connection's runs, and the address of its run."""
    connection_id = call.connect(emulator.add_imodel())
    return f"/export/connections/{connection_id}/runs", call.start(connection_id)


def test_chaos_with_equal_seeds_gives_equal_faults(caller_of: CallerOf) -> None:
    def faults(seed: int) -> list[str | None]:
        emulator = Emulator(seed=1)
        emulator.chaos = Chaos(seed=seed, races=0.3, unknown_young_runs=0.3)
        call = caller_of(emulator)
        imodel_id = emulator.add_imodel()

        async def main() -> None:
            for _ in range(500):
                for method, path, body in (
                    ("POST", "/export/connections", {"iModelId": imodel_id}),
                    ("GET", f"/export/connections?imodelId={imodel_id}", None),
                ):
                    try:
                        call(method, path, body)
                    except ConnectionError:
                        continue
                await asyncio.sleep(1)

        run_virtual(main())
        return [record.fault for record in emulator.requests]

    assert faults(3) == faults(3) != faults(4)
    assert len(set(faults(3))) > 8


def test_chaos_can_be_switched_off(call: Caller, emulator: Emulator) -> None:
    assert emulator.chaos is None
    chaos = only()
    emulator.chaos = chaos
    assert emulator.chaos is chaos
    _, address = started(call, emulator)
    assert {call("GET", address).status for _ in range(200)} == {200}
    emulator.chaos = only(errors=1.0)
    assert call("GET", address).status >= 500
    emulator.chaos = None
    assert call("GET", address).status == 200
    assert [record.fault for record in emulator.requests].count(None) == 203
    for wrong in (-0.1, 1.1):
        with pytest.raises(ValueError, match="errors"):
            Chaos(errors=wrong)


def test_storm_refuses_every_call_until_its_end(call: Caller, emulator: Emulator) -> None:
    path, address = started(call, emulator)
    blob = Request(method="GET", url=emulator.user_blob("a", content=b"a"))

    async def main() -> None:
        emulator.chaos = only(rate_limit_storms=1.0, storm_seconds=(10.0, 10.0))
        assert call("GET", address).headers["Retry-After"] == "10"
        await asyncio.sleep(4.5)
        answer = call("POST", path, {"exportType": "IFC"})
        assert (answer.status, answer.headers["Retry-After"]) == (429, "6")
        assert answer.headers["ITwinPlatform-RateLimited-Operation"] == "create_run"
        assert emulator.handle(blob).status == 200
        assert call("GET", "/nonsense").status == 404
        assert call("POST", "https://ims.bentley.com/connect/token", b"x=1").status == 400
        await asyncio.sleep(5.5)
        emulator.chaos = None
        assert call("GET", address).status == 200

    run_virtual(main())
    assert [r.fault for r in emulator.requests if r.status == 429] == ["storm", "storm"]


def test_errors_have_all_forms_before_and_after_the_effect(caller_of: CallerOf) -> None:
    emulator = Emulator()
    call = caller_of(emulator)
    emulator.chaos = only(errors=1.0)
    imodel_id = emulator.add_imodel()
    seen: Counter[tuple[int, bool, str, bool]] = Counter()
    made = 0
    for _ in range(500):
        answer = call("POST", "/export/connections", {"iModelId": imodel_id})
        before, made = made, emulator.state()["totals"]["connections"]
        kind = answer.headers.get("Content-Type", "")
        assert bool(kind) == bool(answer.body)
        seen[answer.status, "Retry-After" in answer.headers, kind, made > before] += 1
    assert {status for status, *_ in seen} == {500, 502, 503, 504}
    assert {kind for _, _, kind, _ in seen} == {"", "text/html", "application/json"}
    refused = {
        effect for status, has_retry_after, _, effect in seen if status == 503 and has_retry_after
    }
    assert refused == {False}, "a 503 with Retry-After was not processed"
    assert {effect for status, *_, effect in seen if status == 502} == {False, True}
    assert {has_retry_after for status, has_retry_after, *_ in seen if status == 500} == {
        False,
        True,
    }
    assert {record.fault for record in emulator.requests} == {"500", "502", "503", "504"}


@pytest.mark.parametrize(("rate", "again"), [("resets", 202), ("losses", 303)])
def test_connections_are_reset_before_and_after_the_effect(
    call: Caller, emulator: Emulator, rate: str, again: int
) -> None:
    path = f"/export/connections/{call.connect(emulator.add_imodel())}/runs"
    emulator.chaos = Chaos(**(NONE | {rate: 1.0}))
    with pytest.raises(ConnectionResetError):
        call("POST", path, {"exportType": "IFC"})
    emulator.chaos = None
    assert call("POST", path, {"exportType": "IFC"}).status == again


def test_answers_are_truncated_and_delayed(call: Caller, emulator: Emulator) -> None:
    _, address = started(call, emulator)
    emulator.chaos = only(truncations=1.0)
    for _ in range(20):
        with pytest.raises(ConnectionResetError):
            call("GET", address)
    emulator.chaos = only(delays=1.0, delay_seconds=(3.0, 5.0))

    async def main() -> float:
        began = asyncio.get_running_loop().time()
        assert (await emulator.send(call.request("GET", address))).status == 200
        return asyncio.get_running_loop().time() - began

    assert 3.0 < run_virtual(main()) < 5.1
    assert {r.fault for r in emulator.requests} == {None, "truncated answer", "late answer"}


def test_revocation_ends_one_token_only(caller_of: CallerOf) -> None:
    emulator = Emulator()
    first, second = caller_of(emulator), caller_of(emulator)
    connection_id = first.connect(emulator.add_imodel())
    path = f"/export/connections/{connection_id}"

    async def main() -> None:
        emulator.chaos = only(token_deaths=1.0)
        assert first("GET", path).status == 200, "it is too young to die"
        await asyncio.sleep(60)
        assert first("GET", path).status == 401
        assert first("GET", path, headers={"Authorization": ""}).status == 401
        assert emulator.handle(Request(method="GET", url=emulator.user_blob("a"))).status == 404
        emulator.chaos = None
        assert first("GET", path).status == 401
        assert second("GET", path).status == 200

    run_virtual(main())
    assert [r.fault for r in emulator.requests].count("dead token") == 1


def test_starts_conflict_and_young_runs_are_unknown(caller_of: CallerOf) -> None:
    emulator = Emulator(run_seconds=100)
    call = caller_of(emulator)
    path, address = started(call, emulator)

    async def main() -> None:
        emulator.chaos = only(races=1.0)
        answer = call("POST", path, {"exportType": "IFC"})
        assert answer.status == 409
        assert json.loads(answer.body)["error"]["code"] == "ConflictWithAnotherIModelRequest"
        assert call("GET", address).status == 200
        emulator.chaos = only(unknown_young_runs=1.0, youth=20.0)
        answer = call("GET", address)
        assert answer.status == 404
        assert json.loads(answer.body)["error"]["code"] == "ConnectionRunNotFound"
        assert call("GET", path).status == 200
        assert call("GET", f"{path}/nonsense").status == 404
        await asyncio.sleep(21)
        assert call("GET", address).status == 200

    run_virtual(main())
    assert [r.fault for r in emulator.requests if r.fault] == ["race", "young run"]


def test_starts_of_synchronizations_conflict_too(caller_of: CallerOf) -> None:
    emulator = Emulator(run_seconds=100)
    call = caller_of(emulator)
    source = {"storageFileId": emulator.add_file("a.dwg", b"a"), "connectorType": "DWG"}
    body = {"iModelId": emulator.add_imodel(), "sourceFiles": [source]}
    base = "/synchronization/imodels/storageconnections"
    connection_id = json.loads(call("POST", base, body).body)["connection"]["id"]
    address = call("POST", f"{base}/{connection_id}/run").headers["Location"]
    emulator.chaos = only(races=1.0)
    answer = call("POST", f"{base}/{connection_id}/run")
    assert json.loads(answer.body)["error"]["code"] == "IModelAlreadyProcessingRequest"
    emulator.chaos = only(unknown_young_runs=1.0)
    assert call("GET", address).status == 404


def test_signed_urls_expire_early(call: Caller, emulator: Emulator) -> None:
    blob = Request(method="GET", url=emulator.user_blob("a", content=b"a"))
    emulator.chaos = only(expired_signatures=1.0)
    answer: Response = emulator.handle(blob)
    assert (answer.status, answer.headers["x-ms-error-code"]) == (403, "AuthenticationFailed")
    assert call("GET", "/export/connections/x").status == 404
    emulator.inject("get_blob", None)
    assert emulator.handle(blob).body == b"a", "injected faults come before random ones"
