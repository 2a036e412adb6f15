"""The command `itwin-export`. It needs the extra `cli`; the library does not."""

import sys
from collections.abc import Sequence
from io import TextIOWrapper
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # all else is loaded where Ctrl-C is quiet
    from itwin_export_async.cli.runtime import Runtime


def main(arguments: Sequence[str] | None = None, *, runtime: "Runtime | None" = None) -> None:
    """Run the command line and exit with its code. What a stream cannot write is spelled out.

    `arguments`: those of the process by default. `runtime`: another client or event loop for the
    command.
    """
    for stream in [each for each in (sys.stdout, sys.stderr) if isinstance(each, TextIOWrapper)]:
        stream.reconfigure(errors="backslashreplace")
    try:
        _run(arguments, runtime)
    except KeyboardInterrupt:  # nothing has begun: it takes a while until all is loaded
        sys.exit(130)


def _run(arguments: Sequence[str] | None, runtime: "Runtime | None") -> None:
    try:
        from itwin_export_async.cli.app import app
    except ModuleNotFoundError as exc:
        if exc.name not in ("typer", "rich", "click"):
            raise
        sys.exit(
            f"itwin-export needs {exc.name}: install it with pip install 'itwin-export-async[cli]'"
        )
    app(arguments, prog_name="itwin-export", obj=runtime)
