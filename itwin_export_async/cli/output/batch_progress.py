"""A batch while it goes on: how far it is, what is active, and what has failed."""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from time import monotonic

from rich.console import Console, Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from itwin_export_async import RunUpdate
from itwin_export_async.cli.errors import headline
from itwin_export_async.cli.export_record import Record
from itwin_export_async.cli.output.console import cell, flat, tell
from itwin_export_async.cli.output.format import duration, size

_FAILURES_SHOWN = 5
_OTHER_LINES = 7  # of the picture: the bar, the counts, the table's head, what was left out


def to_go(left: int, ended: int, elapsed: float) -> float | None:
    """Seconds until the end if it goes on at this pace; None before there is a pace."""
    return left * elapsed / ended if ended else None


class Overview:
    """The exports of one batch. `calls_left` tells how many calls the rate limit allows now."""

    def __init__(self, console: Console, total: int, calls_left: Callable[[], int | None]) -> None:
        self._console = console
        self._total = total
        self._calls_left = calls_left
        self._began = monotonic()
        self._active: dict[int, Record] = {}
        self._failures: list[Record] = []
        self._ended = 0
        self._ended_here = 0  # those that an earlier call had done say nothing of the pace

    def updated(self, record: Record, update: RunUpdate) -> None:
        """A run was looked at."""
        record.saw(update)
        self._active[id(record)] = record

    def ended(self, record: Record) -> None:
        """An export is over."""
        self._ended += 1
        self._ended_here += record.began is not None
        self._active.pop(id(record), None)
        if record.failed:
            self._failures.append(record)
        if not self._console.is_terminal:
            line = f"[{self._ended:{len(str(self._total))}}/{self._total}] {_told(record)}"
            tell(flat(line), to=self._console.file)

    def picture(self) -> RenderableType:
        """How things are now, in as many lines as the terminal has."""
        failures = self._failures[-_FAILURES_SHOWN:]
        room = max(1, self._console.height - _OTHER_LINES - len(failures))
        return Group(*self._head(), *self._table(room), *map(_failure, failures))

    def _head(self) -> Iterator[RenderableType]:
        elapsed = monotonic() - self._began
        left = self._total - self._ended
        bar = Table.grid(padding=(0, 2))
        failed = len(self._failures)
        bar.add_row(
            ProgressBar(total=self._total, completed=self._ended, width=30),
            f"{self._ended - failed} done",
            Text(f"{failed} failed", style="red" if failed else ""),
            f"{left} left, {len(self._active)} of them active",
        )
        yield bar
        told = [f"{duration(elapsed)} so far"]
        seconds = to_go(left, self._ended_here, elapsed)
        if seconds is not None and left > len(self._active):  # the last ones have no pace
            told.append(f"about {duration(seconds)} to go at this pace")
        if (calls := self._calls_left()) is not None:
            told.append(f"{calls:,} calls left in the rate limit")
        yield Text(" · ".join(told), style="dim")

    def _table(self, room: int) -> Iterator[RenderableType]:
        if not self._active:
            return
        table = Table("export", "state", "tasks", "time", "run", box=None, pad_edge=False)
        now = datetime.now(UTC)
        active = sorted(self._active.values(), key=lambda record: -record.seconds(now))
        for record in active[:room]:
            table.add_row(
                cell(record.name),
                cell(record.result),
                _tasks(record),
                duration(record.seconds(now)),
                cell(record.run_id or ""),
            )
        yield table
        if len(active) > room:
            yield Text(f"and {len(active) - room} more", style="dim")


def _tasks(record: Record) -> str:
    """How many tasks of the run have ended, of how many; empty before there are any."""
    if record.run is None or not record.run.tasks:
        return ""
    ended = [task for task in record.run.tasks if task.end_date_time is not None]
    return f"{len(ended)}/{len(record.run.tasks)}"


def _failure(record: Record) -> Text:
    assert record.error is not None
    text = cell(f"failed  {record.name}: {headline(record.error)}")
    text.style, text.no_wrap, text.overflow = "red", True, "ellipsis"
    return text


def _told(record: Record) -> str:
    if record.error is not None:
        return f"failed   {record.name}: {headline(record.error)}"
    files = ", ".join(f"{file.path} ({size(file.size)})" for file in record.files)
    time = duration(record.seconds(datetime.now(UTC)))
    if record.was_done:
        time = "done by an earlier call"
    return f"{record.result:8} {record.name}: {files or 'no files'}, {time}"
