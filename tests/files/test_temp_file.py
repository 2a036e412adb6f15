"""Temporary files: what is on the disk when, and what a final name may replace."""

import asyncio
import errno
import os
import resource
import stat
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from itwin_export_async import DownloadError
from itwin_export_async._files.disk_threads import DiskThreads, PieceQueue
from itwin_export_async._files.temp_file import (
    PIECE_SIZE,
    TempFile,
    check_folder,
    make_folder,
    place_file,
    temp_file,
)

MIB = 1024 * 1024
LARGE = os.urandom(2 * PIECE_SIZE + 5)
SMALL = b"ISO-10303-21;"


@pytest.fixture
def threads() -> Iterator[DiskThreads]:
    threads = DiskThreads()
    yield threads
    threads.close()


@asynccontextmanager
async def growing(threads: DiskThreads, path: Path) -> AsyncIterator[TempFile]:
    async with temp_file(threads, path.parent, path) as file:
        yield file


async def write_all(file: TempFile, data: bytes) -> None:
    for start in range(0, len(data), MIB):
        await file.write(data[start : start + MIB])


async def bring(threads: DiskThreads, path: Path, data: bytes = SMALL) -> Path:
    """A whole file."""
    async with growing(threads, path) as file:
        await write_all(file, data)
        return await file.finish(path, lambda _: True)


@pytest.mark.parametrize("data", [b"", SMALL, LARGE])
async def test_finished_file_has_its_name_and_nothing_else_is_left(
    tmp_path: Path, threads: DiskThreads, data: bytes
) -> None:
    path = tmp_path / "new" / "f.ifc"
    assert await bring(threads, path, data) == path
    assert path.read_bytes() == data
    assert os.listdir(path.parent) == ["f.ifc"]


async def test_final_name_appears_only_at_the_end(tmp_path: Path, threads: DiskThreads) -> None:
    async with growing(threads, tmp_path / "f.ifc") as file:
        await write_all(file, LARGE)
        (name,) = os.listdir(tmp_path)
        assert name.startswith(".itwin-export-")
        assert await file.finish(tmp_path / "f.ifc", lambda _: True)
    assert os.listdir(tmp_path) == ["f.ifc"]


async def test_temporary_names_are_random(tmp_path: Path, threads: DiskThreads) -> None:
    async with growing(threads, tmp_path / "f.ifc"), growing(threads, tmp_path / "f.ifc"):
        assert len(os.listdir(tmp_path)) == 2


async def test_file_is_removed_when_the_block_fails(tmp_path: Path, threads: DiskThreads) -> None:
    with pytest.raises(LookupError):
        async with growing(threads, tmp_path / "f.ifc") as file:
            await write_all(file, LARGE)
            raise LookupError
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("step", ["fsync", "replace"])
async def test_failure_between_write_and_rename_leaves_no_half_file(
    tmp_path: Path, threads: DiskThreads, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    (tmp_path / "f.ifc").write_text("older")
    monkeypatch.setattr(os if step == "fsync" else Path, step, fail)
    with pytest.raises(DownloadError, match="cannot be written: Input/output error") as caught:
        await bring(threads, tmp_path / "f.ifc")
    assert caught.value.reason == "disk"
    assert (tmp_path / "f.ifc").read_text() == "older"
    assert os.listdir(tmp_path) == ["f.ifc"]


DIES = """
import asyncio, os, sys
from pathlib import Path
from itwin_export_async._files.disk_threads import DiskThreads
from itwin_export_async._files.temp_file import temp_file

async def main(path: Path) -> None:
    async with temp_file(DiskThreads(), path.parent, path) as file:
        await file.write(b"half")
        await file.finish(path, lambda _: True)

os.fsync = lambda _: os._exit(7)
asyncio.run(main(Path(sys.argv[1])))
"""


@pytest.mark.usefixtures("integration")
def test_process_that_dies_before_the_rename_leaves_no_final_name(tmp_path: Path) -> None:
    command = [sys.executable, "-c", DIES, str(tmp_path / "f.ifc")]
    assert subprocess.run(command, check=False, timeout=60).returncode == 7
    (left,) = os.listdir(tmp_path)
    assert left.startswith(".itwin-export-")


async def test_cancelled_opening_leaves_nothing(tmp_path: Path, threads: DiskThreads) -> None:
    may_continue = threading.Event()
    busy = [threads.start(may_continue.wait) for _ in range(4)]
    opening = asyncio.create_task(bring(threads, tmp_path / "f.ifc"))
    await asyncio.sleep(0)
    for _ in range(2):
        opening.cancel()
        await asyncio.sleep(0)
    may_continue.set()
    with pytest.raises(asyncio.CancelledError):
        await opening
    await asyncio.gather(*busy)
    assert not list(tmp_path.iterdir())


async def test_full_default_executor_does_not_delay_disk_work(
    tmp_path: Path, threads: DiskThreads
) -> None:
    may_continue = threading.Event()
    loop = asyncio.get_running_loop()
    busy = [loop.run_in_executor(None, may_continue.wait) for _ in range(64)]
    await bring(threads, tmp_path / "f.ifc")
    may_continue.set()
    await asyncio.gather(*busy)


async def test_threads_start_again_after_close(tmp_path: Path, threads: DiskThreads) -> None:
    for _ in range(2):
        await bring(threads, tmp_path / "f.ifc")
        threads.close()
        threads.close()


async def test_queue_holds_two_pieces_at_most(threads: DiskThreads) -> None:
    consumed: list[bytes] = []
    may_continue = threading.Event()

    def consume(chunks: list[bytes]) -> None:
        may_continue.wait()
        consumed.extend(chunks)

    queue = PieceQueue(threads, consume, 10)
    for _ in range(2):
        queue.append(b"x" * 5)
        await queue.ready()
    queue.append(b"y" * 10)
    waiting = asyncio.create_task(queue.ready())
    await asyncio.sleep(0)
    assert not waiting.done()
    may_continue.set()
    await waiting
    await queue.flush()
    await queue.settle()
    assert b"".join(consumed) == b"xxxxxxxxxxyyyyyyyyyy"


@pytest.fixture
def full_disk() -> Iterator[None]:
    """No file may grow beyond 200 kB."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.usefixtures("full_disk")
@pytest.mark.parametrize("size", [300_000, len(LARGE)])
async def test_full_disk_is_an_error_with_its_reason(
    tmp_path: Path, threads: DiskThreads, size: int
) -> None:
    with pytest.raises(DownloadError, match=r"f\.ifc: cannot be written: File too") as caught:
        await bring(threads, tmp_path / "f.ifc", LARGE[:size])
    assert caught.value.reason == "disk"
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("full_disk")
async def test_full_disk_does_not_hide_an_earlier_error(
    tmp_path: Path, threads: DiskThreads
) -> None:
    with pytest.raises(LookupError):
        async with growing(threads, tmp_path / "f.ifc") as file:
            await file.write(LARGE[:PIECE_SIZE])
            raise LookupError
    assert not list(tmp_path.iterdir())


async def test_file_that_appears_at_a_free_path_is_not_replaced(
    tmp_path: Path, threads: DiskThreads
) -> None:
    (tmp_path / "f.ifc").write_text("mine")
    async with growing(threads, tmp_path / "f.ifc") as file:
        await write_all(file, LARGE)
        assert await file.finish_at(tmp_path / "f.ifc", replace=False) is None
        assert await file.finish_at(tmp_path / "g.ifc", replace=False) == tmp_path / "g.ifc"
    assert (tmp_path / "f.ifc").read_text() == "mine"
    assert (tmp_path / "g.ifc").read_bytes() == LARGE
    assert len(list(tmp_path.iterdir())) == 2


async def test_folder_that_vanishes_is_an_error(tmp_path: Path, threads: DiskThreads) -> None:
    with pytest.raises(DownloadError, match="cannot be written: No such file"):
        async with growing(threads, tmp_path / "out" / "f.ifc") as file:
            await file.write(SMALL)
            os.rename(tmp_path / "out", tmp_path / "moved")
            await file.finish(tmp_path / "out" / "f.ifc", lambda _: True)


async def test_temporary_file_is_never_opened_through_a_link(
    tmp_path: Path, threads: DiskThreads, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "victim").write_text("mine")
    monkeypatch.setattr("secrets.token_hex", lambda _: "guessed")
    (tmp_path / ".itwin-export-guessed.part").symlink_to("victim")
    with pytest.raises(DownloadError, match="File exists"):
        await bring(threads, tmp_path / "f.ifc")
    assert (tmp_path / "victim").read_text() == "mine"


async def test_replaced_file_keeps_its_mode_and_is_never_more_open(
    tmp_path: Path, threads: DiskThreads
) -> None:
    (tmp_path / "f.ifc").write_text("older")
    (tmp_path / "f.ifc").chmod(0o600)
    async with growing(threads, tmp_path / "f.ifc") as file:
        (part,) = tmp_path.glob(".itwin*")
        assert stat.S_IMODE(part.stat().st_mode) == 0o600
        (tmp_path / "f.ifc").chmod(0o664)
        await file.write(SMALL)
        await file.finish(tmp_path / "f.ifc", lambda _: True)
    assert stat.S_IMODE((tmp_path / "f.ifc").stat().st_mode) == 0o664


async def test_mode_is_left_alone_where_the_system_has_no_fchmod(
    tmp_path: Path, threads: DiskThreads, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "f.ifc").write_text("older")
    monkeypatch.delattr(os, "fchmod")
    await bring(threads, tmp_path / "f.ifc")
    assert (tmp_path / "f.ifc").read_bytes() == SMALL


def _link_to_a_device(path: Path) -> None:
    path.symlink_to(os.devnull)


def _link_to_a_folder(path: Path) -> None:
    path.symlink_to(path.parent)


@pytest.mark.parametrize(
    ("put", "what"),
    [
        (os.mkfifo, "a device or pipe"),
        (_link_to_a_device, "a device or pipe"),
        (Path.mkdir, "a folder"),
        (_link_to_a_folder, "a folder"),
    ],
)
async def test_device_pipe_or_folder_is_never_replaced(
    tmp_path: Path, threads: DiskThreads, put: Callable[[Path], None], what: str
) -> None:
    put(tmp_path / "f.ifc")
    there = (tmp_path / "f.ifc").lstat()
    with pytest.raises(DownloadError, match=rf"f\.ifc: cannot be written: it is {what}") as caught:
        await bring(threads, tmp_path / "f.ifc")
    assert caught.value.reason == "disk"
    assert os.listdir(tmp_path) == ["f.ifc"]
    assert os.path.samestat((tmp_path / "f.ifc").lstat(), there)


def _link(path: Path) -> None:
    path.symlink_to("victim")


def _dangling_link(path: Path) -> None:
    path.symlink_to("nowhere")


def _hard_link(path: Path) -> None:
    path.hardlink_to(path.with_name("victim"))


@pytest.mark.parametrize("put", [_link, _dangling_link, _hard_link])
async def test_file_replaces_a_link_and_not_its_target(
    tmp_path: Path, threads: DiskThreads, put: Callable[[Path], None]
) -> None:
    (tmp_path / "victim").write_text("mine")
    put(tmp_path / "f.ifc")
    await bring(threads, tmp_path / "f.ifc")
    assert not (tmp_path / "f.ifc").is_symlink()
    assert (tmp_path / "f.ifc").read_bytes() == SMALL
    assert (tmp_path / "victim").read_text() == "mine"
    assert sorted(os.listdir(tmp_path)) == ["f.ifc", "victim"]


def staged(folder: Path) -> Path:
    """A complete file that waits for its name."""
    path = folder / "staged"
    path.write_bytes(SMALL)
    return path


@pytest.mark.parametrize("has_hard_links", [True, False])
def test_placed_file_gets_a_number_where_it_may_not_replace(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, has_hard_links: bool
) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    if not has_hard_links:
        monkeypatch.setattr(Path, "hardlink_to", fail)
    (tmp_path / "f.ifc").write_text("mine")
    (tmp_path / "f-2.ifc").symlink_to("nowhere")
    path = place_file(staged(tmp_path), tmp_path / "f.ifc", may_replace=lambda _: False)
    assert path == tmp_path / "f-3.ifc"
    assert path.read_bytes() == SMALL
    assert path.stat().st_nlink == 1
    assert sorted(os.listdir(tmp_path)) == ["f-2.ifc", "f-3.ifc", "f.ifc"]


def test_placed_file_finds_a_name_within_a_bound(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("itwin_export_async._files.temp_file.MAX_NUMBER", 2)
    for name in ("f.ifc", "f-2.ifc"):
        (tmp_path / name).write_text("mine")
    with pytest.raises(DownloadError, match="2 files have this name"):
        place_file(staged(tmp_path), tmp_path / "f.ifc", may_replace=lambda _: False)


def test_folder_is_checked_before_it_is_made(tmp_path: Path) -> None:
    check_folder(tmp_path / "a" / "b")
    assert not list(tmp_path.iterdir())
    (tmp_path / "file").write_text("")
    for check in (check_folder, make_folder):
        with pytest.raises(DownloadError, match=r"deeper: the folder cannot be written: Not a dir"):
            check(tmp_path / "file" / "deeper")
    make_folder(tmp_path / "a" / "b")
    assert (tmp_path / "a" / "b").is_dir()


@pytest.mark.parametrize("missing", [os.W_OK, os.X_OK])  # both are needed to open a file in it
def test_folder_without_permission_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, missing: int
) -> None:
    monkeypatch.setattr(os, "access", lambda _, mode: not mode & missing)
    with pytest.raises(DownloadError, match="folder cannot be written: Permission denied"):
        check_folder(tmp_path)
