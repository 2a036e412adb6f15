"""A start that happens once for a key, in whichever process and after a crash at any step."""

import asyncio
from typing import Any

import pytest

from itwin_export_async import (
    Conflict,
    ExportClient,
    ExportOptions,
    LedgerError,
    MemoryRunStore,
    OutputOptions,
    RetryPolicy,
    RunOrigin,
    TransportError,
)
from itwin_export_async.emulator import Emulator
from tests.support.batches import started


class Crash(Exception):
    """The process dies."""


class CrashingStore(MemoryRunStore):
    """Dies before or after its n-th write, until it is restarted."""

    def __init__(self, step: int, *, after: bool) -> None:
        super().__init__()
        self.step, self.after = step, after
        self.writes = 0

    async def set(self, key: str, value: str) -> None:
        self.writes += 1
        if self.writes == self.step and not self.after:
            raise Crash
        await super().set(key, value)
        if self.writes == self.step and self.after:
            raise Crash


def new_client(emulator: Emulator, **more: Any) -> ExportClient:
    return ExportClient(emulator.token(lifetime=1e6), transport=emulator, **more)


async def new_connection(emulator: Emulator) -> str:
    async with new_client(emulator) as client:
        imodel_id = emulator.add_imodel("Bridge")
        return (await client.find_or_create_connection(imodel_id, display_name="x")).id


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("step", [1, 2, 3])
@pytest.mark.parametrize("later", [0, 30, 4000])
async def test_a_start_killed_at_any_step_leaves_one_run(
    emulator: Emulator, step: int, after: bool, later: float
) -> None:
    connection_id = await new_connection(emulator)
    store = CrashingStore(step, after=after)
    async with new_client(emulator) as client:
        with pytest.raises(Crash):
            await client.start_once("k", connection_id, store=store)
    await asyncio.sleep(later)
    async with new_client(emulator) as client:
        run = await client.start_once("k", connection_id, store=store)
        again = await client.start_once("k", connection_id, store=store)
        await run.wait()
        assert again.run_id == run.run_id
    assert started(emulator) == 1


async def test_a_start_whose_response_is_lost_is_found_by_the_next_process(
    emulator: Emulator,
) -> None:
    connection_id = await new_connection(emulator)
    store = MemoryRunStore()
    emulator.inject("create_run", ConnectionResetError(), apply_effect=True)
    async with new_client(emulator, retry=RetryPolicy(attempts=1)) as client:
        with pytest.raises(TransportError):
            await client.start_once("k", connection_id, store=store)
    await asyncio.sleep(30)
    async with new_client(emulator) as client:
        run = await client.start_once("k", connection_id, store=store)
        assert run.origin is RunOrigin.RECOVERED
        assert len(await client.list_runs(connection_id)) == 1


async def test_calls_with_one_key_in_one_process_start_one_run(emulator: Emulator) -> None:
    connection_id = await new_connection(emulator)
    store = MemoryRunStore()
    async with new_client(emulator) as client:
        runs = await asyncio.gather(
            *(
                client.start_once("k", connection_id, store=store, if_active="wait")
                for _ in range(5)
            )
        )
    assert len({run.run_id for run in runs}) == 1
    assert started(emulator) == 1


@pytest.mark.parametrize("if_active", ["wait", "join"])
async def test_processes_that_race_for_one_key_start_one_run(
    emulator: Emulator, if_active: Any
) -> None:
    connection_id = await new_connection(emulator)
    store = MemoryRunStore()
    async with new_client(emulator) as one, new_client(emulator) as two:
        runs = await asyncio.gather(
            *(
                client.start_once("k", connection_id, store=store, if_active=if_active)
                for client in (one, two)
            )
        )
        assert runs[0].run_id == runs[1].run_id
        again = await two.start_once("k", connection_id, store=store)
        assert again.run_id == runs[0].run_id
    assert started(emulator) == 1


class SlowStore(MemoryRunStore):
    """Takes so many seconds for the first note of a run's owner."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.seconds = seconds

    async def set(self, key: str, value: str) -> None:
        if ":run:" in key:
            await asyncio.sleep(self.seconds)
        await super().set(key, value)


async def test_a_process_that_notes_its_run_late_is_still_recognized(emulator: Emulator) -> None:
    connection_id = await new_connection(emulator)
    store = SlowStore(20)
    async with new_client(emulator) as one, new_client(emulator) as two:
        first = asyncio.create_task(one.start_once("k", connection_id, store=store))
        await asyncio.sleep(5)
        second = await two.start_once("k", connection_id, store=store, if_active="wait")
        assert (await first).run_id == second.run_id
        assert second.origin is RunOrigin.RECOVERED
    assert started(emulator) == 1


async def test_another_key_waits_for_the_run_or_is_refused(emulator: Emulator) -> None:
    connection_id = await new_connection(emulator)
    store = MemoryRunStore()
    async with new_client(emulator) as client:
        first = await client.start_once("a", connection_id, store=store)
        with pytest.raises(Conflict):
            await client.start_once("b", connection_id, store=store, if_active="raise")
        second = await client.start_once("c", connection_id, store=store, if_active="wait")
        joined = await client.start_once("d", connection_id, store=store)
        again = await client.start_once("d", connection_id, store=store)
    assert first.run_id != second.run_id == joined.run_id == again.run_id
    assert joined.origin is again.origin is RunOrigin.JOINED
    assert started(emulator) == 2


async def test_the_run_of_another_key_is_not_recovered(emulator: Emulator) -> None:
    connection_id = await new_connection(emulator)
    store = CrashingStore(1, after=True)
    async with new_client(emulator) as client:
        with pytest.raises(Crash):
            await client.start_once("a", connection_id, store=store)
        other = await client.start_once("b", connection_id, store=store)
        await other.wait()
        run = await client.start_once("a", connection_id, store=store)
    assert run.run_id != other.run_id
    assert started(emulator) == 2


async def test_the_output_in_a_blob_of_the_caller_is_found_after_a_restart(
    emulator: Emulator, tmp_path: Any
) -> None:
    connection_id = await new_connection(emulator)
    store = MemoryRunStore()
    options = ExportOptions(
        output=OutputOptions(
            location="USER_BLOB_STORAGE",
            output_sas_url=emulator.user_blob("a.ifc"),
        )
    )
    async with new_client(emulator) as client:
        await client.start_once("k", connection_id, options, store=store)
    async with new_client(emulator) as client:
        run = await client.start_once("k", connection_id, options, store=store)
        await run.wait()
        assert await run.download(tmp_path / "a.ifc") == [tmp_path / "a.ifc"]


@pytest.mark.parametrize("key", ["", None, 7])
async def test_a_key_is_a_text(client: ExportClient, key: Any) -> None:
    with pytest.raises(ValueError, match="key must be a text that is not empty"):
        await client.start_once(key, "c", store=MemoryRunStore())


@pytest.mark.parametrize("text", ["", "{", "[]", "7", '{"since": 7}', '{"origin": "nowhere"}'])
async def test_damaged_note_is_a_ledger_error(emulator: Emulator, text: str) -> None:
    connection_id = await new_connection(emulator)
    store = MemoryRunStore()
    await store.set("itwin_export_async:start:k", text)
    async with new_client(emulator) as client:
        with pytest.raises(LedgerError, match="no note of a start"):
            await client.start_once("k", connection_id, store=store)


@pytest.mark.parametrize("text", ["{", "[]", "{}"])
async def test_damaged_owner_is_a_ledger_error(emulator: Emulator, text: str) -> None:
    connection_id = await new_connection(emulator)
    store = MemoryRunStore()
    async with new_client(emulator) as client:
        run = await client.start_run(connection_id)
        await store.set(f"itwin_export_async:run:{run.run_id}", text)
        with pytest.raises(LedgerError, match="no note of a start"):
            await client.start_once("k", connection_id, store=store, if_active="wait")
