"""`itwin-export run` and `watch`: one export to its end."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, cast

import typer
from attrs import frozen

from itwin_export_async import (
    AuthenticationType,
    AuthorizationRequired,
    ExecutionResult,
    ExportClient,
    ExportOptions,
    RequestStats,
    Run,
    RunFailed,
    RunHandle,
    RunPartlyFailed,
)
from itwin_export_async.cli.checks import (
    STDOUT,
    check_distinct_paths,
    check_guid,
    check_output,
)
from itwin_export_async.cli.command import Invocation
from itwin_export_async.cli.commands.auth import REDIRECT_URL
from itwin_export_async.cli.errors import UsageError, user_input
from itwin_export_async.cli.export_record import Record
from itwin_export_async.cli.options import (
    ActiveRun,
    AsJson,
    AuthenticationTypeOption,
    ConnectionName,
    IfActive,
    IModelId,
    KeepPartial,
    Output,
    Report,
    Timeout,
    Version,
)
from itwin_export_async.cli.output.console import SafeConsole, echo
from itwin_export_async.cli.output.json_lines import print_json, to_json_line
from itwin_export_async.cli.output.progress import (
    CLOCK_INTERVAL,
    RunProgress,
    background,
    every,
    live_display,
)
from itwin_export_async.cli.output.report.page import prepare_report, write_report
from itwin_export_async.cli.output.streams import write_output
from itwin_export_async.cli.runner import EXPECTED, join_command, log_message


@frozen(kw_only=True)
class RunArgs:
    """The run that the command line asks for."""

    imodel_id: str
    ifc_version: str | None
    connection: str
    authentication_type: str | None
    if_active: str


@frozen(kw_only=True)
class OutputArgs:
    """Where the output goes, and how it is reported. `timeout` None is the default one."""

    path: str
    timeout: float | None
    json: bool = False
    report: Path | None = None
    keep_partial: bool = False

    @property
    def is_stdout(self) -> bool:
        """Whether the file itself goes to standard output."""
        return self.path == STDOUT

    @property
    def timeout_option(self) -> dict[str, Any]:
        """The timeout as an argument, left out for the default."""
        return {} if self.timeout is None else {"timeout": self.timeout}

    async def check(self) -> None:
        """Raise a `UsageError` for paths that cannot be written; make the report's folder."""
        if self.is_stdout and self.json:
            raise UsageError("--json does not go with -o -: both are for standard output")
        check_output(self.path)
        output = None if self.is_stdout else self.path
        check_distinct_paths([("the output", output), ("the report", self.report)])
        if self.report is not None:
            await prepare_report(self.report)


async def run(
    invocation: Invocation,
    imodel_id: IModelId,
    output: Output = "",
    ifc_version: Version = None,
    connection: ConnectionName = "itwin-export",
    authentication_type: AuthenticationTypeOption = None,
    if_active: IfActive = ActiveRun.JOIN.value,
    timeout: Timeout = None,
    no_wait: Annotated[
        bool,
        typer.Option("--no-wait", help="Only start the run, and print the token for `watch`."),
    ] = False,
    keep_partial: KeepPartial = False,
    report: Report = None,
    as_json: AsJson = False,
) -> None:
    """Export one iModel: connection, run, wait, download. Prints the path of the file.

    Credentials come from ITWIN_ACCESS_TOKEN, or from ITP_SERVICE_CLIENT_ID and
    ITP_SERVICE_CLIENT_SECRET (with ITP_ISSUER_URL for another issuer).
    """
    if no_wait and (report or timeout or keep_partial):
        raise UsageError("--no-wait does not go with --report, --timeout or --keep-partial")
    args = RunArgs(
        imodel_id=check_guid("imodel_id", imodel_id),
        ifc_version=ifc_version,
        connection=connection,
        authentication_type=authentication_type,
        if_active=if_active,
    )
    delivery = OutputArgs(
        path=output or ("." if no_wait else ""),
        timeout=timeout,
        json=as_json,
        report=report,
        keep_partial=keep_partial,
    )
    if no_wait:
        await start_only(invocation, args, delivery)
    else:
        await run_export(invocation, args, delivery)


async def watch(
    invocation: Invocation,
    token: Annotated[
        str,
        typer.Argument(
            help="The resume token that `run` printed.", metavar="TOKEN", show_default=False
        ),
    ],
    output: Output = "",
    timeout: Timeout = None,
    keep_partial: KeepPartial = False,
    report: Report = None,
    as_json: AsJson = False,
) -> None:
    """Take up a run that was left: wait for its end and download its files."""
    delivery = OutputArgs(
        path=output, timeout=timeout, json=as_json, report=report, keep_partial=keep_partial
    )
    await watch_run(invocation, token, delivery)


async def run_export(invocation: Invocation, args: RunArgs, output: OutputArgs) -> None:
    """Export the iModel. What cannot work is reported before anything is sent."""
    client = invocation.open_client()
    await output.check()
    record = Record(name=args.imodel_id, imodel_id=args.imodel_id, destination=output.path)
    progress = _progress(invocation, client)
    async with client:
        with _reported(invocation, record, output, progress, client):
            async with background(every(CLOCK_INTERVAL, progress.print_clock)):
                if output.is_stdout:
                    handle = await _start(client, args)
                    _show_start(invocation, record, progress, handle)
                    await _follow(client, handle, record, output, progress)
                else:
                    await _export(invocation, client, args, output, record, progress)


async def start_only(invocation: Invocation, args: RunArgs, output: OutputArgs) -> None:
    """Start the run, and print the token that resumes it."""
    async with invocation.open_client() as client:
        run = await _start(client, args)
    command = resume_command(invocation, run.resume_token, output)
    _note_joined(invocation, run)
    if output.json:
        print_json(
            {
                "imodel_id": args.imodel_id,
                "connection_id": run.connection_id,
                "run_id": run.run_id,
                "joined": run.joined,
                "resume_token": run.resume_token,
                "command": command,
            }
        )
    else:
        invocation.note(f"this continues:\n  {command}")
        echo(run.resume_token)


async def watch_run(invocation: Invocation, token: str, output: OutputArgs) -> None:
    """Wait for the run, and download its files."""
    client = invocation.open_client()
    check_output(output.path)
    with user_input():
        run = client.resume(token)
    await output.check()
    async with client:
        record = Record(name=run.run_id, destination=output.path)
        progress = _progress(invocation, client)
        with _reported(invocation, record, output, progress, client):
            async with background(every(CLOCK_INTERVAL, progress.print_clock)):
                progress.started(record, run)
                await _follow(client, run, record, output, progress)


def _progress(invocation: Invocation, client: ExportClient) -> RunProgress:
    return RunProgress(
        SafeConsole(stderr=True),
        is_shown=invocation.shows_progress,
        outage_since=lambda: client.session.outage_since,
    )


async def _start(client: ExportClient, args: RunArgs) -> RunHandle:
    connection = await client.find_or_create_connection(
        args.imodel_id,
        display_name=args.connection,
        authentication_type=args.authentication_type,
    )
    if connection.authentication_type == AuthenticationType.USER:
        consent = await client.get_authorization(REDIRECT_URL)
        if not consent.is_user_authorized:
            raise AuthorizationRequired(url=consent.authorization_url)
    options = ExportOptions(ifc_version=args.ifc_version)
    return await client.start_run(connection.id, options, if_active=_if_active(args))


def _if_active(args: RunArgs) -> Any:
    return cast(Any, args.if_active)  # one of ActiveRun, as the option has checked


async def _export(
    invocation: Invocation,
    client: ExportClient,
    args: RunArgs,
    output: OutputArgs,
    record: Record,
    progress: RunProgress,
) -> None:
    estimates: list[asyncio.Task[None]] = []

    def started(run: RunHandle) -> None:
        _show_start(invocation, record, progress, run)
        if invocation.shows_progress:
            estimates.append(asyncio.create_task(progress.estimate(record, run)))

    try:
        outcome = await client.export_imodel(
            args.imodel_id,
            output.path,
            ExportOptions(ifc_version=args.ifc_version),
            display_name=args.connection,
            authentication_type=args.authentication_type,
            if_active=_if_active(args),
            on_start=started,
            on_update=lambda update: progress.updated(record, update),
            **output.timeout_option,
        )
    except RunPartlyFailed as error:
        await _keep_partial(client, error, record, output)
        raise
    finally:
        for task in estimates:
            task.cancel()
        await asyncio.gather(*estimates, return_exceptions=True)
    record.finish_with(outcome)
    progress.finished(record)


async def _follow(
    client: ExportClient,
    run: RunHandle,
    record: Record,
    output: OutputArgs,
    progress: RunProgress,
) -> None:
    """Wait for a run that was started, and deliver its files."""
    works = [progress.estimate(record, run)] if progress.is_shown else []
    async with background(*works):
        try:
            final = await run.wait(
                on_update=lambda update: progress.updated(record, update), **output.timeout_option
            )
        except RunPartlyFailed as error:
            await _keep_partial(client, error, record, output)
            raise
        paths = await _deliver(run, final, output)
    record.finish(paths=paths)
    progress.finished(record)


async def _deliver(run: RunHandle, final: Run, output: OutputArgs) -> list[Path]:
    """Download the files of a finished run, or write the only one to standard output."""
    if not _has_output(final):
        return []
    if output.is_stdout:
        await write_output(await run.outputs())
        return []
    return await run.download(output.path)


def _has_output(run: Run) -> bool:
    return run.outcome != ExecutionResult.SKIPPED or bool(run.output_file_ids)


async def _keep_partial(
    client: ExportClient, error: RunPartlyFailed, record: Record, output: OutputArgs
) -> None:
    """Download the files that a run made before it failed, if that was requested."""
    if not output.keep_partial:
        return
    run = client.resume(error.resume_token)
    if output.is_stdout:
        await run.refresh()
        await write_output(await run.outputs())
    else:
        record.keep(await run.download(output.path))


def _show_start(
    invocation: Invocation, record: Record, progress: RunProgress, run: RunHandle
) -> None:
    _note_joined(invocation, run)
    progress.started(record, run)


def _note_joined(invocation: Invocation, run: RunHandle) -> None:
    if run.joined:
        invocation.note(
            f"joined run {run.run_id}, which was active already and may have other options"
        )


@contextmanager
def _reported(
    invocation: Invocation,
    record: Record,
    output: OutputArgs,
    progress: RunProgress,
    client: ExportClient,
) -> Iterator[None]:
    """Show the export during the block, and report it however the block ends."""
    began = datetime.now(UTC)
    progress.add(record)
    try:
        with live_display(progress.console, progress.render, is_shown=progress.is_shown):
            yield
        _print_result(invocation, record, output)
    except asyncio.CancelledError:
        if progress.run is not None:
            log_message(resume_hint(invocation, progress.run.resume_token, output))
        raise
    except EXPECTED as error:
        record.finish(error=error)
        if progress.run is not None and not isinstance(error, RunFailed):
            token = record.resume_token or progress.run.resume_token
            error.add_note(resume_hint(invocation, token, output))
        if not output.json:
            _print_paths(record)
        raise
    finally:
        if output.json and record.finished_at is not None:
            echo(to_json_line(record))
        if output.report is not None:
            _write_report(output.report, record, began=began, stats=client.session.stats)


def _write_report(path: Path, record: Record, *, began: datetime, stats: RequestStats) -> None:
    try:
        write_report(path, [record], began=began, now=datetime.now(UTC), stats=stats)
    except OSError as error:
        if record.ok:
            raise
        log_message(f"{error}")  # the error of the export is still to come


def _print_result(invocation: Invocation, record: Record, output: OutputArgs) -> None:
    """After the live display, which would break long lines."""
    if not record.files and not output.is_stdout:
        invocation.note("nothing was exported: the service skipped the run")
    if not output.json:
        _print_paths(record)


def _print_paths(record: Record) -> None:
    for file in record.files:
        echo(str(file.path))


def resume_hint(invocation: Invocation, token: str, output: OutputArgs) -> str:
    """The message with the command that continues the export."""
    return f"this continues:\n  {resume_command(invocation, token, output)}"


def resume_command(invocation: Invocation, token: str, output: OutputArgs) -> str:
    """The command line that continues the export."""
    words = ["itwin-export", "watch", token, "-o", output.path]
    words += ["--base-url", invocation.base_url] if invocation.base_url else []
    words += ["--json"] if output.json else []
    words += ["--keep-partial"] if output.keep_partial else []
    words += ["--report", str(output.report)] if output.report else []
    return join_command(words)
