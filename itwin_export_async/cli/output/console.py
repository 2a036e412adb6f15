"""Text for terminals: whatever a service sends, none of it acts there."""

import errno
import os
import re
from collections.abc import Iterable
from typing import IO, Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.text import Text

CONTROLS = re.compile(  # control characters but tab and newline, text direction, surrogates
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)


def escape_controls(text: str) -> str:
    r"""The text with `\x1b` and its like spelled out, so that a terminal does not obey them."""
    return CONTROLS.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def single_line(text: str) -> str:
    """The text in one line, so that a service's words do not begin another one."""
    return " ".join(piece.strip() for piece in text.splitlines() if piece.strip())


def table_cell(text: str) -> Text:
    """The text for a table of rich, which measures what it shows."""
    return Text(escape_controls(single_line(text)))


def echo(text: str, *, to: IO[str] | None = None) -> None:
    """Print a text at once. `to`: None for standard output.

    A terminal that is gone, as after SIGHUP, is no error.
    """
    try:
        print(escape_controls(text), file=to, flush=True)
    except OSError as error:
        if error.errno != errno.EIO:
            raise


def is_live(console: Console) -> bool:
    """Whether a live display can be drawn: FORCE_COLOR makes no terminal of a log file."""
    return console.is_terminal and console.file.isatty() and not console.is_dumb_terminal


class SafeConsole(Console):
    """A console on which no text is markup, and none acts on the terminal."""

    def __init__(self, **options: Any) -> None:
        super().__init__(markup=False, emoji=False, highlight=False, **options)

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        """The segments to print. Colours and cursor moves are not in their texts."""
        for text, style, control in super().render(renderable, options):
            yield Segment(text if control else escape_controls(text), style, control)

    def on_broken_pipe(self) -> None:
        """Raise `BrokenPipeError`, as `print` does. Rich would end the process."""
        raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))


def stdout_console() -> SafeConsole:
    """A console for tables: the terminal, or wide enough that no line is broken."""
    console = SafeConsole()
    return console if is_live(console) else SafeConsole(width=200)
