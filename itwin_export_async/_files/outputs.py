"""The output files of a finished run, to disk from Storage or from the caller's own blob.

A file may not be readable at once after the end, in Storage or in the blob store behind it, or one
of them may know an earlier length of it; and the id that the run tells may be a part of the one
that Storage knows. So each round tries the id as given, then, unless Storage knows that, the
composite of the iTwin's id and it; rounds go on for a while. What keeps the composite from being
found ends nothing: it may not be needed.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from os import PathLike
from pathlib import Path

from itwin_export_async._errors import DownloadError, ExportError, NotFound
from itwin_export_async._files.progress import Progress
from itwin_export_async._files.storage import StorageClient, fetch_file, is_folder
from itwin_export_async._http.session import Session
from itwin_export_async._models import Connection, Run
from itwin_export_async._protocol.files import (
    SizeMismatch,
    composite_id,
    has_output,
    output_ids,
    safe_name,
)
from itwin_export_async._protocol.runs import Service, get_connection_request, parse_connection
from itwin_export_async._protocol.urls import validate_id

log = logging.getLogger(__name__)

PATIENCE = 30.0

Missing = NotFound | DownloadError
"""How an output is not there (yet): unknown to Storage, or known, and nothing in the blob store or
something of another length."""

Attempt = Callable[[], Awaitable[Path | Missing]]
"""Brings an output to disk, or says how it is not there."""


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
        file_ids = output_ids(run)
        if not has_output(run) and (sas_url is not None or not file_ids):
            raise DownloadError(
                message=f"run {run.id} ended with {run.outcome.value} and made no output; "
                "wait() says why",
                destination=str(destination),
            )
        if sas_url is not None:
            return [await self._blob(sas_url, destination, on_progress)]
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
        self, sas_url: str, destination: str | PathLike[str], on_progress: Progress | None
    ) -> Path:
        fetch = partial(self._storage.download_blob, sas_url, destination, on_progress=on_progress)
        path = await self._patiently([partial(_met, fetch)])
        if isinstance(path, Path):
            return path
        raise DownloadError(
            message=f"there is still no such blob {self._patience:g} s after the end",
            destination=str(destination),
        ) from path.__cause__

    async def _one(
        self,
        run: Run,
        file_id: str,
        destination: str | PathLike[str],
        taken: list[Path],
        on_progress: Progress | None,
    ) -> Path:
        try:
            validate_id("exportOutputFileId", file_id)
        except ValueError as exc:
            raise DownloadError(message=str(exc), destination=str(destination)) from None
        fetch = partial(self._try, destination, taken, on_progress)
        path = await fetch(file_id)
        if isinstance(path, Path):
            return path
        names, note = [file_id], ""
        if isinstance(path, NotFound):
            try:
                names += await self._composites(run, file_id)
            except ExportError as error:
                note = f"; no composite id without the connection: {error}"
        path = await self._patiently([partial(fetch, name) for name in names])
        if isinstance(path, Path):
            return path
        cause: BaseException | None = path
        if isinstance(path, DownloadError):
            cause = path.__cause__
            message = f"{path.message}, still {self._patience:g} s after the first try"
        else:
            tried = " and as ".join(names)
            message = f"Storage knows no such file, tried as {tried} for {self._patience:g} s{note}"
        raise DownloadError(
            message=message, file_id=file_id, destination=str(destination)
        ) from cause

    async def _patiently(self, attempts: Sequence[Attempt]) -> Path | Missing:
        """What the first attempt brings that brings anything, or what the last one met in time.

        An attempt that finds the file known is the last of its round. The last round begins when
        the time is over: a slow answer does not count as patience.
        """
        clock = asyncio.get_running_loop().time
        ends, pause = clock() + self._patience, 1.0
        while True:
            began = clock()
            for attempt in attempts:
                path = await attempt()
                if isinstance(path, Path):
                    return path
                if isinstance(path, DownloadError):
                    break
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
    ) -> Path | Missing:
        """The file on disk under a name that is free, or how it is not there."""

        async def fetch() -> Path:
            path, size = Path(destination), None
            if is_folder(destination):
                stored = await self._storage.get_file(file_id)
                path, size = path / safe_name(stored.display_name, fallback=file_id), stored.size
            path = _untaken(path, taken)
            return await fetch_file(self._session, file_id, path, size, on_progress)

        return await _met(fetch)

    async def _composites(self, run: Run, file_id: str) -> list[str]:
        request = get_connection_request(Service.EXPORT, run.connection_id)
        connection = parse_connection(await self._session.send(request), Connection)
        composite = composite_id(connection.itwin_id, file_id)
        return [] if composite is None else [composite]


async def _met(fetch: Callable[[], Awaitable[Path]]) -> Path | Missing:
    """What this brings to disk, or how it is not there (yet)."""
    try:
        return await fetch()
    except NotFound as error:
        if error.is_gateway:
            raise
        return error
    except DownloadError as error:
        if isinstance(error, SizeMismatch) or isinstance(error.__cause__, NotFound):
            return error
        raise


def _untaken(path: Path, taken: list[Path]) -> Path:
    """The path, or with `-2`, `-3`, ... before its suffix while another output has it."""
    free, number = path, 1
    while free in taken:
        number += 1
        free = path.with_name(f"{path.stem}-{number}{path.suffix}")
    return free
