"""What the tests of batches share: requests, outcomes, and what a ledger says."""

import asyncio
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

from itwin_export_async import ExportClient, ExportOutcome, ExportRequest
from itwin_export_async.emulator import Emulator

Make = Callable[[int], list[ExportRequest]]


def maker(emulator: Emulator, folder: Path) -> Make:
    """Makes requests `k0`, `k1`, ..., each of an iModel and with a file of its own."""

    def make(count: int) -> list[ExportRequest]:
        return [
            ExportRequest(
                imodel_id=emulator.add_imodel(f"iModel {n}"),
                destination=folder / f"{n}.ifc",
                key=f"k{n}",
            )
            for n in range(count)
        ]

    return make


async def collect(client: ExportClient, requests: Any, **more: Any) -> list[ExportOutcome]:
    return [outcome async for outcome in client.export_many(requests, **more)]


def started(emulator: Emulator) -> int:
    """How many runs were started, and the answer came."""
    return sum(r.operation == "create_run" and r.status == 202 for r in emulator.requests)


async def list_runs(client: ExportClient, request: ExportRequest) -> int:
    """How many runs there are of the request's iModel."""
    connections = await client.list_connections(request.imodel_id)
    return sum([len(await client.list_runs(connection.id)) for connection in connections])


def states(path: Path) -> dict[str, str]:
    with closing(sqlite3.connect(path)) as file:
        return dict(file.execute("SELECT key, state FROM exports"))


def tasks_left() -> set[Any]:
    return asyncio.all_tasks() - {asyncio.current_task()}


def check(emulator: Emulator, outcome: ExportOutcome) -> None:
    """The one file is there and is that of its run."""
    assert outcome.ok, outcome.error
    assert outcome.run is not None
    (path,) = outcome.paths
    assert path.read_bytes() == emulator.read_file(outcome.run.output_file_ids[0])
