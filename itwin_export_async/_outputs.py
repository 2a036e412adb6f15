"""The output files of a finished run, to disk from Storage or from the caller's own blob.

A file may not be readable at once after the end, and the id that the run tells may be a part of the
one that Storage knows. So each round tries the id as given, then the composite of the iTwin's id
and it; rounds go on for a while.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from os import PathLike
from pathlib import Path

from itwin_export_async._errors import DownloadError, NotFound
from itwin_export_async._models import Connection, Run
from itwin_export_async._progress import Progress
from itwin_export_async._protocol.addresses import checked_id
from itwin_export_async._protocol.runs import Service, get_connection, read_connection
from itwin_export_async._protocol.storage import composite_id, has_output, outputs_of, safe_name
from itwin_export_async._session import Session
from itwin_export_async._storage import StorageClient, is_folder

log = logging.getLogger(__name__)

PATIENCE = 30.0

Attempt = Callable[[], Awaitable[Path | NotFound]]
"""Brings an output to disk, or says how it is not there (yet)."""


class Outputs:
    """Fetches what runs made. `patience`: seconds for which a file may be unknown to Storage."""

    def __init__(
        self, session: Session, storage: StorageClient, *, patience: float = PATIENCE
    ) -> None:
        self._session = session
        self._storage = storage
        self._patience = patience

    async def fetch(
        self,
        run: Run,
        destination: str | PathLike[str],
        on_progress: Progress | None = None,
        *,
        sas_url: str | None = None,
    ) -> list[Path]:
        """Bring every output file of the run to disk. Raises `DownloadError`.

        `sas_url`: the caller's own blob that the run wrote to, None where that is Storage.
        """
        if sas_url is not None:
            return [await self._blob(run, sas_url, destination, on_progress)]
        file_ids = outputs_of(run)
        if not file_ids:
            raise DownloadError(
                message=f"run {run.id} names no output file; one that wrote to a blob of yours is "
                "fetched by storage.download_blob()",
                destination=str(destination),
            )
        paths: list[Path] = []
        for file_id in file_ids:
            paths.append(await self._one(run, file_id, destination, paths, on_progress))
        return paths

    async def _blob(
        self,
        run: Run,
        sas_url: str,
        destination: str | PathLike[str],
        on_progress: Progress | None,
    ) -> Path:
        if not has_output(run):
            raise DownloadError(
                message=f"run {run.id} ended with {run.outcome.value} and made no output",
                destination=str(destination),
            )

        async def attempt() -> Path | NotFound:
            try:
                return await self._storage.download_blob(
                    sas_url, destination, on_progress=on_progress
                )
            except DownloadError as error:
                if isinstance(error.__cause__, NotFound):
                    return error.__cause__
                raise

        path = await self._patiently([attempt])
        if isinstance(path, NotFound):
            raise DownloadError(
                message=f"there is still no such blob {self._patience:g} s after the end",
                destination=str(destination),
            ) from path
        return path

    async def _one(
        self,
        run: Run,
        file_id: str,
        destination: str | PathLike[str],
        taken: list[Path],
        on_progress: Progress | None,
    ) -> Path:
        try:
            checked_id("exportOutputFileId", file_id)
        except ValueError as exc:
            raise DownloadError(message=str(exc), destination=str(destination)) from None
        fetch = partial(self._try, destination, taken, on_progress)
        path = await fetch(file_id)
        if isinstance(path, Path):
            return path
        names = [file_id, *await self._composites(run, file_id)]
        path = await self._patiently([partial(fetch, name) for name in names])
        if isinstance(path, NotFound):
            raise DownloadError(
                message=f"Storage knows no such file, tried as {' and as '.join(names)} "
                f"for {self._patience:g} s",
                file_id=file_id,
                destination=str(destination),
            ) from path
        return path

    async def _patiently(self, attempts: Sequence[Attempt]) -> Path | NotFound:
        """What the first attempt brings that brings anything, or what the last one met in time.

        The last round begins when the time is over: a slow answer does not count as patience.
        """
        clock = asyncio.get_running_loop().time
        ends, pause = clock() + self._patience, 1.0
        while True:
            began = clock()
            for attempt in attempts:
                path = await attempt()
                if isinstance(path, Path):
                    return path
            if began >= ends:
                return path
            log.info("an output cannot be read yet; again in %.1f s", pause)
            await asyncio.sleep(max(0.0, min(pause, ends - clock())))
            pause += 1.0

    async def _try(
        self,
        destination: str | PathLike[str],
        taken: list[Path],
        on_progress: Progress | None,
        file_id: str,
    ) -> Path | NotFound:
        """The file on disk, or the refusal where Storage does not know it (yet)."""
        try:
            path = await self._path(file_id, destination, taken)
            return await self._storage.download(file_id, path, on_progress=on_progress)
        except NotFound as error:
            if error.is_gateway:
                raise
            return error

    async def _path(
        self, file_id: str, destination: str | PathLike[str], taken: list[Path]
    ) -> Path:
        path = Path(destination)
        if is_folder(destination):
            stored = await self._storage.get_file(file_id)
            path /= safe_name(stored.display_name, fallback=file_id)
        return _untaken(path, taken)

    async def _composites(self, run: Run, file_id: str) -> list[str]:
        request = get_connection(Service.EXPORT, run.connection_id)
        try:
            connection = read_connection(await self._session.send(request), Connection)
        except NotFound:  # the connection may be deleted by now; the file is still there
            return []
        composite = composite_id(connection.itwin_id, file_id)
        return [] if composite is None else [composite]


def _untaken(path: Path, taken: list[Path]) -> Path:
    """The path, or with `-2`, `-3`, ... before its suffix while another output has it."""
    free, number = path, 1
    while free in taken:
        number += 1
        free = path.with_name(f"{path.stem}-{number}{path.suffix}")
    return free
