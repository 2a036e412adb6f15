"""The output files of a finished run: listed, streamed, and downloaded.

A file may not be readable at once after the end of its run: Storage or the blob store behind it may
not know it yet, or report an earlier length. The id that the run gives may also be a part of the id
that Storage knows. So each round tries the id as given and then, unless Storage knows that, the
composite of the iTwin's id and it. Rounds are repeated for up to 30 seconds.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from os import PathLike
from pathlib import Path
from typing import TypeVar

from itwin_export_async._errors import DownloadError, ExportError, NotFound
from itwin_export_async._files.blob_reader import BlobReader, BlobSource, SizeMismatch
from itwin_export_async._files.download import ChoosePath, Downloader, Progress, blob_source
from itwin_export_async._files.run_output import RunOutput
from itwin_export_async._http.session import Session
from itwin_export_async._http.telemetry import span
from itwin_export_async._models import Connection, Run
from itwin_export_async._protocol.files import composite_id, has_output, output_ids
from itwin_export_async._protocol.runs import Service, get_connection_request, parse_connection
from itwin_export_async._protocol.urls import validate_id

log = logging.getLogger("itwin_export_async.files")

T = TypeVar("T")

AVAILABILITY_TIMEOUT = 30.0  # seconds for which a file may not be readable after the end of its run


class Outputs:
    """The output files of the runs of one client."""

    def __init__(self, session: Session, downloader: Downloader) -> None:
        self._session = session
        self._downloader = downloader

    async def find(self, run: Run, *, sas_url: str | None = None) -> tuple[RunOutput, ...]:
        """The output files of a run, as soon as Storage knows them. Raises `DownloadError`.

        `sas_url`: the caller's own blob that the run wrote to, None where that is Storage.
        """
        file_ids = self._check(run, sas_url)
        if sas_url is not None:
            return (self._output(run, blob_source(sas_url)),)
        describe = self._downloader.described_file
        sources = [await self._retry(run, file_id, describe) for file_id in file_ids]
        return tuple(self._output(run, source) for source in sources)

    async def download(
        self,
        run: Run,
        destination: str | PathLike[str],
        on_progress: Progress | None = None,
        *,
        sas_url: str | None = None,
        choose_path: ChoosePath | None = None,
    ) -> list[Path]:
        """Download every output file of the run, and return the paths. Raises `DownloadError`.

        `sas_url`: the caller's own blob that the run wrote to, None where that is Storage.
        `choose_path`: returns the final path of a complete file, None leaves it to `save`.
        """
        file_ids = self._check(run, sas_url, str(destination))
        downloader = self._downloader
        target = await downloader.target(destination)
        paths: list[Path] = []

        def save(file_id: str) -> Awaitable[Path]:
            source = BlobSource(file_id=file_id) if sas_url is None else blob_source(sas_url)
            return downloader.save(source, target, on_progress, paths, choose_path, run=run)

        with span("itwin download", run_id=run.id, connection_id=run.connection_id) as active_span:
            for file_id in file_ids if sas_url is None else ("",):
                paths.append(await self._retry(run, file_id, save, str(target.path)))  # noqa: PERF401
            active_span.set(files=len(paths))
        return paths

    async def in_thread(self, work: Callable[[], T]) -> T:
        """Do work on the disk in a thread of the client's own."""
        return await self._downloader.threads.run(work)

    def _output(self, run: Run, source: BlobSource) -> RunOutput:
        open_ = partial(self._open, run, source)
        return RunOutput(file_id=source.file_id, name=source.name, size=source.size, open=open_)

    @asynccontextmanager
    async def _open(
        self, run: Run, source: BlobSource, *, start: int, stop: int | None, if_range: str | None
    ) -> AsyncIterator[BlobReader]:
        async def connect(_: str) -> BlobReader:
            reader = self._downloader.reader(source, start=start, stop=stop, if_range=if_range)
            await reader.open()
            return reader

        async with await self._retry(run, "", connect) as reader:
            yield reader

    def _check(self, run: Run, sas_url: str | None, destination: str = "") -> tuple[str, ...]:
        """The ids of the run's files. Raises a `DownloadError` where there is nothing to fetch."""
        file_ids = tuple(map(_validated, output_ids(run)))
        if not run.is_completed:
            raise DownloadError(
                message=f"run {run.id} is still {run.state.value}; wait() for it first",
                reason="not_finished",
                destination=destination,
            )
        if not has_output(run) and (sas_url is not None or not file_ids):
            raise DownloadError(
                message=f"run {run.id} ended with {run.outcome.value} and has no output; "
                "wait() raises the reason",
                reason="no_output",
                destination=destination,
            )
        if sas_url is None and not file_ids:
            raise DownloadError(
                message=f"run {run.id} names no output file; an output in a blob of yours is "
                "downloaded by storage.download_blob()",
                reason="no_output",
                destination=destination,
            )
        return file_ids

    async def _retry(
        self, run: Run, file_id: str, attempt: Callable[[str], Awaitable[T]], destination: str = ""
    ) -> T:
        """What `attempt` returns for an id of the file, as soon as the file is readable.

        `file_id` is empty where the file has no id to try. The last round begins at the timeout, so
        that slow responses do not take from the number of rounds.
        """
        clock = asyncio.get_running_loop().time
        deadline, pause = clock() + AVAILABILITY_TIMEOUT, 1.0
        ids: tuple[str, ...] = (file_id,)
        note = ""
        while True:
            began = clock()
            for tried in ids:
                try:
                    return await attempt(tried)
                except (NotFound, DownloadError) as error:
                    if not _is_late(error):
                        raise
                    failure = error
                if isinstance(failure, DownloadError):
                    break  # Storage knows this id
            if isinstance(failure, NotFound) and file_id and ids == (file_id,) and not note:
                ids, note = await self._all_ids(run, file_id)
                if len(ids) > 1:
                    continue
            if began >= deadline:
                raise _unavailable(failure, ids, note, destination) from (
                    failure.__cause__ or failure
                )
            log.debug("an output of run %s is not readable yet; retry in %.1f s", run.id, pause)
            await asyncio.sleep(max(0.0, min(pause, deadline - clock())))
            pause += 1.0

    async def _all_ids(self, run: Run, file_id: str) -> tuple[tuple[str, ...], str]:
        """The ids by which Storage may know the file, and a note on what is missing among them."""
        request = get_connection_request(Service.EXPORT, run.connection_id)
        try:
            connection = parse_connection(await self._session.send(request), Connection)
        except ExportError as error:
            return (file_id,), f"; no composite id without the connection: {error}"
        composite = composite_id(connection.itwin_id, file_id)
        if composite is None:
            return (file_id,), "; it has no composite id"
        return (file_id, composite), ""


def _validated(file_id: str) -> str:
    try:
        return validate_id("exportOutputFileId", file_id)
    except ValueError as exc:
        raise DownloadError(message=str(exc), reason="not_available") from None


def _is_late(error: NotFound | DownloadError) -> bool:
    """Whether the file may become readable."""
    if isinstance(error, DownloadError):
        return error.reason == "not_available" or isinstance(error, SizeMismatch)
    return not error.is_gateway


def _unavailable(
    error: NotFound | DownloadError, ids: tuple[str, ...], note: str, destination: str
) -> DownloadError:
    seconds = f"{AVAILABILITY_TIMEOUT:g} s"
    if isinstance(error, DownloadError):
        message, reason = f"{error.message} (still so after {seconds})", error.reason
    else:
        tried = " and as ".join(ids)
        message = f"Storage knows no such file, tried as {tried} for {seconds}{note}"
        reason = "not_available"
    return DownloadError(message=message, reason=reason, file_id=ids[0], destination=destination)
