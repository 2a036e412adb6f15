"""The MD5 of the bytes that a stream gives, computed in a thread of the client."""

import hashlib
from typing import Any

from itwin_export_async._files.disk_threads import DiskThreads, PieceQueue
from itwin_export_async._protocol.blobs import UnusableContent

DIGEST_PIECE = 1024 * 1024


class BlobDigest:
    """The digest of all bytes so far, and of bytes that come again after a broken connection."""

    def __init__(self, threads: DiskThreads) -> None:
        self._md5 = _new_md5()
        self._repeated: Any = None
        self._queue = PieceQueue(threads, self._update, DIGEST_PIECE)

    def append(self, chunk: bytes) -> None:
        """Add bytes. Call `ready` between two of them."""
        self._queue.append(chunk)

    async def ready(self) -> None:
        """Wait until another chunk can be added."""
        await self._queue.ready()

    async def check(self, md5: bytes) -> None:
        """Raise `UnusableContent` if all bytes have another digest than this."""
        await self._queue.flush()
        if self._md5.digest() != md5:
            raise UnusableContent(
                "MD5 mismatch: download the file again; if that fails too, the stored file is "
                "corrupt and must be exported again"
            )

    def expect_repeated(self, *, is_expected: bool) -> None:
        """Say whether a new response begins with bytes that came before."""
        self._repeated = _new_md5() if is_expected else None

    async def add_repeated(self, chunk: bytes, *, is_last: bool) -> None:
        """Add bytes that come again. Raises `UnusableContent` if they were others before."""
        if self._repeated is None:
            return
        self._repeated.update(chunk)
        if is_last:
            await self._queue.flush()
            if self._repeated.digest() != self._md5.digest():
                raise UnusableContent("the file changed while it was read (its beginning)")
            self._repeated = None

    def _update(self, chunks: list[bytes]) -> None:
        for chunk in chunks:
            self._md5.update(chunk)


def _new_md5() -> Any:
    return hashlib.md5(usedforsecurity=False)
