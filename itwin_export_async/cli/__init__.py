"""The command `itwin-export`. It needs the extra `cli`; the library does not."""

import sys
from io import TextIOWrapper


def main() -> None:
    """Run the command line and exit with its code. What a stream cannot write is spelled out."""
    for stream in [each for each in (sys.stdout, sys.stderr) if isinstance(each, TextIOWrapper)]:
        stream.reconfigure(errors="backslashreplace")
    try:
        _run()
    except KeyboardInterrupt:  # nothing has begun: it takes a while until all is loaded
        sys.exit(130)


def _run() -> None:
    try:
        from itwin_export_async.cli.app import app
    except ModuleNotFoundError as exc:
        if exc.name not in ("typer", "rich", "click"):
            raise
        sys.exit(
            f"itwin-export needs {exc.name}: install it with pip install 'itwin-export-async[cli]'"
        )
    app(prog_name="itwin-export")
