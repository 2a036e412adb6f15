"""What is going on, shown while it goes on: a live table, or plain lines where nobody looks."""

from time import monotonic
from types import TracebackType
from typing import Self

from attrs import define, field
from rich.console import Console
from rich.live import Live
from rich.table import Table

from itwin_export_async import RunUpdate


@define
class Row:
    """One export. `began` and `ended` are in monotonic time, `states` those the run passed."""

    name: str
    began: float
    run_id: str = ""
    states: list[str] = field(factory=list)
    note: str = ""
    ended: float | None = None

    def seconds(self, now: float) -> float:
        """How long it has taken so far, or took."""
        return (now if self.ended is None else self.ended) - self.began


class Board:
    """The exports of one command, shown as they go on."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._rows: list[Row] = []
        self._live = Live(
            console=console,
            get_renderable=self._table,
            refresh_per_second=8,
            transient=True,
        )

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(
        self,
        _: type[BaseException] | None,
        __: BaseException | None,
        ___: TracebackType | None,
    ) -> None:
        if self._console.is_terminal:
            self._live.stop()

    def add(self, name: str) -> Row:
        """A row for a new export."""
        row = Row(name=name, began=monotonic())
        self._rows.append(row)
        return row

    def started(self, row: Row, run_id: str) -> None:
        """The export has its run."""
        row.run_id = run_id
        self._line(row, f"run {run_id}")

    def updated(self, row: Row, update: RunUpdate) -> None:
        """The run was seen in a new state."""
        state = update.run.state.value
        if row.states[-1:] != [state]:
            row.states.append(state)
            self._line(row, state)

    def ended(self, row: Row, note: str) -> None:
        """The export is over."""
        row.note, row.ended = note, monotonic()
        self._line(row, note)

    def _line(self, row: Row, text: str) -> None:
        if not self._console.is_terminal:
            line = f"{row.seconds(monotonic()):7.1f} s  {row.name}: {text}"
            self._console.print(line, highlight=False, soft_wrap=True)

    def _table(self) -> Table:
        table = Table("iModel", "run", "state", "time", box=None, pad_edge=False)
        for row in self._rows:
            state = row.note or (row.states[-1] if row.states else "starting")
            table.add_row(row.name, row.run_id, state, f"{row.seconds(monotonic()):.1f} s")
        return table
