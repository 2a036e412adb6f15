"""`itwin-export run` and `watch`: one real export."""

import asyncio
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from attrs import frozen

from itwin_export_async import (
    ExportClient,
    ExportOptions,
    RequestStats,
    RunFailed,
    RunHandle,
)
from itwin_export_async._client import REDIRECT_URL
from itwin_export_async._files.download import check_destination
from itwin_export_async._protocol.files import was_skipped
from itwin_export_async._protocol.runs import Service
from itwin_export_async._protocol.urls import validate_id
from itwin_export_async._runs.consent import Consent
from itwin_export_async._runs.deadline import USE_DEFAULT
from itwin_export_async._runs.starter import validate_if_active
from itwin_export_async.cli.export_record import Record
from itwin_export_async.cli.options import OpenClient
from itwin_export_async.cli.output.console import Window, tell
from itwin_export_async.cli.output.format import size
from itwin_export_async.cli.output.json_lines import line_of
from itwin_export_async.cli.output.progress import Board, shown
from itwin_export_async.cli.output.report.page import prepare_report, write_report
from itwin_export_async.cli.path_checks import check_apart
from itwin_export_async.cli.runner import FAULTS, say


@frozen(kw_only=True)
class Delivery:
    """Where the output goes, and how that is told. `base_url` None is that of the environment."""

    output: str
    base_url: str | None
    timeout: float | None
    json: bool = False
    report: Path | None = None

    async def prepare(self) -> None:
        """Make the folders that will be written to, or raise what is wrong with the places."""
        check_apart([("the output", self.output), ("the report", self.report)])
        check_destination(self.output, name="output")
        if self.report is not None:
            await prepare_report(self.report)


@frozen(kw_only=True)
class ExportOrder:
    """What was asked for on the command line."""

    imodel_id: str
    ifc_version: str | None
    connection: str
    authentication_type: str | None
    if_active: str


async def run_export(open_client: OpenClient, order: ExportOrder, delivery: Delivery) -> None:
    """Connection, run, wait, download. What cannot work is said before anything is sent."""
    imodel_id = validate_id("imodel_id", order.imodel_id)
    client = open_client()
    await delivery.prepare()
    record = Record(name=imodel_id, imodel_id=imodel_id, destination=delivery.output)
    async with client:
        with _told(record, delivery, client) as board:
            run = await _start(client, order)
            await _see_through(run, board, record, delivery)


async def start_only(open_client: OpenClient, order: ExportOrder, delivery: Delivery) -> None:
    """Start the run, and print the token that takes it up again."""
    validate_id("imodel_id", order.imodel_id)
    async with open_client() as client:
        run = await _start(client, order)
        say(_how_to_go_on(run, delivery))
        print(run.resume_token)


async def watch_run(open_client: OpenClient, token: str, delivery: Delivery) -> None:
    """Wait for a run that was left, and download what it made."""
    async with open_client() as client:
        run = client.resume(token)
        await delivery.prepare()
        record = Record(name="run", destination=delivery.output)
        with _told(record, delivery, client) as board:
            await _see_through(run, board, record, delivery)


async def _start(client: ExportClient, order: ExportOrder) -> RunHandle:
    options = ExportOptions(ifc_version=order.ifc_version)
    connection = await client.find_or_create_connection(
        order.imodel_id,
        display_name=order.connection,
        authentication_type=order.authentication_type,
    )
    await Consent(client.session, REDIRECT_URL).require(Service.EXPORT, connection)
    if_active = validate_if_active(order.if_active)
    run = await client.start_run(connection.id, options, if_active=if_active)
    if run.joined:
        say(f"run {run.run_id} was active already; it is that one, and may have other options")
    return run


@contextmanager
def _told(record: Record, delivery: Delivery, client: ExportClient) -> Iterator[Board]:
    """The board that shows the export; what comes of it is told however the block ends."""
    board, began = Board(Window(stderr=True)), datetime.now(UTC)
    board.add(record)
    try:
        with shown(board.console, board.table):
            yield board
        _tell_output(record, delivery)
    except asyncio.CancelledError:
        if board.run is not None:
            say(_how_to_go_on(board.run, delivery))
        raise
    except FAULTS as error:
        record.end(error=error)
        if board.run is not None and not isinstance(error, RunFailed):
            error.add_note(_how_to_go_on(board.run, delivery))
        raise
    finally:
        if delivery.json and record.ended is not None:
            print(line_of(record), flush=True)
        if delivery.report is not None:
            _report(delivery.report, record, began=began, spent=client.session.stats)


def _report(path: Path, record: Record, *, began: datetime, spent: RequestStats) -> None:
    try:
        write_report(path, [record], began=began, now=datetime.now(UTC), spent=spent)
    except OSError as error:
        if record.ok:
            raise
        say(f"{error}")  # and what went wrong before it is still to be told


async def _see_through(run: RunHandle, board: Board, record: Record, delivery: Delivery) -> None:
    board.started(record, run)
    final = await run.wait(
        timeout=USE_DEFAULT if delivery.timeout is None else delivery.timeout,
        on_update=lambda update: board.updated(record, update),
    )
    record.end(paths=() if was_skipped(final) else await run.download(delivery.output))
    board.ended(record)


def _tell_output(record: Record, delivery: Delivery) -> None:
    """Once the picture is gone, which would break long lines."""
    if not record.files:
        say("nothing was exported: the service skipped the run")
    if not delivery.json:
        for file in record.files:
            tell(f"{file.path} ({size(file.size)})")


def _how_to_go_on(run: RunHandle, delivery: Delivery) -> str:
    said = ["itwin-export", "watch", run.resume_token, "-o", delivery.output]
    said += ["--base-url", delivery.base_url] if delivery.base_url else []
    said += ["--json"] if delivery.json else []
    said += ["--report", str(delivery.report)] if delivery.report else []
    return f"this continues:\n  {shlex.join(said)}"
