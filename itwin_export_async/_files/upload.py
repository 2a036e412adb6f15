"""Files sent to Storage: whole, or not at all.

Storage lists a file only after the last step, so a failed upload leaves nothing visible. The blocks
of a large file stay in the blob store for days, so an upload that outlives its signed URL continues
with a new one where that leads to the same blob.
"""

import asyncio
import hashlib
import logging
import os
import stat
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

from attrs import define

from itwin_export_async._errors import (
    ExportError,
    PermissionDenied,
    ProtocolError,
    ResponseError,
    UploadError,
)
from itwin_export_async._files.disk_threads import DiskThreads
from itwin_export_async._files.download import Progress, report
from itwin_export_async._http.session import Session
from itwin_export_async._models import StoredFile
from itwin_export_async._protocol.blobs import (
    BLOCK_SIZE,
    is_same_blob,
    parse_put,
    put_blob_request,
    put_block_list_request,
    put_block_request,
)
from itwin_export_async._protocol.files import (
    Upload,
    complete_file_request,
    get_file_request,
    parse_completed_file,
    parse_created_file,
    parse_file,
    update_content_request,
)
from itwin_export_async._protocol.messages import Request

log = logging.getLogger("itwin_export_async.files")


async def upload(
    session: Session,
    threads: DiskThreads,
    create_request: Request,
    source: Path,
    on_progress: Progress | None,
) -> StoredFile:
    """The file in Storage that `source` has become."""
    file = UploadFile(source)
    try:
        await threads.run(file.open)
        transfer = _Transfer(session, threads, create_request, file, on_progress)
        return await _complete(session, await transfer.send())
    finally:
        await threads.run(file.close)


class UploadFile:
    """The file on disk, read block by block. All methods block.

    It must stay as it was when it was opened: each raises an `UploadError` where it changed.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.size = 0
        self._file: BinaryIO | None = None
        self._version = (0, 0)
        self._digest: Any = hashlib.md5(usedforsecurity=False)
        self._digested = 0

    def open(self) -> None:
        """Open the file. Raises the `OSError` of one that cannot be read."""
        if not stat.S_ISREG(self.path.stat().st_mode) and not self.path.is_dir():
            raise ValueError(
                f"path {str(self.path)!r} is a device or pipe: give the path of a file"
            )
        self._file = self.path.open("rb")
        self._version = self.size, _ = self._read_version()

    def read(self, number: int) -> bytes:
        """A block, counted from 0."""
        assert self._file is not None
        start = number * BLOCK_SIZE
        self._file.seek(start)
        block = self._file.read(BLOCK_SIZE)
        if len(block) != min(BLOCK_SIZE, self.size - start):
            raise self._changed()
        if start == self._digested:
            self._digest.update(block)
            self._digested += len(block)
        return block

    def check(self) -> bytes:
        """The MD5 of all blocks, once all were read."""
        if self._read_version() != self._version:
            raise self._changed()
        digest: bytes = self._digest.digest()
        return digest

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()

    def _read_version(self) -> tuple[int, int]:
        assert self._file is not None
        found = os.fstat(self._file.fileno())
        return found.st_size, found.st_mtime_ns

    def _changed(self) -> UploadError:
        return UploadError(message="the file changed while it was sent", source=str(self.path))


@define(eq=False)
class _Transfer:
    """The way of one file to the blob store."""

    session: Session
    threads: DiskThreads
    create_request: Request
    file: UploadFile
    on_progress: Progress | None

    @property
    def blocks(self) -> int:
        """How many blocks the file has. A single one is sent as the whole blob."""
        return max(1, -(-self.file.size // BLOCK_SIZE))

    async def send(self) -> Upload:
        """Send all bytes, and return the upload that can be completed."""
        retry = self.session.retry
        upload = await self._announce(self.create_request)
        sent = furthest = failures = 0
        while True:
            try:
                while sent < self.blocks:
                    await self._send_block(upload.upload_url, sent)
                    sent += 1
                await self._commit(upload.upload_url)
            except PermissionDenied as error:  # the signature has expired
                failures = 1 if sent > furthest else failures + 1
                furthest = max(furthest, sent)
                if failures >= retry.attempts:
                    raise self._failed(error) from error
                log.info("%s: %s; requesting a new URL", self.file.path, error)
                await asyncio.sleep(retry.backoff(failures))
            else:
                return upload
            expired, upload = upload, await self._renew(upload)
            if not is_same_blob(expired.upload_url, upload.upload_url):
                sent = 0

    async def _announce(self, request: Request) -> Upload:
        response = await self.session.send(request)
        return parse_created_file(response, base_url=self.session.base_url)

    async def _renew(self, upload: Upload) -> Upload:
        """New URLs: of the same file where blocks of it were sent and Storage agrees."""
        if self.blocks > 1:
            try:
                return await self._announce(update_content_request(upload.file_id))
            except (ResponseError, ProtocolError) as error:
                log.info("%s: %s; creating the file again", self.file.path, error)
        return await self._announce(self.create_request)

    async def _send_block(self, url: str, number: int) -> None:
        await report(self.on_progress, number * BLOCK_SIZE, self.file.size)
        await self._put(await self.threads.run(partial(self._block_request, url, number)))

    def _block_request(self, url: str, number: int) -> Request:
        block = self.file.read(number)
        return (
            put_block_request(url, number, block)
            if self.blocks > 1
            else put_blob_request(url, block)
        )

    async def _commit(self, url: str) -> None:
        """Make the blocks a blob, if the file is still what it was."""
        md5 = await self.threads.run(self.file.check)
        if self.blocks > 1:
            await self._put(put_block_list_request(url, self.blocks, md5))
        await report(self.on_progress, self.file.size, self.file.size)

    async def _put(self, request: Request) -> None:
        try:
            parse_put(await self.session.send_blob(request))
        except PermissionDenied:
            raise
        except ExportError as error:
            raise self._failed(error) from error

    def _failed(self, error: ExportError) -> UploadError:
        return UploadError(message=f"could not be sent: {error}", source=str(self.file.path))


async def _complete(session: Session, upload: Upload) -> StoredFile:
    response = await session.send(complete_file_request(upload))
    try:
        return parse_completed_file(response)
    except ResponseError:
        if response.uncertain_for is None:
            raise
        # an attempt without a response may have completed the file
        return parse_file(await session.send(get_file_request(upload.file_id)))
