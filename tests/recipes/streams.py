"""The output of a run as a stream: to any store, without a file on disk."""

import asyncio
from collections.abc import AsyncIterable
from io import BytesIO
from typing import Any, Protocol

import fsspec

from itwin_export_async import RunHandle


async def to_fsspec(run: RunHandle, url: str, **options: Any) -> None:
    """To S3, Azure, GCS, ... by the URL of a folder, such as `s3://bucket/exports`."""
    files, folder = fsspec.url_to_fs(url, **options)
    with files.transaction:  # nothing is visible before all of it is complete
        for output in await run.outputs():
            async with output.open() as reader:
                with files.open(f"{folder}/{output.name}", "wb") as file:
                    async for chunk in reader:
                        await asyncio.to_thread(file.write, chunk)


class Blob(Protocol):
    """`azure.storage.blob.aio.BlobClient`."""

    async def upload_blob(self, data: AsyncIterable[bytes], *, length: int | None) -> Any: ...


async def to_azure(run: RunHandle, blob: Blob) -> None:
    """To a blob, with a client that uploads an async iterable."""
    (output,) = await run.outputs()
    async with output.open() as reader:
        chunks = (chunk async for chunk in reader)  # Azure calls a `read` with a size
        await blob.upload_blob(chunks, length=reader.size)


async def to_memory(run: RunHandle) -> BytesIO:
    """Into memory."""
    (output,) = await run.outputs()
    async with output.open() as reader:
        return BytesIO(await reader.read())
