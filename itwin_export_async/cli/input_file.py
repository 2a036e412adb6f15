"""The input of a batch, read so that Ctrl-C ends it: a pipe or a terminal may never end."""

import sys
from pathlib import Path

from itwin_export_async._http.threads import call_in_thread  # no public name yet
from itwin_export_async.cli.errors import UsageError


async def read_input(file: str) -> bytes:
    """The bytes of a file, `-` for standard input. A `UsageError` says why it cannot be read."""
    try:
        return await call_in_thread(_read, file)
    except OSError as exc:
        raise UsageError(f"{file} cannot be read: {exc.strerror}") from exc


def _read(file: str) -> bytes:
    if file != "-":
        return Path(file).read_bytes()
    buffer = sys.stdin.buffer
    # the raw file has no lock: Python aborts at exit while a thread holds that of standard input
    data: bytes = getattr(buffer, "raw", buffer).read()
    return data
