"""A batch while it runs: counts, active runs, failures, and how long it may still take."""

from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from time import monotonic

from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from itwin_export_async import Estimate, RunUpdate
from itwin_export_async.cli.errors import summary_line
from itwin_export_async.cli.export_record import Record, Status
from itwin_export_async.cli.output.console import echo, is_live, single_line, table_cell
from itwin_export_async.cli.output.format import duration, size, time_left
from itwin_export_async.cli.output.progress import (
    clock_line,
    outage_line,
    outage_text,
    trouble_line,
)

_FAILURES_SHOWN = 5
_WIDE, _MEDIUM = 120, 80  # columns of a terminal that shows run ids, and times in the queue
_MIN_NAME = 12  # columns of the name of an export
_WIDTHS = {"state": 16, "tasks": 5, "executing": 12, "queued": 12, "run": 36}
MIN_DURATIONS = 3  # runs from which an estimate is made
MIN_SLOW = 20  # runs from which a run can be called slow
_SLOW = 0.95  # of earlier runs took no longer


def quantile(sorted_values: Sequence[float], fraction: float) -> float:
    """The value below which this fraction of the values is."""
    return sorted_values[min(len(sorted_values) - 1, int(fraction * len(sorted_values)))]


def estimate_batch(
    *, waiting: int, ages: Sequence[float], durations: Sequence[float], concurrency: int
) -> Estimate | None:
    """Seconds until a batch ends, from the durations of earlier runs; None without enough of them.

    `waiting`: exports that have not started. `ages`: seconds that the active runs have taken.
    """
    if len(durations) < MIN_DURATIONS:
        return None
    known = sorted(durations)

    def seconds(fraction: float) -> float:
        typical = quantile(known, fraction)
        left = [max(0.0, typical - age) for age in ages]
        return max((sum(left) + waiting * typical) / concurrency, max(left, default=0.0))

    return Estimate(low=seconds(0.1), median=seconds(0.5), high=seconds(0.9))


def estimate_by_pace(*, left: int, finished: int, elapsed: float) -> float | None:
    """Seconds until the end at the present pace; None before there is a pace."""
    return left * elapsed / finished if finished else None


class BatchProgress:
    """The exports of one batch.

    `total` None: not known yet. `remaining_calls` gives the calls that the rate limit allows now,
    `outage_since` since when all requests have failed, None without an outage. `durations`: seconds
    of earlier runs.
    """

    def __init__(
        self,
        console: Console,
        total: int | None,
        remaining_calls: Callable[[], int | None],
        *,
        outage_since: Callable[[], datetime | None] = lambda: None,
        durations: Sequence[float] = (),
        concurrency: int = 1,
        is_shown: bool = True,
    ) -> None:
        self._console = console
        self.total = total
        self._remaining_calls = remaining_calls
        self._outage_since = outage_since
        self._durations = list(durations)
        self._concurrency = concurrency
        self._is_shown = is_shown
        self._began = monotonic()
        self._active: dict[int, Record] = {}
        self._slow: set[int] = set()
        self._failures: list[Record] = []
        self._counts = dict.fromkeys(Status, 0)
        self._finished_here = 0  # exports of an earlier call say nothing about the pace

    @property
    def _prints_lines(self) -> bool:
        return self._is_shown and not is_live(self._console)

    @property
    def _finished(self) -> int:
        return sum(self._counts.values())

    def updated(self, record: Record, update: RunUpdate) -> None:
        """Note a poll of a run."""
        had_trouble = record.trouble is not None
        record.update(update)
        self._active[id(record)] = record
        if record.trouble is not None and not had_trouble and self._prints_lines:
            line = f"{record.name}: {outage_line(record.trouble)}"
            echo(single_line(line), to=self._console.file)

    def finished(self, record: Record) -> None:
        """Note that an export is over."""
        self._counts[record.status] += 1
        self._finished_here += record.started_at is not None
        self._active.pop(id(record), None)
        if record.failed:
            self._failures.append(record)
        elif record.run is not None and record.run.duration and not record.was_done_before:
            self._durations.append(record.run.duration)
        if self._prints_lines:
            total = "?" if self.total is None else str(self.total)
            line = f"[{self._finished:{len(total)}}/{total}] {_describe(record)}"
            echo(single_line(line), to=self._console.file)

    def slow_runs(self) -> Iterator[tuple[Record, float]]:
        """Runs that have just become slower than 95 of 100 earlier ones, and their seconds."""
        if len(self._durations) < MIN_SLOW:
            return
        limit = quantile(sorted(self._durations), _SLOW)
        for record in self._active.values():
            age = _age(record)
            if age > limit and id(record) not in self._slow:
                self._slow.add(id(record))
                yield record, age

    def print_clock(self) -> None:
        """Print how far the batch is, with the clock."""
        if self._prints_lines:
            parts = [*self._count_texts(), *self._time_texts()]
            parts += [text] if (text := outage_text(self._outage_since())) else []
            echo(clock_line(", ".join(parts)), to=self._console.file)

    def render(self) -> RenderableType:
        """The batch now, in as many lines as the terminal has. Failures come before runs."""
        width, height = self._console.width, self._console.height
        head = list(self._head())
        failures = [_failure(record) for record in self._failures[-_FAILURES_SHOWN:]]
        used = len(failures) + sum(self._height(part) for part in head)
        rows = max(1, height - used - 3)  # the table's header, what is left out, the cursor
        return Group(*head, *failures, *self._table(rows, width))

    def _height(self, part: RenderableType) -> int:
        return len(self._console.render_lines(part, pad=False))

    def _head(self) -> Iterator[RenderableType]:
        if self.total:
            bar = ProgressBar(total=self.total, completed=self._finished, width=30)
            yield Padding(bar, (0, 0))
        yield Text(", ".join(self._count_texts()), style="bold")
        yield Text(" · ".join(self._time_texts()), style="dim")
        if outage := outage_text(self._outage_since()):
            yield Text(outage, style="yellow", no_wrap=True, overflow="ellipsis")
        troubles = [record.trouble for record in self._active.values() if record.trouble]
        yield from map(trouble_line, troubles[:1])

    def _count_texts(self) -> Iterator[str]:
        counts = self._counts
        yield f"{counts[Status.SUCCEEDED]} done"
        for status in (Status.UP_TO_DATE, Status.SKIPPED, Status.PARTIAL, Status.FAILED):
            if counts[status] or status is Status.FAILED:
                yield f"{counts[status]} {status.value}"
        active = len(self._active)
        if self.total is not None:
            yield f"{self.total - self._finished} left, {active} of them active"
        else:
            yield f"{active} active"

    def _time_texts(self) -> Iterator[str]:
        elapsed = monotonic() - self._began
        yield f"{duration(elapsed)} so far"
        if (text := self._time_left(elapsed)) is not None:
            yield text
        if (calls := self._remaining_calls()) is not None:
            yield f"{calls:,} calls left in the rate limit"

    def _time_left(self, elapsed: float) -> str | None:
        if self.total is None:
            return None
        left = self.total - self._finished
        ages = [_age(record) for record in self._active.values()]
        estimate = estimate_batch(
            waiting=max(0, left - len(ages)),
            ages=ages,
            durations=self._durations,
            concurrency=self._concurrency,
        )
        if left and estimate is not None:
            return time_left(estimate)
        seconds = estimate_by_pace(left=left, finished=self._finished_here, elapsed=elapsed)
        if seconds is not None and left > len(self._active):  # the last ones have no pace
            return f"about {duration(seconds)} left at this pace"
        return None

    def _table(self, rows: int, width: int) -> Iterator[RenderableType]:
        if not self._active:
            return
        names = ["export", "state", "tasks", "executing"]
        names += ["queued"] if width >= _MEDIUM else []
        names += ["run"] if width >= _WIDE else []
        table = Table(*names, box=None, pad_edge=False)
        for column in table.columns:
            column.no_wrap, column.overflow = True, "ellipsis"
        longest = max(_MIN_NAME, width - sum(_WIDTHS[name] + 1 for name in names[1:]) - 1)
        now = datetime.now(UTC)
        active = sorted(self._active.values(), key=lambda record: -record.seconds(now))
        for record in active[:rows]:
            queued, executing = (duration(each) for each in record.phases(now))
            name = table_cell(record.name)
            name.truncate(longest, overflow="ellipsis")
            cells: list[RenderableType] = [name, table_cell(record.result or "starting")]
            cells += [_tasks(record), executing, queued, table_cell(record.run_id or "")]
            table.add_row(*cells[: len(names)])
        yield table
        if len(active) > rows:
            yield Text(f"and {len(active) - rows} more", style="dim")


def _age(record: Record) -> float:
    """Seconds since the run of an active export started, 0 where that is not known."""
    started = record.run.start_date_time if record.run is not None else None
    started = started or record.started_at
    return 0.0 if started is None else max(0.0, (datetime.now(UTC) - started).total_seconds())


def _tasks(record: Record) -> str:
    """How many tasks of the run are over, of how many; empty before there are any."""
    if record.run is None or not record.run.tasks:
        return ""
    over = [task for task in record.run.tasks if task.end_date_time is not None]
    return f"{len(over)}/{len(record.run.tasks)}"


def _failure(record: Record) -> Text:
    assert record.error is not None
    text = table_cell(f"{record.status.value}  {record.name}: {summary_line(record.error)}")
    text.style, text.no_wrap, text.overflow = "red", True, "ellipsis"
    return text


def _describe(record: Record) -> str:
    if record.error is not None:
        return f"{record.status.value}  {record.name}: {summary_line(record.error)}"
    files = ", ".join(f"{file.path} ({size(file.size)})" for file in record.files)
    if record.was_done_before:
        return f"{record.status.value}  {record.name}: {files or 'no files'}"
    time = duration(record.seconds(datetime.now(UTC)))
    return f"{record.result or 'done'}  {record.name}: {files or 'no files'}, {time}"
