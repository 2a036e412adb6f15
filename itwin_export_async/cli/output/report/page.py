"""A report of what was exported, as one HTML file that needs nothing else.

It is written whole or not at all, and what it shows holds no secret: neither addresses that are
signed nor tokens. Of very many exports only those that failed get a drawing of their own.
"""

import asyncio
import os
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from html import escape
from importlib.resources import files
from pathlib import Path
from statistics import median
from urllib.parse import quote

from itwin_export_async import RequestStats, __version__
from itwin_export_async._files.storage import prepare_folder
from itwin_export_async._redaction import redacted
from itwin_export_async.cli.errors import FailedTask, failed_tasks, headline, remedy
from itwin_export_async.cli.export_record import File, Record
from itwin_export_async.cli.output.format import count, duration, size
from itwin_export_async.cli.output.report.timeline import all_runs, one_run, span_of

_DRAWN = 300  # exports that get a drawing each
_OPEN = 20  # failures that need no click to be read
_KEY = (
    '<p class="key quiet" aria-hidden="true"><span class="run">run</span>'
    '<span class="waiting">waiting</span><span class="job">job</span>'
    '<span class="task">task</span><span class="failed">failed</span></p>'
)


async def prepare_report(path: Path) -> None:
    """Make the folder of a report. A `ValueError` says why it cannot have its place there."""
    await prepare_folder(path.parent)
    await asyncio.to_thread(_check_place, path)


def _check_place(path: Path) -> None:
    if os.path.exists(path) and not os.path.isfile(path):
        what = "a folder" if path.is_dir() else "none"
        raise ValueError(f"{path}: a report is a file, and this is {what}")
    try:
        _part(path).touch()
        _part(path).unlink()
    except OSError as exc:
        raise ValueError(f"{path}: no report can be written there: {exc.strerror}") from exc


def _part(path: Path) -> Path:
    return path.with_name(f"{path.name}.{os.getpid()}.part")


def write_report(
    path: Path,
    records: Sequence[Record],
    *,
    began: datetime,
    now: datetime,
    spent: RequestStats | None = None,
) -> None:
    """Put the report in its place. `spent`: None where nothing was sent.

    Raises an `OSError` that names it when it cannot be written.
    """
    part = _part(path)
    try:
        with part.open("w", encoding="utf-8", errors="backslashreplace") as file:
            file.writelines(page(records, began=began, now=now, folder=path.parent, spent=spent))
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except OSError as exc:
        raise OSError(f"{path}: the report cannot be written: {exc.strerror}") from exc
    finally:
        part.unlink(missing_ok=True)


def page(
    records: Sequence[Record],
    *,
    began: datetime,
    now: datetime,
    folder: Path,
    spent: RequestStats | None = None,
) -> Iterator[str]:
    """The report, piece by piece. `folder`: where it is put; files below it are linked to."""
    failures = [record for record in records if record.failed]
    done = [record for record in records if record.ok]
    left = [record for record in records if record.ended is None]
    yield (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{_title(failures, left)}</title><style>\n{_style()}</style></head><body>\n"
        f"<header><h1>{_title(failures, left)}</h1>"
        f'<p class="quiet">{began:%Y-%m-%d %H:%M} to {now:%Y-%m-%d %H:%M} UTC · '
        f"itwin-export {__version__}</p></header>\n<main>"
    )
    yield _totals(done, failures, left, seconds=(now - began).total_seconds())
    if spent is not None:
        looks, again = count(spent.polls, "look"), count(spent.retries, "repetition")
        yield (
            f'<p class="quiet">{count(spent.calls, "call")} to the service, '
            f"{looks} at runs and {again} among them</p>\n"
        )
    drawn = len(records) <= _DRAWN
    if failures:
        yield '<section><h2 class="bad">Failed</h2>\n'
        for number, record in enumerate(failures):
            yield _failure(record, is_open=number < _OPEN, drawn=number < _DRAWN)
        yield "</section>\n"
    if left:
        yield "<section><h2>Not finished</h2>\n"
        yield from (_unfinished(record) for record in left)
        yield "</section>\n"
    if drawing := all_runs(records):
        yield f"<section><h2>Timeline</h2>{_KEY}{drawing}</section>\n"
    if done:
        yield "<section><h2>Exported</h2>\n"
        yield from (_success(record, folder, drawn=drawn) for record in done)
        yield "</section>\n"
    yield "</main></body></html>\n"


def _style() -> str:
    return files(__package__).joinpath("report.css").read_text(encoding="utf-8")


def _title(failures: Sequence[Record], left: Sequence[Record]) -> str:
    if not failures and not left:
        return "All exports are good"
    told = [f"{len(failures):,} failed"] if failures else []
    told += [f"{len(left):,} not finished"] if left else []
    return f"Exports: {', '.join(told)}"


def _totals(
    done: Sequence[Record], failures: Sequence[Record], left: Sequence[Record], *, seconds: float
) -> str:
    lengths = [span.seconds for record in done if (span := span_of(record)) is not None]
    fetched = sum(file.size or 0 for record in done for file in record.files)
    tiles = [
        ("exported", f"{len(done):,}", "good" if done else ""),
        ("failed", f"{len(failures):,}", "bad" if failures else ""),
        *([("not finished", f"{len(left):,}", "")] if left else []),
        ("in all", duration(seconds), ""),
        *([("median run", duration(median(lengths)), "")] if lengths else []),
        ("on disk", size(fetched), ""),
    ]
    inside = "".join(
        f'<div><dt>{name}</dt><dd class="{kind}">{value}</dd></div>' for name, value, kind in tiles
    )
    return f'<dl class="totals">{inside}</dl>\n'


def _failure(record: Record, *, is_open: bool, drawn: bool) -> str:
    assert record.error is not None
    tasks = failed_tasks(record.error)
    listed = f"<ul>{''.join(map(_task, tasks))}</ul>" if tasks else ""
    told = redacted(headline(record.error))
    return _details(
        record,
        '<b class="bad">failed</b>',
        f"<p>{escape(told[:1].upper() + told[1:])}</p>{listed}"
        f'<p class="remedy">{escape(remedy(record.error))}</p>{_facts(record)}'
        f"{one_run(record) if drawn else ''}",
        is_open=is_open,
    )


def _task(task: FailedTask) -> str:
    mend = {True: " You can mend it.", False: " You cannot mend it.", None: ""}
    see = ""
    if task.link is not None:
        see = f' <a href="{escape(task.link)}" rel="noreferrer">What is known of it</a>'
    named = f"Task {task.id} ended with {task.result or 'no result'}: {task.why.rstrip('.')}."
    return f"<li>{escape(named)}{mend[task.can_user_fix]}{see}</li>"


def _unfinished(record: Record) -> str:
    state = record.result or ("preparing" if record.is_active else "not begun")
    return _details(record, f"<b>{escape(state)}</b>", _facts(record))


def _success(record: Record, folder: Path, *, drawn: bool) -> str:
    links = "".join(f"<li>{_file(file, folder)}</li>" for file in record.files)
    return _details(
        record,
        f'<b class="good">{escape(record.result or "done")}</b>',
        f"<ul>{links}</ul>{_facts(record)}{one_run(record) if drawn else ''}",
    )


def _file(file: File, folder: Path) -> str:
    name = escape(str(file.path))
    try:
        below = file.path.absolute().relative_to(folder.absolute())
    except ValueError:
        return f"{name} · {size(file.size)}"
    href = quote(os.fsencode(below.as_posix()))
    return f'<a href="{href}">{name}</a> · {size(file.size)}'


def _details(record: Record, status: str, inside: str, *, is_open: bool = False) -> str:
    span = None if record.ended is None else span_of(record)
    told = [duration(span.seconds)] if span is not None else []
    told += [size(sum(file.size or 0 for file in record.files))] if record.files else []
    return (
        f"<details{' open' if is_open else ''}><summary>"
        f'<span class="quiet">{" · ".join(told)}</span>{status}{escape(record.name)}</summary>'
        f"<div>{inside}</div></details>\n"
    )


def _facts(record: Record) -> str:
    began = None if record.run is None else record.run.start_date_time
    rows: Iterable[tuple[str, str | None]] = (
        ("iModel", record.imodel_id),
        ("connection", record.connection_id),
        ("run", record.run_id),
        ("run began", f"{began:%Y-%m-%d %H:%M:%S} UTC" if began else None),
        ("states seen", " → ".join(state for _, state in record.states)),
        ("destination", record.destination),
    )
    inside = "".join(f"<dt>{name}</dt><dd>{escape(value)}</dd>" for name, value in rows if value)
    return f'<dl class="facts">{inside}</dl>'
