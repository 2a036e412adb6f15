"""`itwin-export run` and `watch`: one real export."""

import asyncio
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

from attrs import frozen
from rich.console import Console
from rich.filesize import decimal

from itwin_export_async import ExportClient, ExportOptions, RunHandle, RunTimeout, RunUnreachable
from itwin_export_async._runs import UNSET
from itwin_export_async._starting import IfActive, checked_if_active
from itwin_export_async._storage import is_folder, prepare_folder
from itwin_export_async.cli.board import Board, Row
from itwin_export_async.cli.ending import say


@frozen(kw_only=True)
class ExportOrder:
    """What was asked for on the command line."""

    imodel_id: str
    output: str
    ifc_version: str | None
    connection: str
    authentication_type: str | None
    if_active: str
    timeout: float | None


async def run_export(
    open_client: Callable[[], ExportClient], order: ExportOrder, base_url: str | None
) -> None:
    """Connection, run, wait, download. What cannot work is said before anything is sent."""
    options = ExportOptions(ifc_version=cast(Any, order.ifc_version))
    checked_if_active(order.if_active)
    await _prepare(order.output)
    async with open_client() as client:
        with Board(Console(stderr=True)) as board:
            row = board.add(order.imodel_id)
            connection = await client.find_or_create_connection(
                order.imodel_id,
                display_name=order.connection,
                authentication_type=order.authentication_type,
            )
            run = await client.start_run(
                connection.id, options, if_active=cast(IfActive, order.if_active)
            )
            if run.joined:
                say(f"run {run.run_id} was active already; waiting for that one")
            await _see_through(run, board, row, order.output, order.timeout, base_url)


async def watch_run(
    open_client: Callable[[], ExportClient],
    token: str,
    output: str,
    timeout: float | None,
    base_url: str | None,
) -> None:
    """Wait for a run that was left, and download what it made."""
    async with open_client() as client:
        run = client.resume(token)
        await _prepare(output)
        with Board(Console(stderr=True)) as board:
            await _see_through(run, board, board.add("run"), output, timeout, base_url)


async def _prepare(output: str) -> None:
    await prepare_folder(Path(output) if is_folder(output) else Path(output).parent)


async def _see_through(
    run: RunHandle,
    board: Board,
    row: Row,
    output: str,
    timeout: float | None,
    base_url: str | None,
) -> None:
    board.started(row, run.run_id)
    try:
        final = await run.wait(
            timeout=UNSET if timeout is None else timeout,
            on_update=lambda update: board.updated(row, update),
        )
        paths = await run.download(output)
    except (RunTimeout, RunUnreachable, asyncio.CancelledError):
        say(f"this continues:\n  {_continuation(run, output, base_url)}")
        raise
    board.ended(row, final.outcome.value)
    for path in paths:
        print(f"{path} ({decimal(path.stat().st_size)})")


def _continuation(run: RunHandle, output: str, base_url: str | None) -> str:
    words = ["itwin-export", "watch", run.token, "-o", output]
    return shlex.join(words + (["--base-url", base_url] if base_url else []))
