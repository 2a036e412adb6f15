"""What is going on, shown while it goes on: a live table, or plain lines where nobody looks."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

from rich.console import Console, RenderableType
from rich.live import Live
from rich.table import Table

from itwin_export_async import RunHandle, RunUpdate
from itwin_export_async.cli.export_record import Record
from itwin_export_async.cli.output.console import cell, flat, harmless, tell


class StandardError:
    """What stands for standard error when it is written to: a live table moves out of the way."""

    def write(self, text: str) -> int:
        """Write to it."""
        return sys.stderr.write(harmless(text))

    def flush(self) -> None:
        """Have it shown."""
        sys.stderr.flush()


@contextmanager
def shown(console: Console, picture: Callable[[], RenderableType]) -> Iterator[None]:
    """Keep the picture up to date on the terminal while the block lasts; nothing on a file."""
    if not console.is_terminal:
        yield
        return
    # what goes to a file must not be drawn into the picture
    live = Live(
        console=console,
        get_renderable=picture,
        refresh_per_second=8,
        transient=True,
        redirect_stdout=sys.stdout.isatty(),
    )
    with live:
        yield


class Board:
    """The few exports of a command, each to its end. `run`: the latest that was started."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.run: RunHandle | None = None
        self._records: list[Record] = []

    def add(self, record: Record) -> None:
        """A further export, which begins now."""
        record.begin()
        self._records.append(record)

    def started(self, record: Record, run: RunHandle) -> None:
        """The export has its run."""
        self.run = run
        record.connection_id, record.run_id = run.connection_id, run.run_id
        self._line(record, f"run {run.run_id}")

    def updated(self, record: Record, update: RunUpdate) -> None:
        """The run was looked at."""
        if record.saw(update):
            self._line(record, record.states[-1][1])

    def ended(self, record: Record) -> None:
        """The export is over."""
        self._line(record, record.result)

    def _line(self, record: Record, text: str) -> None:
        if not self.console.is_terminal:
            line = f"{record.seconds(datetime.now(UTC)):7.1f} s  {record.name}: {text}"
            tell(flat(line), to=self.console.file)

    def table(self) -> Table:
        """All of them as they are now."""
        table = Table("iModel", "run", "state", "time", box=None, pad_edge=False)
        now = datetime.now(UTC)
        for record in self._records:
            told = (record.name, record.run_id or "", record.result or "starting")
            table.add_row(*map(cell, told), f"{record.seconds(now):.1f} s")
        return table
