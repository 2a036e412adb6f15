"""A file to standard output: no disk between the service and the pipe."""

import asyncio
import sys
from collections.abc import AsyncIterable, Sequence
from typing import Any

from itwin_export_async import RunOutput
from itwin_export_async.cli.errors import UsageError


async def write_output(outputs: Sequence[RunOutput]) -> None:
    """Write the only output of a run to standard output."""
    if len(outputs) != 1:
        names = ", ".join(output.name for output in outputs)
        raise UsageError(f"the run made {len(outputs)} files ({names}): give a folder as --output")
    async with outputs[0].open() as chunks:
        await write_chunks(chunks)


async def write_chunks(chunks: AsyncIterable[bytes]) -> None:
    """Write a stream to standard output, without blocking the event loop."""
    stream: Any = getattr(sys.stdout, "buffer", sys.stdout)
    async for chunk in chunks:
        await asyncio.to_thread(stream.write, chunk)
    await asyncio.to_thread(stream.flush)
