"""A file while it grows, as `name.part`, until it is complete.

It gets its final name only when its digest is right, where one was told, and it is on the disk. One
writer at a time: the file is locked where the system has locks, so that two downloads to one place
cannot mix. Whoever tidies up meanwhile may make room for another download: what is moved or removed
is always the file that was opened. Nothing is written through a link: what it leads to may be dear
to somebody. What comes is written at once while the disk is quick, because a moment's work is less
than the way to a thread and back. After the first write that was slow, and wherever a digest is
due, threads do it, a large piece at a time, beside the reading. A thread that outlives its
cancelled caller finds the file closed and does nothing.
"""

import asyncio
import errno
import hashlib
import os
import stat
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from threading import Lock
from time import perf_counter
from typing import Any, BinaryIO

from itwin_export_async._errors import DownloadError
from itwin_export_async._protocol.files import Content

try:
    import fcntl
except ImportError:  # pragma: no cover - Windows has no such locks
    fcntl = None  # type: ignore[assignment]

_PIECE = 4 * 1024 * 1024
_PATIENCE = 0.01
_FLAGS = ("O_NOFOLLOW", "O_NONBLOCK", "O_BINARY")  # the last on Windows alone, which has no other
_OPENING = os.O_WRONLY | os.O_CREAT | os.O_APPEND | sum(getattr(os, name, 0) for name in _FLAGS)
_KINDS = {stat.S_IFLNK: "a symbolic link", stat.S_IFDIR: "a folder"}


class TempFile:
    """The growing file that shall become `path`. `done` and `total` are in bytes.

    `patience`: seconds from which a write is slow.
    """

    def __init__(self, path: Path, *, patience: float = _PATIENCE) -> None:
        self.done = 0
        self.total: int | None = None
        self.etag: str | None = None
        self._path = path
        self._place = path.with_name(path.name + ".part")
        self._patience = patience
        self._is_quick = True
        self._md5: bytes | None = None
        self._digest: Any = None  # of what was written, where the whole file's was told
        self._waiting: list[bytes] = []
        self._waiting_bytes = 0
        self._writing: asyncio.Future[None] | None = None
        self._file: BinaryIO | None = None
        self._closed = False
        self._lock = Lock()

    async def open(self) -> None:
        """Make the file and its folder.

        Raises a `DownloadError` when they cannot be made, or another download writes the file.
        """
        await self._in_thread(self._open)

    async def begin(self, content: Content) -> None:
        """Take up a new answer, from the start again where it is the whole file."""
        if content.start == 0:
            if self.done:
                await self._written()
                self._waiting, self._waiting_bytes, self.done = [], 0, 0
                await self._in_thread(self._truncate)
            self._md5 = content.md5
            self._digest = hashlib.md5(usedforsecurity=False) if content.md5 else None
            self._is_quick = self._is_quick and self._digest is None
        self.total = content.total
        self.etag = content.etag

    async def add(self, piece: bytes) -> None:
        """Take one more piece."""
        self._waiting.append(piece)
        self._waiting_bytes += len(piece)
        self.done += len(piece)
        if self._is_quick or self._waiting_bytes >= _PIECE:
            await self._written()
            self._pass_on()

    async def finish(self) -> None:
        """Check the digest, and give the file its final name once it is on the disk."""
        await self._written()
        await self._in_thread(self._commit)

    async def close(self) -> None:
        """Leave nothing half-done behind."""
        writing = self._writing
        if writing is not None and not writing.cancel():
            writing.exception()  # another error is on its way: this one counts no more
        if not self._closed:
            await asyncio.shield(asyncio.to_thread(self._discard))

    def _pass_on(self) -> None:
        """What was taken goes to the disk: at once, or while more comes."""
        pieces, self._waiting, self._waiting_bytes = self._waiting, [], 0
        if not self._is_quick:
            self._writing = self._begin_in_thread(lambda: self._write(pieces))
            return
        try:
            self._write(pieces)
        except OSError as exc:
            raise _unwritable(exc) from exc

    async def _written(self) -> None:
        writing, self._writing = self._writing, None
        if writing is not None:
            await _ended(writing)

    async def _in_thread(self, work: Callable[[], None]) -> None:
        await _ended(self._begin_in_thread(work))

    def _begin_in_thread(self, work: Callable[[], None]) -> asyncio.Future[None]:
        def locked() -> None:
            with self._lock:
                if not self._closed:
                    work()

        return asyncio.get_running_loop().run_in_executor(None, locked)

    def _open(self) -> None:
        make_folder(self._path.parent)
        check_target(self._path)
        while True:
            _check_place(self._place)
            file = _opened(self._place)
            if _is_locked(file):
                file.close()
                raise DownloadError(message="another download is writing it")
            if _is_at(file, self._place) and _obstacle(os.fstat(file.fileno())) is None:
                break
            file.close()  # it was finished and moved away, or replaced, between opening and locking
        self._file = file
        self._truncate()

    def _truncate(self) -> None:
        assert self._file is not None
        if os.fstat(self._file.fileno()).st_size or self._file.tell():
            self._file.truncate(0)

    def _write(self, pieces: list[bytes]) -> None:
        assert self._file is not None
        began = perf_counter()
        self._file.writelines(pieces)
        self._is_quick = self._is_quick and perf_counter() - began < self._patience
        if self._digest is not None:
            for piece in pieces:
                self._digest.update(piece)

    def _commit(self) -> None:
        assert self._file is not None
        self._write(self._waiting)
        if self._digest is not None and self._digest.digest() != self._md5:
            raise DownloadError(
                message="the file that came does not fit its MD5: download it again; if it still "
                "does not, what is stored is damaged and has to be made anew"
            )
        self._file.flush()
        os.fsync(self._file.fileno())
        if not _is_at(self._file, self._place):
            name = self._place.name
            raise DownloadError(message=f"{name} was removed or replaced while it grew: try again")
        _close_first(self._file)
        self._place.replace(self._path)
        self._file.close()
        self._closed = True

    def _discard(self) -> None:
        with self._lock:
            if self._file is not None and not self._closed:
                # what was closed first, nobody could remove while it was open
                is_ours = self._file.closed or _is_at(self._file, self._place)
                with suppress(OSError):  # a full disk may refuse even what is thrown away
                    _close_first(self._file)
                with suppress(OSError):  # what went wrong before counts more
                    if is_ours:
                        self._place.unlink()
                with suppress(OSError):
                    self._file.close()
            self._closed = True


def make_folder(folder: Path) -> None:
    """Make the folder where it is missing.

    Raises a `DownloadError` that says why it cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, "Permission denied")
    except OSError as exc:
        raise DownloadError(
            message=f"the folder cannot be written: {exc.strerror}",
            destination=str(folder),
        ) from exc


def check_target(path: Path) -> None:
    """Raise a `DownloadError` where something has this name that no file may replace.

    A file may replace a file, and a link to one or to nothing, not what the link leads to; but not
    a device, a pipe or a folder, nor a link to any, such as `/dev/stdout`.
    """
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError):  # there is nothing, or the writing will tell what is wrong
        return
    if not stat.S_ISREG(mode):
        raise DownloadError(
            message=f"cannot be written: it is {_kind(mode)}", destination=str(path)
        )


async def _ended(writing: asyncio.Future[None]) -> None:
    try:
        await writing
    except OSError as exc:
        raise _unwritable(exc) from exc


def _unwritable(exc: OSError) -> DownloadError:
    return DownloadError(message=f"cannot be written: {exc.strerror}")


def _kind(mode: int) -> str:
    return _KINDS.get(stat.S_IFMT(mode), "neither file nor folder")


def _obstacle(status: os.stat_result) -> str | None:
    """What it is, when it is more than a file that has this one name."""
    if not stat.S_ISREG(status.st_mode):
        return _kind(status.st_mode)
    return "a file with another name besides" if status.st_nlink > 1 else None


def _check_place(place: Path) -> None:
    """Raise a `DownloadError` that says what stands where the file is to grow, if it is none."""
    try:
        obstacle = _obstacle(place.lstat())
    except FileNotFoundError:
        return
    if obstacle is not None:
        raise DownloadError(message=f"cannot be written: {place.name} is {obstacle}; remove it")


def _opened(place: Path) -> BinaryIO:
    """The file at this place, or a new one; not what a link leads to, nor a pipe to wait for."""
    return os.fdopen(os.open(place, _OPENING, 0o666), "ab")


def _is_locked(file: BinaryIO) -> bool:
    """Whether another writer has it; otherwise it is ours until it is closed."""
    if fcntl is None:  # pragma: no cover - Windows has no such locks
        return False
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as exc:  # a file system without locks has no other writer to tell
        return exc.errno in (errno.EAGAIN, errno.EACCES)
    return False


def _close_first(file: BinaryIO) -> None:
    """Where there are no locks: Windows neither renames nor removes what is open.

    Elsewhere the lock has to hold until the file has its place.
    """
    if fcntl is None:  # pragma: no cover - Windows has no such locks
        file.close()


def _is_at(file: BinaryIO, place: Path) -> bool:
    """Whether the open file is still the one at this place."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), place.lstat())
    except OSError:
        return False
