"""Progress while it happens: a live table on a terminal, plain lines elsewhere."""

import asyncio
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from itwin_export_async import ExportError, RunHandle, RunUpdate
from itwin_export_async.cli.errors import summary_line
from itwin_export_async.cli.export_record import Record
from itwin_export_async.cli.output.console import (
    echo,
    escape_controls,
    is_live,
    single_line,
    table_cell,
)
from itwin_export_async.cli.output.format import duration, time_left

CLOCK_INTERVAL = 300.0  # seconds between lines with the clock, where there is no terminal
ESTIMATE_INTERVAL = 60.0  # seconds between estimates of a run's end


class StandardError:
    """Standard error at the time of writing: a live table replaces it, and moves out of the way."""

    def write(self, text: str) -> int:
        """Write to it."""
        return sys.stderr.write(escape_controls(text))

    def flush(self) -> None:
        """Flush it."""
        sys.stderr.flush()


@contextmanager
def live_display(
    console: Console, render: Callable[[], RenderableType], *, is_shown: bool = True
) -> Iterator[None]:
    """Keep a display up to date on the terminal during the block; nothing elsewhere."""
    if not is_shown or not is_live(console):
        yield
        return
    live = Live(
        console=console,
        get_renderable=render,
        refresh_per_second=8,
        transient=True,
        redirect_stdout=sys.stdout.isatty(),  # results for a file are not drawn into the display
    )
    with live:
        yield


@asynccontextmanager
async def background(*works: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Run coroutines during the block; their errors come out at its end."""
    tasks = [asyncio.create_task(work) for work in works]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
    for task in tasks:
        if not task.cancelled():
            task.result()


async def every(seconds: float, action: Callable[[], Any]) -> None:
    """Call a function, which may be async, again and again."""
    while True:
        await asyncio.sleep(seconds)
        result = action()
        if asyncio.iscoroutine(result):
            await result


def clock_line(text: str) -> str:
    """A line that says when it was written, in UTC."""
    return f"{datetime.now(UTC):%H:%M:%S} UTC  {text}"


class RunProgress:
    """The exports of a command, each to its end. `run`: the latest run that was started.

    `outage_since`: since when all requests have failed, None without an outage.
    """

    def __init__(
        self,
        console: Console,
        *,
        is_shown: bool = True,
        outage_since: Callable[[], datetime | None] = lambda: None,
    ) -> None:
        self.console = console
        self.is_shown = is_shown
        self._outage_since = outage_since
        self.run: RunHandle | None = None
        self._records: list[Record] = []

    @property
    def prints_lines(self) -> bool:
        """Whether plain lines are printed instead of a live table."""
        return self.is_shown and not is_live(self.console)

    def add(self, record: Record) -> None:
        """Add an export that starts now."""
        record.start()
        self._records.append(record)

    def started(self, record: Record, run: RunHandle) -> None:
        """Show the run of an export."""
        self.run = run
        record.attach(run)
        self._print(record, f"run {run.run_id}")

    def updated(self, record: Record, update: RunUpdate) -> None:
        """Show a poll of the run."""
        if record.update(update):
            self._print(record, _describe_state(record))

    def finished(self, record: Record) -> None:
        """Show that an export is over."""
        self._print(record, record.result)

    async def estimate(self, record: Record, run: RunHandle) -> None:
        """Keep the estimate of the run's end up to date, while there is one."""
        while True:
            try:
                record.estimate = await run.estimate()
            except ExportError:
                return  # an estimate is not worth an error
            if record.estimate is None:
                return
            record.estimated_at = datetime.now(UTC)
            await asyncio.sleep(ESTIMATE_INTERVAL)

    def print_clock(self) -> None:
        """Print how the exports stand, with the clock."""
        now = datetime.now(UTC)
        for record in self._records:
            if record.is_active and self.prints_lines:
                left = record.remaining(now)
                parts = [_describe_state(record) or "starting"]
                parts += [time_left(left)] if left else []
                parts += [text] if (text := outage_text(self._outage_since())) else []
                line = clock_line(f"{record.name}: {', '.join(parts)}")
                echo(single_line(line), to=self.console.file)

    def _print(self, record: Record, text: str) -> None:
        if self.prints_lines:
            seconds = record.seconds(datetime.now(UTC))
            line = single_line(f"{record.name}: {text}")
            echo(f"{seconds:7.1f} s  {line}", to=self.console.file)

    def render(self) -> RenderableType:
        """The exports as they are now."""
        narrow = self.console.width < 100
        names = ["iModel", "state", "queued", "executing", *([] if narrow else ["run"])]
        table = Table(*names, box=None, pad_edge=False)
        now = datetime.now(UTC)
        notes: list[Text] = []
        for record in self._records:
            state = record.result or ("starting" if record.is_active else "done")
            cells: list[RenderableType] = [
                table_cell(record.name),
                table_cell(state),
                *map(duration, record.phases(now)),
            ]
            table.add_row(*cells, *([] if narrow else [table_cell(record.run_id or "")]))
            if left := record.remaining(now):
                notes.append(Text(time_left(left), style="dim"))
            if record.trouble is not None:
                notes.append(trouble_line(record.trouble))
        if text := outage_text(self._outage_since()):
            notes.append(Text(text, style="yellow"))
        return Group(table, *notes)


def outage_text(since: datetime | None) -> str:
    """What is waited for during an outage; empty without one."""
    return "" if since is None else f"outage since {since:%H:%M:%S} UTC: waiting for the service"


def outage_line(error: Exception) -> str:
    """The state of a run that cannot be polled."""
    return f"outage, retrying: {summary_line(error)}"


def trouble_line(error: Exception) -> Text:
    """One line about an outage that lasts."""
    text = table_cell(outage_line(error))
    text.style, text.no_wrap, text.overflow = "yellow", True, "ellipsis"
    return text


def _describe_state(record: Record) -> str:
    if record.trouble is not None:
        return outage_line(record.trouble)
    return record.states[-1][1] if record.states else ""
