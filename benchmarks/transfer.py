"""Downloads and uploads: CPU, speed, memory, and the first byte for a visitor.

Downloads come from a server in another process that sends from memory, faster than any client here
reads. `storage.download` checks the length, writes beside the final name, brings the file to the
disk (fsync) and renames it. Bare aiohttp writes what comes in a thread, and leaves it to the system
when that reaches the disk; "fsync" waits for it. In a folder in memory the ratio shows what the
library costs, on a disk what the disk costs. azure-storage-blob downloads the same blob with its
asynchronous client, and leaves the disk to the system too.

The first byte is that of `storage.open`, for an endpoint that streams to its visitor, and that of
bare aiohttp with the same two requests. Uploads go to the emulator in another process; only the CPU
of the client is in their figure. Bare aiohttp sends the file in one request.
"""

import asyncio
import json
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from tempfile import TemporaryDirectory
from uuid import UUID

import aiohttp
from attrs import frozen
from yarl import URL

from benchmarks._support.file_server import MIB, serve_files
from benchmarks._support.interleave import Samples, rounds
from benchmarks._support.processes import child, memory_folder, peak_memory
from benchmarks._support.report import Goal, Report, format_number
from benchmarks._support.svg import Bar, Figure
from itwin_export_async import ExportClient, RateLimit
from itwin_export_async.emulator import Emulator

OURS, BARE, SYNCED = "storage.download", "bare aiohttp", "bare aiohttp, fsync"
AZURE = "azure-storage-blob"
UPLOAD, BARE_UPLOAD = "storage.upload", "bare aiohttp, upload"
FIRST_BYTE, BARE_FIRST_BYTE = "storage.open", "bare aiohttp, first byte"
MEMORY, DISK = "memory", "disk"
CPU_LIMIT, SPEED_LIMIT = 1.3, 0.9  # times the bare one
FIRST_BYTE_LIMIT, MEMORY_LIMIT = 20.0, 32.0  # ms later than bare; MiB
TOKEN = "token"
HEADERS = {"Authorization": f"Bearer {TOKEN}", "Accept": "*/*"}
ITWIN_ID = str(UUID(int=1963))
DAY = 86400.0

Fetch = Callable[[int, Path], Awaitable[None]]


@frozen(kw_only=True)
class Effort:
    """The sizes in MiB, how many rounds there are for each, and the size that memory is for."""

    in_memory: tuple[int, ...]
    on_disk: tuple[int, ...]
    upload: int
    rounds: int
    first_bytes: int
    large: int


FULL = Effort(in_memory=(1, 512), on_disk=(256,), upload=64, rounds=7, first_bytes=60, large=2048)
QUICK = Effort(in_memory=(1, 64), on_disk=(16,), upload=16, rounds=3, first_bytes=10, large=256)


@frozen(kw_only=True)
class Measured:
    """MiB a second and CPU ms for a MiB, round by round."""

    speed: Samples
    cpu: Samples


def run(effort: Effort) -> Report:
    """Fetch everything, beside a server."""
    measured: dict[tuple[str, int], Measured] = {}
    with child(serve_files) as server:
        base_url = server.recv()
        with memory_folder() as folder:
            with child(measure_peak, base_url, effort.large, folder) as process:
                before, peak = process.recv()
            for size in effort.in_memory:
                measured[MEMORY, size] = asyncio.run(_downloads(base_url, size, folder, effort))
        with TemporaryDirectory() as folder_name:
            for size in effort.on_disk:
                measured[DISK, size] = asyncio.run(
                    _downloads(base_url, size, Path(folder_name), effort)
                )
        first_bytes = asyncio.run(_first_bytes(base_url, effort.first_bytes))
    with child(serve_emulator) as server, memory_folder() as folder:
        base_url, token, folder_id = server.recv()
        measured[UPLOAD, effort.upload] = asyncio.run(
            _uploads(base_url, token, folder_id, folder / "upload.dgn", effort)
        )
    return _report(effort, measured, first_bytes, before, peak)


def measure_peak(ours: Connection, base_url: str, size: int, folder: Path) -> None:
    """Fetch a file; send the peak memory of this process before and after it, in MiB."""

    async def main() -> None:
        async with ExportClient(TOKEN, base_url=base_url) as client:
            await client.storage.get_file(f"{size}")
            before = peak_memory()
            path = await client.storage.download(f"{size}", folder / "large.ifc")
        assert path.stat().st_size == size * MIB
        path.unlink()
        ours.send((before, peak_memory()))

    asyncio.run(main())


def serve_emulator(ours: Connection) -> None:
    """Serve the emulator until ended; send its base URL, a token and a folder to upload to."""

    async def main() -> None:
        emulator = Emulator()
        emulator.add_imodel(itwin_id=ITWIN_ID)
        async with emulator.serve() as served:
            token = emulator.token(lifetime=DAY)
            ours.send((served.base_url, token, emulator.root_folder(ITWIN_ID)))
            await asyncio.Event().wait()

    asyncio.run(main())


@asynccontextmanager
async def _client(base_url: str, token: str = TOKEN) -> AsyncIterator[ExportClient]:
    async with ExportClient(token, base_url=base_url, rate_limit=RateLimit()) as client:
        yield client


async def _downloads(base_url: str, size: int, folder: Path, effort: Effort) -> Measured:
    """Each way to fetch a file of this size."""
    async with AsyncExitStack() as stack:
        client = await stack.enter_async_context(_client(base_url))
        http = await stack.enter_async_context(aiohttp.ClientSession())

        async def ours(size: int, path: Path) -> None:
            await client.storage.download(f"{size}", path)

        bare = partial(_bare, http, base_url)
        ways: dict[str, Fetch] = {OURS: ours, BARE: bare, SYNCED: partial(bare, sync=True)}
        azure = _azure(base_url)
        if azure is not None:
            ways[AZURE] = azure
        return await _interleaved(ways, size, folder / "file.ifc", effort.rounds, is_download=True)


async def _interleaved(
    ways: dict[str, Fetch], size: int, path: Path, count: int, *, is_download: bool
) -> Measured:
    measured = Measured(speed=Samples(), cpu=Samples())
    for fetch in ways.values():
        await fetch(size, path)  # connects, and warms up
    for name in rounds(tuple(ways), count):
        if is_download:
            path.unlink()
            os.sync()  # else an fsync would also wait for what the way before left to the system
        wall, cpu = time.perf_counter(), time.process_time()
        await ways[name](size, path)
        measured.speed.add(name, size / (time.perf_counter() - wall))
        measured.cpu.add(name, (time.process_time() - cpu) / size * 1e3)
    path.unlink(missing_ok=True)
    return measured


async def _blob_url(http: aiohttp.ClientSession, base_url: str, size: int) -> URL:
    """The address of a file, without following the redirect."""
    address = f"{base_url}/storage/files/{size}/download"
    async with http.get(address, headers=HEADERS, allow_redirects=False) as response:
        return URL(response.headers["Location"], encoded=True)


async def _bare(
    http: aiohttp.ClientSession, base_url: str, size: int, path: Path, *, sync: bool = False
) -> None:
    url = await _blob_url(http, base_url, size)
    with path.open("wb") as file:
        async with http.get(url) as response:
            async for chunk in response.content.iter_chunked(MIB):
                await asyncio.to_thread(file.write, chunk)
        file.flush()
        if sync:
            await asyncio.to_thread(os.fsync, file.fileno())


def _azure(base_url: str) -> Fetch | None:
    """The asynchronous client of azure-storage-blob, None where it is not installed."""
    try:
        from azure.storage.blob.aio import BlobClient
    except ImportError:
        return None

    async def fetch(size: int, path: Path) -> None:
        async with aiohttp.ClientSession() as http:
            url = await _blob_url(http, base_url, size)
        blob_url = str(url).replace("/blobs/", "/blobs/container/")
        async with BlobClient.from_blob_url(str(blob_url)) as blob:
            stream = await blob.download_blob(max_concurrency=1)
            with path.open("wb") as file:
                await stream.readinto(file)

    return fetch


async def _first_bytes(base_url: str, count: int) -> Samples:
    """Milliseconds until the first byte of a file."""
    samples = Samples()
    async with _client(base_url) as client, aiohttp.ClientSession() as http:

        async def ours() -> bytes:
            async with client.storage.open("1") as blob:
                return await anext(blob)

        async def bare() -> bytes:
            url = await _blob_url(http, base_url, 1)
            async with http.get(url) as response:
                return await response.content.readany()

        ways = {FIRST_BYTE: ours, BARE_FIRST_BYTE: bare}
        for first_byte in ways.values():
            await first_byte()
        for name in rounds(tuple(ways), count):
            start = time.perf_counter()
            assert await ways[name]()
            samples.add(name, (time.perf_counter() - start) * 1e3)
    return samples


async def _uploads(
    base_url: str, token: str, folder_id: str, source: Path, effort: Effort
) -> Measured:
    """Each way to send a file of this size."""
    source.write_bytes(os.urandom(MIB) * effort.upload)
    headers = {**HEADERS, "Authorization": f"Bearer {token}"}
    numbers = iter(range(1_000_000))
    async with (
        _client(base_url, token) as client,
        aiohttp.ClientSession(base_url, headers=headers) as http,
    ):

        async def ours(_: int, path: Path) -> None:
            name = f"{next(numbers)}.dgn"
            await client.storage.upload(path, folder_id, display_name=name)

        async def bare(_: int, path: Path) -> None:
            body = json.dumps({"displayName": f"{next(numbers)}.dgn"})
            address = f"/storage/folders/{folder_id}/files"
            json_headers = {
                "Content-Type": "application/json",
                "Accept": "application/vnd.bentley.itwin-platform.v1+json",
            }
            async with http.post(address, data=body, headers=json_headers) as response:
                response.raise_for_status()
                links = (await response.json())["_links"]
            url = URL(links["uploadUrl"]["href"], encoded=True)
            blob_headers = {"x-ms-blob-type": "BlockBlob", "Accept": "*/*"}
            with path.open("rb") as file:
                async with (
                    aiohttp.ClientSession() as blobs,
                    blobs.put(url, data=file, headers=blob_headers) as response,
                ):
                    response.raise_for_status()
            complete = URL(links["completeUrl"]["href"]).relative()
            async with http.post(complete, headers=json_headers) as response:
                response.raise_for_status()

        ways: dict[str, Fetch] = {UPLOAD: ours, BARE_UPLOAD: bare}
        return await _interleaved(ways, effort.upload, source, effort.rounds, is_download=False)


def _report(
    effort: Effort,
    measured: dict[tuple[str, int], Measured],
    first_bytes: Samples,
    before: float,
    peak: float,
) -> Report:
    later = first_bytes.median(FIRST_BYTE) - first_bytes.median(BARE_FIRST_BYTE)
    rows = [row for (place, size), one in measured.items() for row in _rows(place, size, one)]
    return Report(
        name="transfer",
        title="Downloads and uploads",
        method=__doc__ or "",
        head=("", "", "MiB", "MiB/s", "ratio", "CPU ms/MiB", "ratio"),
        rows=tuple(rows),
        bounds=(
            "No download over aiohttp takes less CPU than one that only reads: a ratio below 1 is "
            "from larger pieces for the disk.",
            f"First byte: {first_bytes.median(FIRST_BYTE):.1f} ms, "
            f"{first_bytes.median(BARE_FIRST_BYTE):.1f} ms for bare aiohttp.",
            f"{effort.large:,} MiB: peak memory {peak:.0f} MiB, {before:.0f} MiB before.",
        ),
        goals=_goals(effort, measured, later, peak - before),
        values={
            f"{name}, {place}, {size} MiB, {what}": samples.median(name)
            for (place, size), one in measured.items()
            for what, samples in (("MiB/s", one.speed), ("CPU ms/MiB", one.cpu))
            for name in samples.values
        },
        figure=Figure(
            title="CPU of a transfer, relative to bare aiohttp (red: goal)",
            bars=tuple(
                Bar(
                    name=f"{name}, {size} MiB, {place}",
                    value=one.cpu.ratio(name, _reference(place)).median,
                    label=f"{one.cpu.ratio(name, _reference(place)).median:.2f}",
                    goals=(CPU_LIMIT,)
                    if (place, size, name) == (MEMORY, max(effort.in_memory), OURS)
                    else (),
                    is_ours=name in (OURS, UPLOAD),
                )
                for (place, size), one in measured.items()
                for name in one.cpu.values
                if name != _reference(place)
            ),
            ticks=(0.25, 0.5, 0.75, 1, 1.5, 2, 4),
        ),
        caption="CPU of downloads and uploads",
    )


def _reference(place: str) -> str:
    return {MEMORY: BARE, DISK: SYNCED, UPLOAD: BARE_UPLOAD}[place]


def _goals(
    effort: Effort, measured: dict[tuple[str, int], Measured], later: float, memory: float
) -> tuple[Goal, ...]:
    largest, on_disk = max(effort.in_memory), max(effort.on_disk)
    cpu = measured[MEMORY, largest].cpu.ratio(OURS, BARE)
    speed = measured[DISK, on_disk].speed.ratio(OURS, SYNCED)
    return (
        Goal(
            what=f"CPU of a download of {largest} MiB",
            limit=CPU_LIMIT,
            measured=cpu.median,
            quartiles=cpu,
            unit=" x bare aiohttp that writes in a thread",
            in_readme=True,
        ),
        Goal(
            what=f"speed of a download of {on_disk} MiB to disk",
            limit=SPEED_LIMIT,
            measured=speed.median,
            quartiles=speed,
            unit=" x bare aiohttp with fsync",
            at_least=True,
        ),
        Goal(
            what=f"memory of a download of {effort.large:,} MiB",
            limit=MEMORY_LIMIT,
            measured=memory,
            unit=" MiB",
        ),
        Goal(
            what="first byte for a visitor",
            limit=FIRST_BYTE_LIMIT,
            measured=max(later, 0.0),
            unit=" ms later than bare aiohttp",
        ),
    )


def _rows(place: str, size: int, measured: Measured) -> list[tuple[str, ...]]:
    words = "upload" if place == UPLOAD else f"to {place}"
    return [
        (
            name,
            words,
            f"{size}",
            format_number(measured.speed.median(name)),
            str(measured.speed.ratio(name, _reference(place))),
            format_number(measured.cpu.median(name)),
            str(measured.cpu.ratio(name, _reference(place))),
        )
        for name in measured.speed.values
    ]
