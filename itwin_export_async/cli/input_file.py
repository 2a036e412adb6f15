"""What a batch reads, in a way that Ctrl-C ends: a pipe or a terminal may never say more."""

import asyncio
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")


async def content_of(file: str) -> bytes:
    """The bytes of a file, `-` for standard input. A `ValueError` says why it cannot be read."""
    try:
        return await asyncio.get_running_loop().run_in_executor(_Aside(), _read, file)
    except OSError as exc:
        raise ValueError(f"{file} cannot be read: {exc.strerror}") from exc


def _read(file: str) -> bytes:
    if file != "-":
        return Path(file).read_bytes()
    buffer = sys.stdin.buffer
    # the raw file has no lock: Python ends hard while a thread holds that of standard input
    told: bytes = getattr(buffer, "raw", buffer).read()
    return told


class _Aside(Executor):
    """Reads in threads of their own, which the end of the process does not wait for."""

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        """The work, which goes on by now."""
        work: Future[T] = Future()
        work.set_running_or_notify_cancel()

        def do() -> None:
            try:
                work.set_result(fn(*args, **kwargs))
            except OSError as exc:
                work.set_exception(exc)

        threading.Thread(target=do, daemon=True).start()
        return work
