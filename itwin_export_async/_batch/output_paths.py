"""Which export owns which output path, so that no export overwrites another's files.

Output names can collide: two iModels may have one name, and the second output of a run may be named
like another request's destination. Later files get `-2`, `-3`, ... before the suffix. An export
replaces the file that its request names, and files at the paths that its own earlier ones got.
Whether a file that was about to get its path got it is known by its size and time of modification.
"""

import os
import stat
from collections.abc import Collection, Iterable
from pathlib import Path

from itwin_export_async._batch.entries import OutputFile
from itwin_export_async._errors import DownloadError
from itwin_export_async._files.destinations import is_folder
from itwin_export_async._files.names import numbered
from itwin_export_async._files.temp_file import is_same_file


class OutputPaths:
    """The owners of output paths. An owner is a text of its own for each export.

    `protected`: paths that no output may replace, such as the ledger.
    """

    def __init__(self, protected: Iterable[str | os.PathLike[str]] = ()) -> None:
        self._protected = frozenset(_normalize(path) for path in protected)
        self._owners: dict[str, str] = {}
        self._from_ledger: dict[str, list[tuple[OutputFile, str]]] = {}

    def load(self, files: Iterable[tuple[OutputFile, str]]) -> None:
        """Take in the files of earlier calls with their owners. A missing file has no owner."""
        for file, owner in files:
            self._from_ledger.setdefault(_normalize(file.path), []).append((file, owner))

    def claim(self, paths: Iterable[str | os.PathLike[str]], owner: str) -> bool:
        """Claim the paths for `owner`; False if another export owns one, or one is protected."""
        return all(self._claim(_normalize(path), owner) for path in paths)

    def _claim(self, path: str, owner: str) -> bool:
        if path in self._protected:
            return False
        for is_right in (_is_unchanged, _is_there):
            for file, earlier in self._from_ledger.get(path, ()):
                if path not in self._owners and is_right(file):
                    self._owners[path] = earlier
        return self._owners.setdefault(path, owner) == owner

    def choose(
        self,
        path: Path,
        owner: str,
        *,
        named: str | None = None,
        files: Collection[OutputFile] = (),
        taken: Collection[Path] = (),
    ) -> tuple[Path, bool]:
        """Claim the path for `owner`, or with `-2`, `-3`, ... the first that nothing else has.

        The second value is whether a file there may be replaced: the one that the request names
        (`named`), or one of the export's own `files`. The paths of `taken`, which have other
        outputs of the same run, are left out.
        """
        replaceable = _replaceable(named, files)
        for name in numbered(path.name):
            candidate = path.with_name(name)
            replace = _normalize(candidate) in replaceable
            is_free = candidate not in taken and (replace or not os.path.lexists(candidate))
            if is_free and self.claim([candidate], owner):
                return candidate, replace
        raise AssertionError  # pragma: no cover - the numbers have no end

    def superseded(
        self, files: Iterable[OutputFile], new: Collection[Path], owner: str
    ) -> list[Path]:
        """The files to remove when the `new` ones are whole.

        They are unchanged, in the folder of a new file, and of no other export.
        """
        folders = {os.path.realpath(path.parent) for path in new}
        return [
            Path(file.path)
            for file in files
            if not file.is_kept
            and os.path.realpath(os.path.dirname(file.path)) in folders
            and self._is_sole_owner(_normalize(file.path), owner)
            and _is_unchanged(file)
            and not any(is_same_file(path, Path(file.path)) for path in new)
        ]

    def _is_sole_owner(self, path: str, owner: str) -> bool:
        owners = {earlier for _, earlier in self._from_ledger.get(path, ())}
        owners.add(self._owners.get(path, owner))
        return path not in self._protected and owners == {owner}

    def check(self, destination: str, owner: str) -> None:
        """Raise if the destination is a file that another export owns or nothing may replace."""
        if is_folder(destination):
            return
        if _normalize(destination) in self._protected:
            raise ValueError(
                f"destination {destination} is the ledger or another file of the batch"
            )
        if not self.claim([destination], owner):
            raise DownloadError(
                message="is the destination of another request, too; choose another",
                destination=destination,
                reason="refused",
            )


def _normalize(path: str | os.PathLike[str]) -> str:
    """The path with its folder resolved. A link at the path is replaced, not followed."""
    folder, name = os.path.split(os.path.abspath(path))
    return os.path.normcase(os.path.join(os.path.realpath(folder), name))


def _replaceable(named: str | None, files: Iterable[OutputFile]) -> set[str]:
    own = {_normalize(file.path) for file in files if _is_there(file)}
    return own if named is None else own | {_normalize(named)}


def claimed_file(path: Path, written: os.stat_result, *, is_kept: bool) -> OutputFile:
    """A complete file that is about to get this path."""
    return OutputFile(
        path=str(path.absolute()),
        size=written.st_size,
        modified=written.st_mtime_ns,
        is_kept=is_kept,
        is_placed=False,
    )


def files_exist(files: Iterable[OutputFile]) -> bool:
    """Whether the files exist with the sizes they had."""
    return all(_size(Path(file.path)) == file.size for file in files)


def _is_there(file: OutputFile) -> bool:
    """Whether the path has this file, which may have been changed since it got the path."""
    return (file.is_placed and os.path.isfile(file.path)) or _is_unchanged(file)


def _is_unchanged(file: OutputFile) -> bool:
    """Whether the path still has this file, and no link to one."""
    try:
        found = os.lstat(file.path)
    except (OSError, ValueError):
        return False
    is_same = found.st_size == file.size and file.modified in (None, found.st_mtime_ns)
    return stat.S_ISREG(found.st_mode) and is_same


def _size(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except OSError:
        return None
