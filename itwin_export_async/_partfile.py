"""A file while it grows, as `name.part`, until it is complete.

It gets its final name only when its digest is right, where one was told, and it is on the disk. One
writer at a time: the file is locked where the system has locks, so that two downloads to one place
cannot mix. Writing happens in threads, a large piece at a time, beside the reading; a thread that
outlives its cancelled caller finds the file closed and does nothing.
"""

import asyncio
import errno
import hashlib
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from threading import Lock
from typing import Any, BinaryIO, TypeVar

from itwin_export_async._errors import DownloadError
from itwin_export_async._protocol.storage import Content

try:
    import fcntl
except ImportError:  # pragma: no cover - Windows has no such locks
    fcntl = None  # type: ignore[assignment]

T = TypeVar("T")

_PIECE = 4 * 1024 * 1024


class PartFile:
    """The growing file that shall become `path`. `done` and `total` are in bytes."""

    def __init__(self, path: Path) -> None:
        self.done = 0
        self.total: int | None = None
        self.etag: str | None = None
        self._path = path
        self._place = path.with_name(path.name + ".part")
        self._md5: bytes | None = None
        self._digest: Any = None  # of what was written, where the whole file's was told
        self._waiting: list[bytes] = []
        self._waiting_bytes = 0
        self._writing: asyncio.Future[None] | None = None
        self._file: BinaryIO | None = None
        self._closed = False
        self._lock = Lock()

    async def open(self) -> None:
        """Make the file, or raise a `DownloadError` when another download writes it."""
        await self._in_thread(self._open)

    async def begin(self, content: Content) -> None:
        """Take up a new answer, from the start again where it is the whole file."""
        if content.start == 0:
            if self.done:
                self.done = 0
                await self._in_thread(self._truncate)
            self._md5 = content.md5
            self._digest = hashlib.md5(usedforsecurity=False) if content.md5 else None
        self.total = content.total
        self.etag = content.etag

    async def add(self, piece: bytes) -> None:
        """Take one more piece."""
        self._waiting.append(piece)
        self._waiting_bytes += len(piece)
        self.done += len(piece)
        if self._waiting_bytes >= _PIECE:
            await self._written()
            self._begin_to_write()

    async def flush(self) -> None:
        """Write what was taken."""
        await self._written()
        self._begin_to_write()
        await self._written()

    async def finish(self) -> None:
        """Check the digest, and give the file its final name once it is on the disk."""
        if self._digest is not None and self._digest.digest() != self._md5:
            raise DownloadError(message="the file that came does not fit its MD5")
        await self._in_thread(self._commit)

    async def close(self) -> None:
        """Leave nothing half-done behind."""
        writing = self._writing
        if writing is not None and not writing.cancel() and not writing.cancelled():
            writing.exception()  # another error is on its way: this one counts no more
        await asyncio.shield(asyncio.to_thread(self._discard))

    def _begin_to_write(self) -> None:
        """What was taken goes to the disk while more comes."""
        pieces, self._waiting, self._waiting_bytes = self._waiting, [], 0
        if pieces:
            self._writing = asyncio.create_task(self._in_thread(lambda: self._write(pieces)))

    async def _written(self) -> None:
        writing, self._writing = self._writing, None
        if writing is not None:
            await writing

    async def _in_thread(self, work: Callable[[], T]) -> T | None:
        def locked() -> T | None:
            with self._lock:
                return None if self._closed else work()

        try:
            return await asyncio.to_thread(locked)
        except OSError as exc:
            raise DownloadError(message=f"cannot be written: {exc.strerror}") from exc

    def _open(self) -> None:
        while True:
            file = self._place.open("ab")
            if _is_locked(file):
                file.close()
                raise DownloadError(message="another download is writing it")
            if _is_at(file, self._place):
                break
            file.close()  # it was finished, and moved away, between opening and locking
        self._file = file
        self._truncate()

    def _truncate(self) -> None:
        assert self._file is not None
        if os.fstat(self._file.fileno()).st_size or self._file.tell():
            self._file.truncate(0)

    def _write(self, pieces: list[bytes]) -> None:
        assert self._file is not None
        data = b"".join(pieces)
        if self._digest is not None:
            self._digest.update(data)
        self._file.write(data)

    def _commit(self) -> None:
        assert self._file is not None
        self._file.flush()
        os.fsync(self._file.fileno())
        self._place.replace(self._path)
        self._file.close()
        self._closed = True

    def _discard(self) -> None:
        with self._lock:
            if self._file is not None and not self._closed:
                self._place.unlink(missing_ok=True)
                with suppress(OSError):  # a full disk may refuse even what is thrown away
                    self._file.close()
            self._closed = True


def _is_locked(file: BinaryIO) -> bool:
    """Whether another writer has it; otherwise it is ours until it is closed."""
    if fcntl is None:  # pragma: no cover - Windows has no such locks
        return False
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as exc:  # a file system without locks has no other writer to tell
        return exc.errno in (errno.EAGAIN, errno.EACCES)
    return False


def _is_at(file: BinaryIO, place: Path) -> bool:
    """Whether the open file is still the one at this place."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), place.stat())
    except FileNotFoundError:
        return False
