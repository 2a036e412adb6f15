"""A file while it grows: what is on the disk when, and what may stand in its way."""

import asyncio
import errno
import hashlib
import math
import os
import resource
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, nullcontext
from pathlib import Path
from threading import Event
from typing import Any, BinaryIO

import pytest

from itwin_export_async import DownloadError
from itwin_export_async._files import temp_file as partfile
from itwin_export_async._protocol.files import Content

MIB = 1024 * 1024
AT_ONCE, IN_THREADS = math.inf, 0.0  # how much patience there is with the disk
LARGE = os.urandom(10 * MIB)
SMALL = b"ISO-10303-21;"


@asynccontextmanager
async def part_of(
    path: Path, content: Content, *, patience: float = AT_ONCE
) -> AsyncIterator[partfile.TempFile]:
    """A part that has taken up an answer."""
    part = partfile.TempFile(path, patience=patience)
    try:
        await part.open()
        await part.begin(content)
        yield part
    finally:
        await part.close()


async def add_all(part: partfile.TempFile, data: bytes) -> None:
    for start in range(0, len(data), MIB):
        await part.add(data[start : start + MIB])


async def bring(path: Path) -> None:
    """A small file, whole."""
    async with part_of(path, Content(start=0)) as part:
        await part.add(SMALL)
        await part.finish()


class Trips(ThreadPoolExecutor):
    """Counts what it is given to do."""

    count = 0

    def submit(self, *args: Any, **named: Any) -> Any:
        self.count += 1
        return super().submit(*args, **named)


@pytest.fixture
async def trips() -> Trips:
    """The loop's threads, of which there is one."""
    trips = Trips(max_workers=1)
    asyncio.get_running_loop().set_default_executor(trips)
    return trips


async def test_what_a_quick_disk_takes_is_not_held(tmp_path: Path, trips: Trips) -> None:
    async with part_of(tmp_path / "f", Content(start=0)) as part:
        await add_all(part, LARGE)
        assert (tmp_path / "f.part").stat().st_size == len(LARGE)
        assert trips.count == 1
        await part.finish()
    assert (tmp_path / "f").read_bytes() == LARGE


async def test_a_slow_disk_is_left_to_threads(tmp_path: Path, trips: Trips) -> None:
    async with part_of(tmp_path / "f", Content(start=0), patience=IN_THREADS) as part:
        await add_all(part, LARGE)
        assert trips.count == 1 + 2  # four pieces at a time, after the one that showed it
        await part.finish()
    assert (tmp_path / "f").read_bytes() == LARGE


@pytest.mark.parametrize("flaw", [b"", b"!"])
async def test_a_large_file_is_digested_in_threads(
    tmp_path: Path, trips: Trips, flaw: bytes
) -> None:
    md5 = hashlib.md5(LARGE).digest()
    async with part_of(tmp_path / "f", Content(start=0, md5=md5)) as part:
        await add_all(part, LARGE + flaw)
        assert trips.count == 1 + 2
        with pytest.raises(DownloadError, match="MD5") if flaw else nullcontext():
            await part.finish()
    assert os.listdir(tmp_path) == ([] if flaw else ["f"])


@pytest.mark.parametrize("patience", [AT_ONCE, IN_THREADS])
async def test_a_part_that_starts_again_keeps_nothing_of_the_first_time(
    tmp_path: Path, patience: float
) -> None:
    async with part_of(tmp_path / "f", Content(start=0), patience=patience) as part:
        await add_all(part, os.urandom(6 * MIB))
        await part.begin(Content(start=0))
        await add_all(part, LARGE)
        await part.finish()
    assert (tmp_path / "f").read_bytes() == LARGE


async def test_a_part_that_is_given_up_while_it_is_written_leaves_nothing(tmp_path: Path) -> None:
    async with part_of(tmp_path / "f", Content(start=0), patience=IN_THREADS) as part:
        await add_all(part, LARGE)
    assert not list(tmp_path.iterdir())


class Late(ThreadPoolExecutor):
    """Does what it is given first only when the second is done."""

    def __init__(self) -> None:
        super().__init__()
        self.has_begun = Event()
        self._second_is_done = Event()

    def submit(self, work: Callable[..., Any], /, *args: Any, **named: Any) -> Any:
        if self.has_begun.is_set():
            future = super().submit(work, *args, **named)
            future.add_done_callback(lambda _: self._second_is_done.set())
            return future

        def wait_and_work() -> Any:
            self.has_begun.set()
            self._second_is_done.wait()
            return work(*args, **named)

        return super().submit(wait_and_work)


async def test_a_thread_that_comes_too_late_does_nothing(tmp_path: Path) -> None:
    late = Late()
    asyncio.get_running_loop().set_default_executor(late)
    part = partfile.TempFile(tmp_path / "f")
    opening = asyncio.create_task(part.open())
    await asyncio.sleep(0)
    late.has_begun.wait()
    opening.cancel()
    await part.close()
    late.shutdown()
    assert not list(tmp_path.iterdir())


async def test_a_small_file_goes_to_a_thread_only_to_be_opened_and_finished(
    tmp_path: Path, trips: Trips
) -> None:
    await bring(tmp_path / "new" / "f")
    assert (tmp_path / "new" / "f").read_bytes() == SMALL
    assert trips.count == 2


@pytest.fixture
def full_disk() -> Iterator[None]:
    """No file may grow beyond 200 kB."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.usefixtures("full_disk")
async def test_a_disk_that_fills_up_is_told(tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match="cannot be written: File too large"):
        async with part_of(tmp_path / "f", Content(start=0)) as part:
            await add_all(part, LARGE)
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("full_disk")
@pytest.mark.parametrize("ends_well", [True, False])
async def test_a_disk_that_fills_up_in_a_thread_is_told_once(
    tmp_path: Path, trips: Trips, ends_well: bool
) -> None:
    """And not at all when something else went wrong meanwhile."""
    with pytest.raises(DownloadError if ends_well else LookupError, match=r"too large|else"):
        async with part_of(tmp_path / "f", Content(start=0, md5=b"unknown")) as part:
            await add_all(part, LARGE[: 4 * MIB])
            await asyncio.to_thread(int)  # the one thread has written before
            if not ends_well:
                raise LookupError("else")
            await part.finish()
    assert not list(tmp_path.iterdir())


async def test_what_an_earlier_process_left_half_done_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / "f.part").write_bytes(b"left" * 1000)
    await bring(tmp_path / "f")
    assert (tmp_path / "f").read_bytes() == SMALL
    assert os.listdir(tmp_path) == ["f"]


async def test_a_file_system_without_locks_will_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fcntl = pytest.importorskip("fcntl", reason="only some systems have locks at all")

    def no_locks(*_: object) -> None:
        raise OSError(errno.ENOTSUP, "not supported")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    await bring(tmp_path / "f")
    assert (tmp_path / "f").read_bytes() == SMALL


async def test_a_part_that_another_download_just_finished_is_not_touched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    locked = partfile._is_locked
    (tmp_path / "f.part").write_text("finished by another")

    def finish_first(file: BinaryIO) -> bool:
        if not (tmp_path / "f").exists():
            (tmp_path / "f.part").rename(tmp_path / "f")
        else:
            assert (tmp_path / "f").read_text() == "finished by another"
        return locked(file)

    monkeypatch.setattr(partfile, "_is_locked", finish_first)
    await bring(tmp_path / "f")
    assert (tmp_path / "f").read_bytes() == SMALL


@asynccontextmanager
async def two_parts(path: Path) -> AsyncIterator[tuple[partfile.TempFile, partfile.TempFile]]:
    """Two of one name, because somebody tidied up in between. The second is half done."""
    async with part_of(path, Content(start=0)) as first:
        path.with_name(path.name + ".part").unlink()
        async with part_of(path, Content(start=0)) as second:
            await second.add(SMALL[:5])
            yield first, second


async def test_a_part_of_another_download_does_not_get_the_final_name(tmp_path: Path) -> None:
    async with two_parts(tmp_path / "f") as (first, second):
        await first.add(SMALL)
        with pytest.raises(DownloadError, match=r"f\.part was removed or replaced"):
            await first.finish()
        await first.close()
        assert os.listdir(tmp_path) == ["f.part"]
        await second.add(SMALL[5:])
        await second.finish()
    assert (tmp_path / "f").read_bytes() == SMALL


async def test_a_download_that_fails_leaves_the_part_of_another_alone(tmp_path: Path) -> None:
    async with two_parts(tmp_path / "f") as (first, second):
        await first.close()
        await second.add(SMALL[5:])
        await second.finish()
    assert (tmp_path / "f").read_bytes() == SMALL


async def test_a_file_that_is_called_as_a_part_is_not_lost_with_it(tmp_path: Path) -> None:
    async with part_of(tmp_path / "f", Content(start=0)) as part:
        await bring(tmp_path / "f.part")
        with pytest.raises(DownloadError, match="removed or replaced"):
            await part.finish()
    assert os.listdir(tmp_path) == ["f.part"]
    assert (tmp_path / "f.part").read_bytes() == SMALL


async def test_a_part_that_somebody_removes_at_last_hides_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    is_at = partfile._is_at

    def remove_then(file: BinaryIO, place: Path) -> bool:
        was_there = is_at(file, place)
        place.unlink()
        return was_there

    with pytest.raises(LookupError):
        async with part_of(tmp_path / "f", Content(start=0)):
            monkeypatch.setattr(partfile, "_is_at", remove_then)
            raise LookupError
    assert not list(tmp_path.iterdir())


@pytest.fixture
def victim(tmp_path: Path) -> Iterator[Path]:
    """A file that is not to be touched."""
    victim = tmp_path / "victim"
    victim.write_text("mine")
    yield victim
    assert victim.read_text() == "mine"


def _link(part: Path) -> None:
    part.symlink_to("victim")


def _dangling_link(part: Path) -> None:
    part.symlink_to("nowhere")


def _further_name(part: Path) -> None:
    part.hardlink_to(part.with_name("victim"))


@pytest.mark.usefixtures("victim")
@pytest.mark.parametrize(
    ("put", "what"),
    [
        (_link, "a symbolic link"),
        (_dangling_link, "a symbolic link"),
        (_further_name, "a file with another name besides"),
        (Path.mkdir, "a folder"),
        (os.mkfifo, "neither file nor folder"),
    ],
)
async def test_what_is_no_file_of_its_own_is_not_written_to(
    tmp_path: Path, put: Callable[[Path], None], what: str
) -> None:
    put(tmp_path / "f.part")
    there = (tmp_path / "f.part").lstat()
    with pytest.raises(DownloadError, match=rf"cannot be written: f\.part is {what}; remove it"):
        await bring(tmp_path / "f")
    assert sorted(os.listdir(tmp_path)) == ["f.part", "victim"]
    assert os.path.samestat((tmp_path / "f.part").lstat(), there)


def _link_to_a_device(file: Path) -> None:
    file.symlink_to(os.devnull)


def _link_to_a_folder(file: Path) -> None:
    file.symlink_to(file.parent)


@pytest.mark.parametrize(
    ("put", "what"),
    [
        (os.mkfifo, "neither file nor folder"),
        (_link_to_a_device, "neither file nor folder"),
        (Path.mkdir, "a folder"),
        (_link_to_a_folder, "a folder"),
    ],
)
async def test_what_no_file_may_replace_has_its_place_for_good(
    tmp_path: Path, put: Callable[[Path], None], what: str
) -> None:
    put(tmp_path / "f")
    there = (tmp_path / "f").lstat()
    with pytest.raises(DownloadError, match=rf"f: cannot be written: it is {what}"):
        await bring(tmp_path / "f")
    assert os.listdir(tmp_path) == ["f"]
    assert os.path.samestat((tmp_path / "f").lstat(), there)


@pytest.mark.usefixtures("victim")
@pytest.mark.parametrize("put", [_link, _dangling_link, _further_name])
async def test_a_file_replaces_a_link_and_not_what_it_leads_to(
    tmp_path: Path, put: Callable[[Path], None]
) -> None:
    put(tmp_path / "f")
    await bring(tmp_path / "f")
    assert not (tmp_path / "f").is_symlink()
    assert (tmp_path / "f").read_bytes() == SMALL
    assert sorted(os.listdir(tmp_path)) == ["f", "victim"]


@pytest.mark.usefixtures("victim")
async def test_a_link_that_comes_before_the_opening_is_not_followed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(partfile, "_check_place", _link)
    with pytest.raises(DownloadError, match=r"cannot be written: .*symbolic links"):
        await bring(tmp_path / "f")
    assert sorted(os.listdir(tmp_path)) == ["f.part", "victim"]


@pytest.mark.usefixtures("victim")
async def test_a_link_that_the_system_follows_is_seen_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check = partfile._check_place

    def check_first(place: Path) -> None:
        check(place)
        _link(place)

    monkeypatch.setattr(partfile, "_OPENING", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    monkeypatch.setattr(partfile, "_check_place", check_first)
    with pytest.raises(DownloadError, match=r"f\.part is a symbolic link; remove it"):
        await bring(tmp_path / "f")


@pytest.mark.usefixtures("victim")
async def test_a_file_that_gets_the_name_before_the_opening_is_not_written_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check = partfile._check_place

    def check_first(place: Path) -> None:
        check(place)
        if not place.exists():
            _further_name(place)

    monkeypatch.setattr(partfile, "_check_place", check_first)
    with pytest.raises(DownloadError, match="a file with another name besides; remove it"):
        await bring(tmp_path / "f")
    assert sorted(os.listdir(tmp_path)) == ["f.part", "victim"]


@pytest.mark.usefixtures("victim")
async def test_a_link_that_comes_after_the_opening_is_no_place_to_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    locked = partfile._is_locked

    def replace_first(file: BinaryIO) -> bool:
        (tmp_path / "f.part").unlink()
        _link(tmp_path / "f.part")
        return locked(file)

    monkeypatch.setattr(partfile, "_is_locked", replace_first)
    with pytest.raises(DownloadError, match="is a symbolic link"):
        await bring(tmp_path / "f")


async def test_a_pipe_that_comes_before_the_opening_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(partfile, "_check_place", os.mkfifo)
    with pytest.raises(DownloadError, match="cannot be written: No such device"):
        await bring(tmp_path / "f")
