"""One blob as a stream of chunks, over as many connections as it takes.

A broken connection is resumed within the iteration: with `Range` and `If-Match` from the next
byte, and with a new signed URL once the old one is refused. Where the store gives no strong ETag,
the blob is read again from the start, and its beginning is compared by digest with what was passed
on before. The stream ends normally only when its length, and the MD5 where there is one, are right.
"""

import asyncio
import hashlib
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import AsyncExitStack, suppress
from enum import Enum, auto
from types import TracebackType
from typing import Any, Self, TypeVar

from attrs import evolve, frozen

from itwin_export_async._errors import (
    DownloadError,
    ExportError,
    NotFound,
    ProtocolError,
    RateLimited,
    ResponseError,
    ServerError,
    TransportError,
)
from itwin_export_async._errors.workflow import DownloadFailure
from itwin_export_async._files.temp_file import DiskThreads, PieceQueue
from itwin_export_async._http.session import Session
from itwin_export_async._protocol.blobs import (
    Content,
    ReadState,
    SizesDiffer,
    UnusableContent,
    get_blob_request,
    must_ask_size,
    parse_blob,
    with_size,
)

log = logging.getLogger("itwin_export_async.files")

DIGEST_PIECE = 1024 * 1024
MIN_SPEED = 1024  # bytes per second, over SPEED_WINDOW seconds of waiting for the server
SPEED_WINDOW = 60.0
MAX_DRAIN = 64 * 1024  # bytes worth reading to keep a connection
T = TypeVar("T")

_EXPIRED = (401, 403)  # statuses that a new signature may cure

GetUrl = Callable[[], Awaitable[str]]
"""Gives a signed URL that is valid now."""

GetSize = Callable[[], Awaitable[int | None]]
"""Reads the file's size from Storage; None where Storage does not give it."""


@frozen(kw_only=True)
class BlobSource:
    """A blob that can be read.

    `can_renew`: whether `get_url` gives another URL when one has expired. `name` is the file's
    name. `size` is its length by Storage, None where that is not known; `get_size` reads it, None
    where Storage has no such file. `file_id` and `destination` are named in errors.
    """

    get_url: GetUrl
    can_renew: bool = True
    name: str = ""
    size: int | None = None
    get_size: GetSize | None = None
    file_id: str = ""
    destination: str = ""


@frozen
class Speed:
    """The bytes that came within `seconds` of waiting for the server."""

    seconds: float = 0.0
    count: int = 0

    def after(self, seconds: float, count: int) -> "Speed":
        """After another wait. A full window is followed by a new one."""
        if self.seconds >= SPEED_WINDOW:
            return Speed(seconds, count)
        return Speed(self.seconds + seconds, self.count + count)

    @property
    def is_too_slow(self) -> bool:
        """Whether a full window had less than the least speed."""
        return self.seconds >= SPEED_WINDOW and self.count < MIN_SPEED * self.seconds


class SizeMismatch(DownloadError):
    """The blob store and Storage report different lengths: one of them may be late."""


class _TooSlow(TransportError):
    """The server sends, but below the least speed."""


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
        _check_range(start, stop, source.size if if_range is None else None)
        if if_range is not None and not if_range.startswith('"'):
            start, stop, if_range = 0, None, None  # a date or a weak ETag matches no version
        self.name = source.name
        self.size = source.size
        self.etag: str | None = None
        self.start = start
        self.stop = stop
        self._session = session
        self._source = source
        self._if_range = if_range
        self._storage_size = source.size
        self._get_size = source.get_size
        self._phase = _Phase.NEW
        self._state = ReadState(start=start, stop=stop)
        self._url: str | None = None
        self._connection = AsyncExitStack()
        self._chunks: AsyncIterator[bytes] | None = None
        self._content = Content(start=start)  # of the present response
        self._offset = start  # of the next byte of the present response
        self._speed = Speed()
        self._digest: Any = None  # of all bytes so far, where it is needed
        self._digested = PieceQueue(threads, self._update_digest, DIGEST_PIECE)
        self._prefix: Any = None  # of the bytes that came before, as they come again

    @property
    def position(self) -> int:
        """The offset of the next byte in the file."""
        return self._state.position

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        await self.open()
        if self._phase is _Phase.FAILED:
            raise RuntimeError("an earlier read of this file failed")
        if self._phase is _Phase.OPEN:
            chunk = await self._guarded(self._read_chunk())
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
            await self._guarded(self._connect())
            self._phase = _Phase.OPEN

    async def close(self) -> None:
        """Give the connection back."""
        if self._phase is not _Phase.CLOSED:
            self._session.count_download(self.position - self._state.start)
        self._phase = _Phase.CLOSED
        await self._release()

    async def _guarded(self, work: Coroutine[Any, Any, T]) -> T:
        """The result of `work`. After an error or a cancellation no connection is open.

        A read that was cancelled may have lost a chunk, so the next one connects again.
        """
        try:
            return await work
        except UnusableContent as error:
            await self._disconnect()
            self._phase = _Phase.FAILED
            kind = SizeMismatch if isinstance(error, SizesDiffer) else DownloadError
            raise self._error(error.message, error.reason, kind) from None
        except BaseException as error:
            await self._disconnect()
            if isinstance(error, DownloadError):
                self._phase = _Phase.FAILED
            raise

    async def _connect(self) -> None:
        """Have a response that is being read: the present one, or a new one."""
        while self._chunks is None:
            url = self._url = self._url or await self._source.get_url()
            try:
                content = await self._request(url)
            except (TransportError, ResponseError, ProtocolError) as error:
                await self._disconnect()
                await self._back_off(error)
                continue
            if content is None or not await self._accept(content):
                await self._disconnect()

    async def _request(self, url: str) -> Content | None:
        """Request what is missing: the content of the response, None where it is not `if_range`."""
        state = self._state
        etag = self._if_range if state.known is None else state.known.etag
        request = get_blob_request(url, start=state.request_start, stop=state.stop, etag=etag)
        stream = await self._connection.enter_async_context(self._session.stream_blob(request))
        if state.known is None and self._if_range:
            if stream.response.status == 412:
                self._read_whole()
                return None
            if stream.response.status == 416 and state.start:
                self._state = ReadState(stop=0)  # one byte shows which version it is
                return None
        content = parse_blob(
            stream.response,
            start=state.request_start,
            etag=None if state.known is None else state.known.etag,
            total=state.total,
        )
        self._chunks, self._content, self._offset = stream.chunks, content, content.start
        return content

    async def _accept(self, content: Content) -> bool:
        """Whether the response can be read. Otherwise another one has to be requested."""
        state = self._state
        if state.known is not None:
            if state.repeats(content):
                if self._digest is None:
                    raise UnusableContent("cannot be resumed: the store gives no ETag any more")
                self._prefix = hashlib.md5(usedforsecurity=False)
        elif self._if_range not in (None, content.etag):
            self._read_whole()
            return False
        elif state.start != self.start and content.total != self.start:
            raise UnusableContent(
                f"cannot start at byte {self.start}: the file has {content.total} bytes", "refused"
            )
        elif self._get_size is not None and must_ask_size(content, self._storage_size):
            await self._disconnect()  # reading the size may take minutes
            await self._read_size(self._get_size, is_needed=not content.is_bounded)
            self._get_size = None
            return False
        else:
            content = with_size(content, self._storage_size)
            # the one byte that showed the version is none of the stream's
            state = evolve(state, start=self.start, position=self.start, stop=self.stop)
        is_first, state = state.known is None, state.with_content(content)
        self._state = state
        self.size, self.stop = state.total, state.end
        if is_first:
            self.etag = content.etag
            if content.etag is None or state.md5 is not None:
                self._digest = hashlib.md5(usedforsecurity=False)
        return True

    async def _read_size(self, get_size: GetSize, *, is_needed: bool) -> None:
        try:
            self._storage_size = await get_size()
        except ExportError as error:
            if is_needed:
                raise
            log.info("%s: its size is not known: %s", self._label, error)

    def _read_whole(self) -> None:
        """The file is not of the version `if_range`: read all of its present version."""
        self._if_range = None
        self._state = ReadState()
        self.start, self.stop = 0, None

    async def _read_chunk(self) -> bytes | None:
        """The next bytes, None at the end of the stream."""
        while True:
            await self._digested.ready()
            await self._connect()
            try:
                chunk = await self._receive()
            except TransportError as error:
                await self._disconnect()
                await self._back_off(error)
                continue
            if chunk is None:
                await self._finish()
                return None
            if chunk:
                return chunk

    async def _receive(self) -> bytes | None:
        """The next bytes of the response, empty where they came before; None at the end."""
        state, content = self._state, self._content
        ends_early = state.stop is not None and content.stop != state.end
        if state.is_complete and (ends_early or content.start == content.stop):
            return None
        chunk = await self._next_chunk()
        if chunk is None:
            if state.is_short:
                raise self._broken(f"ended after byte {state.position} of {state.total}")
            return None
        offset, self._offset = self._offset, self._offset + len(chunk)
        if offset < state.position:
            chunk = await self._skip(chunk, offset)
        room = len(chunk) if state.end is None else state.end - state.position
        if len(chunk) > room:
            if not ends_early:
                raise SizesDiffer(
                    f"received more than the {state.end} bytes that Storage reports: "
                    "the file may be changing"
                )
            chunk = chunk[:room]
        if self._digest is not None:
            self._digested.append(chunk)
        self._state = state.with_bytes(len(chunk))
        return chunk

    async def _next_chunk(self) -> bytes | None:
        """What the connection gives next, None at its end."""
        assert self._chunks is not None
        clock = asyncio.get_running_loop().time
        began = clock()
        try:
            chunk = await anext(self._chunks, None)
        except TransportError:
            if self._state.is_complete:  # a break after the last byte is no break
                return None
            raise
        self._speed = self._speed.after(clock() - began, 0 if chunk is None else len(chunk))
        if self._speed.is_too_slow:
            raise self._broken(
                f"received {self._speed.count} bytes in {self._speed.seconds:.0f} s", _TooSlow
            )
        return chunk

    async def _skip(self, chunk: bytes, offset: int) -> bytes:
        """What of the chunk did not come before. Bytes that did are compared by digest."""
        start, position = self._state.start, self._state.position
        rest = chunk[position - offset :]
        if self._prefix is not None:
            self._prefix.update(chunk[max(0, start - offset) : position - offset])
            if offset + len(chunk) >= position:
                await self._digested.flush()
                if self._prefix.digest() != self._digest.digest():
                    raise UnusableContent("the file changed while it was read (its beginning)")
                self._prefix = None
        return rest

    async def _finish(self) -> None:
        await self._digested.flush()
        await self._release()
        if self._state.md5 is not None and self._digest.digest() != self._state.md5:
            raise UnusableContent(
                "MD5 mismatch: download the file again; if that fails too, the stored file is "
                "corrupt and must be exported again"
            )

    async def _release(self) -> None:
        """Give the connection back, for another use where little of the response is left."""
        stop = self._content.stop
        try:
            if self._chunks is not None and stop is not None and stop - self._offset <= MAX_DRAIN:
                with suppress(TransportError):
                    async for _ in self._chunks:
                        pass
        finally:
            await self._disconnect()

    async def _disconnect(self) -> None:
        chunks, self._chunks = self._chunks, None
        self._prefix, self._speed = None, Speed()
        if isinstance(chunks, AsyncGenerator):
            await chunks.aclose()
        await self._connection.aclose()

    async def _back_off(self, error: TransportError | ResponseError | ProtocolError) -> None:
        """Wait before the next connection. Raises `DownloadError` where another cannot help."""
        is_expired = isinstance(error, ResponseError) and error.status in _EXPIRED
        if is_expired and self._source.can_renew:
            self._url = None
        elif is_expired:
            message = f"the URL has expired or does not allow reading: {error}"
            raise self._error(message, "refused") from error
        elif isinstance(error, NotFound):
            raise self._error(
                f"the blob store has no such file: {error}", "not_available"
            ) from error
        elif not _is_transient(error):
            raise self._error(f"the blob store refuses: {error}", "refused") from error
        self._state = self._state.with_failure(counts_bytes=not isinstance(error, _TooSlow))
        failures, retry = self._state.failures, self._session.retry
        requested = error.retry_after if isinstance(error, ResponseError) else None
        if failures >= retry.attempts or (requested or 0.0) > retry.max_retry_after:
            message = f"gave up after attempt {failures} of {retry.attempts}: {error}"
            if is_expired:
                message += "; each had a new signed URL: a proxy or firewall may refuse"
            reason: DownloadFailure = "refused" if is_expired else "incomplete"
            raise self._error(message, reason, is_transient=not is_expired) from error
        wait = max(requested or 0.0, retry.backoff(failures))
        log.debug("%s: %s; resuming at byte %d in %.1f s", self._label, error, self.position, wait)
        await asyncio.sleep(wait)

    def _update_digest(self, chunks: list[bytes]) -> None:
        for chunk in chunks:
            self._digest.update(chunk)

    @property
    def _label(self) -> str:
        return self.name or self._source.destination or self._source.file_id

    def _broken(self, message: str, kind: type[TransportError] = TransportError) -> TransportError:
        return kind(message=message, method="GET", url=self._url or "")

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


def _is_transient(error: ExportError) -> bool:
    if isinstance(error, ResponseError) and error.status == 408:
        return True
    return isinstance(error, TransportError | ServerError | RateLimited)


def _check_range(start: int, stop: int | None, size: int | None) -> None:
    for name, value in (("start", start), ("stop", stop)):
        if value is not None and (isinstance(value, bool) or not isinstance(value, int)):
            raise TypeError(f"{name} must be an integer, not {value!r}")
    if start < 0:
        raise ValueError(f"start must be at least 0, not {start}")
    if size is not None and start > size:
        raise ValueError(f"start must be at most {size}, the size of the file, not {start}")
    if stop is not None and stop < start:
        raise ValueError(f"stop must be at least {start}, the start, not {stop}")
