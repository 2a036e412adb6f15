"""The connection to the blob store that a stream reads from at present."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AsyncExitStack, suppress

from itwin_export_async._errors import TransportError
from itwin_export_async._files.read_plan import Speed, TooSlow
from itwin_export_async._http.session import Session
from itwin_export_async._protocol.blobs import Content
from itwin_export_async._protocol.messages import Request, Response

MAX_DRAIN = 64 * 1024  # bytes worth reading to keep a connection
MAX_DRAIN_TIME = 1.0  # seconds worth waiting for them


class BlobConnection:
    """One response at a time, as it comes.

    `content` is what the response contains, and `offset` the next byte of it in the file.
    """

    def __init__(self, session: Session) -> None:
        self.content = Content(start=0)
        self.offset = 0
        self._session = session
        self._request: Request | None = None
        self._stack = AsyncExitStack()
        self._chunks: AsyncIterator[bytes] | None = None
        self._speed = Speed()

    @property
    def is_open(self) -> bool:
        """Whether there is a response to read."""
        return self._chunks is not None

    async def open(self, request: Request) -> Response:
        """The response to the request, without its body. `begin` has to follow."""
        self._request = request
        stream = await self._stack.enter_async_context(self._session.stream_blob(request))
        self._chunks = stream.chunks
        return stream.response

    def begin(self, content: Content) -> None:
        """Read the response, which contains this."""
        self.content, self.offset = content, content.start

    async def receive(self) -> bytes | None:
        """The next bytes, None at the end of the response. Raises `TransportError`."""
        assert self._chunks is not None
        clock = asyncio.get_running_loop().time
        began = clock()
        chunk = await anext(self._chunks, None)
        self._speed = self._speed.after(clock() - began, 0 if chunk is None else len(chunk))
        if self._speed.is_too_slow:
            count, seconds = self._speed.count, self._speed.seconds
            raise self.broken(f"received {count} bytes in {seconds:.0f} s", TooSlow)
        self.offset += len(chunk or b"")
        return chunk

    def broken(self, message: str, kind: type[TransportError] = TransportError) -> TransportError:
        """The error of a response that cannot be read to its end."""
        assert self._request is not None
        return kind(message=message, method=self._request.method, url=self._request.url)

    async def release(self) -> None:
        """Give the connection back, for another use where little of the response is left."""
        stop = self.content.stop
        try:
            if self._chunks is not None and stop is not None and stop - self.offset <= MAX_DRAIN:
                with suppress(TransportError, TimeoutError):
                    async with asyncio.timeout(MAX_DRAIN_TIME):
                        async for _ in self._chunks:
                            pass
        finally:
            await self.close()

    async def close(self) -> None:
        """Close the connection."""
        chunks, self._chunks = self._chunks, None
        self._speed = Speed()
        if isinstance(chunks, AsyncGenerator):
            await chunks.aclose()
        await self._stack.aclose()
