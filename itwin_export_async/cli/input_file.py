"""The input of a batch, read so that Ctrl-C ends it: a pipe or a terminal may never end."""

import asyncio
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future
from pathlib import Path
from typing import Any, TypeVar

from itwin_export_async.cli.errors import UsageError

T = TypeVar("T")


async def read_input(file: str) -> bytes:
    """The bytes of a file, `-` for standard input. A `UsageError` says why it cannot be read."""
    try:
        return await asyncio.get_running_loop().run_in_executor(_DaemonExecutor(), _read, file)
    except OSError as exc:
        raise UsageError(f"{file} cannot be read: {exc.strerror}") from exc


def _read(file: str) -> bytes:
    if file != "-":
        return Path(file).read_bytes()
    buffer = sys.stdin.buffer
    # the raw file has no lock: Python aborts at exit while a thread holds that of standard input
    data: bytes = getattr(buffer, "raw", buffer).read()
    return data


class _DaemonExecutor(Executor):
    """Runs each call in a thread of its own, which the end of the process does not wait for."""

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        """Start the call."""
        work: Future[T] = Future()
        work.set_running_or_notify_cancel()

        def do() -> None:
            try:
                work.set_result(fn(*args, **kwargs))
            except OSError as exc:
                work.set_exception(exc)

        threading.Thread(target=do, daemon=True).start()
        return work
