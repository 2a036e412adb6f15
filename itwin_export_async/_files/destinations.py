"""Where a downloaded file may go, and which files it may replace."""

import os
import re
from collections.abc import Collection
from pathlib import Path
from typing import TypeAlias

from attrs import field, frozen

from itwin_export_async._files.names import has_suffix
from itwin_export_async._files.temp_file import check_folder, file_type, is_same_file
from itwin_export_async._redaction import without_query

_URL = re.compile(r"[a-z][a-z0-9+.-]+:/", re.IGNORECASE)  # a `Path` has one slash left of two


@frozen(kw_only=True)
class Target:
    """Where a file goes: a folder, in which it gets the name of the stored file unless `name` is
    given.
    """

    folder: Path
    name: str | None = None

    @property
    def path(self) -> Path:
        """The path, as far as it is known."""
        return self.folder if self.name is None else self.folder / self.name


def check_destination(
    destination: str | os.PathLike[str],
    *,
    name: str = "destination",
    protected: Collection[Path] = (),
) -> Target:
    """Where a download to this destination goes. Makes nothing.

    A destination is a folder if it exists as one, ends with a separator or has no suffix; otherwise
    it is a file. `protected` are files that no download may replace.

    Raises a `ValueError` that begins with `name` for what can never be one: a URL, a device, a pipe
    or a link to one, a protected file, a folder whose path is a file. Raises a `DownloadError`
    where the folder cannot be written.
    """
    text = os.fspath(destination)
    if not isinstance(text, str):
        raise TypeError(f"{name} must be a string or a path, not {text!r}")
    if not text.strip() or "\0" in text:
        raise ValueError(f"{name} {text!r} is not a path")
    if "://" in text or _URL.match(text):
        raise ValueError(
            f"{name} {without_query(text)!r} is a URL: give a local path, or write the chunks of "
            "storage.open() there"
        )
    path, kind = Path(text), file_type(Path(text))
    if kind == "a device or pipe":
        raise ValueError(f"{name} {text!r} is {kind}: give the path of a file or folder")
    if not is_folder(text):
        if any(is_same_file(path, other) for other in protected):
            raise ValueError(f"{name} {text!r} is in use by this call: give another path")
        check_folder(path.parent)
        return Target(folder=path.parent, name=path.name)
    if kind == "a file":
        raise ValueError(
            f"{name} {text!r} means a folder, but is a file: give a path with a suffix"
        )
    check_folder(path)
    return Target(folder=path)


def is_folder(destination: str | os.PathLike[str]) -> bool:
    """Whether a destination means a folder: it is one, ends with a separator or has no suffix."""
    text = os.fspath(destination)
    return text.endswith(("/", os.sep)) or os.path.isdir(text) or not has_suffix(text)


FileIdentity: TypeAlias = tuple[str, tuple[int, ...] | None]
"""The real path of a file, and its device, inode, size and time; None where there is no file."""


@frozen
class WrittenFiles:
    """The files that a client has put into folders, and so may replace. Keeps the latest ones."""

    _states: dict[str, tuple[int, ...]] = field(factory=dict, init=False)
    _limit: int = field(default=10_000, kw_only=True)

    def add(self, file: FileIdentity) -> None:
        """Remember a file as it is now."""
        path, state = file
        self._states.pop(path, None)
        if state is not None:
            self._states[path] = state
        while len(self._states) > self._limit:
            del self._states[next(iter(self._states))]

    def __contains__(self, path: Path) -> bool:
        real_path, state = identify(path)
        return state is not None and self._states.get(real_path) == state


def identify(path: Path) -> FileIdentity:
    """The file at a path, as `WrittenFiles` remembers it. Blocks."""
    try:
        found = path.lstat()
    except OSError:
        return os.path.realpath(path), None
    state = (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns)
    return os.path.realpath(path), state
