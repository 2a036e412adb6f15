"""The lock of a ledger: one call of one process writes the file.

SQLite's own locks are POSIX locks, which a process loses when it closes any descriptor of the
file. Two locks are held here, which end with their descriptors only:

- on the file beside the ledger, `<name>-lock`, with `flock` (Windows: `msvcrt.locking`);
- on Linux also on the ledger itself, with an open-file-description lock on a byte that SQLite never
  locks. It holds where the file beside it was removed.

After locking, the path is checked to lead to the locked file still.
"""

import os
import struct
import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

if sys.platform == "win32":  # pragma: no cover - other systems
    import msvcrt
else:
    import fcntl

_LOCK_AT = 1 << 62  # SQLite locks bytes from 1 GiB on, far below


class LedgerInUse(Exception):
    """Another call holds the lock."""


def lock_ledger(path: Path) -> ExitStack:
    """Lock the ledger, whose file exists; closing the result releases the lock.

    Raises `LedgerInUse`, or an `OSError` if a file cannot be opened.
    """
    with ExitStack() as locks:
        companion = path.with_name(f"{path.name}-lock")
        locks.callback(os.close, _lock(companion, _open_companion, _lock_file))
        if sys.platform == "linux":  # pragma: no branch - other systems
            locks.callback(os.close, _lock(path, _open_ledger, _lock_description))
        return locks.pop_all()


def _lock(path: Path, open_file: Callable[[Path], int], lock: Callable[[int], None]) -> int:
    """The descriptor of the locked file that is at the path after locking."""
    while True:
        descriptor = open_file(path)
        try:
            lock(descriptor)
            if os.path.samestat(  # pragma: no branch - see below
                os.fstat(descriptor), os.stat(path)
            ):
                return descriptor
        except BlockingIOError as exc:
            os.close(descriptor)
            raise LedgerInUse from exc
        except FileNotFoundError:  # pragma: no cover - removed since it was opened
            pass
        except BaseException:  # pragma: no cover - a file system without locks
            os.close(descriptor)
            raise
        os.close(descriptor)  # pragma: no cover - another file is at the path by now


def _open_companion(path: Path) -> int:
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o666)
    except PermissionError:  # pragma: no cover - another user's file, which root may write
        return os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0))


def _open_ledger(path: Path) -> int:
    return os.open(path, os.O_RDWR)


def _lock_file(descriptor: int) -> None:
    if sys.platform == "win32":  # pragma: no cover - other systems
        try:
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        except OSError as exc:
            raise BlockingIOError from exc
    else:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _lock_description(descriptor: int) -> None:
    if sys.platform == "linux":  # pragma: no branch - the caller's condition, for the type checker
        flock = struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, _LOCK_AT, 1, 0)
        fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK, flock)
