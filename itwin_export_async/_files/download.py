"""Files brought to disk whole, in as many goes as it takes.

How long a file is says the blob store, or else Storage: where the two disagree, and where neither
tells and a broken connection could pass for the end, there is no file.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

from attrs import define

from itwin_export_async._errors import (
    DownloadError,
    ExportError,
    PermissionDenied,
    RateLimited,
    ResponseError,
    ServerError,
    TransportError,
)
from itwin_export_async._files.progress import Progress, report
from itwin_export_async._files.temp_file import TempFile
from itwin_export_async._http.session import Session
from itwin_export_async._protocol.files import (
    Content,
    SizeMismatch,
    get_blob_request,
    measured,
    must_ask_size,
    parse_blob,
)

log = logging.getLogger(__name__)

Locate = Callable[[], Awaitable[str]]
"""Gives a signed address that is good for now."""

Measure = Callable[[], Awaitable[int | None]]
"""Asks how many bytes the file has, None when that is not told."""


@define(eq=False)
class Download:
    """One file on its way to `path`.

    `can_renew`: whether `locate` brings a new signature when one has expired. `size`: the bytes it
    has by what was told before, None when nothing was. `measure` is asked where that does not do,
    None where nobody knows.
    """

    session: Session
    locate: Locate
    path: Path
    on_progress: Progress | None = None
    can_renew: bool = True
    size: int | None = None
    measure: Measure | None = None

    async def fetch(self) -> None:
        """Fetch in as many goes as it takes, while each go brings something.

        Raises a `DownloadError` that names no file.
        """
        part = TempFile(self.path)
        try:
            await part.open()
            failures = furthest = 0
            while True:
                address = await self.locate()
                error = await self._go(address, part, self.measure)
                if error is None:
                    break
                if isinstance(error, PermissionDenied) and not self.can_renew:
                    raise DownloadError(
                        message=f"the address does not allow reading, or has expired: {error}"
                    ) from error
                failures = 1 if part.done > furthest else failures + 1
                furthest = max(furthest, part.done)
                wait = self._wait(error, failures)
                if wait is None:
                    raise self._given_up(error, failures) from error
                log.info("%s: %s; going on after %d bytes", self.path.name, _said(error), part.done)
                await asyncio.sleep(wait)
            await part.finish()
        finally:
            await part.close()

    def _wait(self, error: ExportError, failures: int) -> float | None:
        """Seconds until the next go, None when there is to be none."""
        retry = self.session.retry
        asked = error.retry_after if isinstance(error, ResponseError) else None
        if failures >= retry.attempts or (asked is not None and asked > retry.max_retry_after):
            return None
        return retry.backoff(failures) if asked is None else asked

    def _given_up(self, error: ExportError, failures: int) -> DownloadError:
        message = f"gave up at try {failures} of {self.session.retry.attempts}: {_said(error)}"
        if isinstance(error, PermissionDenied):
            message += " - the signed address was renewed for each; a proxy or firewall may refuse"
        return DownloadError(message=message)

    async def _go(
        self, address: str, part: TempFile, measure: Measure | None
    ) -> ExportError | None:
        """One request for what is missing: None when all is there, the passing error otherwise.

        Where `measure` is to be asked, which may take its time, the connection is given back first.
        """
        request = get_blob_request(address, done=part.done, etag=part.etag)
        try:
            async with self.session.stream_blob(request) as stream:
                content = parse_blob(
                    stream.response, done=part.done, etag=part.etag, total=part.total
                )
                if content is None:
                    return None
                if isinstance(content, ExportError):
                    return _passing(content)
                if measure is None or not must_ask_size(content, self.size):
                    return await self._take(measured(content, self.size), stream.chunks, part)
        except TransportError as error:
            return None if part.done == part.total else error
        try:
            self.size = await measure()
        except ExportError as error:
            if not content.is_bounded:
                raise
            log.info("%s: its size is not told, only where it ends: %s", self.path.name, error)
        return await self._go(address, part, None)

    async def _take(
        self, content: Content, chunks: AsyncIterator[bytes], part: TempFile
    ) -> DownloadError | None:
        """Add what comes: None when that is all, what is amiss otherwise."""
        await part.begin(content)
        async for piece in chunks:
            await part.add(piece)
            if part.total is not None and part.done > part.total:
                raise SizeMismatch(
                    message=f"more bytes came than the {part.total} that Storage tells of: "
                    "the file may be changing"
                )
            await report(self.on_progress, part.done, part.total)
        if part.total in (None, part.done):
            return None
        return DownloadError(message=f"{part.done} of {part.total} bytes came")


def _said(error: ExportError) -> str:
    return error.message if isinstance(error, DownloadError) else str(error)


def _passing(error: ExportError) -> ExportError:
    """The error if a new address or another try may cure it; otherwise it is raised."""
    match error:
        case DownloadError():
            raise error
        case PermissionDenied() | ServerError() | RateLimited():  # 403: it has expired
            return error
        case _:
            raise DownloadError(message=f"the blob store refuses: {error}") from error
