"""Work in processes of its own: servers, and what needs a fresh interpreter."""

import multiprocessing
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from typing import Any


@contextmanager
def child(work: Callable[..., None], *args: Any) -> Iterator[Connection]:
    """A connection to a new process that does `work(connection, *args)` while the block lasts.

    `EOFError` from the connection when that process has ended before it answered.
    """
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=work, args=(theirs, *args), daemon=True)
    process.start()
    theirs.close()
    try:
        yield ours
    finally:
        process.terminate()
        process.join()
        ours.close()
