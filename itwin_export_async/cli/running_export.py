"""One export while it runs: shown, delivered, and reported however it ends."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from attrs import define, field, frozen

from itwin_export_async import (
    ExecutionResult,
    ExportClient,
    ExportOptions,
    Run,
    RunFailed,
    RunHandle,
    RunPartlyFailed,
)
from itwin_export_async.cli.checks import STDOUT, check_distinct_paths, check_output
from itwin_export_async.cli.command import Invocation
from itwin_export_async.cli.export_record import Record
from itwin_export_async.cli.output.console import SafeConsole, echo
from itwin_export_async.cli.output.json_lines import to_json_line
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
    if_active: Literal["join", "wait", "raise"]


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
        check_output(self.path, as_json=self.json)
        output = None if self.is_stdout else self.path
        check_distinct_paths([("the output", output), ("the report", self.report)])
        if self.report is not None:
            await prepare_report(self.report)


@define(eq=False, kw_only=True)
class RunningExport:
    """One export of a command."""

    invocation: Invocation
    client: ExportClient
    output: OutputArgs
    record: Record
    progress: RunProgress = field(init=False)

    def __attrs_post_init__(self) -> None:
        self.progress = RunProgress(
            SafeConsole(stderr=True),
            is_shown=self.invocation.shows_progress,
            outage_since=lambda: self.client.session.outage_since,
        )

    @asynccontextmanager
    async def reported(self) -> AsyncIterator[None]:
        """Show the export during the block, and report it however the block ends."""
        record, progress, output = self.record, self.progress, self.output
        began = datetime.now(UTC)
        progress.add(record)
        try:
            with live_display(progress.console, progress.render, is_shown=progress.is_shown):
                async with background(every(CLOCK_INTERVAL, progress.print_clock)):
                    yield
            # after the live display, which would break long lines
            if not record.files and not output.is_stdout:
                self.invocation.note("nothing was exported: the service skipped the run")
            self._print_paths()
        except asyncio.CancelledError:
            if progress.run is not None:
                log_message(self._resume_hint(progress.run.resume_token))
            raise
        except EXPECTED as error:
            record.finish(error=error)
            if progress.run is not None and not isinstance(error, RunFailed):
                token = record.resume_token or progress.run.resume_token
                error.add_note(self._resume_hint(token))
            self._print_paths()
            raise
        finally:
            if output.json and record.finished_at is not None:
                echo(to_json_line(record))
            if output.report is not None:
                self._write_report(output.report, began=began)

    async def export(self, args: RunArgs) -> None:
        """Export the iModel to files."""
        estimates: list[asyncio.Task[None]] = []

        def started(run: RunHandle) -> None:
            self._show_start(run)
            if self.progress.is_shown:
                estimates.append(asyncio.create_task(self.progress.estimate(self.record, run)))

        try:
            outcome = await self.client.export_imodel(
                args.imodel_id,
                self.output.path,
                ExportOptions(ifc_version=args.ifc_version),
                display_name=args.connection,
                authentication_type=args.authentication_type,
                if_active=args.if_active,
                on_start=started,
                on_update=lambda update: self.progress.updated(self.record, update),
                **self.output.timeout_option,
            )
        except RunPartlyFailed as error:
            await self._keep_partial(error)
            raise
        finally:
            for task in estimates:
                task.cancel()
            await asyncio.gather(*estimates, return_exceptions=True)
        self.record.finish_with(outcome)
        self.progress.finished(self.record)

    async def follow(self, run: RunHandle) -> None:
        """Wait for a run that was started, and deliver its files."""
        self._show_start(run)
        progress = self.progress
        works = [progress.estimate(self.record, run)] if progress.is_shown else []
        async with background(*works):
            try:
                final = await run.wait(
                    on_update=lambda update: progress.updated(self.record, update),
                    **self.output.timeout_option,
                )
            except RunPartlyFailed as error:
                await self._keep_partial(error)
                raise
            paths = await self._deliver(run, final)
        self.record.finish(paths=paths)
        progress.finished(self.record)

    async def _deliver(self, run: RunHandle, final: Run) -> list[Path]:
        """Download the files of a finished run, or write the only one to standard output."""
        if final.outcome == ExecutionResult.SKIPPED and not final.output_file_ids:
            return []
        if self.output.is_stdout:
            await write_output(await run.outputs())
            return []
        return await run.download(self.output.path)

    async def _keep_partial(self, error: RunPartlyFailed) -> None:
        """Download the files that a run made before it failed, if that was requested."""
        if not self.output.keep_partial:
            return
        run = self.client.resume(error.resume_token)
        if self.output.is_stdout:
            await run.refresh()
            await write_output(await run.outputs())
        else:
            self.record.keep(await run.download(self.output.path))

    def _show_start(self, run: RunHandle) -> None:
        note_joined(self.invocation, run)
        self.progress.started(self.record, run)

    def _print_paths(self) -> None:
        if not self.output.json:
            for file in self.record.files:
                echo(str(file.path))

    def _resume_hint(self, token: str) -> str:
        return f"this continues:\n  {resume_command(self.invocation, token, self.output)}"

    def _write_report(self, path: Path, *, began: datetime) -> None:
        stats = self.client.session.stats
        try:
            write_report(path, [self.record], began=began, now=datetime.now(UTC), stats=stats)
        except OSError as error:
            if self.record.ok:
                raise
            log_message(f"{error}")  # the error of the export is still to come


def note_joined(invocation: Invocation, run: RunHandle) -> None:
    """Say that a run was not started but joined."""
    if run.joined:
        invocation.note(
            f"joined run {run.run_id}, which was active already and may have other options"
        )


def resume_command(invocation: Invocation, token: str, output: OutputArgs) -> str:
    """The command line that continues the export."""
    words = ["itwin-export", "watch", token, "-o", output.path]
    words += ["--base-url", invocation.base_url] if invocation.base_url else []
    words += ["--json"] if output.json else []
    words += ["--keep-partial"] if output.keep_partial else []
    words += ["--report", str(output.report)] if output.report else []
    return join_command(words)
