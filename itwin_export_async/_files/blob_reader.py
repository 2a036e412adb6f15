"""One blob as a stream of chunks, over as many connections as it takes.

A broken connection is resumed within the iteration: with `Range` and `If-Match` from the next
byte, and with a new signed URL once the old one is refused. Where the store gives no strong ETag,
the blob is read again from the start, and its beginning is compared by digest with what was passed
on before. The stream ends normally only when its length, and the MD5 where there is one, are right.
"""

import asyncio
import logging
from enum import Enum, auto
from types import TracebackType
from typing import Self

from attrs import field, frozen

from itwin_export_async._errors import (
    DownloadError,
    ExportError,
    ProtocolError,
    ResponseError,
    TransportError,
)
from itwin_export_async._errors.workflow import DownloadFailure
from itwin_export_async._files.blob_connection import BlobConnection
from itwin_export_async._files.blob_digest import BlobDigest
from itwin_export_async._files.disk_threads import DiskThreads
from itwin_export_async._files.read_plan import (
    GivenUp,
    NextStep,
    ReadPlan,
    TooSlow,
    is_expired,
)
from itwin_export_async._http.session import Session
from itwin_export_async._protocol.blobs import Content, SizesDiffer, UnusableContent
from itwin_export_async._protocol.files import (
    download_file_request,
    get_file_request,
    parse_download,
    parse_file,
)
from itwin_export_async._protocol.messages import Response

log = logging.getLogger("itwin_export_async.files")


@frozen(kw_only=True)
class BlobSource:
    """A file of Storage, or a blob of the caller's own.

    `file_id` is its id in Storage, empty for a blob, which has a `sas_url` instead: a signed URL.
    `name` is the file's name, empty where it is not known. `size` is its length by Storage, None
    where that is not known. `destination` is named in errors.
    """

    file_id: str = ""
    sas_url: str | None = field(default=None, repr=False)
    name: str = ""
    size: int | None = None
    destination: str = ""


class SizeMismatch(DownloadError):
    """The blob store and Storage report different lengths: one of them may be late."""


class _Phase(Enum):
    NEW = auto()
    OPEN = auto()
    DONE = auto()
    FAILED = auto()
    CLOSED = auto()


class BlobReader:
    """The bytes of a file, as they come: iterate over it, or `read()` all. Made by `open()`.

    `name`: the file's name. `size`: the bytes of the whole file, None where the service does not
    give it. `etag`: its version, None without a strong one. `start` and `stop` are the bounds of
    this stream in the file; `stop` None means that the end of the file is not known.

    Reading raises `DownloadError` where the bytes cannot be read to the end, or do not fit their
    length, version or digest. What came before the error is the beginning of the file.
    """

    def __init__(
        self,
        session: Session,
        threads: DiskThreads,
        source: BlobSource,
        *,
        start: int = 0,
        stop: int | None = None,
        if_range: str | None = None,
    ) -> None:
        is_stored = source.sas_url is None
        self._plan = ReadPlan.of(start, stop, if_range, size=source.size, can_ask_size=is_stored)
        self._session = session
        self._threads = threads
        self._source = source
        self._url = source.sas_url
        self._connection = BlobConnection(session)
        self._digest: BlobDigest | None = None  # where it is needed
        self._phase = _Phase.NEW

    @property
    def name(self) -> str:
        """The file's name."""
        return self._source.name

    @property
    def size(self) -> int | None:
        """The bytes of the whole file, None where the service does not give it."""
        return self._plan.size

    @property
    def etag(self) -> str | None:
        """The file's version, None without a strong one."""
        return self._plan.etag

    @property
    def start(self) -> int:
        """Where the stream begins in the file."""
        return self._plan.start

    @property
    def stop(self) -> int | None:
        """Where the stream ends in the file, None where that is not known."""
        return self._plan.end

    @property
    def position(self) -> int:
        """The offset of the next byte in the file."""
        return self._plan.state.position

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if error is None:
            await self.close()
        else:  # after an error the rest of the response is not worth a wait
            self._end()
            await self._connection.close()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        await self.open()
        if self._phase is _Phase.FAILED:
            raise RuntimeError("an earlier read of this file failed")
        if self._phase is _Phase.OPEN:
            try:
                chunk = await self._read_chunk()
            except BaseException as error:
                await self._fail(error)
                raise
            if chunk is not None:
                return chunk
            self._phase = _Phase.DONE
        raise StopAsyncIteration

    async def read(self) -> bytes:
        """All bytes up to the end."""
        return b"".join([chunk async for chunk in self])

    async def open(self) -> None:
        """Connect, so that `size` and `etag` are known. A second call does nothing."""
        if self._phase is _Phase.CLOSED:
            raise RuntimeError("the file is closed: read it inside `async with`")
        if self._phase is _Phase.NEW:
            try:
                await self._connect()
            except BaseException as error:
                await self._fail(error)
                raise
            self._phase = _Phase.OPEN

    async def close(self) -> None:
        """Give the connection back."""
        self._end()
        await self._connection.release()

    def _end(self) -> None:
        if self._phase is not _Phase.CLOSED:
            self._session.count_download(self.position - self._plan.state.start)
        self._phase = _Phase.CLOSED

    async def _fail(self, error: BaseException) -> None:
        """After an error or a cancellation, no connection is open.

        A read that was cancelled may have lost a chunk, so the next one connects again.
        """
        await self._connection.close()
        if isinstance(error, UnusableContent | DownloadError):
            self._phase = _Phase.FAILED
        if isinstance(error, UnusableContent):
            kind = SizeMismatch if isinstance(error, SizesDiffer) else DownloadError
            raise self._error(error.message, error.reason, kind) from None

    async def _connect(self) -> None:
        """Have a response that is being read: the present one, or a new one."""
        session = self._session
        while not self._connection.is_open:
            if self._url is None:
                response = await session.send(download_file_request(self._source.file_id))
                self._url = parse_download(response, base_url=session.base_url)
            try:
                response = await self._connection.open(self._plan.request(self._url))
                content = self._accept(response)
            except (TransportError, ResponseError, ProtocolError) as error:
                await self._connection.close()
                await self._back_off(error)
                continue
            if isinstance(content, NextStep):
                await self._connection.close()  # reading the size may take minutes
                if content is not NextStep.REQUEST_AGAIN:
                    await self._ask_size(is_needed=content is NextStep.NEED_SIZE)

    def _accept(self, response: Response) -> Content | NextStep:
        """Begin to read the response, or say what to do instead."""
        before = self._plan.state
        self._plan, content = self._plan.after_response(response)
        if isinstance(content, Content):
            self._connection.begin(content)
            if before.known is None and self._plan.needs_digest:
                self._digest = BlobDigest(self._threads)
            elif self._digest is not None:
                self._digest.expect_repeated(is_expected=before.repeats(content))
        return content

    async def _ask_size(self, *, is_needed: bool) -> None:
        """Read the file's size from Storage, without which some streams cannot be read."""
        size = self._plan.storage_size
        try:
            size = parse_file(await self._session.send(get_file_request(self._source.file_id))).size
        except ExportError as error:
            if is_needed:
                raise
            log.info("%s: its size is not known: %s", self._label, error)
        self._plan = self._plan.with_storage_size(size)

    async def _read_chunk(self) -> bytes | None:
        """The next bytes, None at the end of the stream."""
        while True:
            if self._digest is not None:
                await self._digest.ready()
            await self._connect()
            try:
                chunk = await self._receive()
            except TransportError as error:
                await self._connection.close()
                await self._back_off(error)
                continue
            if chunk is None:
                await self._finish()
                return None
            if chunk:
                return chunk

    async def _receive(self) -> bytes | None:
        """The next bytes of the response, empty where they came before; None at the end."""
        plan, content, offset = self._plan, self._connection.content, self._connection.offset
        if plan.is_past_end(content):
            return None
        try:
            chunk = await self._connection.receive()
        except TransportError as error:
            if plan.state.is_complete and not isinstance(error, TooSlow):
                return None  # a break after the last byte is no break
            raise
        if chunk is None:
            if plan.state.is_short:
                raise self._connection.broken(f"ended after byte {self.position} of {self.size}")
            return None
        after, repeated, fresh = plan.after_chunk(content, chunk, offset)
        if self._digest is not None:
            if repeated:
                is_last = offset + len(chunk) >= plan.state.position
                await self._digest.add_repeated(repeated, is_last=is_last)
            self._digest.append(fresh)
        self._plan = after
        return fresh

    async def _finish(self) -> None:
        await self._connection.release()
        md5 = self._plan.state.md5
        if md5 is not None and self._digest is not None:
            await self._digest.check(md5)

    async def _back_off(self, error: TransportError | ResponseError | ProtocolError) -> None:
        """Wait before the next connection. Raises `DownloadError` where another cannot help."""
        self._plan = self._plan.after_failure(error)
        can_renew = self._source.sas_url is None
        wait = self._plan.next_wait(error, self._session.retry, can_renew=can_renew)
        if isinstance(wait, GivenUp):
            raise self._error(wait.message, wait.reason, is_transient=wait.is_transient) from error
        if is_expired(error):
            self._url = None
        log.debug("%s: %s; resuming at byte %d in %.1f s", self._label, error, self.position, wait)
        await asyncio.sleep(wait)

    @property
    def _label(self) -> str:
        return self.name or self._source.destination or self._source.file_id

    def _error(
        self,
        message: str,
        reason: DownloadFailure,
        kind: type[DownloadError] = DownloadError,
        *,
        is_transient: bool = False,
    ) -> DownloadError:
        return kind(
            message=message,
            reason=reason,
            file_id=self._source.file_id,
            destination=self._source.destination,
            is_transient=is_transient,
        )
