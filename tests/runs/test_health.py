"""What a client says of itself without a request."""

import asyncio
from collections.abc import Coroutine
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from itwin_export_async import ClientCredentials, ExportClient, RateLimit
from itwin_export_async.emulator import Emulator
from tests.support.fakes import answer


async def test_a_closed_client_is_not_healthy(emulator: Emulator) -> None:
    client = ExportClient(emulator.token(), transport=emulator)
    assert not client.health().is_open
    async with client:
        assert client.health().is_open
    assert not client.health().is_open
    assert not emulator.requests


async def test_an_open_client_names_its_token_its_last_response_and_its_runs(
    emulator: Emulator,
) -> None:
    imodel_id = emulator.add_imodel()
    credentials = ClientCredentials(emulator.client_id, emulator.client_secret)
    async with ExportClient(credentials, transport=emulator) as client:
        health = client.health()
        assert (health.last_response_at, health.runs_polled) == (None, 0)
        connection = await client.create_connection(imodel_id)
        run = await client.start_run(connection.id)
        waiting = asyncio.create_task(run.wait())
        await asyncio.sleep(5)
        health = client.health()
        assert health.last_response_at is not None
        assert health.last_response_at <= datetime.now(UTC)
        assert health.token_expires_at is not None
        assert (health.outage_since, health.runs_polled) == (None, 1)
        await waiting
        assert client.health().runs_polled == 0


async def test_remaining_calls_are_those_of_the_rate_limit(emulator: Emulator) -> None:
    limit = RateLimit(per_minute=5)
    async with ExportClient(emulator.token(), transport=emulator, rate_limit=limit) as client:
        assert client.health().remaining_calls == 5
        await client.list_connections(emulator.add_imodel())
        assert client.health().remaining_calls == 4
    unlimited = ExportClient(emulator.token(), transport=emulator, rate_limit=RateLimit())
    async with unlimited as client:
        assert client.health().remaining_calls is None


async def check_outage(client: ExportClient, work: Coroutine[Any, Any, Any]) -> None:
    """The outage that the work meets is dated while it lasts, and over when the work is done."""
    task = asyncio.create_task(work)
    await asyncio.sleep(20)
    began_at = client.health().outage_since
    assert began_at is not None
    await asyncio.sleep(20)
    later = client.health().outage_since
    assert later is not None
    assert abs((later - began_at).total_seconds()) < 60
    await task
    assert client.health().outage_since is None


async def test_an_outage_is_dated_while_it_lasts(emulator: Emulator, tmp_path: Path) -> None:
    imodel_id = emulator.add_imodel()
    async with ExportClient(emulator.token(lifetime=1e6), transport=emulator) as client:
        connection = await client.create_connection(imodel_id)
        run = await client.start_run(connection.id)
        emulator.inject("get_run", *[answer(503)] * 30)
        await check_outage(client, run.wait())
        emulator.inject("list_connections", *[answer(503)] * 30)
        await check_outage(client, client.export_imodel(imodel_id, tmp_path))
