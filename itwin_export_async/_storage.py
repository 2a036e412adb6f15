"""Storage: metadata, and files brought to disk whole, in as many goes as it takes."""

import asyncio
import inspect
import logging
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from itwin_export_async._errors import (
    DownloadError,
    ExportError,
    PermissionDenied,
    RateLimited,
    ResponseError,
    ServiceUnavailable,
    TransportError,
)
from itwin_export_async._models import StoredFile
from itwin_export_async._partfile import PartFile
from itwin_export_async._protocol.storage import (
    download_file,
    get_blob,
    get_file,
    read_blob,
    read_download,
    read_file,
    safe_name,
)
from itwin_export_async._session import Session

log = logging.getLogger(__name__)

Progress = Callable[[int, int | None], Any]
"""Called with the bytes done and the bytes in total (None when not told); sync or async."""

Locate = Callable[[], Awaitable[str]]


class StorageClient:
    """iTwin Storage, as far as exports need it. Made by `ExportClient.storage`."""

    def __init__(self, session: Session) -> None:
        self._session = session

    async def get_file(self, file_id: str) -> StoredFile:
        """A file's metadata. Raises `NotFound` when Storage does not know the id."""
        return read_file(await self._session.send(get_file(file_id)))

    async def download(
        self,
        file_id: str,
        destination: str | os.PathLike[str],
        *,
        on_progress: Progress | None = None,
    ) -> Path:
        """Bring a file to disk and say where it is.

        `destination` is the file's path, or a folder (one that exists, or ends with a separator)
        in which it gets the name it has in Storage. Raises `NotFound`, and `DownloadError` when it
        cannot be fetched whole or written; then nothing stands under the final name.
        """
        path = Path(destination)
        if is_folder(destination):
            stored = await self.get_file(file_id)
            path /= safe_name(stored.display_name, fallback=file_id)
        await prepare_folder(path.parent)

        async def locate() -> str:
            return read_download(await self._session.send(download_file(file_id)))

        try:
            await self._fetch(locate, path, on_progress)
        except DownloadError as error:
            raise _named(error, file_id, path) from error.__cause__
        return path

    async def _fetch(self, locate: Locate, path: Path, on_progress: Progress | None) -> None:
        """Fetch in as many goes as it takes, while each go brings something."""
        part = PartFile(path)
        try:
            await part.open()
            failures = furthest = 0
            while True:
                address = await locate()
                error = await self._go(address, part, on_progress)
                if error is None:
                    break
                failures = 1 if part.done > furthest else failures + 1
                furthest = max(furthest, part.done)
                wait = self._wait(error, failures)
                if wait is None:
                    raise DownloadError(message=f"gave up: {error}") from error
                log.info("%s: %s; going on after %d bytes", path.name, error, part.done)
                await asyncio.sleep(wait)
            await part.finish()
        finally:
            await part.close()

    def _wait(self, error: ExportError, failures: int) -> float | None:
        """Seconds until the next go, None when there is to be none."""
        retry = self._session.retry
        asked = error.retry_after if isinstance(error, ResponseError) else None
        if failures >= retry.attempts or (asked is not None and asked > retry.max_retry_after):
            return None
        return retry.jitter(retry.bound(failures)) if asked is None else asked

    async def _go(
        self, address: str, part: PartFile, on_progress: Progress | None
    ) -> ExportError | None:
        """One request for what is missing: None when all is there, the passing error otherwise."""
        request = get_blob(address, done=part.done, etag=part.etag)
        try:
            async with self._session.stream_blob(request) as stream:
                content = read_blob(stream.head, done=part.done)
                if isinstance(content, ExportError):
                    return _passing(content)
                await part.begin(content)
                async for piece in stream.chunks:
                    await part.add(piece)
                    if on_progress is not None:
                        told = on_progress(part.done, part.total)
                        if inspect.isawaitable(told):
                            await told
        except TransportError as error:
            await part.flush()
            return None if part.done == part.total else error
        await part.flush()
        if part.total is not None and part.done != part.total:
            return DownloadError(message=f"{part.done} of {part.total} bytes came")
        return None


def _passing(error: ExportError) -> ExportError:
    """The error if a new address or another try may cure it; otherwise it is raised."""
    match error:
        case DownloadError():
            raise error
        case PermissionDenied() | ServiceUnavailable() | RateLimited():  # 403: it has expired
            return error
        case _:
            raise DownloadError(message=f"the blob store refuses: {error}") from error


def _named(error: DownloadError, file_id: str, path: Path) -> DownloadError:
    return DownloadError(message=error.message, file_id=file_id, destination=str(path))


def is_folder(destination: str | os.PathLike[str]) -> bool:
    """Whether a destination means a folder: it is one, or ends with a separator."""
    text = os.fspath(destination)
    return text.endswith(("/", os.sep)) or Path(destination).is_dir()


async def prepare_folder(folder: Path) -> None:
    """Make the folder, or raise a `DownloadError` that says why it cannot be written."""

    def prepare() -> None:
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK | os.X_OK):
            raise PermissionError(13, "Permission denied")

    try:
        await asyncio.to_thread(prepare)
    except OSError as exc:
        raise DownloadError(
            message=f"the folder cannot be written: {exc.strerror}",
            destination=str(folder),
        ) from exc
