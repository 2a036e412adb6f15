"""Connections that are found by name, or created once."""

import asyncio
import logging
from pathlib import Path

import pytest

from itwin_export_async import ExportClient, ProtocolError, RetryPolicy, TransportError
from itwin_export_async.emulator import Emulator
from tests.support.batches import collect, maker
from tests.support.fakes import Outcome, answer

LOST: list[Outcome] = [ConnectionResetError(), TimeoutError(), answer(502), answer(500, "{}")]


async def ids(client: ExportClient, imodel_id: str) -> list[str]:
    await asyncio.sleep(60)  # lists may lag
    return [connection.id for connection in await client.list_connections(imodel_id)]


@pytest.mark.parametrize("lag", [0.0, 3.0, 9.0])
@pytest.mark.parametrize("lost", [*LOST, answer(201, "garbage"), answer(201, "{}")])
async def test_lagging_list_makes_no_second_connection(
    client: ExportClient, emulator: Emulator, lag: float, lost: Outcome
) -> None:
    emulator.connection_visibility_delay = lag
    imodel_id = emulator.add_imodel()
    emulator.inject("create_connection", lost, apply_effect=True)
    made = await client.find_or_create_connection(imodel_id, display_name="nightly")
    assert await ids(client, imodel_id) == [made.id]
    emulator.assert_no_violations()


async def test_connection_that_was_not_created_is_created_once_the_list_was_read_again(
    client: ExportClient, emulator: Emulator
) -> None:
    imodel_id = emulator.add_imodel()
    emulator.inject("create_connection", ConnectionResetError())
    made = await client.find_or_create_connection(imodel_id, display_name="nightly")
    assert await ids(client, imodel_id) == [made.id]
    assert emulator.count("list_connections") == 1 + 4 + 2  # two pages of `ids`


async def test_nothing_is_created_again_after_a_201(
    client: ExportClient, emulator: Emulator
) -> None:
    emulator.connection_visibility_delay = 30.0
    imodel_id = emulator.add_imodel()
    emulator.inject("create_connection", answer(201, "garbage"), apply_effect=True)
    with pytest.raises(ProtocolError, match="was created, but the response does not name it") as e:
        await client.find_or_create_connection(imodel_id, display_name="nightly")
    assert not e.value.is_transient
    assert len(await ids(client, imodel_id)) == 1


async def test_processes_that_raced_agree_afterwards(emulator: Emulator) -> None:
    emulator.connection_visibility_delay = 3.0
    imodel_id = emulator.add_imodel()

    async def process() -> str:
        async with ExportClient(emulator.token(), transport=emulator) as client:
            found = await client.find_or_create_connection(imodel_id, display_name="nightly")
            return found.id

    assert len(set(await asyncio.gather(process(), process()))) == 2
    await asyncio.sleep(60)
    assert len({await process() for _ in range(3)}) == 1


@pytest.mark.parametrize("name", ["Brücke", " Brücke\n", "Bru\u0308cke", "\tBru\u0308cke  "])
async def test_names_are_compared_composed_and_without_outer_blanks(
    client: ExportClient, emulator: Emulator, name: str
) -> None:
    imodel_id = emulator.add_imodel()
    made = await client.find_or_create_connection(imodel_id, display_name="Brücke")
    assert (await client.find_or_create_connection(imodel_id, display_name=name)).id == made.id
    other = await client.find_or_create_connection(imodel_id, display_name="brücke")
    assert other.id != made.id


async def test_blank_name_is_refused(client: ExportClient, emulator: Emulator) -> None:
    with pytest.raises(ValueError, match="display_name is empty"):
        await client.find_or_create_connection(emulator.add_imodel(), display_name="  ")
    assert emulator.requests == []


async def test_failing_list_after_a_creation_is_raised(emulator: Emulator) -> None:
    imodel_id = emulator.add_imodel()
    emulator.inject("list_connections", None, ConnectionResetError())
    emulator.inject("create_connection", ConnectionResetError(), apply_effect=True)
    retry = RetryPolicy(attempts=1)
    async with ExportClient(emulator.token(), transport=emulator, retry=retry) as client:
        with pytest.raises(TransportError):
            await client.find_or_create_connection(imodel_id, display_name="nightly")


async def test_outage_after_a_creation_makes_no_second_connection_in_a_batch(
    emulator: Emulator, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    emulator.connection_visibility_delay = 9.0
    (request,) = maker(emulator, tmp_path)(1)
    emulator.inject("list_connections", None, *[ConnectionResetError()] * 2)
    emulator.inject("create_connection", ConnectionResetError(), apply_effect=True)
    retry = RetryPolicy(attempts=1)
    async with ExportClient(emulator.token(), transport=emulator, retry=retry) as client:
        with caplog.at_level(logging.INFO, "itwin_export_async.runs"):
            (outcome,) = await collect(client, [request])
        assert outcome.ok
        assert await ids(client, request.imodel_id) == [outcome.connection_id]
    assert "creation is uncertain, listing again" in caplog.text


async def test_created_connection_is_logged(
    client: ExportClient, emulator: Emulator, caplog: pytest.LogCaptureFixture
) -> None:
    imodel_id = emulator.add_imodel()
    with caplog.at_level(logging.INFO, "itwin_export_async.runs"):
        made = await client.find_or_create_connection(imodel_id, display_name="nightly")
    (record,) = caplog.records
    assert record.message == f"connection 'nightly' of iModel {imodel_id}: created {made.id}"
    assert record.itwin["connection_id"] == made.id  # type: ignore[attr-defined]
