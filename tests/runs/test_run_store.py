"""A start that happens once for a key, in whichever process and after any crash."""

import asyncio
import json
import sqlite3
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from attrs import define, field

from itwin_export_async import (
    Conflict,
    ExportClient,
    ExportOptions,
    LedgerError,
    OutputOptions,
    PermissionDenied,
    RunHandle,
    RunOrigin,
    TransportError,
)
from itwin_export_async._runs.run_store import MemoryRunStore
from itwin_export_async.emulator import Emulator
from tests.support.fakes import answer


class Crash(BaseException):
    """The process ends here."""


class SqliteRunStore:
    """A store in a file, as a user would write one."""

    def __init__(self, path: Path) -> None:
        self._file = sqlite3.connect(path, isolation_level=None)
        self._file.execute("CREATE TABLE IF NOT EXISTS notes (key TEXT PRIMARY KEY, value TEXT)")

    async def get(self, key: str) -> str | None:
        row = self._file.execute("SELECT value FROM notes WHERE key = ?", (key,)).fetchone()
        return None if row is None else row[0]

    async def set(self, key: str, value: str) -> None:
        self._file.execute("REPLACE INTO notes VALUES (?, ?)", (key, value))

    def close(self) -> None:
        self._file.close()


@define
class Crashing:
    """A store and a transport that end the process at the `left`th step."""

    emulator: Emulator
    store: Any
    left: int
    steps: list[str] = field(factory=list)

    def step(self, name: str) -> None:
        self.steps.append(name)
        self.left -= 1
        if self.left == 0:
            raise Crash

    async def get(self, key: str) -> str | None:
        self.step("get")
        value: str | None = await self.store.get(key)
        return value

    async def set(self, key: str, value: str) -> None:
        self.step("before set")
        await self.store.set(key, value)
        self.step("after set")

    async def send(self, request: Any, /) -> Any:
        self.step("before request")
        response = await self.emulator.send(request)
        self.step("after request")
        return response

    def stream(self, request: Any, /) -> Any:
        return self.emulator.stream(request)

    async def close(self) -> None:
        pass


@pytest.fixture(params=["memory", "sqlite"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Any]:
    if request.param == "memory":
        yield MemoryRunStore()
        return
    sqlite = SqliteRunStore(tmp_path / "notes.db")
    yield sqlite
    sqlite.close()


@pytest.fixture
async def connection_id(client: ExportClient, emulator: Emulator) -> str:
    return (await client.create_connection(emulator.add_imodel())).id


async def test_key_has_one_run(client: ExportClient, connection_id: str, store: Any) -> None:
    first = await client.start_once("job 1", connection_id, store=store)
    again = await client.start_once("job 1", connection_id, store=store)
    assert first == again
    assert (first.origin, again.origin) == (RunOrigin.STARTED, RunOrigin.STARTED)
    await first.wait()
    assert await client.start_once("job 1", connection_id, store=store) == first
    other = await client.start_once("job 2", connection_id, store=store)
    assert other != first
    assert len(await client.list_runs(connection_id)) == 2


@pytest.mark.parametrize("later", [0.0, 3000.0])
@pytest.mark.parametrize("if_active", ["join", "wait", "raise"])
async def test_start_that_is_killed_at_any_step_is_continued(
    emulator: Emulator, store: Any, if_active: Any, later: float
) -> None:
    number = 0
    while True:
        number += 1
        key = f"job {number}"
        async with ExportClient(emulator.token(), transport=emulator) as client:
            connection = await client.create_connection(emulator.add_imodel())
        crashing = Crashing(emulator, store, number)
        try:
            async with ExportClient(emulator.token(), transport=crashing) as client:
                await client.start_once(key, connection.id, store=crashing, if_active=if_active)
        except Crash:
            pass
        else:
            break
        await asyncio.sleep(later)
        async with ExportClient(emulator.token(), transport=emulator) as client:
            handles = [
                await client.start_once(key, connection.id, store=store, if_active=if_active)
                for _ in range(2)
            ]
            assert len(set(handles)) == 1
            assert [run.id for run in await client.list_runs(connection.id)] == [handles[0].run_id]
    assert number > 8


@pytest.mark.parametrize("if_active", ["join", "wait", "raise"])
@pytest.mark.parametrize("window", [0.0, 0.2])
async def test_processes_that_start_a_key_at_once_hold_one_run(
    emulator: Emulator, store: Any, if_active: Any, window: float
) -> None:
    emulator.create_conflict_window = window
    async with ExportClient(emulator.token(), transport=emulator) as client:
        connection = await client.create_connection(emulator.add_imodel())

    async def process(delay: float) -> RunHandle:
        await asyncio.sleep(delay)
        async with ExportClient(emulator.token(), transport=emulator) as client:
            return await client.start_once("job", connection.id, store=store, if_active=if_active)

    for delay in (0.0, 0.005, 0.01, 0.02, 0.03):
        handles = await asyncio.gather(process(0), process(delay))
        assert len(set(handles)) == 1
    async with ExportClient(emulator.token(), transport=emulator) as client:
        assert len(await client.list_runs(connection.id)) == 1


@define
class SlowStore:
    """A store that needs a second for each value."""

    store: MemoryRunStore = field(factory=MemoryRunStore)

    async def get(self, key: str) -> str | None:
        value = await self.store.get(key)
        await asyncio.sleep(1)
        return value

    async def set(self, key: str, value: str) -> None:
        await asyncio.sleep(1)
        await self.store.set(key, value)


@pytest.mark.parametrize("delay", [0.0, 0.5, 1.0, 2.5])
@pytest.mark.parametrize("if_active", ["join", "wait"])
async def test_processes_with_a_slow_store_hold_one_run(
    emulator: Emulator, connection_id: str, if_active: Any, delay: float
) -> None:
    store = SlowStore()

    async def process(delay: float) -> RunHandle:
        await asyncio.sleep(delay)
        async with ExportClient(emulator.token(), transport=emulator) as client:
            return await client.start_once("job", connection_id, store=store, if_active=if_active)

    handles = await asyncio.gather(process(0), process(delay))
    assert len(set(handles)) == 1
    assert emulator.state()["runs"][0]["id"] == handles[0].run_id
    assert len(emulator.state()["runs"]) == 1


@pytest.mark.parametrize("if_active", ["join", "wait", "raise"])
async def test_calls_of_one_client_for_a_key_start_one_run(
    client: ExportClient, emulator: Emulator, connection_id: str, if_active: Any
) -> None:
    start = partial(client.start_once, "job", connection_id, store=SlowStore())
    handles = await asyncio.gather(*(start(if_active=if_active) for _ in range(3)))
    assert len(set(handles)) == 1
    assert {handle.origin for handle in handles} == {RunOrigin.STARTED}


async def test_refused_call_leaves_the_note_of_another_process(
    client: ExportClient, emulator: Emulator, connection_id: str, store: Any
) -> None:
    is_sent, may_return = asyncio.Event(), asyncio.Event()

    class Refusing(Crashing):
        async def send(self, request: Any, /) -> Any:
            if request.method != "POST":
                return await super().send(request)
            is_sent.set()
            await may_return.wait()
            return answer(403, "{}")

    async with ExportClient("t", transport=Refusing(emulator, store, 0)) as other:
        call = asyncio.create_task(other.start_once("job", connection_id, store=store))
        await is_sent.wait()
        handle = await client.start_once("job", connection_id, store=store)
        may_return.set()
        assert await call == handle
    await handle.wait()
    assert await client.start_once("job", connection_id, store=store) == handle
    assert len(await client.list_runs(connection_id)) == 1


@pytest.mark.parametrize("is_noted", [True, False])
async def test_refused_call_leaves_the_window_of_another_process(
    client: ExportClient, emulator: Emulator, connection_id: str, is_noted: bool
) -> None:
    store = MemoryRunStore()
    key = "itwin_export_async:start:job"
    window = json.dumps({"since": "2026-11-22T09:00:00+00:00"})

    class Refusing(Crashing):
        async def send(self, request: Any, /) -> Any:
            if request.method != "POST":
                return await super().send(request)
            if is_noted:
                await store.set(key, window)
            return answer(403, "{}")

    async with ExportClient("t", transport=Refusing(emulator, store, 0)) as other:
        with pytest.raises(PermissionDenied):
            await other.start_once("job", connection_id, store=store)
    assert await store.get(key) == (window if is_noted else "{}")


async def test_calls_with_different_stores_do_not_wait_for_each_other(
    client: ExportClient, connection_id: str
) -> None:
    active = await client.start_run(connection_id)
    start = partial(client.start_once, "job", connection_id)
    waiting = asyncio.create_task(start(store=MemoryRunStore(), if_active="wait"))
    await asyncio.sleep(1)
    assert await start(store=MemoryRunStore(), if_active="join") == active
    assert not waiting.done()
    assert await waiting != active


async def test_run_of_another_key_is_not_taken(
    client: ExportClient, connection_id: str, store: Any
) -> None:
    first = await client.start_once("job 1", connection_id, store=store)
    with pytest.raises(Conflict) as caught:
        await client.start_once("job 2", connection_id, store=store, if_active="raise")
    assert caught.value.handle == first
    second = await client.start_once("job 2", connection_id, store=store, if_active="wait")
    assert second != first
    assert second.origin is RunOrigin.STARTED


async def test_lost_answer_of_another_key_is_left_to_it(
    client: ExportClient, connection_id: str, emulator: Emulator, store: Any
) -> None:
    first = await client.start_once("job 1", connection_id, store=store)
    await first.wait()
    note = {"since": "2026-11-22T09:00:00+00:00", "until": "2026-11-22T09:59:00+00:00"}
    await store.set("itwin_export_async:start:job 2", json.dumps(note))
    second = await client.start_once("job 2", connection_id, store=store)
    assert second != first


async def test_run_of_another_key_is_not_recovered_after_a_lost_request(
    client: ExportClient, connection_id: str, emulator: Emulator, store: Any
) -> None:
    first = await client.start_once("job 1", connection_id, store=store)
    emulator.inject("create_run", ConnectionResetError())
    second = await client.start_once("job 2", connection_id, store=store)
    assert second == first
    assert second.joined


async def test_uncertain_start_is_recovered_by_the_next_call(
    client: ExportClient, connection_id: str, emulator: Emulator, store: Any
) -> None:
    emulator.inject("create_run", ConnectionResetError(), apply_effect=True)
    emulator.inject("create_run", *[ConnectionRefusedError()] * 4)
    with pytest.raises(TransportError):
        await client.start_once("job", connection_id, store=store)
    await asyncio.sleep(3000)
    handle = await client.start_once("job", connection_id, store=store)
    assert handle.origin is RunOrigin.RECOVERED
    assert len(await client.list_runs(connection_id)) == 1


async def test_run_that_the_key_owns_is_held_without_a_note(
    client: ExportClient, connection_id: str
) -> None:
    store = MemoryRunStore()
    first = await client.start_once("job", connection_id, store=store)
    await store.set("itwin_export_async:start:job", "{}")
    again = await client.start_once("job", connection_id, store=store, if_active="raise")
    assert again == first


async def test_joined_run_is_joined_again(
    client: ExportClient, connection_id: str, store: Any
) -> None:
    active = await client.start_run(connection_id)
    joined = await client.start_once("job", connection_id, store=store)
    await active.wait()
    again = await client.start_once("job", connection_id, store=store)
    assert joined == again == active
    assert joined.joined
    assert again.joined


async def test_conflict_without_a_handle_is_raised(
    client: ExportClient, connection_id: str, emulator: Emulator, store: Any
) -> None:
    emulator.inject("create_run", *[answer(409, "{}")] * 5)
    with pytest.raises(Conflict) as caught:
        await client.start_once("job", connection_id, store=store)
    assert caught.value.handle is None


async def test_recovered_run_knows_its_blob(
    client: ExportClient, connection_id: str, emulator: Emulator, store: Any, tmp_path: Path
) -> None:
    url = emulator.user_blob("mine.ifc")
    output = OutputOptions(location="USER_BLOB_STORAGE", output_sas_url=url)
    options = ExportOptions(output=output)
    first = await client.start_once("job", connection_id, options, store=store)
    again = await client.start_once("job", connection_id, options, store=store)
    await again.wait()
    assert await again.download(tmp_path / "a.ifc") == [tmp_path / "a.ifc"]
    assert first == again


@pytest.mark.parametrize(
    "spoil",
    [
        lambda _: "x",
        lambda _: "[]",
        lambda _: "null",
        lambda note: json.dumps({**note, "resume_token": 7}),
        lambda note: json.dumps({**note, "resume_token": "1.x.y"}),
        lambda note: json.dumps({**note, "origin": "guessed"}),
        lambda _: json.dumps({"since": "noon"}),
        lambda _: json.dumps({"since": "2026-11-22T09:00:00"}),
        lambda _: json.dumps({"since": "0001-01-01T00:00:00+00:00"}),
        lambda _: json.dumps({"since": 7}),
    ],
)
async def test_spoiled_note_is_an_error(
    client: ExportClient, connection_id: str, spoil: Callable[[dict[str, Any]], str]
) -> None:
    store, key = MemoryRunStore(), "itwin_export_async:start:job"
    await client.start_once("job", connection_id, store=store)
    await store.set(key, spoil(json.loads(await store.get(key) or "")))
    with pytest.raises(LedgerError, match="'job': the store holds a value that is no note") as e:
        await client.start_once("job", connection_id, store=store)
    assert e.value.key == "job"


async def test_spoiled_owner_of_a_run_is_an_error(client: ExportClient, connection_id: str) -> None:
    store = MemoryRunStore()
    handle = await client.start_once("job", connection_id, store=store)
    await store.set(f"itwin_export_async:run:{handle.run_id}", "[]")
    with pytest.raises(LedgerError):
        await client.start_once("other", connection_id, store=store, if_active="raise")


@pytest.mark.parametrize("key", ["", None, 7])
async def test_key_must_be_a_text(client: ExportClient, key: Any) -> None:
    with pytest.raises(ValueError, match="key must be a text that is not empty"):
        await client.start_once(key, "c1", store=MemoryRunStore())
