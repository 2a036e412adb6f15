"""A batch while it runs: its records, its progress, and its end."""

import asyncio
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TextIO, cast

from attrs import define, field

from itwin_export_async import (
    AuthenticationFailed,
    AuthorizationRequired,
    ExportClient,
    ExportError,
    ExportOutcome,
    ExportOutcomes,
    ExportRequest,
    LedgerError,
    RequestStats,
    RunFailed,
    RunPartlyFailed,
    RunUpdate,
    TokenError,
)
from itwin_export_async.cli.batch_args import BatchArgs
from itwin_export_async.cli.batch_file import Line
from itwin_export_async.cli.command import TOKEN, Invocation, has_token
from itwin_export_async.cli.errors import RefusedLedger, UsageError, summary_line, user_input
from itwin_export_async.cli.export_record import Record, Status
from itwin_export_async.cli.output.batch_progress import BatchProgress
from itwin_export_async.cli.output.console import SafeConsole, echo
from itwin_export_async.cli.output.format import NO_IMODELS, count, duration
from itwin_export_async.cli.output.json_lines import to_json_line
from itwin_export_async.cli.output.progress import (
    CLOCK_INTERVAL,
    background,
    every,
    live_display,
)
from itwin_export_async.cli.output.report.page import write_report
from itwin_export_async.cli.output.run_log import read_log_errors
from itwin_export_async.cli.output.summary import failure_lines, resume_hints, total_line
from itwin_export_async.cli.runner import BUG, log_message, print_bug

REPORT_INTERVAL = 60.0  # seconds between two reports of a batch that is running
CHECK_INTERVAL = 30.0  # seconds between two looks for slow runs


@define(eq=False, kw_only=True)
class RunningBatch:
    """The exports of one batch; the command adds those of its file."""

    invocation: Invocation
    args: BatchArgs
    durations: tuple[float, ...]
    records: dict[str, Record] = field(factory=dict)
    requests: list[ExportRequest] = field(factory=list)
    names: Mapping[str, str] = field(factory=dict)  # of the iTwin's iModels
    listed: str = ""  # how many iModels the iTwin lists
    started_at: datetime = field(factory=lambda: datetime.now(UTC))
    has_given_up: bool = False
    has_warned: bool = False  # about its token
    is_refused: bool = False  # by its ledger, before anything was sent
    is_reported: bool = True  # as far as a report was requested
    stats: RequestStats | None = None
    progress: BatchProgress = field(init=False)

    def add(self, line: Line) -> None:
        """Add an export of the file."""
        self.requests.append(line.request)
        self.records[line.request.identity] = Record.of(line.request, columns=line.columns)

    async def run(self, client: ExportClient) -> int:
        """Export everything, and return the exit code."""
        try:
            async with client:
                try:
                    async with asyncio.timeout(self.args.timeout) as limit:
                        await self._export(client)
                finally:
                    self.stats = client.session.stats
        except TimeoutError:
            if not limit.expired():
                raise
        except LedgerError as error:
            self.is_refused = not (self.stats and self.stats.calls)
            if not self.is_refused:
                raise
            raise RefusedLedger(message=error.message, path=error.path) from error
        except UsageError:
            self.is_refused = True
            raise
        finally:  # also of an interrupted batch
            self._print_end()
        return self._exit_code()

    def _exit_code(self) -> int:
        records = self.records.values()
        bugs = [record.error for record in records if _is_bug(record.error)]
        if bugs:
            print_bug(cast(Exception, bugs[0]))
            return BUG
        if self.has_given_up:
            return 4
        if any(record.finished_at is None for record in records):
            return 3
        is_good = self.is_reported and not any(record.failed for record in records)
        return 0 if is_good else 1

    async def _export(self, client: ExportClient) -> None:
        console, invocation = SafeConsole(stderr=True), self.invocation
        progress = self.progress = BatchProgress(
            console,
            await self._count(client),
            lambda: client.session.remaining_calls,
            outage_since=lambda: client.session.outage_since,
            durations=self.durations,
            concurrency=self.args.concurrency,
            is_shown=invocation.shows_progress,
        )
        works = [every(CLOCK_INTERVAL, progress.print_clock)]
        works.append(every(CHECK_INTERVAL, lambda: self._check_on_runs(client)))
        if self.args.report is not None:
            works.append(every(REPORT_INTERVAL, self._rewrite_report))
        with live_display(console, progress.render, is_shown=invocation.shows_progress):
            async with background(*works):
                await self._consume(client)

    async def _count(self, client: ExportClient) -> int | None:
        """How many exports there are, None if the list of the iTwin cannot be read now."""
        if self.args.itwin is None:
            return len(self.requests)
        try:
            imodels = await client.imodels.list(
                self.args.itwin, name=self.args.name, search=self.args.search
            )
        except ExportError:
            return None  # the batch waits for the service, or reports the error
        ready = [imodel for imodel in imodels if imodel.is_initialized]
        self.names = {imodel.id: imodel.display_name for imodel in ready}
        self.listed = (
            f"iTwin {self.args.itwin} lists {count(len(imodels), 'iModel')}, "
            f"{len(ready)} of them initialized"
        )
        self.invocation.note(self.listed if imodels else NO_IMODELS)
        return len(ready)

    async def _consume(self, client: ExportClient) -> None:
        def updated(update: RunUpdate) -> None:
            assert update.request is not None
            self.progress.updated(self._record(update.request), update)

        outcomes = self.args.open_outcomes(client, self.requests, on_update=updated)
        async with outcomes:
            while (outcome := await self._next(outcomes)) is not None:
                record = self._record(outcome.request)
                if isinstance(outcome.error, RunPartlyFailed) and self.args.keep_partial:
                    await _keep_partial(client, outcome.error, record)
                if isinstance(outcome.error, RunFailed):
                    record.log_errors = await read_log_errors(client, outcome.request)
                record.finish_with(outcome)
                if record.resume_token is None and record.connection_id and record.run_id:
                    handle = client.attach(record.connection_id, record.run_id)
                    record.resume_token = handle.resume_token
                self.progress.finished(record)
                if self.args.json:
                    echo(to_json_line(record))
                if self._is_hopeless(outcome.error):
                    self.has_given_up = True
                    return

    async def _next(self, outcomes: ExportOutcomes) -> ExportOutcome | None:
        """The next outcome, None after the last."""
        if self.args.expected is None or self.records:
            return await anext(outcomes, None)
        with user_input():  # a ValueError before the first outcome is about --expected
            return await anext(outcomes, None)

    def _record(self, request: ExportRequest) -> Record:
        record = self.records.get(request.identity)
        if record is None:
            name = self.names.get(request.imodel_id) or Path(request.destination).name
            record = self.records[request.identity] = Record.of(request, name=name)
        return record

    def _is_hopeless(self, error: Exception | None) -> bool:
        """Whether every other export would fail in the same way."""
        match error:
            case AuthenticationFailed() | AuthorizationRequired() | TokenError(is_transient=False):
                records = self.records.values()
                return not any(record.ok and not record.was_done_before for record in records)
            case _:
                return False

    def _check_on_runs(self, client: ExportClient) -> None:
        """Name slow runs, and once a token that ends before a longer batch does."""
        ends = client.health().token_expires_at
        if ends is not None and not self.has_warned and has_token():
            self.has_warned = True
            log_message(
                f"{TOKEN} ends at {ends:%H:%M} UTC and is not renewed: a batch that takes longer "
                "needs a service application"
            )
        for record, age in self.progress.slow_runs():
            self.invocation.note(
                f"{record.name} takes longer than 95 of 100 earlier runs: {duration(age)} so far"
            )

    async def _rewrite_report(self) -> None:
        try:
            await asyncio.to_thread(self._write_report)
        except OSError as error:
            log_message(f"{error}")  # it is tried again, and at the end it counts

    def _write_report(self) -> None:
        assert self.args.report is not None
        records, now = list(self.records.values()), datetime.now(UTC)
        write_report(
            self.args.report,
            records,
            began=self.started_at,
            now=now,
            stats=self.stats,
            note=self.listed,
        )

    def _print_end(self) -> None:
        if self.is_refused:
            return
        out = sys.stderr if self.args.json else sys.stdout
        try:
            self._print_summary(out)
        finally:  # also where nothing reads the summary
            if self.args.report is not None:
                self._finish_report(out)

    def _finish_report(self, out: TextIO) -> None:
        try:
            self._write_report()
        except OSError as error:
            self.is_reported = False
            log_message(f"{error}")
        else:
            echo(f"The report is {self.args.report}", to=out)

    def _print_summary(self, out: TextIO) -> None:
        records, args = list(self.records.values()), self.args
        for line in failure_lines(records):
            echo(line, to=out)
        seconds = (datetime.now(UTC) - self.started_at).total_seconds()
        echo(total_line(records, seconds=seconds, folder=args.folder), to=out)
        hints = resume_hints(
            records,
            command=None if args.ledger is None else self.invocation.rerun_command,
            is_piped=args.file == "-",
            has_given_up=self.has_given_up,
        )
        for text in hints:
            log_message(text)
        up_to_date = sum(record.status is Status.UP_TO_DATE for record in records)
        if up_to_date and args.itwin is None and not any(r.revision for r in records):
            self.invocation.note(
                f"{count(up_to_date, 'export')} left alone, as the ledger has them; to export a "
                "newer state, give the column revision another value, or use --itwin"
            )


async def _keep_partial(client: ExportClient, error: RunPartlyFailed, record: Record) -> None:
    """Download what the run made. An error of the download does not replace the failure."""
    try:
        record.keep(await client.resume(error.resume_token).download(record.destination))
    except (ExportError, OSError) as exc:
        log_message(f"{record.name}: the partial output was not kept: {summary_line(exc)}")


def _is_bug(error: Exception | None) -> bool:
    return error is not None and not isinstance(error, ExportError | OSError)
