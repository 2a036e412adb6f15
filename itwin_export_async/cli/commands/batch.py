"""`itwin-export batch`: many exports, from a file that says which."""

import asyncio
import os
import sys
from contextlib import aclosing
from datetime import UTC, datetime
from pathlib import Path
from typing import TextIO

from attrs import define, field, frozen

from itwin_export_async import (
    AuthenticationFailed,
    AuthorizationRequired,
    ExportClient,
    ExportRequest,
    LedgerError,
    RequestStats,
    RunUpdate,
    TokenError,
)
from itwin_export_async._files.download import prepare_folder
from itwin_export_async._runs.starter import validate_if_active
from itwin_export_async.cli.batch_file import read_sheet
from itwin_export_async.cli.errors import RefusedLedger, failed_tasks, headline, remedy
from itwin_export_async.cli.export_record import Record
from itwin_export_async.cli.input_file import content_of
from itwin_export_async.cli.options import OpenClient
from itwin_export_async.cli.output.batch_progress import Overview
from itwin_export_async.cli.output.console import Window, tell
from itwin_export_async.cli.output.format import count, duration, size
from itwin_export_async.cli.output.json_lines import line_of
from itwin_export_async.cli.output.progress import shown
from itwin_export_async.cli.output.report.page import prepare_report, write_report
from itwin_export_async.cli.path_checks import check_apart
from itwin_export_async.cli.runner import say

_FAILURES_TOLD = 20


@frozen(kw_only=True)
class BatchOrder:
    """What was asked for on the command line. `again` is the command itself."""

    file: str
    folder: str
    ledger: Path | None
    concurrency: int
    ifc_version: str | None
    connection: str
    authentication_type: str | None
    if_active: str
    timeout: float | None
    report: Path | None
    json: bool
    again: str


async def run_batch(open_client: OpenClient, order: BatchOrder) -> int:
    """The exit code of all exports. What cannot work is said before anything is sent."""
    defaults = {"ifc_version": order.ifc_version, "display_name": order.connection}
    name = "standard input" if order.file == "-" else order.file
    data = await content_of(order.file)
    requests = read_sheet(data, name, folder=order.folder, defaults=defaults)
    check_apart(
        [
            ("the file of exports", None if order.file == "-" else order.file),
            ("the ledger", order.ledger),
            ("the report", order.report),
            *(("an output", request.destination) for request in requests),
        ]
    )
    if order.ledger is not None:
        _check_ledger(order.ledger, order.folder)
    client = open_client()
    await prepare_folder(Path(order.folder))
    if order.report is not None:
        await prepare_report(order.report)
    return await _Batch(order=order, requests=requests).run(client)


def _check_ledger(path: Path, folder: str) -> None:
    """It is in the output folder, or in one that exists: no other one is made.

    A new ledger in a mistaken place would do everything again.
    """
    if path.is_dir():
        raise ValueError(f"{path}: a ledger is a file, and this is a folder")
    home = os.path.abspath(path.parent)
    if not os.path.isdir(home) and not Path(os.path.abspath(folder)).is_relative_to(home):
        raise ValueError(f"{path}: the folder {path.parent} does not exist")


@define(eq=False, kw_only=True)
class _Batch:
    order: BatchOrder
    requests: list[ExportRequest]
    records: dict[str, Record] = field(init=False)
    began: datetime = field(factory=lambda: datetime.now(UTC))
    gave_up: bool = False
    is_refused: bool = False  # by its ledger, before anything was sent
    is_reported: bool = True  # as far as that was asked for
    spent: RequestStats | None = None

    def __attrs_post_init__(self) -> None:
        self.records = {request.identity: Record.of(request) for request in self.requests}

    async def run(self, client: ExportClient) -> int:
        try:
            async with client:
                try:
                    async with asyncio.timeout(self.order.timeout) as limit:
                        await self._export(client)
                finally:
                    self.spent = client.session.stats
        except TimeoutError:
            if not limit.expired():
                raise
        except LedgerError as error:
            self.is_refused = not (self.spent and self.spent.calls)
            if not self.is_refused:
                raise
            raise RefusedLedger(message=error.message, path=error.path) from error
        finally:  # also of what was interrupted
            self._tell_all()
        if self.gave_up:
            return 4
        if any(record.ended is None for record in self.records.values()):
            return 3
        is_good = self.is_reported and not any(record.failed for record in self.records.values())
        return 0 if is_good else 1

    async def _export(self, client: ExportClient) -> None:
        console, order = Window(stderr=True), self.order
        overview = Overview(console, len(self.records), lambda: client.session.remaining_calls)

        def updated(update: RunUpdate) -> None:
            assert update.request is not None
            overview.updated(self.records[update.request.identity], update)

        outcomes = client.export_many(
            self.requests,
            concurrency=order.concurrency,
            ledger=order.ledger,
            authentication_type=order.authentication_type,
            if_active=validate_if_active(order.if_active),
            on_update=updated,
        )
        with shown(console, overview.picture):
            async with aclosing(outcomes):
                async for outcome in outcomes:
                    record = self.records[outcome.request.identity]
                    record.close(outcome)
                    overview.ended(record)
                    if order.json:
                        print(line_of(record), flush=True)
                    if self._is_hopeless(outcome.error):
                        self.gave_up = True
                        return

    def _is_hopeless(self, error: Exception | None) -> bool:
        """Whether every export would meet the same error."""
        match error:
            case AuthenticationFailed() | AuthorizationRequired() | TokenError(is_transient=False):
                every = self.records.values()
                return not any(record.ok and not record.was_done for record in every)
            case _:
                return False

    def _tell_all(self) -> None:
        if self.is_refused:
            return
        out = sys.stderr if self.order.json else sys.stdout
        try:
            self._sum_up(out)
        finally:  # also where nobody reads that
            if self.order.report is not None:
                self._report(self.order.report, out)

    def _report(self, path: Path, out: TextIO) -> None:
        records, now = list(self.records.values()), datetime.now(UTC)
        try:
            write_report(path, records, began=self.began, now=now, spent=self.spent)
        except OSError as error:
            self.is_reported = False
            say(f"{error}")
        else:
            tell(f"The report is {path}", to=out)

    def _sum_up(self, out: TextIO) -> None:
        every = self.records.values()
        failures = [record for record in every if record.failed]
        left = [record for record in every if record.ended is None]
        done = [record for record in every if record.ok]
        if failures:
            tell(f"{len(failures):,} of {count(len(every), 'export')} failed:\n", to=out)
            for record in failures[:_FAILURES_TOLD]:
                tell(_told(record), to=out)
            if (more := len(failures) - _FAILURES_TOLD) > 0:
                tell(f"  and {more:,} more; --report and --json tell all of them\n", to=out)
        files = [file for record in done for file in record.files]
        what = f"{count(len(files), 'file')}, {size(sum(file.size or 0 for file in files))}"
        took = duration((datetime.now(UTC) - self.began).total_seconds())
        tell(
            f"{len(done):,} of {count(len(every), 'export')} done in {took}: "
            f"{what} below {self.order.folder}",
            to=out,
        )
        self._say_how_to_go_on(left=len(left), failed=len(failures))

    def _say_how_to_go_on(self, *, left: int, failed: int) -> None:
        if self.gave_up and left:
            say(f"{count(left, 'export')} not tried: they would fail alike")
        if self.gave_up or not (left or failed):
            return
        lines = " (with the same lines)" if self.order.file == "-" else ""
        if self.order.ledger is not None:
            what = "this continues" if left else "this tries again what failed"
            say(f"{what}{lines}:\n  {self.order.again}")
        elif left:
            say(
                f"{count(left, 'export')} not finished; runs that began go on at the service. "
                "With --ledger FILE the same command would have continued where it stopped."
            )


def _told(record: Record) -> str:
    """A failed export for the summary: what happened, and what to do."""
    assert record.error is not None
    tasks = failed_tasks(record.error)
    known = record.run_id and f"run {record.run_id} of connection {record.connection_id}"
    lines = [
        headline(record.error),
        *(f"also {task.why}" for task in tasks[1:]),
        *(f"see {link}" for link in dict.fromkeys(task.link for task in tasks) if link),
        *([known] if known else []),
        f"-> {remedy(record.error)}\n",
    ]
    name = record.name if record.name == record.imodel_id else f"{record.name}: {record.imodel_id}"
    return "\n    ".join([f"  {name}", *lines])
