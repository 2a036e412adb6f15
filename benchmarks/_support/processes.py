"""Processes for servers, and for work that needs a fresh interpreter."""

import multiprocessing
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

IN_MEMORY = Path("/dev/shm")


@contextmanager
def child(
    work: Callable[..., None], *args: Any, environment: Mapping[str, str] | None = None
) -> Iterator[Connection]:
    """A connection to a new process that does `work(connection, *args)` while the block lasts.

    `environment`: variables that only this process gets. The connection raises `EOFError` if the
    process ended before it sent anything.
    """
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=work, args=(theirs, *args), daemon=True)
    before = dict(os.environ)
    os.environ.update(environment or {})
    try:
        process.start()
    finally:
        for name in environment or {}:
            os.environ.pop(name)
        os.environ.update(before)
    theirs.close()
    try:
        yield ours
    finally:
        process.terminate()
        process.join()
        ours.close()


def peak_memory() -> float:
    """The most memory that this process has ever had, in MiB."""
    status = Path("/proc/self/status")
    if not status.exists():
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    # on Linux the other figure begins with the memory of the process that started this one
    (line,) = (line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) / 1024


@contextmanager
def memory_folder() -> Iterator[Path]:
    """A temporary folder, in memory where the system has such a place."""
    with TemporaryDirectory(dir=IN_MEMORY if IN_MEMORY.is_dir() else None) as name:
        yield Path(name)
