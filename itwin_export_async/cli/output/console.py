"""What people read in their terminal: whatever the service says, nothing of it acts there."""

import errno
import os
import re
from collections.abc import Iterable
from typing import IO, Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.text import Text

_ACTING = re.compile(  # controls but for tabs and new lines, changes of direction, half characters
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)


def harmless(text: str) -> str:
    r"""The text with `\x1b` and its like spelled out: a terminal shows them, and does not obey."""
    return _ACTING.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def flat(text: str) -> str:
    """The text in one line: what the service says does not begin another one."""
    return re.sub(r"\s*[\r\n]\s*", " ", text)


def cell(text: str) -> Text:
    """The text for a table, whose columns are as wide as what they show."""
    return Text(harmless(flat(text)))


def tell(text: str, *, to: IO[str] | None = None) -> None:
    """Print a text at once; `to`: None for standard output."""
    print(harmless(text), file=to, flush=True)


class Window(Console):
    """What tables are shown on. No text is markup: styles come by `Text` and by columns."""

    def __init__(self, **options: Any) -> None:
        super().__init__(markup=False, emoji=False, highlight=False, **options)

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        """The pieces of what is shown; colours and the cursor are not in their texts."""
        for text, style, control in super().render(renderable, options):
            yield Segment(text if control else harmless(text), style, control)

    def on_broken_pipe(self) -> None:
        """Raise that nobody reads on, as `print` does: rich would end the process from within."""
        raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))


def window() -> Window:
    """What tables are printed on: the terminal, or wide enough that no line is broken."""
    console = Window()
    return console if console.is_terminal else Window(width=200)
