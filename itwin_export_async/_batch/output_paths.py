"""Where the files of many exports go, so that none overwrites another's.

Two iModels may have one name, and then so have their outputs; and what a second output of a run is
called, another request may ask for. Whoever comes later gets `-2`, `-3`, ... before the suffix. To
know a name before it is taken, the files are brought to a hidden folder of their own beside their
place, and moved once all of them are whole. What is in the way and no export's is overwritten.
"""

import asyncio
import hashlib
import os
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path

from itwin_export_async._batch.entries import OutputFile
from itwin_export_async._errors import DownloadError
from itwin_export_async._files.download import is_folder
from itwin_export_async._files.temp_file import place_file
from itwin_export_async._runs.handle import RunHandle


class Places:
    """Which export each file is of. An owner is a text of its own for each export.

    `scope` tells these owners from those of other calls that go on meanwhile.
    """

    def __init__(self, scope: str) -> None:
        self._scope = scope
        self._owners: dict[str, str] = {}
        self._earlier: dict[str, str] = {}

    def know(self, owners: Mapping[str, str]) -> None:
        """Take in the files of earlier calls, with their owners; one that is gone is nobody's."""
        self._earlier = {_name(path): owner for path, owner in owners.items()}

    def claim(self, paths: Iterable[str | Path], owner: str) -> bool:
        """Whether all these files are the owner's, now at the latest."""
        return all(self._owner(_name(path), owner) == owner for path in paths)

    def _owner(self, name: str, otherwise: str) -> str:
        earlier = None if name in self._owners else self._earlier.get(name)
        if earlier is not None and os.path.lexists(name):
            otherwise = earlier
        return self._owners.setdefault(name, otherwise)

    def check(self, destination: str, owner: str) -> None:
        """Raise a `DownloadError` if the destination is a file of another export."""
        if not is_folder(destination) and not self.claim([destination], owner):
            raise DownloadError(
                message="is the destination of another request, too",
                reason="disk",
                destination=destination,
            )

    async def fetch(self, handle: RunHandle, destination: str, owner: str) -> list[Path]:
        """Bring the output of a run to its destination, and say where it is."""
        place = Path(destination)
        folder, name = (place, "") if is_folder(destination) else (place.parent, place.name)
        mark = f"{self._scope}\n{owner}".encode(errors="surrogatepass")
        stage = folder / f".itwin-export-{hashlib.sha256(mark).hexdigest()[:16]}"
        try:
            staged = await handle.download(f"{stage}{os.sep}{name}")
            return await asyncio.to_thread(lambda: self._move(staged, folder, owner))
        except DownloadError as error:
            raise DownloadError(
                message=error.message,
                reason=error.reason,
                file_id=error.file_id,
                destination=destination,
                is_transient=error.is_transient,
            ) from error.__cause__
        finally:
            await asyncio.to_thread(shutil.rmtree, stage, ignore_errors=True)

    def _move(self, staged: Iterable[Path], folder: Path, owner: str) -> list[Path]:
        moved: list[Path] = []
        for path in staged:
            moved.append(
                place_file(
                    path,
                    folder / path.name,
                    may_replace=lambda place: place not in moved and self.claim([place], owner),
                )
            )
        return moved


def _name(path: str | Path) -> str:
    return os.path.normcase(os.path.abspath(path))


def placed(paths: Iterable[Path]) -> tuple[OutputFile, ...]:
    """The files as they are now."""
    return tuple(OutputFile(path=str(path.absolute()), size=path.stat().st_size) for path in paths)


def files_exist(files: Iterable[OutputFile]) -> bool:
    """Whether the files are still as they were put there."""
    return all(_size(Path(file.path)) == file.size for file in files)


def _size(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except OSError:
        return None
