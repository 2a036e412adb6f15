"""A report of exports, as one HTML file that needs nothing else.

It is written whole or not at all, and it shows neither signed URLs nor tokens. Of very many exports
only the failed ones get a drawing of their own.
"""

import asyncio
import os
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from html import escape
from importlib.resources import files
from pathlib import Path
from statistics import median
from urllib.parse import quote

from itwin_export_async import RequestStats, __version__
from itwin_export_async._redaction import redacted  # no public name yet
from itwin_export_async.cli.checks import prepare_folder
from itwin_export_async.cli.errors import FailedTask, UsageError, failed_tasks, hint, summary_line
from itwin_export_async.cli.export_record import File, Record, Status
from itwin_export_async.cli.output.format import count, duration, size
from itwin_export_async.cli.output.report.timeline import all_runs, one_run, span_of
from itwin_export_async.cli.output.summary import count_by_status, group_failures

_DRAWN = 300  # exports that get a drawing each
_OPEN = 20  # failures that are shown open
_KEY = (
    '<p class="key quiet" aria-hidden="true"><span class="run">run</span>'
    '<span class="waiting">queued</span><span class="job">job</span>'
    '<span class="task">task</span><span class="failed">failed</span></p>'
)


async def prepare_report(path: Path) -> None:
    """Make the folder of a report. A `UsageError` says why no report can be written there."""
    await prepare_folder(path.parent, purpose="report")
    await asyncio.to_thread(_check_place, path)


def _check_place(path: Path) -> None:
    if os.path.exists(path) and not os.path.isfile(path):
        what = "a folder" if path.is_dir() else "a device or pipe"
        raise UsageError(f"report: {path} is {what}, not a file")
    try:
        _temp_path(path).touch()
        _temp_path(path).unlink()
    except OSError as exc:
        raise UsageError(f"report: {path} cannot be written: {exc.strerror}") from exc


def _temp_path(path: Path) -> Path:
    return path.with_name(f"{path.name}.{os.getpid()}.part")


def write_report(
    path: Path,
    records: Sequence[Record],
    *,
    began: datetime,
    now: datetime,
    stats: RequestStats | None = None,
    note: str = "",
) -> None:
    """Write the report. `stats` None: nothing was sent. Raises an `OSError` with the path."""
    pieces = page(records, began=began, now=now, folder=path.parent, stats=stats, note=note)
    write_text(path, pieces)


def write_text(path: Path, pieces: Iterable[str]) -> None:
    """Write a text file, whole or not at all. Raises an `OSError` with the path."""
    temp = _temp_path(path)
    try:
        with temp.open("w", encoding="utf-8", errors="backslashreplace") as file:
            file.writelines(pieces)
            file.flush()
            os.fsync(file.fileno())
        temp.replace(path)
    except OSError as exc:
        raise OSError(f"{path}: the report cannot be written: {exc.strerror}") from exc
    finally:
        temp.unlink(missing_ok=True)


def page(
    records: Sequence[Record],
    *,
    began: datetime,
    now: datetime,
    folder: Path,
    stats: RequestStats | None = None,
    note: str = "",
) -> Iterator[str]:
    """The report, piece by piece.

    `folder`: where it is put; files below it are linked to. `note`: a sentence for the head.
    """
    failures = [record for record in records if record.failed]
    done = [record for record in records if record.ok]
    left = [record for record in records if record.finished_at is None]
    title = _title(failures, left)
    yield (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{title}</title><style>\n{_style()}</style></head><body>\n"
        f"<header><h1>{title}</h1>"
        f'<p class="quiet">{began:%Y-%m-%d %H:%M} to {now:%Y-%m-%d %H:%M} UTC · '
        f"itwin-export {__version__}</p></header>\n<main>"
    )
    yield _totals(records, seconds=(now - began).total_seconds(), now=now)
    if note:
        yield f'<p class="quiet">{escape(redacted(note))}</p>\n'
    if stats is not None:
        yield (
            f'<p class="quiet">{count(stats.calls, "call")} to the service, of them '
            f"{count(stats.polls, 'poll')} and {_retries(stats.retries)}</p>\n"
        )
    drawn = len(records) <= _DRAWN
    if failures:
        yield '<section><h2 class="bad">Failed</h2>\n'
        yield from _failure_groups(failures)
        yield "</section>\n"
    if left:
        yield "<section><h2>Not finished</h2>\n"
        yield from (_unfinished(record, now) for record in left)
        yield "</section>\n"
    if drawing := all_runs(records):
        yield f"<section><h2>Timeline</h2>{_KEY}{drawing}</section>\n"
    if done:
        yield "<section><h2>Exported</h2>\n"
        yield from (_success(record, folder, now, drawn=drawn) for record in done)
        yield "</section>\n"
    yield "</main></body></html>\n"


def _retries(number: int) -> str:
    return "1 retry" if number == 1 else f"{number:,} retries"


def _style() -> str:
    return files(__package__).joinpath("report.css").read_text(encoding="utf-8")


def _title(failures: Sequence[Record], left: Sequence[Record]) -> str:
    if not failures and not left:
        return "All exports succeeded"
    parts = [f"{len(failures):,} failed"] if failures else []
    parts += [f"{len(left):,} not finished"] if left else []
    return f"Exports: {', '.join(parts)}"


def _totals(records: Sequence[Record], *, seconds: float, now: datetime) -> str:
    counts = count_by_status(records)
    here = [record for record in records if record.ok and not record.was_done_before]
    lengths = [span.seconds for record in here if (span := span_of(record)) is not None]
    phases = [record.phases(now) for record in here]
    queued = [first for first, _ in phases if first is not None]
    fetched = sum(file.size or 0 for record in here for file in record.files)
    kinds = {Status.SUCCEEDED: "good", Status.PARTIAL: "bad", Status.FAILED: "bad"}
    always = (Status.SUCCEEDED, Status.FAILED)
    tiles = [
        *(
            (status.value, f"{number:,}", kinds.get(status, "") if number else "")
            for status, number in counts.items()
            if number or status in always
        ),
        ("in all", duration(seconds), ""),
        *([("median run", duration(median(lengths)), "")] if lengths else []),
        *([("median in queue", duration(median(queued)), "")] if queued else []),
        ("downloaded", size(fetched), ""),
    ]
    inside = "".join(
        f'<div><dt>{name}</dt><dd class="{kind}">{value}</dd></div>' for name, value, kind in tiles
    )
    return f'<dl class="totals">{inside}</dl>\n'


def _failure_groups(failures: Sequence[Record]) -> Iterator[str]:
    """Equal failures below one heading, if there are several kinds."""
    number = 0
    groups = group_failures(failures)
    for group in groups:
        if len(groups) > 1 and len(group) > 1:
            assert group[0].error is not None
            text = redacted(summary_line(group[0].error))
            yield f"<h3>{count(len(group), 'export')}: {escape(text)}</h3>\n"
        for record in group:
            yield _failure(record, is_open=number < _OPEN, drawn=number < _DRAWN)
            number += 1


def _failure(record: Record, *, is_open: bool, drawn: bool) -> str:
    assert record.error is not None
    tasks = failed_tasks(record.error)
    items = f"<ul>{''.join(map(_task, tasks))}</ul>" if tasks else ""
    text = redacted(summary_line(record.error))
    return _details(
        record,
        f'<b class="bad">{record.status.value}</b>',
        f"<p>{escape(text[:1].upper() + text[1:])}</p>{items}"
        f"{''.join(f'<p>Log: {escape(line)}</p>' for line in record.log_errors)}"
        f'<p class="hint">{escape(hint(record.error))}</p>{_facts(record)}'
        f"{one_run(record) if drawn else ''}",
        is_open=is_open,
    )


def _task(task: FailedTask) -> str:
    fixable = {True: " You can fix it.", False: " You cannot fix it.", None: ""}
    link = ""
    if task.link is not None:
        link = f' <a href="{escape(task.link)}" rel="noreferrer">Article about it</a>'
    text = f"Task {task.id} ended with {task.result or 'no result'}: {task.reason.rstrip('.')}."
    return f"<li>{escape(text)}{fixable[task.can_user_fix]}{link}</li>"


def _unfinished(record: Record, now: datetime) -> str:
    state = record.result or ("preparing" if record.is_active else "not started")
    return _details(record, f"<b>{escape(state)}</b>", _facts(record, now))


def _success(record: Record, folder: Path, now: datetime, *, drawn: bool) -> str:
    links = "".join(f"<li>{_file(file, folder)}</li>" for file in record.files)
    status = record.status
    word = (record.result or "done") if status is Status.SUCCEEDED else status.value
    return _details(
        record,
        f'<b class="good">{escape(word)}</b>',
        f"<ul>{links}</ul>{_facts(record, now)}{one_run(record) if drawn else ''}",
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
    span = None if record.finished_at is None else span_of(record)
    parts = [duration(span.seconds)] if span is not None else []
    parts += [size(sum(file.size or 0 for file in record.files))] if record.files else []
    return (
        f"<details{' open' if is_open else ''}><summary>"
        f'<span class="quiet">{" · ".join(parts)}</span>{status}{escape(record.name)}</summary>'
        f"<div>{inside}</div></details>\n"
    )


def _facts(record: Record, now: datetime | None = None) -> str:
    started = None if record.run is None else record.run.start_date_time
    now = datetime.now(UTC) if now is None else now
    queued, executing = record.phases(record.finished_at or now)
    rows: Iterable[tuple[str, str | None]] = (
        *((name, redacted(value)) for name, value in record.columns.items()),
        ("iModel", record.imodel_id),
        ("revision", record.revision),
        ("connection", record.connection_id),
        ("run", record.run_id),
        ("run started", f"{started:%Y-%m-%d %H:%M:%S} UTC" if started else None),
        ("queued", duration(queued)),
        ("executing", duration(executing)),
        ("states seen", " → ".join(state for _, state in record.states)),
        ("destination", record.destination),
    )
    inside = "".join(
        f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in rows if value
    )
    return f'<dl class="facts">{inside}</dl>'
