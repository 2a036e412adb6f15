"""`itwin-export report`: what a ledger says, offline."""

import asyncio
import csv
from collections.abc import Sequence
from datetime import datetime
from enum import StrEnum
from io import StringIO
from pathlib import Path
from typing import Annotated

import typer

from itwin_export_async.cli.checks import STDOUT, check_distinct_paths
from itwin_export_async.cli.command import Invocation
from itwin_export_async.cli.errors import UsageError, summary_line
from itwin_export_async.cli.export_record import Record
from itwin_export_async.cli.ledger_file import LedgerContent, read_ledger
from itwin_export_async.cli.options import AsJson, choice, parse_since
from itwin_export_async.cli.output.console import echo
from itwin_export_async.cli.output.format import duration, size
from itwin_export_async.cli.output.json_lines import to_json_line
from itwin_export_async.cli.output.report.page import page, prepare_report, write_text
from itwin_export_async.cli.output.summary import failure_lines, total_line
from itwin_export_async.cli.output.tables import table_lines

_CSV = ("name", "imodel_id", "status", "revision", "run_id", "seconds", "files", "bytes", "error")


class Format(StrEnum):
    """How a report is written."""

    HTML = "html"
    TABLE = "table"
    CSV = "csv"
    JSON = "json"


async def report(
    invocation: Invocation,
    ledger: Annotated[
        Path, typer.Argument(help="The ledger of a batch.", metavar="LEDGER", show_default=False)
    ],
    since: Annotated[
        datetime | None,
        typer.Option(
            parser=parse_since,
            help="Only exports that were tried since: a date, 24h or 7d.",
            metavar="WHEN",
            show_default=False,
        ),
    ] = None,
    form: Annotated[
        str | None,
        typer.Option(
            "--format",
            **choice(Format),
            help="Left out, the ending of the output decides, and table is the default.",
            metavar=f"<{'|'.join(Format)}>",
            show_default=False,
        ),
    ] = None,
    output: Annotated[
        Path,
        typer.Option(
            "--output", "-o", help="File to write; - for standard output.", metavar="FILE"
        ),
    ] = Path(STDOUT),
    as_json: AsJson = False,
) -> None:
    """Report from a ledger alone: HTML, a table, CSV or JSON. Sends nothing."""
    is_stdout = str(output) == STDOUT
    chosen = _choose_format(form, as_json, None if is_stdout else output)
    if not is_stdout:
        check_distinct_paths([("the ledger", ledger), ("the report", output)])
    content = await asyncio.to_thread(lambda: read_ledger(ledger, since=since))
    folder = Path() if is_stdout else output.parent
    text = render(content, chosen, folder=folder, name=str(ledger))
    if is_stdout:
        echo(text.rstrip("\n"))
        return
    await prepare_report(output)
    write_text(output, [text])
    invocation.note(f"the report is {output}")


def _choose_format(form: str | None, as_json: bool, output: Path | None) -> Format:
    if as_json:
        if form not in (None, Format.JSON):
            raise UsageError(f"--json does not go with --format {form}")
        return Format.JSON
    if form is not None:
        return Format(form)
    suffix = "" if output is None else output.suffix.lower().lstrip(".")
    names = {"html": Format.HTML, "htm": Format.HTML, "csv": Format.CSV, "json": Format.JSON}
    return names.get(suffix, Format.TABLE)


def render(content: LedgerContent, form: Format, *, folder: Path, name: str) -> str:
    """The report as a text."""
    records = content.records
    match form:
        case Format.HTML:
            pieces = page(
                records, began=content.began, now=content.ended, folder=folder, note=f"From {name}"
            )
            return "".join(pieces)
        case Format.CSV:
            return _to_csv(records)
        case Format.JSON:
            return "".join(f"{to_json_line(record)}\n" for record in records)
        case _:
            return _to_table(content, name)


def _to_csv(records: Sequence[Record]) -> str:
    file = StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(_CSV)
    for record in records:
        seconds = record.run.duration if record.run is not None else None
        writer.writerow(
            [
                _plain_cell(record.name),
                record.imodel_id,
                record.status.value,
                record.revision or "",
                record.run_id or "",
                "" if seconds is None else f"{seconds:.1f}",
                _plain_cell("; ".join(str(each.path) for each in record.files)),
                sum(each.size or 0 for each in record.files),
                _plain_cell("" if record.error is None else summary_line(record.error)),
            ]
        )
    return file.getvalue()


def _plain_cell(text: str) -> str:
    """The text for a spreadsheet, which would run one that begins like a formula."""
    return f"'{text}" if text.startswith(("=", "+", "-", "@")) else text


def _to_table(content: LedgerContent, name: str) -> str:
    records = content.records
    if not records:
        return f"{name} has no exports in this time"
    rows = []
    for record in records:
        seconds = record.run.duration if record.run is not None else None
        rows.append(
            (
                record.name,
                record.status.value,
                duration(seconds),
                size(sum(each.size or 0 for each in record.files)) if record.files else "",
                "" if record.error is None else summary_line(record.error)[:60],
            )
        )
    lines = [*table_lines(("export", "status", "run", "size", "error"), rows), ""]
    lines += failure_lines(records)
    seconds = (content.ended - content.began).total_seconds()
    folders = {str(Path(record.destination).parent) for record in records}
    folder = folders.pop() if len(folders) == 1 else f"{len(folders)} folders"
    lines.append(total_line(records, seconds=seconds, folder=folder))
    return "\n".join(lines)
