"""Files sent to Storage whole, or not at all.

Storage lists nothing before the last step, so that what fails on the way leaves nothing behind
that anybody sees.
"""

import asyncio
import hashlib
import logging
import os
from pathlib import Path
from typing import BinaryIO

from itwin_export_async._errors import ExportError, PermissionDenied, ResponseError, UploadError
from itwin_export_async._files.progress import Progress, report
from itwin_export_async._http.session import Session
from itwin_export_async._models import StoredFile
from itwin_export_async._protocol.blobs import (
    PIECE,
    Upload,
    complete_file_request,
    parse_completed_file,
    parse_created_file,
    parse_put,
    put_blob_request,
    put_block_list_request,
    put_block_request,
)
from itwin_export_async._protocol.files import get_file_request, parse_file
from itwin_export_async._protocol.messages import Request

log = logging.getLogger(__name__)


async def upload(
    session: Session, announcement: Request, source: Path, on_progress: Progress | None
) -> StoredFile:
    """The file in Storage that `source` has become."""
    file = await _opened(source)
    try:
        failures = 0
        while True:
            answer = await session.send(announcement)
            announced = parse_created_file(answer, base_url=session.base_url)
            try:
                await _send(session, announced.upload_url, source, file, on_progress)
                break
            except PermissionDenied as error:  # the signature has expired meanwhile
                failures += 1
                if failures >= session.retry.attempts:
                    raise _failed(source, error) from error
                log.info("%s: %s; starting again", source, error)
                await asyncio.sleep(session.retry.backoff(failures))
    finally:
        await asyncio.to_thread(file.close)
    return await _completed(session, announced)


async def _opened(source: Path) -> BinaryIO:
    """The file, open. A thread that outlives its cancelled caller has it closed again."""
    opening: asyncio.Future[BinaryIO] = asyncio.get_running_loop().run_in_executor(
        None, lambda: source.open("rb")
    )
    try:
        return await asyncio.shield(opening)
    except asyncio.CancelledError:
        opening.add_done_callback(_close)
        raise


def _close(opening: "asyncio.Future[BinaryIO]") -> None:
    if not opening.cancelled() and opening.exception() is None:
        opening.result().close()


async def _send(
    session: Session,
    address: str,
    source: Path,
    file: BinaryIO,
    on_progress: Progress | None,
) -> None:
    """All bytes, to a signed address. Raises `PermissionDenied` when that has expired."""
    before = await asyncio.to_thread(_rewound, file)
    size, whole = before.st_size, hashlib.md5(usedforsecurity=False)
    done = blocks = 0
    while not blocks or done < size:
        await report(on_progress, done, size)
        piece = await asyncio.to_thread(file.read, PIECE)
        await asyncio.to_thread(whole.update, piece)
        if size <= PIECE:
            request = await asyncio.to_thread(put_blob_request, address, piece)
        else:
            request = await asyncio.to_thread(put_block_request, address, blocks, piece)
        if len(piece) != min(PIECE, size - done):
            raise _changed(source)
        await _put(session, source, request)
        done += len(piece)
        blocks += 1
    if _version(await asyncio.to_thread(os.fstat, file.fileno())) != _version(before):
        raise _changed(source)
    if blocks > 1:
        await _put(session, source, put_block_list_request(address, blocks, whole.digest()))
    await report(on_progress, done, size)


async def _put(session: Session, source: Path, request: Request) -> None:
    try:
        parse_put(await session.send_blob(request))
    except PermissionDenied:
        raise
    except ExportError as error:
        raise _failed(source, error) from error


async def _completed(session: Session, announced: Upload) -> StoredFile:
    response = await session.send(complete_file_request(announced))
    try:
        return parse_completed_file(response)
    except ResponseError:
        if response.uncertain_for is None:
            raise
        # the sending whose answer was lost may have completed it
        return parse_file(await session.send(get_file_request(announced.file_id)))


def _rewound(file: BinaryIO) -> os.stat_result:
    file.seek(0)
    return os.fstat(file.fileno())


def _version(found: os.stat_result) -> tuple[int, int]:
    return found.st_size, found.st_mtime_ns


def _changed(source: Path) -> UploadError:
    return UploadError(message="the file changed while it was sent", source=str(source))


def _failed(source: Path, error: ExportError) -> UploadError:
    return UploadError(message=f"could not be sent: {error}", source=str(source))
