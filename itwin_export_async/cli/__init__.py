"""The command `itwin-export`. It needs the extra `cli`; the library does not."""

import sys
from collections.abc import Sequence
from io import TextIOWrapper
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # everything else is imported where Ctrl-C is quiet
    from itwin_export_async.cli.runtime import Runtime


def main(arguments: Sequence[str] | None = None, *, runtime: "Runtime | None" = None) -> None:
    """Run the command line, and exit with its code.

    `arguments`: those of the process by default. `runtime`: another client or event loop for the
    command. What the encoding of a stream lacks is spelled out. A bug exits with 70.
    """
    for stream in [each for each in (sys.stdout, sys.stderr) if isinstance(each, TextIOWrapper)]:
        stream.reconfigure(errors="backslashreplace")
    try:
        _run(arguments, runtime)
    except KeyboardInterrupt:  # nothing has started: the imports take a while
        sys.exit(130)


def _run(arguments: Sequence[str] | None, runtime: "Runtime | None") -> None:
    try:
        from itwin_export_async.cli.app import app
        from itwin_export_async.cli.runner import BugExit
    except ModuleNotFoundError as exc:
        if exc.name not in ("typer", "rich", "click"):
            raise
        sys.exit(
            f"itwin-export needs {exc.name}: install it with pip install 'itwin-export-async[cli]'"
        )
    with BugExit():
        app(arguments, prog_name="itwin-export", obj=runtime)
