"""A state machine: batches that are killed, cut off and disturbed in every order.

Each request has options of its own, so that the run of a lost answer is known for what it is. After
each step: no request has two runs of ours that are active or successful, no run of a colleague is
taken for ours, each call reports each request once, and each file is of its own request.
"""

import asyncio
import json
import os
import shutil
import sqlite3
import tempfile
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Coroutine, Iterator
from contextlib import asynccontextmanager, closing, suppress
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import pytest
from attrs import define, field
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from itwin_export_async import (
    Conflict,
    ExportClient,
    ExportOptions,
    ExportOutcome,
    ExportRequest,
    InputOptions,
    TransportError,
)
from itwin_export_async.emulator import Emulator, VirtualTimeLoop
from itwin_export_async.transport import Request, Response, StreamedResponse
from tests.support.fakes import EPOCH, answer

T = TypeVar("T")

KEYS = range(4)  # two requests for each iModel
IMODELS = 2
SHORTEST_RUN = 60.0  # seconds: longer than the retries of one request
LIST_LAG = 20.0
CLOCK_TOLERANCE = 6.0  # a run that starts this long before a request may be of that request
PAUSES = st.sampled_from([0.02, 1.0, 10.0, 70.0, 300.0, 900.0, 3600.0])
Marker = tuple[str, ...]  # what the options of a request say: key and revision


def options_of(key: int, revision: int) -> ExportOptions:
    return ExportOptions(input=InputOptions(model_ids=(f"0x{key + 1:x}", f"0x{revision + 16:x}")))


@define(eq=False)
class World:
    """The services, what disturbs them, and which runs there are in truth."""

    emulator: Emulator
    runs: dict[Marker, list[str]] = field(factory=lambda: defaultdict(list))
    markers: dict[str, Marker] = field(factory=dict)
    connections: dict[str, str] = field(factory=dict)
    problems: list[str] = field(factory=list)
    lost_answers: int = 0
    outage_after_loss: float = 0.0
    outage_until: float = 0.0
    list_lag: float = 0.0

    def run(self, run_id: str) -> dict[str, Any]:
        """A run in truth."""
        url = f"https://api.bentley.com/export/connections/{self.connections[run_id]}/runs/{run_id}"
        headers = {
            "Authorization": f"Bearer {self.emulator.token()}",
            "Accept": "application/vnd.bentley.itwin-platform.v1+json",
        }
        response = self.emulator.handle(Request(method="GET", url=url, headers=headers))
        run: dict[str, Any] = json.loads(response.body)["run"]
        return run

    def counts(self, run_id: str) -> bool:
        """Whether the run is active or has succeeded."""
        run = self.run(run_id)
        return bool(run["state"] != "Completed" or run["result"] == "Success")

    def started(self, request: Request, response: Response) -> None:
        """Note a run that was started."""
        run_id = urlsplit(response.headers["Location"]).path.rpartition("/")[2]
        options = json.loads(request.body or b"{}")
        marker = tuple(options.get("inputOptions", {}).get("modelIds", ()))
        if marker and any(self.counts(earlier) for earlier in self.runs[marker]):
            self.problems.append(f"{marker} was started again: {self.runs[marker]}, {run_id}")
        self.connections[run_id] = urlsplit(request.url).path.split("/")[-2]
        self.runs[marker].append(run_id)
        self.markers[run_id] = marker


@define(eq=False)
class Wire:
    """The transport of one process.

    The process is killed at the `crash_in`th step of a kind: `note` before the request for a run,
    `start` when a run was started and the answer is not there yet, `any` before a request and after
    its response. 0 is never.
    """

    world: World
    ledger: Path
    crash_kind: str = "any"
    crash_in: int = 0
    is_dead: bool = False
    is_perfect: bool = False

    async def step(self, kind: str = "any") -> None:
        if self.crash_in and kind == self.crash_kind:
            self.crash_in -= 1
            if not self.crash_in:
                self.is_dead = True
                with suppress(sqlite3.OperationalError):
                    with closing(sqlite3.connect(self.ledger)) as file:
                        with closing(sqlite3.connect(f"{self.ledger}-at-crash")) as copy:
                            file.backup(copy)
        if self.is_dead:
            await asyncio.Event().wait()

    async def send(self, request: Request, /) -> Response:
        is_start = request.method == "POST" and request.url.endswith("/runs")
        if is_start:
            await self.step("note")
        await self.step()
        world = self.world
        if not self.is_perfect and asyncio.get_running_loop().time() < world.outage_until:
            raise TransportError(message="refused", may_have_been_processed=False)
        response = await world.emulator.send(request)
        if is_start and response.status == 202:
            world.started(request, response)
            await self.step("start")
        await self.step()
        if request.method == "POST" and world.lost_answers and not self.is_perfect:
            world.lost_answers -= 1
            world.outage_until = asyncio.get_running_loop().time() + world.outage_after_loss
            raise TransportError(message="reset")
        path = urlsplit(request.url).path
        if request.method == "GET" and path.endswith("/runs") and response.status == 200:
            return self._lagging(response)
        return response

    def _lagging(self, response: Response) -> Response:
        """A list without the youngest runs."""
        now = EPOCH + timedelta(seconds=asyncio.get_running_loop().time())
        body = json.loads(response.body)
        body["runs"] = [
            run
            for run in body["runs"]
            if self.is_perfect
            or not run.get("startDateTime")
            or (now - datetime.fromisoformat(run["startDateTime"])).total_seconds()
            > self.world.list_lag
        ]
        return answer(200, json.dumps(body), **{"Date": response.headers["Date"]})

    @asynccontextmanager
    async def stream(self, request: Request, /) -> AsyncIterator[StreamedResponse]:
        await self.step()
        if not self.is_perfect and asyncio.get_running_loop().time() < self.world.outage_until:
            raise TransportError(message="refused", may_have_been_processed=False)
        async with self.world.emulator.stream(request) as response:
            await self.step()
            yield response

    async def close(self) -> None:
        pass


@define(eq=False)
class Process:
    """One call of `export_many` in a process of its own."""

    wire: Wire
    keys: list[int]
    task: "asyncio.Task[list[ExportOutcome]]"


class BatchMachine(RuleBasedStateMachine):
    """Batches on one ledger, one process at a time.

    A rule that does not apply does nothing. It is no precondition: whether a process has ended may
    depend on the threads of the disk, and a repetition has to draw the same values.
    """

    def __init__(self) -> None:
        super().__init__()
        self.loop = VirtualTimeLoop()
        self.folder = Path(tempfile.mkdtemp())
        self.ledger = self.folder / "exports.db"
        self.process: Process | None = None
        self.revisions = dict.fromkeys(KEYS, 0)

    def do(self, work: Coroutine[Any, Any, T]) -> T:
        return self.loop.run_until_complete(work)

    @initialize(seed=st.integers(0, 99), race=st.sampled_from([0.0, 0.2]))
    def begin(self, seed: int, race: float) -> None:
        emulator = Emulator(
            seed=seed,
            epoch=EPOCH,
            run_seconds=(SHORTEST_RUN, 600.0),
            token_lifetime=1e9,
            create_conflict_window=race,
        )
        self.imodels = [emulator.add_imodel(f"iModel {n}") for n in range(IMODELS)]
        self.world = World(emulator)

    def request(self, key: int) -> ExportRequest:
        revision = self.revisions[key]
        return ExportRequest(
            imodel_id=self.imodels[key % IMODELS],
            destination=f"{self.folder}/{key}.ifc",
            options=options_of(key, revision),
            key=f"k{key}",
            revision=f"r{revision}",
        )

    @rule(
        keys=st.just(list(KEYS)) | st.lists(st.sampled_from(KEYS), min_size=1, unique=True),
        concurrency=st.integers(1, 4),
        crash=st.just(("any", 0))
        | st.tuples(st.sampled_from(["note", "start"]), st.integers(1, 4))
        | st.tuples(st.just("any"), st.integers(1, 60)),
        seconds=PAUSES,
    )
    def start_batch(
        self, keys: list[int], concurrency: int, crash: tuple[str, int], seconds: float
    ) -> None:
        if self.process is not None:
            return
        wire = Wire(self.world, self.ledger, *crash)
        task = self.loop.create_task(self.batch(wire, keys, concurrency))
        self.process = Process(wire, keys, task)
        self.wait(0.01)
        self.wait(seconds)

    async def batch(self, wire: Wire, keys: list[int], concurrency: int) -> list[ExportOutcome]:
        requests = [self.request(key) for key in keys]
        async with ExportClient(self.world.emulator.token(), transport=wire) as client:
            async with client.export_many(
                requests, concurrency=concurrency, ledger=self.ledger
            ) as outcomes:
                return [outcome async for outcome in outcomes]

    @rule(seconds=PAUSES)
    def wait(self, seconds: float) -> None:
        self.do(asyncio.sleep(seconds))
        self.end_process()

    def end_process(self) -> None:
        process = self.process
        if process is None or not (process.wire.is_dead or process.task.done()):
            return
        self.process = None
        if process.wire.is_dead:
            self.kill(process)
        else:
            self.check_outcomes(process.keys, process.task.result())

    def kill(self, process: Process) -> None:
        """Leave the ledger as it was at the moment of the crash."""
        process.task.cancel()
        self.do(asyncio.wait([process.task]))
        for suffix in ("", "-wal", "-shm"):
            with suppress(FileNotFoundError):
                os.remove(f"{self.ledger}{suffix}")
        with suppress(FileNotFoundError):
            os.replace(f"{self.ledger}-at-crash", self.ledger)

    @rule()
    def stop_batch(self) -> None:
        process, self.process = self.process, None
        if process is None:
            return
        process.task.cancel()
        self.do(asyncio.wait([process.task]))

    @rule(count=st.integers(1, 3), outage=st.sampled_from([0.0, 120.0, 700.0]))
    def lose_answers(self, count: int, outage: float) -> None:
        self.world.lost_answers, self.world.outage_after_loss = count, outage

    @rule(seconds=st.sampled_from([10.0, 120.0, 2000.0]))
    def begin_outage(self, seconds: float) -> None:
        self.world.outage_until = self.loop.time() + seconds

    @rule(lag=st.sampled_from([0.0, LIST_LAG]))
    def let_lists_lag(self, lag: float) -> None:
        self.world.list_lag = lag
        self.world.emulator.connection_visibility_delay = lag / 4

    @rule(key=st.sampled_from(KEYS))
    def fail_next_run(self, key: int) -> None:
        self.world.emulator.plan_next_run(self.imodels[key % IMODELS], "Error")

    @rule(key=st.sampled_from(KEYS))
    def change_model(self, key: int) -> None:
        if self.process is None:
            self.revisions[key] += 1

    @rule(key=st.sampled_from(KEYS), is_same=st.booleans())
    def colleague_starts(self, key: int, is_same: bool) -> None:
        """On our connection only while no start of ours is uncertain: the two look the same."""
        imodel_id = self.imodels[key % IMODELS]
        if is_same and self.may_be_uncertain(imodel_id):
            return

        async def start() -> None:
            wire = Wire(self.world, self.ledger, is_perfect=True)
            async with ExportClient(self.world.emulator.token(), transport=wire) as client:
                connection = await client.find_or_create_connection(
                    imodel_id, display_name="itwin-export" if is_same else "colleague"
                )
                with suppress(Conflict):
                    await client.start_run(connection.id, if_active="raise")

        self.do(start())
        self.do(asyncio.sleep(CLOCK_TOLERANCE))
        self.end_process()

    def may_be_uncertain(self, imodel_id: str) -> bool:
        if self.process is not None:
            return True  # a request may be under way
        if not self.ledger.exists():
            return False
        with closing(sqlite3.connect(self.ledger)) as file:
            rows = file.execute(
                "SELECT until FROM exports WHERE state = 'starting' AND imodel_id = ?", (imodel_id,)
            ).fetchall()
        now = EPOCH + timedelta(seconds=self.loop.time())
        return any((now - datetime.fromisoformat(until)).total_seconds() < 180 for (until,) in rows)

    def check_outcomes(self, keys: list[int], outcomes: list[ExportOutcome]) -> None:
        assert Counter(o.request.key for o in outcomes) == Counter(f"k{key}" for key in keys)
        for outcome in outcomes:
            if outcome.ok:
                self.check_outcome(outcome)

    def check_outcome(self, outcome: ExportOutcome) -> None:
        """The run is of this request and revision, and so is the file."""
        assert outcome.run is not None
        wanted = outcome.request.options.input.model_ids
        assert self.world.markers[outcome.run.id] == wanted, "another's run was taken for ours"
        run = self.world.run(outcome.run.id)
        (path,) = outcome.paths
        (task,) = run["jobs"][0]["tasks"]
        file_id = task["exportOutputFileId"]
        assert path.read_bytes() == self.world.emulator.read_file(file_id)

    @invariant()
    def no_request_has_two_runs(self) -> None:
        assert self.world.problems == []

    def teardown(self) -> None:
        try:
            if self.process is not None:
                self.stop_batch()
            self.world.lost_answers = 0
            self.world.outage_until = self.world.list_lag = 0.0
            for _ in range(50):  # planned failures are met first
                outcomes = self.do(self.batch(Wire(self.world, self.ledger), list(KEYS), 4))
                self.check_outcomes(list(KEYS), outcomes)
                if all(outcome.ok for outcome in outcomes):
                    break
            assert [o.error for o in outcomes if not o.ok] == []
            outcomes = self.do(self.batch(Wire(self.world, self.ledger), list(KEYS), 4))
            assert all(outcome.up_to_date for outcome in outcomes)
            self.check_outcomes(list(KEYS), outcomes)
            self.no_request_has_two_runs()
        finally:
            self.do(self.loop.shutdown_asyncgens())
            self.loop.close()
            shutil.rmtree(self.folder)


@pytest.fixture
def machine() -> Iterator[BatchMachine]:
    machine = BatchMachine()
    machine.begin(seed=1, race=0.0)
    yield machine
    machine.teardown()


@pytest.mark.parametrize("later", [1.0, 70.0, 3600.0])
@pytest.mark.parametrize("kind", ["note", "start"])
def test_killed_start_is_found_or_made_once(machine: BatchMachine, kind: str, later: float) -> None:
    machine.start_batch([0, 2], 1, (kind, 1), later)
    assert machine.process is None
    machine.start_batch([0, 2], 1, ("any", 0), 3600.0)
    assert machine.process is None
    assert [len(runs) for runs in machine.world.runs.values()] == [1, 1]


def test_run_of_a_colleague_between_two_killed_starts_is_not_taken(
    machine: BatchMachine,
) -> None:
    machine.start_batch([0], 1, ("note", 1), 3600.0)
    machine.colleague_starts(0, is_same=True)
    machine.wait(3600.0)
    machine.start_batch([0], 1, ("note", 1), 3600.0)
    machine.start_batch([0], 1, ("any", 0), 3600.0)
    assert machine.process is None
    assert len(machine.world.runs) == 2  # the colleague's and ours


@pytest.mark.parametrize("keys", [[0], [2, 0]])
def test_run_of_an_earlier_revision_is_not_taken(machine: BatchMachine, keys: list[int]) -> None:
    machine.start_batch([0], 1, ("start", 1), 900.0)
    assert machine.process is None
    machine.change_model(0)
    machine.start_batch(keys, 1, ("any", 0), 3600.0)
    assert machine.process is None
    assert [len(runs) for runs in machine.world.runs.values()] == [1, 1, 1][: len(keys) + 1]


def test_run_of_an_earlier_revision_is_not_taken_after_another_crash(machine: BatchMachine) -> None:
    machine.start_batch([0], 1, ("start", 1), 1.0)
    machine.change_model(0)
    machine.start_batch([0], 1, ("note", 1), 1.0)
    assert machine.process is None
    machine.start_batch([0], 1, ("any", 0), 3600.0)
    assert machine.process is None
    assert [len(runs) for runs in machine.world.runs.values()] == [1, 1]


def test_run_that_finishes_in_an_outage_after_its_lost_answer_is_found(
    machine: BatchMachine,
) -> None:
    machine.start_batch([0], 1, ("any", 0), 3600.0)
    machine.change_model(0)
    machine.lose_answers(1, 700.0)
    machine.start_batch([0], 1, ("any", 0), 3600.0)
    assert machine.process is None
    assert [len(runs) for runs in machine.world.runs.values()] == [1, 1]


IS_NIGHTLY = os.environ.get("HYPOTHESIS_PROFILE") == "nightly"
pytestmark = pytest.mark.timeout(3600 if IS_NIGHTLY else 300)
TestBatches = BatchMachine.TestCase
TestBatches.settings = settings(
    max_examples=500 if IS_NIGHTLY else 12, stateful_step_count=50 if IS_NIGHTLY else 25
)
