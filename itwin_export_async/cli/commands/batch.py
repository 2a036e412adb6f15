"""`itwin-export batch`: many exports, of a file or of a whole iTwin."""

import asyncio
import os
from pathlib import Path
from typing import Annotated, cast

import typer

from itwin_export_async import ItwinVersion
from itwin_export_async.cli.batch_args import BatchArgs
from itwin_export_async.cli.batch_file import COLUMNS, Line, read_sheet
from itwin_export_async.cli.checks import (
    check_distinct_paths,
    check_guid,
    check_output,
    prepare_folder,
)
from itwin_export_async.cli.command import Invocation
from itwin_export_async.cli.errors import UsageError, user_input
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
from itwin_export_async.cli.output.report.page import prepare_report
from itwin_export_async.cli.running_batch import RunningBatch

LEDGER = "itwin-export.db"  # in the output folder, unless another one is named
EPILOG = (
    f"Columns of FILE: {', '.join(COLUMNS)}; output stands for destination, model_ids are "
    "separated by semicolons. Other columns are your own and come back in report and JSON."
)


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
        version=cast(ItwinVersion, version),
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
            args.open_outcomes(client, ())  # checks the template
    await prepare_folder(Path(args.folder), purpose="output")
    if args.report is not None:
        await prepare_report(args.report)
    durations = () if args.ledger is None else await asyncio.to_thread(read_durations, args.ledger)
    running = RunningBatch(invocation=invocation, args=args, durations=durations)
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
