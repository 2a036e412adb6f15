"""Many exports at once."""

import asyncio
import gc
import json
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing
from heapq import heapreplace
from pathlib import Path
from typing import Any
from weakref import ref

import pytest
from attrs import evolve

from itwin_export_async import (
    DownloadError,
    ExportClient,
    ExportOptions,
    ExportOutcome,
    ExportRequest,
    LedgerError,
    NotFound,
    RateLimit,
    RunFailed,
    RunTimeout,
    RunUpdate,
)
from itwin_export_async._batch.output_paths import OutputPaths
from itwin_export_async.emulator import Emulator, SparseContent
from tests.support.batches import Make, check, collect, maker, started, tasks_left
from tests.support.fakes import answer


@pytest.fixture
def make(emulator: Emulator, tmp_path: Path) -> Make:
    return maker(emulator, tmp_path / "out")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "exports.db"


async def test_outcomes_come_in_order_of_completion(
    client: ExportClient, emulator: Emulator, make: Make
) -> None:
    requests = make(3)
    for request, minutes in zip(requests, (30, 10, 20), strict=True):
        emulator.plan_next_run(request.imodel_id, duration=minutes * 60)
    moments = []
    async for outcome in client.export_many(requests):
        check(emulator, outcome)
        moments.append((outcome.request.key, asyncio.get_running_loop().time() // 60))
    assert [key for key, _ in moments] == ["k1", "k2", "k0"]
    assert [minute for _, minute in moments] == pytest.approx([10, 20, 30], abs=1.5)


async def test_one_failure_stops_no_other(
    client: ExportClient, emulator: Emulator, make: Make, tmp_path: Path
) -> None:
    failing, unknown, unwritable, *good = make(5)
    emulator.plan_next_run(failing.imodel_id, "Error")
    unknown = evolve(unknown, imodel_id="00000000-0000-0000-0000-000000000000")
    (tmp_path / "file").write_text("")
    unwritable = evolve(unwritable, destination=tmp_path / "file" / "x.ifc")
    outcomes = await collect(client, [failing, unknown, unwritable, *good])
    errors = {o.request.key: type(o.error) for o in outcomes if not o.ok}
    assert errors.pop("k0") is RunFailed
    assert errors.pop("k1") is NotFound
    assert errors.pop("k2") is DownloadError
    assert not errors
    assert len(outcomes) == 5
    failed = next(o for o in outcomes if o.request is failing)
    assert failed.run is not None
    assert failed.run.is_final
    assert failed.paths == ()


async def test_value_error_of_an_export_is_its_outcome(client: ExportClient, make: Make) -> None:
    one, other = make(2)
    outcomes = await collect(client, [evolve(one, imodel_id="two\nlines"), other])
    assert sorted(type(o.error).__name__ for o in outcomes) == ["NoneType", "ValueError"]


async def test_concurrency_bounds_the_exports(
    client: ExportClient, emulator: Emulator, make: Make
) -> None:
    going: set[str | None] = set()
    most = 0

    def on_update(update: RunUpdate) -> None:
        nonlocal most
        assert update.request is not None
        (going.discard if update.run.is_final else going.add)(update.request.key)
        most = max(most, len(going))

    outcomes = await collect(client, make(30), concurrency=7, on_update=on_update)
    assert sum(outcome.ok for outcome in outcomes) == 30
    assert most == 7
    assert not going


async def test_fifty_at_once(client: ExportClient, emulator: Emulator, make: Make) -> None:
    outcomes = await collect(client, make(50), concurrency=50)
    for outcome in outcomes:
        check(emulator, outcome)
    assert started(emulator) == 50
    assert not tasks_left()


async def test_requests_of_one_imodel_run_one_after_another(
    client: ExportClient, emulator: Emulator, make: Make, tmp_path: Path
) -> None:
    (one,) = make(1)
    versions = ("IFC2x3", "IFC4 RV 1.2", "IFC4.3")
    requests = [
        evolve(one, key=v, destination=tmp_path / f"{v}.ifc", options=ExportOptions(ifc_version=v))
        for v in versions
    ]
    outcomes = await collect(client, requests)
    assert [outcome.request.key for outcome in outcomes] == list(versions)
    assert [r.status for r in emulator.requests if r.operation == "create_run"] == [202] * 3


async def test_requests_of_one_imodel_hold_no_slot_of_others(
    client: ExportClient, emulator: Emulator, make: Make
) -> None:
    one, *others = make(3)
    same = [evolve(one, key=f"same{n}") for n in range(2)]
    outcomes = await collect(client, [one, *same, *others], concurrency=3)
    assert [o.request.key for o in outcomes][-1] == "same1"


async def test_equal_names_in_one_folder_get_numbers(
    client: ExportClient, emulator: Emulator, tmp_path: Path, path: Path
) -> None:
    folder = tmp_path / "out"
    requests = [
        ExportRequest(imodel_id=emulator.add_imodel("Bridge"), destination=f"{folder}/")
        for _ in range(3)
    ]
    outcomes = await collect(client, requests, ledger=path)
    for outcome in outcomes:
        check(emulator, outcome)
    names = ["Bridge-2.ifc", "Bridge-3.ifc", "Bridge.ifc"]
    assert sorted(p.name for p in folder.iterdir()) == names
    again = await collect(client, requests, ledger=path)
    assert {o.request.identity: o.paths for o in again} == {
        o.request.identity: o.paths for o in outcomes
    }
    await collect(client, requests)  # another call replaces only what it put there itself
    numbers = ["Bridge-4.ifc", "Bridge-5.ifc", "Bridge-6.ifc"]
    assert sorted(p.name for p in folder.iterdir()) == [*names[:2], *numbers, names[2]]


async def test_destination_that_nothing_may_replace_fails_alone(
    client: ExportClient, emulator: Emulator, make: Make, tmp_path: Path
) -> None:
    taken, named, good = make(3)
    os.mkfifo(tmp_path / "pipe")
    taken = evolve(taken, destination=tmp_path / "pipe")
    named = evolve(named, destination=f"{tmp_path}/out/")
    (tmp_path / "out/iModel 1.ifc").mkdir(parents=True)
    outcomes = {o.request.key: o for o in await collect(client, [taken, named, good])}
    check(emulator, outcomes["k1"])
    assert outcomes["k1"].paths == (tmp_path / "out/iModel 1-2.ifc",)
    check(emulator, outcomes["k2"])
    assert isinstance(outcomes["k0"].error, ValueError)
    assert "is a device or pipe" in str(outcomes["k0"].error)
    assert (tmp_path / "pipe").is_fifo()
    assert emulator.count("download_file") == 2


async def test_file_that_another_request_took_is_downloaded_under_another_name(
    client: ExportClient, emulator: Emulator, tmp_path: Path, path: Path
) -> None:
    (tmp_path / "out").mkdir()
    one, other = (
        ExportRequest(imodel_id=emulator.add_imodel("Bridge"), destination=tmp_path / "out")
        for _ in range(2)
    )
    await collect(client, [one], ledger=path)
    (tmp_path / "out" / "Bridge.ifc").unlink()  # a missing file has no owner
    outcomes = await collect(client, [other, one], ledger=path, concurrency=1)
    assert [o.paths[0].name for o in outcomes] == ["Bridge.ifc", "Bridge-2.ifc"]
    (first,) = await collect(client, [one], ledger=path)
    assert first.paths == outcomes[1].paths
    assert first.paths[0].exists()


@pytest.mark.parametrize("is_given", [False, True])
async def test_file_of_an_earlier_call_is_not_replaced_by_another_request(
    client: ExportClient, emulator: Emulator, tmp_path: Path, path: Path, is_given: bool
) -> None:
    one, other = (
        ExportRequest(imodel_id=emulator.add_imodel("Bridge"), destination=f"{tmp_path / 'out'}/")
        for _ in range(2)
    )
    (first,) = await collect(client, [one], ledger=path)
    before = first.paths[0].read_bytes()
    given = [other, one] if is_given else [other]
    outcomes = await collect(client, given, ledger=path, concurrency=1)
    assert outcomes[0].paths[0].name == "Bridge-2.ifc"
    assert first.paths[0].read_bytes() == before
    (again,) = await collect(client, [one], ledger=path)
    assert again.paths == first.paths
    assert emulator.count("download_file") == 2


async def test_file_of_an_earlier_call_is_no_destination_of_another_request(
    client: ExportClient, emulator: Emulator, make: Make, path: Path
) -> None:
    one, other = make(2)
    other = evolve(other, destination=one.destination)
    (first,) = await collect(client, [one], ledger=path)
    (refused,) = await collect(client, [other], ledger=path)
    assert "is the destination of another request, too" in str(refused.error)
    check(emulator, first)
    first.paths[0].unlink()
    (outcome,) = await collect(client, [other], ledger=path)
    check(emulator, outcome)


async def test_further_outputs_of_a_run_overwrite_nothing(
    emulator: Emulator, tmp_path: Path
) -> None:
    one, other = (
        ExportRequest(imodel_id=emulator.add_imodel(), destination=tmp_path / "out" / name)
        for name in ("x.ifc", "x-2.ifc")
    )
    emulator.plan_next_run(one.imodel_id, duration=4000)
    emulator.plan_next_run(other.imodel_id, duration=40)
    twice = Twice(emulator, one.imodel_id)
    async with ExportClient(emulator.token(lifetime=1e6), transport=twice) as client:
        outcomes = await collect(client, [one, other])
    assert [[p.name for p in o.paths] for o in outcomes] == [["x-2.ifc"], ["x.ifc", "x-3.ifc"]]
    check(emulator, outcomes[0])
    names = ["x-2.ifc", "x-3.ifc", "x.ifc"]
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == names


async def test_numbered_outputs_do_not_collide(emulator: Emulator, tmp_path: Path) -> None:
    one, other = (
        ExportRequest(imodel_id=emulator.add_imodel("Bridge"), destination=f"{tmp_path / 'out'}/")
        for _ in range(2)
    )
    emulator.plan_next_run(one.imodel_id, duration=40)
    emulator.plan_next_run(other.imodel_id, duration=4000)
    twice = Twice(emulator, other.imodel_id)
    async with ExportClient(emulator.token(lifetime=1e6), transport=twice) as client:
        outcomes = await collect(client, [one, other])
    names = [["Bridge.ifc"], ["Bridge-2.ifc", "Bridge-3.ifc"]]
    assert [[p.name for p in o.paths] for o in outcomes] == names


async def test_calls_that_join_one_run_each_download_it(
    client: ExportClient, emulator: Emulator, tmp_path: Path
) -> None:
    imodel_id = emulator.add_imodel()
    connection = await client.create_connection(imodel_id)
    await client.start_run(connection.id)
    request = ExportRequest(imodel_id=imodel_id, destination=f"{tmp_path / 'out'}/")
    both = await asyncio.gather(*(collect(client, [request], if_active="join") for _ in range(2)))
    for (outcome,) in both:
        check(emulator, outcome)
    assert {p.name for p in (tmp_path / "out").iterdir()} == {"Bridge.ifc", "Bridge-2.ifc"}


@pytest.mark.parametrize("is_stopped", [False, True])
async def test_file_that_another_batch_writes_meanwhile_is_kept(
    client: ExportClient, emulator: Emulator, tmp_path: Path, path: Path, is_stopped: bool
) -> None:
    out = tmp_path / "out"
    request = ExportRequest(imodel_id=emulator.add_imodel("Bridge"), destination=f"{out}/")
    choose, calls = OutputPaths.choose, 0

    def choose_late(*args: Any, **more: Any) -> tuple[Path, bool]:
        nonlocal calls
        calls += 1
        chosen = choose(*args, **more)
        if calls == 1:
            (out / "Bridge.ifc").write_text("of another process")
        elif is_stopped:
            raise OSError(5, "the disk fails")
        return chosen

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(OutputPaths, "choose", choose_late)
        (outcome,) = await collect(client, [request], ledger=path)
    assert outcome.ok is not is_stopped
    if is_stopped:
        (outcome,) = await collect(client, [request], ledger=path)
    check(emulator, outcome)
    assert outcome.paths == (out / "Bridge-2.ifc",)
    assert (out / "Bridge.ifc").read_text() == "of another process"


async def test_path_that_is_not_utf8_is_a_destination(
    client: ExportClient, emulator: Emulator, make: Make, tmp_path: Path, path: Path
) -> None:
    good, other = make(2)
    folder = tmp_path / os.fsdecode(b"br\xfccke")
    odd = evolve(other, destination=folder / "x.ifc", key=None)
    for _ in range(2):
        outcomes = await collect(client, [odd, good], ledger=path)
        assert [o.error for o in outcomes] == [None, None]
    assert (folder / "x.ifc").exists()
    assert emulator.count("download_file") == 2


async def test_one_file_has_one_request(
    client: ExportClient, emulator: Emulator, make: Make
) -> None:
    one, other = make(2)
    outcomes = await collect(client, [one, evolve(other, destination=one.destination)])
    refused, fetched = outcomes
    check(emulator, fetched)
    assert isinstance(refused.error, DownloadError)
    assert "is the destination of another request, too" in str(refused.error)
    assert started(emulator) == 1


async def test_failed_download_leaves_nothing(
    client: ExportClient, emulator: Emulator, tmp_path: Path
) -> None:
    folder = tmp_path / "out"
    emulator.inject("get_blob", *[answer(410)] * 3)
    request = ExportRequest(imodel_id=emulator.add_imodel(), destination=f"{folder}/")
    (outcome,) = await collect(client, [request])
    assert isinstance(outcome.error, DownloadError)
    assert outcome.error.destination == str(folder)
    assert not folder.exists()


async def test_requests_are_read_no_further_than_needed(client: ExportClient, make: Make) -> None:
    read = 0

    def endless() -> Iterator[ExportRequest]:
        nonlocal read
        while True:
            read += 1
            yield make(1)[0]

    async with aclosing(client.export_many(endless(), concurrency=3)) as outcomes:
        for taken in range(1, 10):
            await anext(outcomes)
            await asyncio.sleep(24 * 3600)  # a slow consumer
            assert read <= taken + 6
    assert not tasks_left()


async def test_leaving_early_ends_the_waiting_and_not_the_runs(
    client: ExportClient, emulator: Emulator, make: Make
) -> None:
    outcomes = client.export_many(make(30), concurrency=5)
    assert (await anext(outcomes)).ok
    begun = started(emulator)
    await outcomes.aclose()
    assert not tasks_left()
    before = len(emulator.requests)
    await asyncio.sleep(3600)
    assert len(emulator.requests) == before
    assert started(emulator) == begun


async def test_cancelling_ends_the_waiting(client: ExportClient, make: Make, path: Path) -> None:
    task = asyncio.create_task(collect(client, make(10), ledger=path))
    await asyncio.sleep(60)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not tasks_left()
    async with aclosing(client.export_many([], ledger=path)) as outcomes:  # it is free again
        assert [outcome async for outcome in outcomes] == []


async def test_cancelling_again_does_not_leave_the_ledger_open(
    client: ExportClient, make: Make, path: Path
) -> None:
    requests = make(3)
    for turns in range(10):
        task = asyncio.create_task(collect(client, requests, ledger=path))
        await asyncio.sleep(0.2)
        task.cancel()
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert not tasks_left()
        assert await collect(client, [], ledger=path) == []


@pytest.mark.parametrize("asynchronous", [False, True])
async def test_error_of_the_requests_comes_out(
    client: ExportClient, make: Make, asynchronous: bool
) -> None:
    def broken() -> Iterator[ExportRequest]:
        yield from make(3)
        raise LookupError("no more lines")

    async def broken_too() -> AsyncIterator[ExportRequest]:
        for request in broken():
            yield request

    with pytest.raises(LookupError, match="no more lines"):
        await collect(client, broken_too() if asynchronous else broken())
    assert not tasks_left()


async def test_slow_requests_hold_up_no_outcome(
    client: ExportClient, emulator: Emulator, make: Make
) -> None:
    first, second = make(2)

    async def slow() -> AsyncIterator[ExportRequest]:
        yield first
        await asyncio.sleep(24 * 3600)
        yield second

    outcomes = client.export_many(slow())
    assert (await anext(outcomes)).request is first
    assert asyncio.get_running_loop().time() < 3600
    assert (await anext(outcomes)).request is second
    with pytest.raises(StopAsyncIteration):
        await anext(outcomes)


async def test_update_names_its_request(client: ExportClient, make: Make) -> None:
    requests = make(2)
    seen: list[RunUpdate] = []
    await collect(client, requests, on_update=seen.append)
    for request in requests:
        own = [update for update in seen if update.request is request]
        assert [update.run.is_final for update in own] == [False] * (len(own) - 1) + [True]
        assert len({update.run.id for update in own}) == 1
        assert own[-1].changes
    assert {update.request for update in seen} == set(requests)


@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize("error", [LookupError, ValueError, OSError, LedgerError])
async def test_error_of_on_update_comes_out(
    client: ExportClient, make: Make, asynchronous: bool, error: type[Exception]
) -> None:
    raised = error(message="mine") if error is LedgerError else error("mine")

    def on_update(update: RunUpdate) -> None:
        assert update.request is not None
        if update.request.key == "k1":
            raise raised

    async def on_update_too(update: RunUpdate) -> None:
        await asyncio.sleep(1)
        on_update(update)

    with pytest.raises(error) as caught:
        await collect(client, make(3), on_update=on_update_too if asynchronous else on_update)
    assert caught.value is raised
    assert not tasks_left()


async def test_error_of_the_run_is_none_of_on_update(
    client: ExportClient, emulator: Emulator, make: Make
) -> None:
    (request,) = make(1)
    emulator.plan_next_run(request.imodel_id, "Error")
    updates: list[RunUpdate] = []
    (outcome,) = await collect(client, [request], on_update=updates.append)
    assert isinstance(outcome.error, RunFailed)
    assert updates[-1].request is request


@pytest.mark.parametrize(("given", "seconds"), [({}, 24 * 3600), ({"timeout": 3600}, 3600)])
async def test_each_export_has_its_time(
    emulator: Emulator, make: Make, given: dict[str, float], seconds: float
) -> None:
    (request,) = make(1)
    emulator.plan_next_run(request.imodel_id, duration=30 * 3600)
    async with ExportClient(emulator.token(lifetime=1e6), transport=emulator) as client:
        (outcome,) = await collect(client, [request], **given)
    assert isinstance(outcome.error, RunTimeout)
    assert asyncio.get_running_loop().time() == pytest.approx(seconds, abs=60)


async def test_time_of_one_may_end_while_on_update_speaks(
    client: ExportClient, emulator: Emulator, make: Make
) -> None:
    one, other = make(2)
    emulator.plan_next_run(other.imodel_id, duration=3000)

    async def on_update(update: RunUpdate) -> None:
        if update.request is one and update.run.is_final:
            await asyncio.sleep(24 * 3600)

    outcomes = await collect(client, [one, other], on_update=on_update, timeout=3600)
    assert isinstance(outcomes[1].error, RunTimeout)
    check(emulator, outcomes[0])


@pytest.mark.parametrize(
    ("wrong", "error", "named"),
    [
        ({"concurrency": 0}, ValueError, "concurrency must be at least 1, not 0"),
        ({"concurrency": "3"}, TypeError, "concurrency must be an int"),
        ({"timeout": 0}, ValueError, "timeout must be more than 0 seconds, not 0"),
        ({"timeout": "60"}, TypeError, "timeout must be a number of seconds, not '60'"),
        ({"if_active": "ask"}, ValueError, "if_active"),
        ({"authentication_type": "Robot"}, ValueError, "authentication_type"),
        ({"requests": 7}, TypeError, "not iterable"),
    ],
)
async def test_mistake_is_refused_at_once(
    client: ExportClient, wrong: dict[str, Any], error: type[Exception], named: str
) -> None:
    with pytest.raises(error, match=named):
        client.export_many(**{"requests": [], **wrong})


async def test_item_that_is_no_request_is_a_type_error(client: ExportClient, make: Make) -> None:
    with pytest.raises(TypeError, match="requests must be ExportRequest, not str"):
        await collect(client, [*make(1), "m2"])


async def test_outside_of_the_client_it_is_refused(emulator: Emulator) -> None:
    outcomes = ExportClient("token", transport=emulator).export_many([])
    with pytest.raises(RuntimeError, match="not open"):
        await anext(outcomes)


async def test_runs_use_the_requested_authentication_type(
    client: ExportClient, emulator: Emulator, make: Make
) -> None:
    emulator.user_authorized = False
    (outcome,) = await collect(client, make(1), authentication_type="Service")
    check(emulator, outcome)


# how much of it there may be


async def test_three_hundred_on_the_community_tier(emulator: Emulator, make: Make) -> None:
    requests = make(300)
    limit = RateLimit.COMMUNITY
    token = emulator.token(lifetime=1e6)
    async with ExportClient(token, transport=emulator, rate_limit=limit) as client:
        outcomes = await collect(client, requests, concurrency=50)
    makespan = asyncio.get_running_loop().time()
    least = makespan_in_order({o.request: seconds(o) for o in outcomes}, requests, 50)
    print(f"makespan {makespan:.0f} s, at least {least:.0f} s: {makespan / least:.3f}")
    assert makespan < 1.1 * least
    api = [r for r in emulator.requests if "blob" not in r.operation]
    assert not [r for r in api if r.status == 429]
    for window, calls in ((60, 500), (3600, 5000)):
        moments = [r.at for r in api]
        for first, last in zip(moments, moments[calls:], strict=False):
            assert last - first >= window


async def test_short_runs_are_not_forgotten_when_calls_are_scarce(
    emulator: Emulator, make: Make
) -> None:
    requests = make(300)
    for request in requests:
        emulator.plan_next_run(request.imodel_id, duration=40.0)
    limit = RateLimit.COMMUNITY
    async with ExportClient(emulator.token(), transport=emulator, rate_limit=limit) as client:
        await collect(client, requests, concurrency=300)
        calls = client.session.stats.calls
    makespan = asyncio.get_running_loop().time()
    minutes = (calls - 1) // 500  # that have to pass before the last call may go
    print(f"makespan {makespan:.0f} s, and {calls} calls take {60 * minutes} s")
    assert makespan < 60 * (minutes + 1)


def seconds(outcome: ExportOutcome) -> float:
    """How long its run took."""
    assert outcome.run is not None
    assert outcome.run.duration is not None
    return outcome.run.duration


def makespan_in_order(
    durations: dict[ExportRequest, float], requests: list[ExportRequest], concurrency: int
) -> float:
    """How long the runs alone take when each begins as soon as one before it has ended."""
    free = [0.0] * concurrency
    for request in requests:
        heapreplace(free, free[0] + durations[request])
    return max(free)


class Twice:
    """The emulator, but a finished run of one iModel has a second output of the same name."""

    def __init__(self, emulator: Emulator, imodel_id: str) -> None:
        self._emulator = emulator
        self._imodel_id = imodel_id
        self._second = emulator.add_file("Bridge.ifc", SparseContent(11))
        self._connections: set[str] = set()

    async def send(self, request: Any, /) -> Any:
        response = await self._emulator.send(request)
        if request.method == "POST" and self._imodel_id in (request.body or b"").decode():
            self._connections.add(json.loads(response.body)["connection"]["id"])
        if "/runs/" not in request.url or request.url.split("/")[-3] not in self._connections:
            return response
        body = json.loads(response.body)
        for job in body["run"].get("jobs", []):
            for task in job.get("tasks", [])[:1]:
                if "exportOutputFileId" in task:
                    second = {**task, "id": "second", "exportOutputFileId": self._second}
                    job["tasks"].append(second)
        return evolve(response, body=json.dumps(body).encode())

    def stream(self, request: Any, /) -> Any:
        return self._emulator.stream(request)

    async def close(self) -> None:
        await self._emulator.close()


class OneConnection:
    """A service in which every run has ended as soon as it is looked at, and made nothing."""

    def __init__(self) -> None:
        self.runs = 0

    async def send(self, request: Any, /) -> Any:
        await asyncio.sleep(0.01)
        if request.method == "POST":
            self.runs += 1
            return answer(202, Location=f"https://api.bentley.com{request.url[23:]}/r{self.runs}")
        if "/runs/" in request.url:
            run = {"id": request.url.rpartition("/")[2], "state": "Completed", "result": "Skipped"}
            return answer(200, json.dumps({"run": run}))
        return answer(200, '{"connections": [{"id": "c1", "displayName": "itwin-export"}]}')

    def stream(self, request: Any, /) -> Any:
        raise AssertionError

    async def close(self) -> None:
        pass


async def test_thousands_take_no_more_room_than_a_hundred() -> None:
    made = list[ref[ExportRequest] | ref[ExportOutcome]]()
    most = count = 0

    def requests() -> Iterator[ExportRequest]:
        for n in range(1000):
            request = ExportRequest(imodel_id=f"m{n}", destination="out/")
            made.append(ref(request))
            yield request

    no_limit = RateLimit()
    async with ExportClient("token", transport=OneConnection(), rate_limit=no_limit) as client:
        async for outcome in client.export_many(requests(), concurrency=20):
            assert outcome.ok
            made.append(ref(outcome))
            count += 1
            if count % 100 == 0:
                gc.collect()
                most = max(most, sum(one() is not None for one in made))
    assert count == 1000
    assert most <= 100
