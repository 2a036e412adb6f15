"""Mistakes in the use of the emulator: each is a sentence at the place of the mistake."""

import asyncio
import warnings
from datetime import datetime
from typing import Any

import pytest

from itwin_export_async._protocol.messages import Request, Response
from itwin_export_async.emulator import Chaos, Emulator, run_virtual

Caller = Any


@pytest.mark.parametrize(
    ("setting", "value", "sentence"),
    [
        ("speed", 0, "speed must be greater than 0, got 0"),
        ("speed", float("nan"), "speed must be greater than 0, got nan"),
        ("speed", "fast", "speed must be a number, got 'fast'"),
        ("speed", True, "speed must be a number, got True"),
        ("run_seconds", -1, "run_seconds must be at least 0, got -1"),
        ("run_seconds", (5, 2), r"run_seconds must be a pair \(lowest, highest\), got \(5, 2\)"),
        ("run_seconds", (5,), r"run_seconds must be a number or a pair .*, got \(5,\)"),
        ("latency", -0.1, "latency must be at least 0, got -0.1"),
        ("user_authorized", "no", "user_authorized must be True or False, got 'no'"),
        ("page_size", 0, "page_size must be at least 1 and at most 1000, got 0"),
        ("page_size", 1.5, "page_size must be an integer, got 1.5"),
        ("webhook_repeats", -1, "webhook_repeats must be at least 0, got -1"),
        ("max_put_bytes", 0, "max_put_bytes must be at least 1, got 0"),
        ("tier", "Comunity", "unknown tier 'Comunity': use one of Community, Standard, Premium"),
        ("tier", {}, "tier must be a name or a mapping of seconds to calls, got {}"),
        ("tier", {0: 5}, "the window of a tier must be greater than 0, got 0"),
        ("tier", {60: 0}, "the calls of a tier must be at least 1, got 0"),
        ("quirks", "nonsense", "unknown quirk nonsense: use all or any of cancelled, "),
        ("chaos", 7, "'(_)?chaos' must be .*Chaos"),
    ],
)
def test_settings_are_checked_when_given_and_when_changed(
    setting: str, value: object, sentence: str
) -> None:
    with pytest.raises((TypeError, ValueError), match=sentence):
        Emulator(**{setting: value})  # type: ignore[arg-type]
    emulator = Emulator()
    before = getattr(emulator, setting)
    with pytest.raises((TypeError, ValueError), match=sentence):
        setattr(emulator, setting, value)
    assert getattr(emulator, setting) == before


def test_all_settings_are_arguments() -> None:
    emulator = Emulator(
        seed=7,
        speed=2.0,
        run_seconds=(1, 2),
        latency=0.5,
        user_authorized=False,
        download_lifetime=5,
        create_conflict_window=1,
        connection_visibility_delay=3,
        quirks="all",
        tier={6: 10},
        chaos=Chaos(seed=1),
    )
    assert (emulator.seed, emulator.latency, emulator.user_authorized) == (7, 0.5, False)
    assert (emulator.tier, emulator.chaos) == ({6: 10}, Chaos(seed=1))
    emulator.latency = 0.1
    assert emulator.latency == 0.1


def test_attributes_that_do_not_exist_are_errors() -> None:
    emulator = Emulator()
    with pytest.raises(AttributeError, match="no attribute 'latencey'"):
        emulator.latencey = 0.0  # type: ignore[attr-defined]
    with pytest.raises(TypeError, match="latencey"):
        Emulator(latencey=0.0)  # type: ignore[call-arg]
    with pytest.raises(AttributeError):
        emulator.seed = 1


def test_the_seed_and_the_epoch_are_checked() -> None:
    with pytest.raises(TypeError, match="seed"):
        Emulator(seed="7")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="epoch"):
        Emulator(epoch=0)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="epoch needs a time zone, got datetime"):
        Emulator(epoch=datetime(2026, 1, 1))


def test_plans_are_checked() -> None:
    emulator = Emulator()
    imodel_id = emulator.add_imodel()
    with pytest.raises(
        ValueError,
        match=r"unknown result 'Sucess' \(did you mean Success\?\): use one of Success, ",
    ):
        emulator.plan_next_run(imodel_id, result="Sucess")
    with pytest.raises(ValueError, match="unknown task_result 'Fail': use one of"):
        emulator.plan_next_run(imodel_id, task_result="Fail")
    with pytest.raises(ValueError, match="duration must be at least 0, got -1"):
        emulator.plan_next_run(imodel_id, duration=-1)
    with pytest.raises(ValueError, match="times must be at least 1, got 0"):
        emulator.plan_next_run(imodel_id, times=0)
    with pytest.raises(ValueError, match="no iModel 'x': use an id that add_imodel returned"):
        emulator.plan_next_run("x")


@pytest.mark.parametrize(
    ("fault", "sentence"),
    [
        (ConnectionResetError, r"must be an instance: write ConnectionResetError\(\)"),
        ("503", "must be a Response, a status, .*, got '503'"),
        (KeyError("x"), "must be a Response"),
        (True, "must be a Response"),
        (int, "must be a Response"),
        (99, "the status of a fault must be from 200 to 599, got 99"),
        (Response(status=1000), "the status of a fault must be from 200 to 599, got 1000"),
    ],
)
def test_faults_are_checked(fault: object, sentence: str) -> None:
    with pytest.raises((TypeError, ValueError), match=sentence):
        Emulator().inject("get_run", None, fault)  # type: ignore[arg-type]


def test_options_of_faults_are_checked() -> None:
    emulator = Emulator()
    with pytest.raises(ValueError, match="no fault was given"):
        emulator.inject("get_run")
    with pytest.raises(ValueError, match="delay must be at least 0"):
        emulator.inject("get_run", 503, delay=-1)
    with pytest.raises(ValueError, match="truncate_after must be at least 0"):
        emulator.inject("get_run", 503, truncate_after=-1)
    assert emulator.unmet_faults == []


def test_a_status_is_a_fault_and_headers_are_text(call: Caller, emulator: Emulator) -> None:
    headers: Any = {"Retry-After": 7}
    emulator.inject("get_connection", 503, Response(status=429, headers=headers))
    assert call("GET", "/export/connections/x").status == 503
    answer = call("GET", "/export/connections/x")
    assert (answer.status, answer.headers["Retry-After"]) == (429, "7")


def test_faults_that_met_no_request_are_named(call: Caller, emulator: Emulator) -> None:
    emulator.inject("get_run", 503, 503, ConnectionResetError())
    emulator.inject("get_blob", None, truncate_after=3)
    emulator.inject("get_blob", None, delay=3)
    emulator.inject("list_runs", None)
    assert emulator.unmet_faults == [
        "get_run: 503",
        "get_run: 503",
        "get_run: ConnectionResetError",
        "get_blob: a truncated answer",
        "get_blob: a delayed answer",
        "list_runs: the real answer",
    ]
    with pytest.raises(AssertionError) as caught:
        emulator.assert_no_violations()
    lines = str(caught.value).splitlines()
    assert lines[0] == "6 injected faults met no request of its operation:"
    assert lines[1:3] == ["  get_run: 503 (2 times)", "  get_run: ConnectionResetError"]


def test_content_and_ids_are_checked() -> None:
    emulator = Emulator()
    with pytest.raises(TypeError, match="content must be bytes or a SparseContent"):
        emulator.add_file("a.ifc", "text")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="itwin_id must be a GUID, got 'x'"):
        emulator.add_imodel(itwin_id="x")
    with pytest.raises(ValueError, match="unknown state 'new'"):
        emulator.add_imodel(state="new")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="unknown last_changeset_push 'no'"):
        emulator.add_imodel(last_changeset_push="no")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="lifetime must be at least 0"):
        emulator.token(lifetime=-1)


@pytest.mark.parametrize("span", [(5.0, 1.0), (-1.0, 1.0), (1.0,)])
def test_spans_of_chaos_are_checked(span: Any) -> None:
    with pytest.raises(ValueError, match="storm_seconds must be a pair"):
        Chaos(storm_seconds=span)


def test_a_reset_begins_again(call: Caller, emulator: Emulator) -> None:
    imodel_id = emulator.add_imodel()
    connection_id = call.connect(imodel_id)
    call.start(connection_id)
    emulator.inject("get_run", 503)
    emulator.plan_next_run(imodel_id, "Error")
    emulator.quirks, emulator.tier, emulator.latency = "cancelled", "Community", 0.0
    emulator.chaos = chaos = Chaos(seed=3)
    emulator.handle(Request(method="GET", url="https://api.bentley.com/export/connections"))
    secret = emulator.client_secret
    emulator.reset()
    assert (emulator.requests, emulator.violations, emulator.unmet_faults) == ([], [], [])
    assert (emulator.imodels, emulator.count("create_run")) == ({}, 0)
    assert (emulator.quirks, emulator.tier, emulator.latency) == (
        frozenset({"cancelled"}),
        "Community",
        0.0,
    )
    assert (emulator.client_secret, emulator.chaos) == (secret, chaos)
    assert emulator.add_imodel() == Emulator(seed=1).add_imodel()
    emulator.chaos = None
    assert call("GET", f"/export/connections/{connection_id}").status == 401


def test_the_state_is_there_in_memory(call: Caller, emulator: Emulator) -> None:
    imodel_id = emulator.add_imodel("Bridge")
    call.start(call.connect(imodel_id), inputOptions={"changesetId": "a" * 40})
    state = emulator.state()
    (run,) = state["runs"]
    assert (run["iModelName"], run["changesetId"], run["state"]) == ("Bridge", "a" * 40, "Queued")
    assert state["service"]["address"] == "https://api.bentley.com"
    assert state["unmetFaults"] == []
    assert repr(emulator) == "<Emulator seed=1 imodels=1 requests=2 violations=0>"


def test_a_long_run_in_real_time_is_warned_of_once() -> None:
    emulator = Emulator(run_seconds=120, latency=0)

    async def start(count: int, duration: float | None = None) -> None:
        headers = {
            "Authorization": f"Bearer {emulator.token()}",
            "Accept": "application/vnd.bentley.itwin-platform.v1+json",
            "User-Agent": "test",
        }
        for _ in range(count):
            imodel_id = emulator.add_imodel()
            emulator.plan_next_run(imodel_id, duration=duration)
            body = b'{"iModelId": "%s"}' % imodel_id.encode()
            url = "https://api.bentley.com/export/connections"
            request = Request(method="POST", url=url, headers=headers, body=body)
            answer = await emulator.send(request)
            connection_id = answer.body.split(b'"')[5].decode()
            url = f"{url}/{connection_id}/runs"
            body = b'{"exportType": "IFC"}'
            await emulator.send(Request(method="POST", url=url, headers=headers, body=body))

    with pytest.warns(UserWarning, match="takes 120 s of real time here: use the fixture itwin_v"):
        asyncio.run(start(1))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        asyncio.run(start(2))
        emulator = Emulator(run_seconds=59, latency=0)
        asyncio.run(start(1))
        emulator = Emulator(latency=0)
        run_virtual(start(1))
        emulator = Emulator(latency=0)
        asyncio.run(start(1, duration=1000))  # the test has chosen it


@pytest.mark.parametrize(
    "url",
    [
        "https://[::1/export/connections",
        "http://[",
        "https://api.bentley.com/%zz/%",
        "https://api.bentley.com/export/connections/%00?%ff=%",
        "https://api.bentley.com/storage/folders/a/search?name=[",
        "https://emulatedblobs.blob.core.windows.net/a/b?sig=&se=x",
    ],
)
def test_malformed_urls_are_answered(call: Caller, url: str) -> None:
    assert 400 <= call("GET", url).status < 500


@pytest.mark.parametrize(
    "path",
    [
        "/export/connections",
        "/synchronization/imodels/storageconnections",
        "/export/connections/7dbd531d-6967-47b2-8945-a722a437ad7a/runs",
    ],
)
def test_deep_nesting_is_answered(call: Caller, emulator: Emulator, path: str) -> None:
    emulator.quirks = "all"
    assert 400 <= call("POST", path, b"[" * 200_000).status < 500


@pytest.mark.parametrize(
    "value", ["Sun, 06 Nov 2044 08:49:37 -0000", "Sun, 99 Nov", "9" * 5000, "-1", "nan", ""]
)
def test_any_retry_after_is_answered(call: Caller, emulator: Emulator, value: str) -> None:
    emulator.quirks = "all"
    for status in (429, 503):
        emulator.inject("get_connection", Response(status=status, headers={"Retry-After": value}))
        assert call("GET", "/export/connections/x").status == status


def test_a_retry_after_without_a_zone_is_a_pause(call: Caller, emulator: Emulator) -> None:
    busy = Response(status=429, headers={"Retry-After": "Sun, 06 Nov 2044 08:49:37 -0000"})
    emulator.inject("get_connection", busy)
    call("GET", "/export/connections/x")
    call("GET", "/export/connections/x")
    assert [violation.kind for violation in emulator.violations] == ["called too soon"]


@pytest.mark.parametrize("body", [b"[" * 200_000, b"[]", b'{"error": {}}', b"{"])
def test_any_injected_body_is_answered(call: Caller, emulator: Emulator, body: bytes) -> None:
    emulator.quirks = "all"
    headers = {"Content-Type": "application/json", "Date": "yesterday", "Retry-After": "5"}
    for status in (200, 404, 429):
        emulator.inject("get_connection", Response(status=status, headers=headers, body=body))
        assert call("GET", "/export/connections/x").status == status
