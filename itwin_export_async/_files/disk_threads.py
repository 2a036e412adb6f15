"""Threads for the blocking work of one client, and a queue of chunks for such a thread.

The loop's default executor belongs to the caller.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from typing import TypeVar

T = TypeVar("T")

MAX_THREADS = 4


class DiskThreads:
    """A few threads for the blocking work of one client, started at first use."""

    def __init__(self) -> None:
        self._pool: ThreadPoolExecutor | None = None

    def start(self, work: Callable[[], T]) -> asyncio.Future[T]:
        """Run blocking work in a thread. Do not cancel the future: the work would go on unseen."""
        if self._pool is None:
            self._pool = ThreadPoolExecutor(MAX_THREADS, thread_name_prefix="itwin-export-files")
        return asyncio.get_running_loop().run_in_executor(self._pool, work)

    async def run(self, work: Callable[[], T]) -> T:
        """The result of blocking work. A cancellation is raised once the work is done."""
        future = self.start(work)
        try:
            await asyncio.wait([future])
        finally:
            await settle(future)
        return future.result()

    def close(self) -> None:
        """Let the threads end as soon as they are idle."""
        if self._pool is not None:
            self._pool.shutdown(wait=False)
            self._pool = None


async def settle(future: asyncio.Future[T] | None) -> None:
    """Wait until the work is done, whatever comes of it, also while being cancelled."""
    while future is not None and not future.done():
        with suppress(asyncio.CancelledError):  # the caller raises its own
            await asyncio.wait([future])
    if future is not None and not future.cancelled():
        future.exception()  # counts as retrieved


class PieceQueue:
    """Passes chunks to a thread in pieces of `size` bytes, one piece after another.

    At most two pieces are in memory: one in the thread, one that fills up meanwhile.
    """

    def __init__(
        self, threads: DiskThreads, consume: Callable[[list[bytes]], None], size: int
    ) -> None:
        self._threads = threads
        self._consume = consume
        self._size = size
        self._chunks: list[bytes] = []
        self._bytes = 0
        self._job: asyncio.Future[None] | None = None

    def append(self, chunk: bytes) -> None:
        """Add a chunk. Call `ready` between two of them."""
        self._chunks.append(chunk)
        self._bytes += len(chunk)

    async def ready(self) -> None:
        """Start on a full piece, once the one before is done. Raises what its work raised."""
        if self._bytes >= self._size:
            await self._next()

    async def flush(self) -> None:
        """Wait until all chunks are consumed. Raises what the work raised."""
        while self._chunks or self._job is not None:
            await self._next()

    async def take(self) -> list[bytes]:
        """Wait until no thread works for the queue, and take out the chunks that are left."""
        await self._job_done()
        chunks, self._chunks, self._bytes = self._chunks, [], 0
        return chunks

    async def settle(self) -> None:
        """Wait until no thread works for the queue, and ignore what its work raised."""
        await settle(self._job)

    async def _next(self) -> None:
        chunks = await self.take()
        if chunks:
            self._job = self._threads.start(partial(self._consume, chunks))

    async def _job_done(self) -> None:
        if (job := self._job) is not None:
            await asyncio.wait([job])
            self._job = None
            job.result()
