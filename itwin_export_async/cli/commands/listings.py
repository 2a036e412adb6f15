"""`itwin-export runs` and `connections`: what there is."""

import json
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

from rich.cells import cell_len

from itwin_export_async import Connection, Run
from itwin_export_async.cli.options import OpenClient
from itwin_export_async.cli.output.console import flat, harmless, tell
from itwin_export_async.cli.output.format import duration
from itwin_export_async.cli.runner import say

_YET_TO_COME = datetime.max.replace(tzinfo=UTC)


async def list_runs(open_client: OpenClient, connection_id: str, *, as_json: bool) -> None:
    """Print the runs of a connection, newest first."""
    async with open_client() as client:
        runs = [run async for run in client.list_runs(connection_id)]
    runs.sort(key=lambda run: run.start_date_time or _YET_TO_COME, reverse=True)
    if as_json:
        _print_lines(map(_run, runs))
        return
    rows = [
        (run.id, _moment(run.start_date_time), _took(run), _result(run) or run.state.value)
        for run in runs
    ]
    _print_table(("run", "began (UTC)", "took", "state"), rows, "no runs yet")


async def list_connections(open_client: OpenClient, imodel_id: str, *, as_json: bool) -> None:
    """Print the export connections of an iModel."""
    async with open_client() as client:
        connections = [found async for found in client.list_connections(imodel_id)]
    if as_json:
        _print_lines(map(_connection, connections))
        return
    rows = [
        (
            connection.id,
            connection.display_name or "",
            connection.authentication_type.value if connection.authentication_type else "",
        )
        for connection in connections
    ]
    _print_table(("connection", "name", "in the name of"), rows, "no connections yet")


def _print_lines(told: Iterable[dict[str, Any]]) -> None:
    for each in told:
        print(json.dumps(each))


def _print_table(names: tuple[str, ...], rows: Sequence[tuple[str, ...]], nothing: str) -> None:
    """Each row is a line, as long as it is: what is listed is there to be copied."""
    if not rows:
        say(nothing)
        return
    table = [[harmless(flat(text)) for text in row] for row in (names, *rows)]
    widths = [max(map(cell_len, column)) for column in zip(*table, strict=True)]
    for row in table:
        told = (
            text + " " * (width - cell_len(text)) for text, width in zip(row, widths, strict=True)
        )
        tell("  ".join(told).rstrip())


def _run(run: Run) -> dict[str, Any]:
    return {
        "run_id": run.id,
        "connection_id": run.connection_id,
        "state": run.state.value,
        "result": _result(run) or None,
        "run_started": run.start_date_time and run.start_date_time.isoformat(),
        "run_ended": run.end_date_time and run.end_date_time.isoformat(),
        "output_file_ids": list(run.output_file_ids),
    }


def _connection(connection: Connection) -> dict[str, Any]:
    kind = connection.authentication_type
    return {
        "connection_id": connection.id,
        "imodel_id": connection.imodel_id,
        "display_name": connection.display_name,
        "authentication_type": kind and kind.value,
    }


def _result(run: Run) -> str:
    return run.outcome.value if run.is_completed else ""


def _moment(moment: datetime | None) -> str:
    return f"{moment:%Y-%m-%d %H:%M:%S}" if moment else ""


def _took(run: Run) -> str:
    return "" if run.duration is None else duration(run.duration)
