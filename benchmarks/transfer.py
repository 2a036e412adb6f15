"""What a download costs: ours against a bare aiohttp download to a file, and memory for 2 GiB.

Both fetch from the emulator in another process, by turns. Ours checks the length, writes beside the
final name, brings the file to the disk (fsync) and renames it; the bare one writes what comes, and
leaves it to the system when that reaches the disk, unless told otherwise. So the ratio to the bare
one with fsync tells what the library costs, and the other one what a slow disk costs.

    python -m benchmarks.transfer [FOLDER]
"""

import asyncio
import multiprocessing
import os
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path

import aiohttp
from yarl import URL

from itwin_export_async import ExportClient, RateLimit
from itwin_export_async.emulator import Emulator, SparseContent

MIB = 1024 * 1024
SIZES = (1 * MIB, 64 * MIB, 512 * MIB)
LARGE = 2048 * MIB
ROUNDS = 7

Fetch = Callable[[str, Path], Awaitable[None]]


def serve(ours: Connection) -> None:
    """Serve files of each size; say where, the token and the ids."""

    async def main() -> None:
        emulator = Emulator()
        emulator.download_lifetime = 24 * 3600.0
        ids = {size: emulator.add_file(f"{size}.ifc", SparseContent(size)) for size in SIZES}
        ids[LARGE] = emulator.add_file("large.ifc", SparseContent(LARGE))
        async with emulator.serve() as served:
            ours.send((served.base_url, emulator.token(lifetime=24 * 3600.0), ids))
            await asyncio.Event().wait()

    asyncio.run(main())


async def timed(fetch: Fetch, file_id: str, path: Path) -> float:
    """Seconds that a fetch takes; what it brought is taken away again."""
    began = time.perf_counter()
    await fetch(file_id, path)
    seconds = time.perf_counter() - began
    path.unlink()
    return seconds


async def compare(base_url: str, token: str, ids: dict[int, str], folder: Path) -> None:
    """Print a line for each size: medians, and the medians of the ratios of neighbours."""
    headers = {"Authorization": f"Bearer {token}", "Accept": "*/*"}
    async with (
        ExportClient(token, base_url=base_url, rate_limit=RateLimit()) as client,
        aiohttp.ClientSession() as bare,
    ):

        async def ours(file_id: str, path: Path) -> None:
            await client.storage.download(file_id, path)

        async def theirs(file_id: str, path: Path, *, sync: bool = False) -> None:
            address = f"{base_url}/storage/files/{file_id}/download"
            async with bare.get(address, headers=headers, allow_redirects=False) as answer:
                blob = URL(answer.headers["Location"], encoded=True)
            with path.open("wb") as file:
                async with bare.get(blob) as answer:
                    async for piece in answer.content.iter_chunked(MIB):
                        file.write(piece)
                if sync:
                    await asyncio.to_thread(os.fsync, file.fileno())

        contenders: list[Fetch] = [ours, theirs, partial(theirs, sync=True)]
        print("   MiB       MiB/s: ours   bare   bare, fsync     ours / bare   / bare, fsync")
        for size in SIZES:
            path = folder / "file.ifc"
            rounds = [
                [await timed(fetch, ids[size], path) for fetch in contenders] for _ in range(ROUNDS)
            ]
            speeds = [size / MIB / statistics.median(times) for times in zip(*rounds, strict=True)]
            ratios = [statistics.median(times[n] / times[0] for times in rounds) for n in (1, 2)]
            print(
                f"{size / MIB:6.0f} {speeds[0]:17.0f} {speeds[1]:6.0f} {speeds[2]:13.0f}"
                f" {ratios[0]:15.2f} {ratios[1]:15.2f}",
                flush=True,
            )


async def large(base_url: str, token: str, file_id: str, folder: Path) -> None:
    """Fetch the large file once, and print the most memory that this process has ever had."""
    before = _peak()
    async with ExportClient(token, base_url=base_url) as client:
        path = await client.storage.download(file_id, folder / "large.ifc")
    size = path.stat().st_size
    path.unlink()
    print(f"{size / MIB:.0f} MiB: peak memory {_peak():.0f} MiB, {before:.0f} before")


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    """Start the server, measure, stop it."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    server = context.Process(target=serve, args=(theirs,), daemon=True)
    server.start()
    base_url, token, ids = ours.recv()
    try:
        with tempfile.TemporaryDirectory(dir=next(iter(sys.argv[1:]), None)) as name:
            asyncio.run(large(base_url, token, ids[LARGE], Path(name)))
            asyncio.run(compare(base_url, token, ids, Path(name)))
    finally:
        server.terminate()
        server.join()


if __name__ == "__main__":
    main()
