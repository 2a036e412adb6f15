"""Lists as plain tables: each row is one line, as long as it is, so that ids can be copied."""

from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from typing import Any, TypeVar

from rich.cells import cell_len

from itwin_export_async.cli.output.console import echo, escape_controls, single_line
from itwin_export_async.cli.output.json_lines import print_json

T = TypeVar("T")


def print_table(names: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> None:
    """Print a table with a header."""
    for line in table_lines(names, rows):
        echo(line)


def table_lines(names: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> Iterable[str]:
    """The lines of a table with a header."""
    table = [[escape_controls(single_line(text)) for text in row] for row in (names, *rows)]
    widths = [max(map(cell_len, column)) for column in zip(*table, strict=True)]
    for row in table:
        padded = (
            text + " " * (width - cell_len(text)) for text, width in zip(row, widths, strict=True)
        )
        yield "  ".join(padded).rstrip()


def print_items(
    items: Sequence[T],
    *,
    note: Callable[[str], None],
    as_json: bool,
    to_json: Callable[[T], dict[str, Any]],
    names: tuple[str, ...],
    to_row: Callable[[T], tuple[str, ...]],
    if_empty: str,
) -> None:
    """Print a list as JSON lines or as a table. For an empty list, `note` gets `if_empty`."""
    if as_json:
        for item in items:
            print_json(to_json(item))
    elif items:
        print_table(names, [to_row(item) for item in items])
    if not items:
        note(if_empty)


def short_moment(moment: datetime | None) -> str:
    """A date in a table, in UTC; empty for none."""
    return f"{moment:%Y-%m-%d %H:%M:%S}" if moment else ""
