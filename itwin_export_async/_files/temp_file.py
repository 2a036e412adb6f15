"""A file while it grows, under a random name in the folder of its final name.

The final name appears in one step, once the file is complete and on the disk. On any failure or
cancellation the temporary file is removed. All disk work runs in threads of the client.
"""

import errno
import os
import re
import secrets
import stat
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial
from itertools import islice
from pathlib import Path
from typing import BinaryIO, TypeVar

from itwin_export_async._errors import DownloadError
from itwin_export_async._files.disk_threads import DiskThreads, PieceQueue
from itwin_export_async._files.names import numbered

T = TypeVar("T")

PIECE_SIZE = 4 * 1024 * 1024
MAX_NUMBER = 10_000
_STREAM = re.compile(r"/dev/(std(in|out|err)|fd/\d+)|/proc/[^/]+/fd/\d+")
_FLAGS = ("O_NOFOLLOW", "O_BINARY")  # Windows has only the second
_OPEN_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_EXCL | sum(getattr(os, name, 0) for name in _FLAGS)

MayReplace = Callable[[Path], bool]
"""Whether a file that exists at this path may be replaced."""


class TempFile:
    """The growing file. Made by `temp_file`."""

    def __init__(self, threads: DiskThreads, folder: Path, target: Path | None) -> None:
        self._threads = threads
        self._folder = folder
        self._target = target
        self._path = folder / f".itwin-export-{secrets.token_hex(8)}.part"
        self._file: BinaryIO | None = None
        self._pieces = PieceQueue(threads, self._write, PIECE_SIZE)

    async def write(self, chunk: bytes) -> None:
        """Add a chunk. Raises a `DownloadError` when the disk does not take it."""
        self._pieces.append(chunk)
        try:
            await self._pieces.ready()
        except OSError as exc:
            raise self._unwritable(exc) from exc

    async def complete(self) -> os.stat_result:
        """Bring the file to the disk, still under its temporary name. Nothing is added later."""
        return await self._finish(lambda: os.lstat(self._path))

    async def finish(self, path: Path, may_replace: MayReplace) -> Path:
        """Complete the file, then bring it to its final name, and return that.

        That is `path`, with a number where a file exists that may not be replaced.
        """
        return await self._finish(lambda: place_file(self._path, path, may_replace=may_replace))

    async def finish_at(self, path: Path, *, replace: bool) -> Path | None:
        """The same at `path` alone; None where a file exists there and `replace` is False."""

        def place() -> Path | None:
            with suppress(FileExistsError):
                return _place_at(self._path, path, replace=replace)
            return None

        return await self._finish(place)

    async def _finish(self, work: Callable[[], T]) -> T:
        try:
            rest = await self._pieces.take()
            return await self._threads.run(partial(self._commit, rest, work))
        except OSError as exc:
            raise self._unwritable(exc) from exc

    async def open(self) -> None:
        """Create the file, and its folder where that is missing. Raises a `DownloadError`."""
        await self._threads.run(self._open)

    async def close(self) -> None:
        """Remove the file unless it was finished."""
        if self._file is not None:
            await self._pieces.settle()
            await self._threads.run(self._discard)

    def _open(self) -> None:
        make_folder(self._folder)
        mode = 0o666 if self._target is None else _mode_of(self._target, 0o666)
        try:
            self._file = os.fdopen(os.open(self._path, _OPEN_FLAGS, mode), "wb")
        except OSError as exc:
            raise self._unwritable(exc) from exc

    def _write(self, chunks: list[bytes]) -> None:
        assert self._file is not None
        self._file.writelines(chunks)

    def _commit(self, rest: list[bytes], work: Callable[[], T]) -> T:
        assert self._file is not None
        if not self._file.closed:
            self._file.writelines(rest)
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()
        final = work()
        if isinstance(final, Path):
            self._file = None
        return final

    def _discard(self) -> None:
        assert self._file is not None
        with suppress(OSError):  # a full disk may reject even what is thrown away
            self._file.close()
        with suppress(OSError):  # the earlier error counts
            self._path.unlink()
        self._file = None

    def _unwritable(self, exc: OSError) -> DownloadError:
        return _disk_error(f"cannot be written: {exc.strerror}", self._target or self._folder)


@asynccontextmanager
async def temp_file(
    threads: DiskThreads, folder: Path, target: Path | None = None
) -> AsyncIterator[TempFile]:
    """A file that grows in `folder`, and is removed at the end unless it was finished.

    `target` is the path that it will replace, where that is known.
    """
    file = TempFile(threads, folder, target)
    try:
        await file.open()
        yield file
    finally:
        await file.close()


def place_file(source: Path, path: Path, *, may_replace: MayReplace) -> Path:
    """Move a complete file to `path`, in one step, and return its final path.

    An existing file is replaced only where `may_replace` allows it, and keeps its mode; otherwise
    the name gets `-2`, `-3`, ... Raises a `DownloadError` where a folder, device or pipe has the
    path of a file to replace, and an `OSError` where the disk refuses.
    """
    for name in islice(numbered(path.name), MAX_NUMBER):
        candidate = path.with_name(name)
        with suppress(FileExistsError):
            return _place_at(source, candidate, replace=may_replace(candidate))
    raise _disk_error(f"cannot be written: {MAX_NUMBER} files have this name", path)


def is_same_file(path: Path, other: Path) -> bool:
    """Whether two paths lead to one file, or would if it existed."""
    with suppress(OSError):
        if path.samefile(other):
            return True
    return os.path.normcase(os.path.realpath(path)) == os.path.normcase(os.path.realpath(other))


def _place_at(source: Path, path: Path, *, replace: bool) -> Path:
    """Move a file to a path. Raises `FileExistsError` if one is there and `replace` is False."""
    if not replace:
        return _move_to_free(source, path)
    _check_type(path)
    _copy_mode(path, source)
    return source.replace(path)


def _move_to_free(source: Path, path: Path) -> Path:
    """Move a file to a path that is free. Raises `FileExistsError` where it is not."""
    try:
        path.hardlink_to(source)  # unlike a rename, it never replaces a file
    except FileExistsError:
        raise
    except OSError:  # the file system has no hard links
        if os.path.lexists(path):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path)) from None
        return source.rename(path)
    with suppress(OSError):
        source.unlink()
    return path


def _check_type(path: Path) -> None:
    """Raise a `DownloadError` where a folder, device or pipe, or a link to one, has this path."""
    type_ = file_type(path)
    if type_ not in (None, "a file"):
        raise _disk_error(f"cannot be written: it is {type_}", path)


def file_type(path: Path) -> str | None:
    """What is at a path, links followed; None where nothing is."""
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError):  # the writing will say what is wrong
        return None
    if stat.S_ISDIR(mode):
        return "a folder"
    return "a file" if stat.S_ISREG(mode) and not _is_stream(path) else "a device or pipe"


def _is_stream(path: Path) -> bool:
    """Whether a path leads to a standard stream, which is a regular file where it is redirected."""
    while path.is_symlink():  # it ends: the path leads to a file
        if _STREAM.fullmatch(os.path.normpath(path)):
            return True
        path = path.parent / path.readlink()
    return False


def _mode_of(path: Path, otherwise: int) -> int:
    try:
        return stat.S_IMODE(path.stat().st_mode) & 0o777
    except OSError:
        return otherwise


def _copy_mode(path: Path, source: Path) -> None:
    """Give the source the mode of the file that it replaces."""
    mode = _mode_of(path, -1)
    if mode < 0 or not hasattr(os, "fchmod"):
        return
    file = os.open(source, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0))
    try:
        os.fchmod(file, mode)
    finally:
        os.close(file)


def make_folder(folder: Path) -> None:
    """Make the folder where it is missing. Raises a `DownloadError` where it cannot be written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as exc:
        raise _disk_error(f"the folder cannot be written: {exc.strerror}", folder) from exc
    check_folder(folder)


def check_folder(folder: Path) -> None:
    """Raise a `DownloadError` where the folder cannot be written or made. Makes nothing."""
    existing = folder
    while not os.path.lexists(existing) and existing != existing.parent:
        existing = existing.parent
    code = 0
    if not existing.is_dir():
        code = errno.ENOTDIR
    elif not os.access(existing, os.W_OK | os.X_OK):
        code = errno.EACCES
    if code:
        raise _disk_error(f"the folder cannot be written: {os.strerror(code)}", folder)


def _disk_error(message: str, path: Path) -> DownloadError:
    return DownloadError(message=message, reason="disk", destination=str(path))
