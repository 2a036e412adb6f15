"""What a download costs: ours against a bare aiohttp download to a file, and memory for 2 GiB.

All fetch from the emulator in another process, by turns. Ours checks the length, writes beside the
final name, brings the file to the disk (fsync) and renames it; the bare one writes what comes, and
leaves it to the system when that reaches the disk, unless told otherwise. In a folder in memory the
ratio tells what the library costs; on the disk, with fsync or without, what a slow disk costs.
"""

import asyncio
import os
import resource
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from tempfile import TemporaryDirectory

import aiohttp
from attrs import frozen
from yarl import URL

from benchmarks._support.interleave import Samples, rounds
from benchmarks._support.processes import child
from benchmarks._support.report import Goal, Report, shown
from benchmarks._support.svg import Bar, Figure
from itwin_export_async import ExportClient, RateLimit
from itwin_export_async.emulator import Emulator, SparseContent

MIB = 1024 * 1024
IN_MEMORY = Path("/dev/shm")
OURS, BARE, SYNCED = "storage.download", "bare aiohttp", "bare aiohttp, fsync"
DEFAULT_TIMEOUT = 86400.0

Fetch = Callable[[str, Path], Awaitable[None]]


@frozen(kw_only=True)
class Effort:
    """The sizes in MiB, how many rounds there are for each, and the size that memory is for."""

    in_memory: tuple[int, ...]
    on_disk: tuple[int, ...]
    rounds: int
    large: int


FULL = Effort(in_memory=(1, 64, 512), on_disk=(64,), rounds=7, large=2048)
QUICK = Effort(in_memory=(1, 64), on_disk=(1,), rounds=3, large=256)


@frozen(kw_only=True)
class Source:
    """Where the files are, by their sizes in MiB."""

    base_url: str
    token: str
    file_ids: dict[int, str]


def run(effort: Effort) -> Report:
    """Fetch everything, beside a server."""
    sizes = {*effort.in_memory, *effort.on_disk, effort.large}
    samples: dict[tuple[str, int], Samples] = {}
    with child(tell_files, sizes) as server:
        source: Source = server.recv()
        with _folder(in_memory=True) as folder:
            with child(tell_peak, source, effort.large, folder) as fetcher:
                before, peak = fetcher.recv()
            for size in effort.in_memory:
                samples["memory", size] = asyncio.run(_compared(source, size, folder, effort))
        with _folder(in_memory=False) as folder:
            for size in effort.on_disk:
                samples["disk", size] = asyncio.run(_compared(source, size, folder, effort))
    return _report(effort, samples, before, peak)


@contextmanager
def _folder(*, in_memory: bool) -> Iterator[Path]:
    """A folder for files, in memory where the system has such a place."""
    place = IN_MEMORY if in_memory and IN_MEMORY.is_dir() else None
    with TemporaryDirectory(dir=place) as name:
        yield Path(name)


def tell_files(ours: Connection, sizes: set[int]) -> None:
    """Serve a file of each size until ended."""

    async def main() -> None:
        emulator = Emulator()
        emulator.download_lifetime = DEFAULT_TIMEOUT
        file_ids = {
            size: emulator.add_file(f"{size}.ifc", SparseContent(size * MIB)) for size in sizes
        }
        async with emulator.serve() as served:
            token = emulator.token(lifetime=DEFAULT_TIMEOUT)
            ours.send(Source(base_url=served.base_url, token=token, file_ids=file_ids))
            await asyncio.Event().wait()

    asyncio.run(main())


def tell_peak(ours: Connection, source: Source, size: int, folder: Path) -> None:
    """Fetch a file; say the most memory this process had before and after it, in MiB."""

    async def main() -> None:
        file_id = source.file_ids[size]
        async with ExportClient(source.token, base_url=source.base_url) as client:
            await client.storage.get_file(file_id)
            before = _peak()
            path = await client.storage.download(file_id, folder / "large.ifc")
        assert path.stat().st_size == size * MIB
        path.unlink()
        ours.send((before, _peak()))

    asyncio.run(main())


def _peak() -> float:
    """The most memory that this process has ever had, in MiB."""
    status = Path("/proc/self/status")
    if not status.exists():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    # on Linux the other figure begins with the memory of the process that started this one
    (line,) = (line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) / 1024


async def _compared(source: Source, size: int, folder: Path, effort: Effort) -> Samples:
    """MiB a second of each way to fetch a file of this size."""
    samples = Samples()
    async with (
        ExportClient(source.token, base_url=source.base_url, rate_limit=RateLimit()) as client,
        aiohttp.ClientSession() as http,
    ):

        async def ours(file_id: str, path: Path) -> None:
            await client.storage.download(file_id, path)

        bare = partial(_bare, http, source)
        ways: dict[str, Fetch] = {OURS: ours, BARE: bare, SYNCED: partial(bare, sync=True)}
        for fetch in ways.values():
            await _seconds(fetch, source.file_ids[size], folder / "warm.ifc")
        for name in rounds(tuple(ways), effort.rounds):
            took = await _seconds(ways[name], source.file_ids[size], folder / "file.ifc")
            samples.add(name, size / took)
    return samples


async def _bare(
    http: aiohttp.ClientSession, source: Source, file_id: str, path: Path, *, sync: bool = False
) -> None:
    headers = {"Authorization": f"Bearer {source.token}", "Accept": "*/*"}
    address = f"{source.base_url}/storage/files/{file_id}/download"
    async with http.get(address, headers=headers, allow_redirects=False) as answer:
        blob = URL(answer.headers["Location"], encoded=True)
    with path.open("wb") as file:
        async with http.get(blob) as answer:
            async for piece in answer.content.iter_chunked(MIB):
                file.write(piece)
        if sync:
            await asyncio.to_thread(os.fsync, file.fileno())


async def _seconds(fetch: Fetch, file_id: str, path: Path) -> float:
    """What a fetch takes; what it brought is taken away again."""
    began = time.perf_counter()
    await fetch(file_id, path)
    seconds = time.perf_counter() - began
    path.unlink()
    return seconds


def _report(
    effort: Effort, samples: dict[tuple[str, int], Samples], before: float, peak: float
) -> Report:
    largest = max(effort.in_memory)
    return Report(
        name="transfer",
        title="Downloads, in MiB a second, and relative to a bare one",
        head=("to", "MiB", "ours", "bare", "bare, fsync", "ours / bare", "ours / bare, fsync"),
        rows=tuple(_row(place, size, one) for (place, size), one in samples.items()),
        bounds=(
            "No download over aiohttp beats the bare one into memory: more than 1 is chance.",
            f"{effort.large:,} MiB: peak memory {peak:.0f} MiB, {before:.0f} MiB before.",
        ),
        goals=(
            Goal(
                what=f"speed of a download of {largest} MiB",
                limit=0.9,
                measured=samples["memory", largest].ratio(OURS, BARE),
                unit=" x bare aiohttp",
                at_least=True,
            ),
            Goal(
                what=f"memory for {effort.large:,} MiB",
                limit=32,
                measured=peak - before,
                unit=" MiB",
            ),
        ),
        values={
            f"{name}, to {place}, {size} MiB, MiB/s": one.typical(name)
            for (place, size), one in samples.items()
            for name in one.taken
        },
        figure=Figure(
            title="Speed of a download, relative to bare aiohttp without fsync (red: goal)",
            bars=tuple(_bars(samples, largest)),
            ticks=(0.25, 0.5, 0.75, 0.9, 1, 1.1, 1.25),
        ),
        caption="How fast a file comes down",
    )


def _row(place: str, size: int, samples: Samples) -> tuple[str, ...]:
    return (
        place,
        str(size),
        *(shown(samples.typical(name)) for name in (OURS, BARE, SYNCED)),
        *(f"{samples.ratio(OURS, name):.2f}" for name in (BARE, SYNCED)),
    )


def _bars(samples: dict[tuple[str, int], Samples], largest: int) -> Iterator[Bar]:
    for (place, size), one in samples.items():
        for name in (OURS, SYNCED):
            ratio = one.ratio(name, BARE)
            has_goal = (place, size, name) == ("memory", largest, OURS)
            yield Bar(
                name=f"{name}, {size} MiB to {place}",
                value=ratio,
                label=f"{ratio:.2f}",
                goals=(0.9,) if has_goal else (),
                is_ours=name == OURS,
            )
