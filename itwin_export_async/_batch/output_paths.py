"""Which export owns which output path, so that no export overwrites another's files.

Output names can collide: two iModels may have one name, and the second output of a run may be named
like another request's destination. Later files get `-2`, `-3`, ... before the suffix. In a folder
an export replaces only its own earlier files; a file that its destination names is replaced.
"""

import os
import stat
from collections.abc import Collection, Iterable
from pathlib import Path

from itwin_export_async._batch.entries import OutputFile
from itwin_export_async._errors import DownloadError
from itwin_export_async._files.download import is_folder
from itwin_export_async._files.names import numbered


class OutputPaths:
    """The owners of output paths. An owner is a text of its own for each export.

    `protected`: paths that no output may replace, such as the ledger.
    """

    def __init__(self, protected: Iterable[str | os.PathLike[str]] = ()) -> None:
        self._protected = frozenset(_normalize(path) for path in protected)
        self._owners: dict[str, str] = {}
        self._from_ledger: dict[str, str] = {}
        self._shared: set[str] = set()  # paths that several entries of the ledger have

    def load(self, owners: Iterable[tuple[str, str]]) -> None:
        """Take in the files of earlier calls with their owners. A missing file has no owner."""
        for path, owner in owners:
            name = _normalize(path)
            if self._from_ledger.get(name, owner) != owner:
                self._shared.add(name)
            self._from_ledger[name] = owner

    def claim(self, paths: Iterable[str | os.PathLike[str]], owner: str) -> bool:
        """Claim the paths for `owner`; False if another export owns one, or one is protected."""
        return all(self._claim(_normalize(path), owner) for path in paths)

    def _claim(self, path: str, owner: str) -> bool:
        if path in self._protected:
            return False
        if path not in self._owners and path in self._from_ledger and os.path.lexists(path):
            self._owners[path] = self._from_ledger[path]
        return self._owners.setdefault(path, owner) == owner

    def choose(
        self, path: Path, destination: str, owner: str, taken: Collection[Path] = ()
    ) -> tuple[Path, bool]:
        """Claim the path for `owner`, or with `-2`, `-3`, ... the first that nothing else has.

        The second value is whether a file there is replaced: the one that `destination` names, or
        one of the export's own. The paths of `taken`, which have other outputs of the same run, are
        left out.
        """
        for name in numbered(path.name):
            candidate = path.with_name(name)
            replace = self._may_replace(candidate, destination, owner)
            is_free = candidate not in taken and (replace or not os.path.lexists(candidate))
            if is_free and self.claim([candidate], owner):
                return candidate, replace
        raise AssertionError  # pragma: no cover - the numbers have no end

    def _may_replace(self, path: Path, destination: str, owner: str) -> bool:
        name = _normalize(path)
        owners = self._from_ledger.get(name), self._owners.get(name)
        return owner in owners or name == _normalize(destination)

    def superseded(
        self, files: Iterable[OutputFile], new: Collection[Path], owner: str
    ) -> list[Path]:
        """Those of the files that only `owner` has, as it left them, and that are none of `new`."""
        return [
            Path(file.path)
            for file in files
            if self._is_sole_owner(_normalize(file.path), owner)
            and _is_unchanged(file)
            and not any(path.samefile(file.path) for path in new)
        ]

    def _is_sole_owner(self, path: str, owner: str) -> bool:
        return (
            path not in self._protected
            and path not in self._shared
            and self._from_ledger.get(path) == owner
            and self._owners.get(path, owner) == owner
        )

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


def describe_files(paths: Iterable[Path]) -> tuple[OutputFile, ...]:
    """The files with their present sizes."""
    return tuple(OutputFile(path=str(path.absolute()), size=path.stat().st_size) for path in paths)


def files_exist(files: Iterable[OutputFile]) -> bool:
    """Whether the files exist with the sizes they had."""
    return all(_size(Path(file.path)) == file.size for file in files)


def _is_unchanged(file: OutputFile) -> bool:
    """Whether the path still has a file of that size, and no link to one."""
    try:
        found = os.lstat(file.path)
    except OSError:
        return False
    return stat.S_ISREG(found.st_mode) and found.st_size == file.size


def _size(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except OSError:
        return None
