"""Outages before, during and after the runs of a batch."""

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from itwin_export_async import (
    ClientCredentials,
    ExportClient,
    ExportOutcome,
    ExportRequest,
    RunUnreachable,
    TransportError,
)
from itwin_export_async._batch.outage import OutageRetrier
from itwin_export_async.emulator import Emulator
from tests.support.batches import Make, check, collect, list_runs, maker, tasks_left
from tests.support.fakes import answer
from tests.support.outages import Outage, Trouble
from tests.support.processes import until


@pytest.fixture
def make(emulator: Emulator, tmp_path: Path) -> Make:
    emulator.forbid_repeat_runs = True
    return maker(emulator, tmp_path / "out")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "exports.db"


def client_of(emulator: Emulator, outage: Outage, **more: float) -> ExportClient:
    auth = ClientCredentials(emulator.client_id, emulator.client_secret)
    return ExportClient(auth, transport=outage, **more)  # type: ignore[arg-type]


async def check_all(
    emulator: Emulator, requests: list[ExportRequest], outcomes: list[ExportOutcome]
) -> None:
    """Each request has one outcome with its file, and one run."""
    assert Counter(o.request.key for o in outcomes) == Counter(r.key for r in requests)
    for outcome in outcomes:
        check(emulator, outcome)
    async with ExportClient(emulator.token(), transport=emulator) as client:
        assert [await list_runs(client, request) for request in requests] == [1] * len(requests)
    emulator.assert_no_violations()
    assert not tasks_left()


TROUBLES: tuple[Trouble, ...] = ("network", "lost answers", "gateway", "token service")


@pytest.mark.parametrize("is_noted", [True, False])
@pytest.mark.parametrize("begin", [0.0, 500.0])
@pytest.mark.parametrize("trouble", TROUBLES)
async def test_outage_of_a_minute_is_waited_out(
    emulator: Emulator, make: Make, path: Path, trouble: Trouble, begin: float, is_noted: bool
) -> None:
    requests = make(10)
    outage = Outage(emulator, trouble, begin, begin + 60)
    async with client_of(emulator, outage) as client:
        outcomes = await collect(client, requests, ledger=path if is_noted else None, concurrency=8)
    assert outage.tries
    await check_all(emulator, requests, outcomes)


@pytest.mark.parametrize("trouble", TROUBLES)
async def test_nothing_begins_during_an_outage(
    emulator: Emulator, make: Make, trouble: Trouble
) -> None:
    requests = make(25)
    outage = Outage(emulator, trouble, 0, 600)
    async with client_of(emulator, outage) as client:
        outcomes = await collect(client, requests)
    assert outage.tries < 900  # 20 exports, then one try every five seconds, of 5 sendings each
    await check_all(emulator, requests, outcomes)


@pytest.mark.parametrize("trouble", TROUBLES)
async def test_batch_continues_after_an_outage_that_was_too_long(
    emulator: Emulator, make: Make, path: Path, trouble: Trouble
) -> None:
    requests = make(10)
    for request in requests:
        emulator.plan_next_run(request.imodel_id, duration=7200)
    outage = Outage(emulator, trouble, 30 if trouble == "lost answers" else 0, 7200)
    async with client_of(emulator, outage) as client:
        outcomes = await collect(client, requests, ledger=path, concurrency=5)
        assert Counter(o.request.key for o in outcomes) == Counter(r.key for r in requests)
        assert not any(outcome.ok for outcome in outcomes)
        assert all(o.error.is_transient for o in outcomes)  # type: ignore[union-attr]
        assert asyncio.get_running_loop().time() == pytest.approx(1800, rel=0.2)
        await asyncio.sleep(7200)
        outcomes = await collect(client, requests, ledger=path)
    await check_all(emulator, requests, outcomes)


async def test_outage_is_logged_once(
    emulator: Emulator, make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    outage = Outage(emulator, "network", 0, 60)
    async with client_of(emulator, outage) as client:
        with caplog.at_level(logging.INFO, "itwin_export_async.batch"):
            await collect(client, make(10))
    lines = [r.message for r in caplog.records if "outage" in r.message]
    assert [line.split(":")[0] for line in lines] == ["outage", lines[1].split(":")[0]]
    assert lines[1].startswith("outage over after")


async def test_failing_start_of_one_imodel_pauses_no_other(
    emulator: Emulator, make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    requests = make(8)

    class Broken(Outage):
        async def send(self, request, /):  # type: ignore[no-untyped-def]
            if request.method == "POST" and requests[0].imodel_id in str(request.body):
                return answer(500, "{}")
            return await super().send(request)

    broken = Broken(emulator, "network", -1, -1)
    async with client_of(emulator, broken) as client:
        outcomes = await collect(client, requests, concurrency=2)
    assert [o.request.key for o in outcomes if not o.ok] == ["k0"]
    assert outcomes[-1].request.key != "k0" or asyncio.get_running_loop().time() > 900
    assert "outage" not in caplog.text


async def test_single_export_waits_out_an_outage(
    emulator: Emulator, make: Make, tmp_path: Path
) -> None:
    (request,) = make(1)
    outage = Outage(emulator, "gateway", 0, 60)
    async with client_of(emulator, outage) as client:
        outcome = await client.export_imodel(request.imodel_id, request.destination)
    check(emulator, outcome)


async def test_retry_after_of_a_start_is_waited_for(
    client: ExportClient, emulator: Emulator, make: Make
) -> None:
    (request,) = make(1)
    emulator.inject("create_run", answer(429, "{}", Retry_After="700"))
    (outcome,) = await collect(client, [request])
    check(emulator, outcome)
    assert asyncio.get_running_loop().time() > 700


async def test_step_is_given_up_after_max_outage() -> None:
    retrier, tries, now = OutageRetrier(100.0), list[float](), asyncio.get_running_loop().time

    async def fail() -> None:
        tries.append(now())
        raise TransportError(message="gone")

    async def step() -> None:
        with pytest.raises(TransportError):
            await retrier.run(fail)

    await asyncio.gather(*(step() for _ in range(50)))
    assert now() <= 110
    assert len(tries) < 50 + 20 + 50
    began = now()
    await step()  # the outage continues: another step is held as long
    assert now() - began == pytest.approx(100, abs=6)


async def test_step_is_tried_once_without_max_outage() -> None:
    tries = 0

    async def fail() -> None:
        nonlocal tries
        tries += 1
        raise TransportError(message="gone")

    with pytest.raises(TransportError):
        await OutageRetrier(0.0).run(fail)
    assert tries == 1


async def test_error_that_is_no_outage_is_raised_at_once() -> None:
    async def fail() -> None:
        raise RunUnreachable(connection_id="c", run_id="r")

    with pytest.raises(RunUnreachable):
        await OutageRetrier(100.0).run(fail)


@asynccontextmanager
async def served_for(emulator: Emulator, port: int) -> AsyncIterator[str]:
    async with emulator.serve(port=port) as served:
        yield served.base_url


@pytest.mark.usefixtures("integration")
async def test_server_that_is_stopped_and_started_again_is_waited_out(
    make: Make, emulator: Emulator
) -> None:
    emulator.run_seconds = 1.0
    requests = make(6)
    token = emulator.token()
    async with served_for(emulator, 0) as url:
        client = ExportClient(token, base_url=url, max_outage=60)
        await client.open()
        batch = asyncio.create_task(collect(client, requests, concurrency=2))
        await until(lambda: emulator.count("create_run") >= 2)
    await asyncio.sleep(3)
    async with served_for(emulator, int(url.rpartition(":")[2])):
        try:
            outcomes = await batch
        finally:
            await client.aclose()
        for outcome in outcomes:
            check(emulator, outcome)
        starts = [r for r in emulator.requests if r.operation == "create_run" and r.status == 202]
        assert len(starts) == len(requests) == len(outcomes)
