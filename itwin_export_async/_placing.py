"""Where the files of many exports go, so that none overwrites another's.

Two iModels may have one name, and then so have their outputs. In a folder the second gets `-2`
before its suffix, as further outputs of one run do. To know a name before it is taken, the files
are brought to a folder of their own within, and moved once they are whole.
"""

import asyncio
import hashlib
import os
import shutil
from collections.abc import Iterable
from pathlib import Path

from itwin_export_async._errors import DownloadError
from itwin_export_async._protocol.ledger import PlacedFile
from itwin_export_async._runs import RunHandle
from itwin_export_async._storage import is_folder


class Places:
    """Which export of one call each file is of. An owner is any object."""

    def __init__(self) -> None:
        self._owners: dict[str, object] = {}

    def claim(self, paths: Iterable[str | Path], owner: object) -> bool:
        """Whether all these files are the owner's, now at the latest."""
        names = [os.path.normcase(os.path.abspath(path)) for path in paths]
        return all(self._owners.setdefault(name, owner) is owner for name in names)

    def check(self, destination: str, owner: object) -> None:
        """Raise a `DownloadError` if the destination is a file of another export."""
        if not is_folder(destination) and not self.claim([destination], owner):
            raise DownloadError(
                message="is the destination of another request, too", destination=destination
            )

    async def fetch(self, handle: RunHandle, destination: str, owner: object) -> list[Path]:
        """Bring the output of a run to its destination, and say where it is."""
        if not is_folder(destination):
            return await handle.download(destination)
        digest = hashlib.sha256(handle.run_id.encode()).hexdigest()
        stage = Path(destination) / f".itwin-export-{digest[:16]}"
        try:
            staged = await handle.download(f"{stage}{os.sep}")
            return await asyncio.to_thread(
                lambda: [self._move(path, Path(destination), owner) for path in staged]
            )
        except DownloadError as error:
            raise DownloadError(
                message=error.message, file_id=error.file_id, destination=destination
            ) from error.__cause__
        finally:
            await asyncio.to_thread(shutil.rmtree, stage, ignore_errors=True)

    def _move(self, path: Path, folder: Path, owner: object) -> Path:
        place, number = folder / path.name, 1
        while not self.claim([place], owner):
            number += 1
            place = folder / f"{path.stem}-{number}{path.suffix}"
        return path.replace(place)


def placed(paths: Iterable[Path]) -> tuple[PlacedFile, ...]:
    """The files as they are now."""
    return tuple(PlacedFile(path=str(path.absolute()), size=path.stat().st_size) for path in paths)


def are_there(files: Iterable[PlacedFile]) -> bool:
    """Whether the files are still as they were put there."""
    return all(_size(Path(file.path)) == file.size for file in files)


def _size(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except OSError:
        return None
