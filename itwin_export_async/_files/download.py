"""Files brought to disk: the way from a stream to a complete file."""

import asyncio
import inspect
import logging
import os
from collections.abc import Awaitable, Callable, Collection
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias
from urllib.parse import unquote, urlsplit

from attrs import evolve

from itwin_export_async._errors import DownloadError, ProtocolError
from itwin_export_async._files.blob_reader import BlobReader, BlobSource
from itwin_export_async._files.destinations import (
    Target,
    WrittenFiles,
    check_destination,
    identify,
)
from itwin_export_async._files.disk_threads import DiskThreads
from itwin_export_async._files.names import safe_name
from itwin_export_async._files.temp_file import TempFile, temp_file
from itwin_export_async._http.session import Session
from itwin_export_async._models import Run
from itwin_export_async._protocol.files import get_file_request, parse_file

log = logging.getLogger("itwin_export_async.files")

Progress = Callable[[int, int | None], Any]
"""Called with the bytes done and the bytes in total (None where not known); may be async."""


ChoosePath: TypeAlias = Callable[[Path, os.stat_result], Awaitable[tuple[Path, bool]]]
"""Called with a complete file and its path; returns the path to use, and whether it is replaced.

Called again if a file has appeared there that may not be replaced.
"""


async def report(on_progress: Progress | None, done: int, total: int | None) -> None:
    """Call the progress callback, if there is one, and await it where it is async."""
    if on_progress is not None:
        pending = on_progress(done, total)
        if inspect.isawaitable(pending):
            await pending


class Downloader:
    """Downloads of one client: what they read, and where they write."""

    def __init__(self, session: Session) -> None:
        self.threads = DiskThreads()
        self._session = session
        self._written = WrittenFiles()

    def close(self) -> None:
        """Let the threads end. A later use starts new ones."""
        self.threads.close()

    async def described_file(self, file_id: str) -> BlobSource:
        """A file of Storage, with its name and size from there. Raises `NotFound`.

        Metadata that break the service's contract do not stop the download: the id is the name.
        """
        response = await self._session.send(get_file_request(file_id))
        try:
            stored = parse_file(response)
        except ProtocolError as error:
            if error.is_transient:
                raise
            log.warning("file %s is named by its id: %s", file_id, error)
            return BlobSource(file_id=file_id, name=safe_name(file_id, fallback=""))
        name = safe_name(stored.display_name, fallback=file_id)
        return BlobSource(file_id=file_id, name=name, size=stored.size)

    def reader(
        self,
        source: BlobSource,
        *,
        start: int = 0,
        stop: int | None = None,
        if_range: str | None = None,
    ) -> BlobReader:
        """A stream of a file or blob, or of a part of it."""
        return BlobReader(
            self._session, self.threads, source, start=start, stop=stop, if_range=if_range
        )

    async def target(self, destination: str | os.PathLike[str]) -> Target:
        """The target of a destination, checked as `check_destination` does."""
        return await self.threads.run(partial(check_destination, destination))

    async def save(
        self,
        source: BlobSource,
        target: Target,
        on_progress: Progress | None,
        taken: Collection[Path] = (),
        choose_path: ChoosePath | None = None,
        *,
        run: Run | None = None,
    ) -> Path:
        """Write a file or blob to its target, and return the path. Nothing is left of what fails.

        A file that the caller named is replaced, and in a folder a file that this client wrote. No
        path of `taken` is: those are of the same call. `choose_path` decides instead where the file
        goes, and what it replaces. `run`: whose output it is, for the log. Raises a
        `DownloadError`.
        """
        clock = asyncio.get_running_loop().time
        began = clock()
        named = None if target.name is None else target.path
        if named is None and not source.name:
            source = await self.described_file(source.file_id)
        source = evolve(source, destination=str(target.path))
        can_restart = True
        while True:
            async with (
                self.reader(source) as reader,
                temp_file(self.threads, target.folder, named) as file,
            ):
                try:
                    async for chunk in reader:
                        await file.write(chunk)
                        await report(on_progress, reader.position, reader.size)
                except DownloadError as error:
                    has_changed = error.reason == "mismatch" and reader.etag is None
                    if not (can_restart and has_changed and reader.position):
                        raise
                    log.info("%s: without an ETag, starting again: %s", target.path, error)
                    can_restart = False
                    continue
                path = named or target.folder / reader.name
                path = await self._place(file, path, named, taken, choose_path)
            break
        if path != named:
            self._written.add(await self.threads.run(partial(identify, path)))
        self._log_written(path, reader.position, clock() - began, run)
        return path

    def _log_written(self, path: Path, size: int, seconds: float, run: Run | None) -> None:
        origin, fields = "", {"path": str(path), "size": size, "seconds": seconds}
        if run is not None:
            origin = f", run {run.id}"
            fields |= {"run_id": run.id, "connection_id": run.connection_id}
            imodel_id = self._session.imodel_of(run.connection_id)
            if imodel_id is not None:
                origin += f" of iModel {imodel_id}"
                fields["imodel_id"] = imodel_id
        log.info(
            "file written: %s (%d bytes in %.1f s)%s",
            path,
            size,
            seconds,
            origin,
            extra={"itwin": fields},
        )

    async def _place(
        self,
        file: TempFile,
        path: Path,
        named: Path | None,
        taken: Collection[Path],
        choose_path: ChoosePath | None,
    ) -> Path:
        """Bring a complete file to its final path, and return that."""
        if choose_path is None:
            return await file.finish(
                path, lambda path: path not in taken and (path == named or path in self._written)
            )
        written = await file.complete()
        while True:
            chosen, replace = await choose_path(path, written)
            if final := await file.finish_at(chosen, replace=replace):
                return final


def blob_source(sas_url: str) -> BlobSource:
    """A blob of the caller's own, named as in its URL."""
    name = safe_name(unquote(urlsplit(sas_url).path), fallback="output")
    return BlobSource(sas_url=sas_url, name=name)
