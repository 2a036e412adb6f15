"""`itwin-export batch`: many exports, of a file or of a whole iTwin."""

import asyncio
import os
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, TextIO, cast

import typer
from attrs import define, field, frozen

from itwin_export_async import (
    AuthenticationFailed,
    AuthorizationRequired,
    ExportClient,
    ExportError,
    ExportOptions,
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
from itwin_export_async.cli.batch_file import COLUMNS, Line, read_sheet
from itwin_export_async.cli.checks import (
    check_distinct_paths,
    check_guid,
    check_output,
    prepare_folder,
)
from itwin_export_async.cli.command import TOKEN, Invocation
from itwin_export_async.cli.commands.imodels import NO_IMODELS
from itwin_export_async.cli.errors import RefusedLedger, UsageError, summary_line, user_input
from itwin_export_async.cli.export_record import Record, Status
from itwin_export_async.cli.input_file import read_input
from itwin_export_async.cli.ledger_file import read_durations
from itwin_export_async.cli.options import (
    ActiveRun,
    AsJson,
    AuthenticationTypeOption,
    ConnectionName,
    Folder,
    IfActive,
    KeepPartial,
    Report,
    Version,
    parse_duration,
)
from itwin_export_async.cli.output.batch_progress import BatchProgress
from itwin_export_async.cli.output.console import SafeConsole, echo
from itwin_export_async.cli.output.format import count, duration
from itwin_export_async.cli.output.json_lines import to_json_line
from itwin_export_async.cli.output.progress import (
    CLOCK_INTERVAL,
    background,
    every,
    live_display,
)
from itwin_export_async.cli.output.report.page import prepare_report, write_report
from itwin_export_async.cli.output.run_log import read_log_errors
from itwin_export_async.cli.output.summary import failure_lines, total_line
from itwin_export_async.cli.runner import BUG, log_message, print_bug

LEDGER = "itwin-export.db"  # in the output folder, unless another one is named
REPORT_INTERVAL = 60.0  # seconds between two reports of a batch that is running
CHECK_INTERVAL = 30.0  # seconds between two looks for slow runs
EPILOG = (
    f"Columns of FILE: {', '.join(COLUMNS)}; output stands for destination, model_ids are "
    "separated by semicolons. Other columns are your own and come back in report and JSON."
)


@frozen(kw_only=True)
class BatchArgs:
    """The batch that the command line asks for: `file`, or `itwin` with its options.

    `ledger` None: no ledger. `concurrency`: exports at once. `rerun_command`: the command itself.
    """

    file: str | None = None
    itwin: str | None = None
    version: str = "latest"
    filename: str = "{imodel_name}.ifc"
    name: str | None = None
    search: str | None = None
    expected: int | None = None
    folder: str
    ledger: Path | None
    concurrency: int = 20
    ifc_version: str | None = None
    connection: str = "itwin-export"
    authentication_type: str | None = None
    if_active: str = ActiveRun.WAIT.value
    timeout: float | None = None
    keep_partial: bool = False
    report: Path | None = None
    json: bool = False


async def batch(
    invocation: Invocation,
    file: Annotated[
        str | None,
        typer.Argument(
            help="CSV with a header row, or one JSON object a line; - for standard input.",
            metavar="[FILE]",
            show_default=False,
        ),
    ] = None,
    itwin: Annotated[
        str | None,
        typer.Option(
            "--itwin",
            help="Export every iModel of this iTwin instead.",
            metavar="ID",
            show_default=False,
        ),
    ] = None,
    output: Folder = "",
    version: Annotated[
        str,
        typer.Option(
            help="With --itwin: latest changeset, or last named version.",
            metavar="<latest|named>",
        ),
    ] = "latest",
    filename: Annotated[
        str,
        typer.Option(
            help="With --itwin: template of file names, with {imodel_name}, {imodel_id}, "
            "{version_name} and {date}.",
            metavar="TEMPLATE",
        ),
    ] = "{imodel_name}.ifc",
    name: Annotated[
        str | None,
        typer.Option(
            help="With --itwin: only the iModel of this name.", metavar="NAME", show_default=False
        ),
    ] = None,
    search: Annotated[
        str | None,
        typer.Option(
            help="With --itwin: only iModels with this in their name or description.",
            metavar="TEXT",
            show_default=False,
        ),
    ] = None,
    expected: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="With --itwin: start nothing if fewer iModels are listed.",
            metavar="NUMBER",
            show_default=False,
        ),
    ] = None,
    ledger: Annotated[
        Path | None,
        typer.Option(
            help="File that remembers what is done, so that the same command continues.",
            show_default=f"{LEDGER} in the output folder",
            metavar="FILE",
        ),
    ] = None,
    no_ledger: Annotated[
        bool, typer.Option("--no-ledger", help="Remember nothing; export everything.")
    ] = False,
    concurrency: Annotated[
        int, typer.Option(min=1, help="Exports at once.", metavar="NUMBER")
    ] = 20,
    ifc_version: Version = None,
    connection: ConnectionName = "itwin-export",
    authentication_type: AuthenticationTypeOption = None,
    if_active: IfActive = ActiveRun.WAIT.value,
    timeout: Annotated[
        float | None,
        typer.Option(
            parser=parse_duration,
            help="How long all exports together may take, such as 90m or 8h, then exit code 3.",
            show_default=False,
            metavar="DURATION",
        ),
    ] = None,
    keep_partial: KeepPartial = False,
    report: Report = None,
    as_json: AsJson = False,
) -> int:
    """Export many iModels: those of a file, or all of an iTwin.

    A file needs the column imodel_id only. Destinations are in the output folder; an export
    without one gets a folder of its own there. The options are for what a line leaves open.
    """
    if (file is None) == (itwin is None):
        raise UsageError("give either a FILE or --itwin ID")
    if no_ledger and ledger is not None:
        raise UsageError("--no-ledger does not go with --ledger")
    if name is not None and search is not None:
        raise UsageError("--name does not go with --search")
    if version not in ("latest", "named"):
        raise UsageError(f"--version must be latest or named, not {version!r}")
    check_output(os.path.join(output, "") if output else output)
    args = BatchArgs(
        file=file,
        itwin=itwin,
        version=version,
        filename=filename,
        name=name,
        search=search,
        expected=expected,
        folder=output,
        ledger=None if no_ledger else ledger or Path(output, LEDGER),
        concurrency=concurrency,
        ifc_version=ifc_version,
        connection=connection,
        authentication_type=authentication_type,
        if_active=if_active,
        timeout=timeout,
        keep_partial=keep_partial,
        report=report,
        json=as_json,
    )
    return await run_batch(invocation, args)


async def run_batch(invocation: Invocation, args: BatchArgs) -> int:
    """The exit code of all exports. What cannot work is reported before anything is sent."""
    lines: list[Line] = []
    if args.itwin is not None:
        check_guid("--itwin", args.itwin)
    else:
        lines = await _read_lines(args)
    check_distinct_paths(
        [
            ("the file of exports", None if args.file == "-" else args.file),
            ("the ledger", args.ledger),
            ("the report", args.report),
            *(("an output", line.request.destination) for line in lines),
        ]
    )
    if args.ledger is not None:
        _check_ledger(args.ledger, args.folder)
    client = invocation.open_client()
    if args.itwin is not None:
        with user_input():
            _open_outcomes(client, args, ())  # checks the template
    await prepare_folder(Path(args.folder), purpose="output")
    if args.report is not None:
        await prepare_report(args.report)
    durations = () if args.ledger is None else await asyncio.to_thread(read_durations, args.ledger)
    running = _RunningBatch(invocation=invocation, args=args, durations=durations)
    for line in lines:
        running.add(line)
    return await running.run(client)


async def _read_lines(args: BatchArgs) -> list[Line]:
    assert args.file is not None
    defaults = {"ifc_version": args.ifc_version, "display_name": args.connection}
    name = "standard input" if args.file == "-" else args.file
    return read_sheet(await read_input(args.file), name, folder=args.folder, defaults=defaults)


def _check_ledger(path: Path, folder: str) -> None:
    """Raise a `UsageError` unless the ledger is in the output folder or in one that exists.

    A new ledger in a mistyped folder would export everything again.
    """
    if path.is_dir():
        raise UsageError(f"{path}: a ledger is a file, and this is a folder")
    home = os.path.abspath(path.parent)
    if not os.path.isdir(home) and not Path(os.path.abspath(folder)).is_relative_to(home):
        raise UsageError(f"{path}: the folder {path.parent} does not exist")


def _open_outcomes(client: ExportClient, args: BatchArgs, requests: Any, **callbacks: Any) -> Any:
    options: dict[str, Any] = {
        "concurrency": args.concurrency,
        "ledger": args.ledger,
        "authentication_type": args.authentication_type,
        "if_active": args.if_active,
        **callbacks,
    }
    if args.itwin is None:
        return client.export_many(requests, **options)
    return client.export_itwin(
        args.itwin,
        args.folder,
        version=cast(Any, args.version),
        name=args.name,
        search=args.search,
        filename=args.filename,
        options=ExportOptions(ifc_version=args.ifc_version),
        display_name=args.connection,
        expected=args.expected,
        **options,
    )


@define(eq=False, kw_only=True)
class _RunningBatch:
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

        outcomes: ExportOutcomes = _open_outcomes(
            client, self.args, self.requests, on_update=updated
        )
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
        if ends is not None and not self.has_warned and os.environ.get(TOKEN, "").strip():
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
        assert self.args.report is not None
        try:
            await asyncio.to_thread(self._write_report, self.args.report)
        except OSError as error:
            log_message(f"{error}")  # it is tried again, and at the end it counts

    def _write_report(self, path: Path) -> None:
        records, now = list(self.records.values()), datetime.now(UTC)
        write_report(
            path, records, began=self.started_at, now=now, stats=self.stats, note=self.listed
        )

    def _print_end(self) -> None:
        if self.is_refused:
            return
        out = sys.stderr if self.args.json else sys.stdout
        try:
            self._print_summary(out)
        finally:  # also where nothing reads the summary
            if self.args.report is not None:
                self._finish_report(self.args.report, out)

    def _finish_report(self, path: Path, out: TextIO) -> None:
        try:
            self._write_report(path)
        except OSError as error:
            self.is_reported = False
            log_message(f"{error}")
        else:
            echo(f"The report is {path}", to=out)

    def _print_summary(self, out: TextIO) -> None:
        records = list(self.records.values())
        for line in failure_lines(records):
            echo(line, to=out)
        seconds = (datetime.now(UTC) - self.started_at).total_seconds()
        echo(total_line(records, seconds=seconds, folder=self.args.folder), to=out)
        self._print_resume_hint(records)

    def _print_resume_hint(self, records: list[Record]) -> None:
        left = sum(record.finished_at is None for record in records)
        failed = sum(record.failed for record in records)
        up_to_date = sum(record.status is Status.UP_TO_DATE for record in records)
        if self.has_given_up and left:
            log_message(f"{count(left, 'export')} not tried: they would fail in the same way")
        same = " (with the same lines)" if self.args.file == "-" else ""
        if (left or failed) and self.args.ledger is not None:
            what = "this continues" if left else "this retries what failed"
            log_message(f"{what}{same}:\n  {self.invocation.rerun_command}")
        elif left and not self.has_given_up:
            log_message(
                f"{count(left, 'export')} not finished; runs that were started continue at the "
                "service. Without --no-ledger the same command would continue from here."
            )
        if up_to_date and self.args.itwin is None and not any(r.revision for r in records):
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
