"""Slots of a batch: which export runs when, and what a bug or a callback may disturb."""

import asyncio
import logging
import random
from collections.abc import AsyncIterator, Iterator
from contextvars import ContextVar
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from attrs import evolve

from itwin_export_async import (
    AccessToken,
    ExportClient,
    ExportRequest,
    PollContext,
    RunHandle,
    RunUpdate,
)
from itwin_export_async.emulator import Emulator
from tests.support.batches import Make, collect, maker, started, tasks_left

DAY = 24 * 3600.0


@pytest.fixture
def make(emulator: Emulator, tmp_path: Path) -> Make:
    return maker(emulator, tmp_path / "out")


def now() -> float:
    return asyncio.get_running_loop().time()


async def makespan(requests: list[ExportRequest], folder: Path, emulator: Emulator) -> float:
    async with ExportClient(emulator.token(lifetime=1e6), transport=emulator) as client:
        began = now()
        outcomes = await collect(client, requests, concurrency=4)
        assert all(outcome.ok for outcome in outcomes)
        return now() - began


async def test_order_of_requests_costs_next_to_nothing(emulator: Emulator, tmp_path: Path) -> None:
    emulator.run_seconds = 420.0
    imodels = [emulator.add_imodel(f"m{n}") for n in range(4)]
    grouped = [
        ExportRequest(
            imodel_id=imodel, destination=tmp_path / f"{imodel}-{n}.ifc", key=f"{imodel}{n}"
        )
        for imodel in imodels
        for n in range(20)
    ]
    shuffled = random.Random(1).sample(grouped, len(grouped))
    seconds = [await makespan(order, tmp_path, emulator) for order in (grouped, shuffled)]
    print(f"grouped {seconds[0]:.0f} s, shuffled {seconds[1]:.0f} s")
    assert seconds[0] <= 1.1 * seconds[1]


async def test_run_of_a_colleague_holds_no_slot(emulator: Emulator, make: Make) -> None:
    blocked, *others = make(11)
    emulator.plan_next_run(blocked.imodel_id, duration=36_000)
    async with ExportClient(emulator.token(lifetime=1e6), transport=emulator) as client:
        connection = await client.create_connection(blocked.imodel_id, display_name="colleague")
        await client.start_run(connection.id)
        first = evolve(blocked, key="second", destination=f"{blocked.destination}2")
        requests = [blocked, first, *others]
        outcomes = [(o, now()) async for o in client.export_many(requests, concurrency=1)]
    ended = {outcome.request.key: at for outcome, at in outcomes}
    assert all(outcome.ok for outcome, _ in outcomes)
    assert max(ended[request.key] for request in others) < 10 * 1200
    assert 36_000 < ended["k0"] < ended["second"]


async def test_export_that_waits_for_a_colleague_can_be_cancelled(
    client: ExportClient, emulator: Emulator, make: Make
) -> None:
    blocked, other = make(2)
    connection = await client.create_connection(blocked.imodel_id, display_name="colleague")
    emulator.plan_next_run(blocked.imodel_id, duration=600)
    emulator.plan_next_run(other.imodel_id, duration=3000)
    await client.start_run(connection.id)
    outcomes = client.export_many([blocked, other], concurrency=1)
    reading = asyncio.ensure_future(anext(outcomes))
    for seconds in (300, 600):  # it waits for the run, then for its slot
        await asyncio.sleep(seconds)
        assert started(emulator) == 2
    reading.cancel()
    await asyncio.wait([reading])
    await outcomes.aclose()
    assert not tasks_left()


async def test_timeout_while_waiting_for_a_slot_is_an_outcome(
    client: ExportClient, emulator: Emulator, make: Make
) -> None:
    blocked, other = make(2)
    connection = await client.create_connection(blocked.imodel_id, display_name="colleague")
    emulator.plan_next_run(blocked.imodel_id, duration=300)
    emulator.plan_next_run(other.imodel_id, duration=3000)
    await client.start_run(connection.id)
    outcomes = await collect(client, [blocked, other], concurrency=1, timeout=1000)
    assert sorted(o.request.key or "" for o in outcomes) == ["k0", "k1"]
    assert not any(outcome.ok for outcome in outcomes)


async def test_timeout_while_waiting_for_a_colleague_is_an_outcome(
    client: ExportClient, emulator: Emulator, make: Make
) -> None:
    blocked, other = make(2)
    connection = await client.create_connection(blocked.imodel_id, display_name="colleague")
    emulator.plan_next_run(blocked.imodel_id, duration=3000)
    await client.start_run(connection.id)
    outcomes = await collect(client, [blocked, other], concurrency=1, timeout=2000)
    assert {o.request.key: o.ok for o in outcomes} == {"k0": False, "k1": True}


async def test_slow_source_holds_up_no_request_that_was_read(
    client: ExportClient, make: Make
) -> None:
    first, other = make(2)
    second = evolve(first, key="second", destination=f"{first.destination}2")

    async def slow() -> AsyncIterator[ExportRequest]:
        yield first
        yield second
        await asyncio.sleep(DAY)
        yield other

    ended = {o.request.key: now() async for o in client.export_many(slow())}
    assert ended["k0"] < ended["second"] < 7200
    assert ended["k1"] > DAY


async def test_source_is_read_in_one_task(client: ExportClient, make: Make) -> None:
    tasks = set()

    async def source() -> AsyncIterator[ExportRequest]:
        async with asyncio.timeout(DAY):
            for request in make(5):
                tasks.add(asyncio.current_task())
                yield request

    assert all([o.ok async for o in client.export_many(source(), concurrency=2)])
    assert len(tasks) == 1


class BrokenSchedule:
    """A schedule with a bug that one run meets."""

    def __init__(self, error: Exception) -> None:
        self._error = error
        self._is_broken = True

    def next_wait(self, context: PollContext) -> float:
        if context.polls > 2 and self._is_broken:
            self._is_broken = False
            raise self._error
        return 10.0


@pytest.mark.parametrize("error", [KeyError("bug"), TypeError("bug"), ValueError("bug")])
async def test_bug_of_a_schedule_is_the_outcome_of_its_export(
    emulator: Emulator, make: Make, error: Exception
) -> None:
    schedule = BrokenSchedule(error)
    async with ExportClient(emulator.token(), transport=emulator, schedule=schedule) as client:
        outcomes = await collect(client, make(5))
    assert [type(o.error) for o in outcomes if not o.ok] == [type(error)]
    assert len(outcomes) == 5
    assert not tasks_left()


class BrokenTransport:
    """The emulator behind a transport with a bug that one request meets."""

    def __init__(self, emulator: Emulator, part: str) -> None:
        self._emulator = emulator
        self._part = part

    async def send(self, request: Any, /) -> Any:
        if self._part in request.url and request.method == "POST":
            self._part = "none"
            raise RuntimeError("bug")
        return await self._emulator.send(request)

    def stream(self, request: Any, /) -> Any:
        return self._emulator.stream(request)

    async def close(self) -> None:
        await self._emulator.close()


@pytest.mark.parametrize("part", ["/runs", "/connections"])
async def test_bug_of_a_transport_is_the_outcome_of_its_export(
    emulator: Emulator, make: Make, tmp_path: Path, part: str
) -> None:
    ledger = tmp_path / "exports.db"
    transport = BrokenTransport(emulator, part)
    async with ExportClient(emulator.token(), transport=transport) as client:
        requests = make(5)
        outcomes = await collect(client, requests, ledger=ledger)
        assert [type(o.error) for o in outcomes if not o.ok] == [RuntimeError]
        assert all(outcome.ok for outcome in await collect(client, requests, ledger=ledger))
    assert started(emulator) == 5


async def test_bug_of_a_token_provider_is_the_outcome_of_each_export(
    emulator: Emulator, make: Make
) -> None:
    def provide() -> str:
        return undefined_name  # type: ignore[name-defined,no-any-return] # noqa: F821

    async with ExportClient(provide, transport=emulator) as client:
        outcomes = await collect(client, make(3))
    assert [type(outcome.error) for outcome in outcomes] == [NameError] * 3


@pytest.mark.parametrize("callback", ["on_start", "on_update"])
async def test_cancelled_error_of_a_callback_is_not_the_callers_cancellation(
    client: ExportClient, make: Make, callback: str
) -> None:
    def call(_: object) -> None:
        raise asyncio.CancelledError

    with pytest.raises(RuntimeError, match=f"{callback} raised CancelledError"):
        await collect(client, make(3), **{callback: call})
    assert not tasks_left()


@pytest.mark.parametrize("error", [LookupError, OSError, ValueError, SystemExit])
async def test_error_of_on_start_comes_out(
    client: ExportClient, make: Make, error: type[BaseException]
) -> None:
    raised = error("mine")

    async def on_start(run: RunHandle) -> None:
        await asyncio.sleep(1)
        raise raised

    with pytest.raises(error) as caught:
        await collect(client, make(3), on_start=on_start)
    assert caught.value is raised
    assert not tasks_left()


async def test_cancellation_during_a_callback_is_the_callers(
    client: ExportClient, make: Make
) -> None:
    is_called = asyncio.Event()

    async def on_update(update: RunUpdate) -> None:
        is_called.set()
        await asyncio.sleep(DAY)

    task = asyncio.create_task(collect(client, make(3), on_update=on_update))
    await is_called.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not tasks_left()


async def test_on_start_gets_each_run_once_and_again_when_it_is_resumed(
    client: ExportClient, make: Make, tmp_path: Path
) -> None:
    requests, ledger = make(3), tmp_path / "exports.db"
    handles: list[RunHandle] = []
    outcomes = client.export_many(requests, ledger=ledger, on_start=handles.append)
    reading = asyncio.ensure_future(anext(outcomes))
    await asyncio.sleep(60)
    reading.cancel()
    await asyncio.wait([reading])
    await outcomes.aclose()
    assert len(handles) == len(set(handles)) == 3
    resumed: list[RunHandle] = []
    await collect(client, requests, ledger=ledger, on_start=resumed.append)
    assert set(resumed) == set(handles)


async def test_exports_run_in_the_context_of_the_call(client: ExportClient, make: Make) -> None:
    trace = ContextVar("trace", default="none")
    traces: list[str] = []

    def note(_: object) -> None:
        traces.append(trace.get())
        trace.set("of another export")

    def requests() -> Iterator[ExportRequest]:
        for request in make(3):
            traces.append(trace.get())
            yield request

    trace.set("of the call")
    outcomes = client.export_many(requests(), concurrency=2, on_start=note)
    trace.set("of the reader")
    assert len([outcome async for outcome in outcomes]) == 3
    assert traces == ["of the call"] * 6
    assert trace.get() == "of the reader"


async def test_outcomes_are_a_context_manager(client: ExportClient, make: Make) -> None:
    async with client.export_many(make(5), concurrency=2) as outcomes:
        async for outcome in outcomes:
            assert outcome.ok
            break
    assert not tasks_left()


@pytest.mark.parametrize(("timeout", "lines"), [(DAY, 1), (60.0, 0), (None, 1)])
async def test_fixed_token_that_ends_before_the_batch_can_is_one_warning(
    emulator: Emulator,
    make: Make,
    caplog: pytest.LogCaptureFixture,
    timeout: float | None,
    lines: int,
) -> None:
    ends = datetime.now(UTC) + timedelta(hours=1)
    auth = AccessToken(emulator.token(), ends)
    async with ExportClient(auth, transport=emulator) as client:
        await collect(client, make(2), timeout=timeout)
    assert caplog.text.count("the access token is fixed and ends in") == lines


async def test_start_of_a_run_is_logged_with_its_imodel_and_product(
    client: ExportClient, make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    (request,) = make(1)
    with caplog.at_level(logging.INFO, "itwin_export_async"):
        (outcome,) = await collect(client, [request])
    assert outcome.run is not None
    (record,) = (r for r in caplog.records if "started run" in r.message)
    assert record.message == (
        f"started run {outcome.run.id} of iModel {request.imodel_id} "
        f"on connection {outcome.connection_id}: IFC"
    )
    assert record.itwin["imodel_id"] == request.imodel_id  # type: ignore[attr-defined]


async def test_batch_of_one_imodel_waits_for_each_run(
    client: ExportClient, emulator: Emulator, make: Make
) -> None:
    (one,) = make(1)

    def endless() -> Iterator[ExportRequest]:
        for n in range(3000):
            yield evolve(one, key=f"same{n}", destination=f"{one.destination}{n}")

    async with client.export_many(endless(), concurrency=5) as outcomes:
        for _ in range(3):
            assert (await anext(outcomes)).ok
    assert started(emulator) <= 4
