"""From a finished run to files on disk, in memory."""

import asyncio
import base64
import errno
import hashlib
import json
import math
import os
import pickle
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, nullcontext
from pathlib import Path
from threading import Event
from typing import Any, BinaryIO

import pytest

from itwin_export_async import (
    DownloadError,
    ExportClient,
    ExportOptions,
    NotFound,
    OutputOptions,
    ProtocolError,
    Request,
    Response,
    RunHandle,
    TransportError,
)
from itwin_export_async import _partfile as partfile
from itwin_export_async._protocol.http import BodyStream
from itwin_export_async._protocol.storage import Content
from itwin_export_async.emulator import Emulator
from tests.fakes import Answer, Answers, Outcome, answer


@pytest.fixture
async def run(client: ExportClient, emulator: Emulator) -> RunHandle:
    """A run that has ended."""
    connection = await client.create_connection(emulator.add_imodel("Bridge"))
    run = await client.start_run(connection.id)
    await run.wait()
    return run


def content(run: RunHandle, emulator: Emulator) -> bytes:
    assert run.last is not None
    return emulator.output(run.last.output_file_ids[0])


async def test_a_folder_gets_the_file_by_its_name(
    run: RunHandle, emulator: Emulator, tmp_path: Path
) -> None:
    paths = await run.download(f"{tmp_path}/new/out/")
    assert paths == [tmp_path / "new/out/Bridge.ifc"]
    assert paths[0].read_bytes() == content(run, emulator)
    assert [path.name for path in paths[0].parent.iterdir()] == ["Bridge.ifc"]


async def test_a_path_names_the_file_and_an_older_one_gives_way(
    run: RunHandle, emulator: Emulator, tmp_path: Path
) -> None:
    file = tmp_path / "mine.ifc"
    file.write_text("older")
    assert await run.download(file) == [file]
    assert file.read_bytes() == content(run, emulator)


async def test_progress_is_told(run: RunHandle, emulator: Emulator, tmp_path: Path) -> None:
    told: list[tuple[int, int | None]] = []

    async def later(done: int, total: int | None) -> None:
        told.append((done, total))

    size = len(content(run, emulator))
    await run.download(tmp_path, on_progress=lambda done, total: told.append((done, total)))
    await run.download(tmp_path, on_progress=later)
    assert told[-1] == (size, size)
    assert [done for done, _ in told] == [done for done, _ in told[: len(told) // 2]] * 2


async def test_a_run_that_goes_on_has_nothing_to_download(
    client: ExportClient, emulator: Emulator, tmp_path: Path
) -> None:
    connection = await client.create_connection(emulator.add_imodel())
    run = await client.start_run(connection.id)
    with pytest.raises(DownloadError, match=r"is still .*; wait"):
        await run.download(tmp_path)


async def test_a_run_without_output_says_so(
    client: ExportClient, emulator: Emulator, tmp_path: Path
) -> None:
    imodel_id = emulator.add_imodel()
    emulator.fate(imodel_id, "Error")
    run = await client.start_run((await client.create_connection(imodel_id)).id)
    await run.wait(check=False)
    with pytest.raises(DownloadError, match="names no output file"):
        await run.download(tmp_path)


async def test_a_file_that_is_not_readable_yet_is_waited_for(
    run: RunHandle, emulator: Emulator, tmp_path: Path
) -> None:
    missing = answer(404, '{"error": {"code": "FileNotFound", "message": "not yet"}}')
    emulator.script("download_file", *[missing] * 6)
    (path,) = await run.download(tmp_path / "x.ifc")
    assert path.read_bytes() == content(run, emulator)


async def test_slow_answers_do_not_use_the_patience_up(
    run: RunHandle, emulator: Emulator, tmp_path: Path
) -> None:
    missing = answer(404, '{"error": {"code": "FileNotFound", "message": "not yet"}}')
    emulator.script("get_file", *[missing] * 3, late=20.0)
    assert await run.download(tmp_path) == [tmp_path / "Bridge.ifc"]


async def test_an_id_that_storage_does_not_know_is_tried_as_a_composite(
    run: RunHandle, emulator: Emulator, tmp_path: Path
) -> None:
    emulator.plain_file_ids = False
    (path,) = await run.download(tmp_path)
    assert path.read_bytes() == content(run, emulator)


async def test_a_file_that_never_appears_is_named_with_all_that_was_tried(
    run: RunHandle, emulator: Emulator, tmp_path: Path
) -> None:
    emulator.script("get_file", *[answer(404, "{}")] * 1000)
    before = asyncio.get_running_loop().time()
    with pytest.raises(DownloadError, match=r"tried as .* and as .* for 30 s") as caught:
        await run.download(tmp_path)
    assert 30 <= asyncio.get_running_loop().time() - before < 40
    assert run.last is not None
    assert caught.value.file_id == run.last.output_file_ids[0]
    assert isinstance(caught.value.__cause__, NotFound)
    assert not list(tmp_path.iterdir())


async def test_the_gateways_404_is_not_a_missing_file(
    run: RunHandle, emulator: Emulator, tmp_path: Path
) -> None:
    body = '{"error": {"code": "x", "message": "x", "details": [{"code": "OperationNotFound"}]}}'
    emulator.script("get_file", answer(404, body))
    with pytest.raises(NotFound, match="gateway"):
        await run.download(tmp_path)


@pytest.mark.parametrize(
    "trouble",
    [
        ConnectionResetError(),
        answer(403, "expired"),
        answer(503, "busy", Retry_After="3"),
        answer(200, "half", Content_Length="8"),
    ],
)
async def test_what_breaks_off_is_fetched_to_the_same_bytes(
    run: RunHandle, emulator: Emulator, tmp_path: Path, trouble: Outcome
) -> None:
    emulator.script("get_blob", trouble)
    (path,) = await run.download(tmp_path)
    assert path.read_bytes() == content(run, emulator)
    assert [path.name for path in tmp_path.iterdir()] == ["Bridge.ifc"]
    assert emulator.count("download_file") == 2  # a new signed address for each go


FILE = b"ISO-10303-21;" * 100


def digest(data: bytes) -> str:
    return base64.b64encode(hashlib.md5(data).digest()).decode()


def blob(start: int = 0, stop: int | None = None, *, etag: str = '"1"', md5: str = "") -> Response:
    """Part of the file as a blob store answers, cut off at `stop` without saying so."""
    total, part = len(FILE), FILE[start:stop]
    headers = {"ETag": etag, "x-ms-blob-content-md5": md5 or digest(FILE)}
    if start:
        headers["Content-Range"] = f"bytes {start}-{total - 1}/{total}"
    else:
        headers["Content-Length"] = str(total)
    return answer(206 if start else 200, part.decode(), **headers)


SIGNED = answer(302, Location="https://blobs.example/f?sig=a%2Fb%2Bc%3D")


async def fetch(path: Path, *answers: Answer) -> Answers:
    transport = Answers(*answers)
    async with ExportClient("t", transport=transport) as client:
        await client.storage.download("f1", path)
    return transport


async def test_a_signed_address_is_used_byte_for_byte_and_without_the_token(tmp_path: Path) -> None:
    transport = await fetch(tmp_path / "f", SIGNED, blob())
    assert transport.requests[1].url == "https://blobs.example/f?sig=a%2Fb%2Bc%3D"
    assert transport.requests[1].headers == {"Accept-Encoding": "identity"}
    assert transport.requests[0].headers["Accept"].endswith("octet-stream")


async def test_the_rest_is_asked_for_by_range_and_of_the_same_version(tmp_path: Path) -> None:
    transport = await fetch(
        tmp_path / "f", SIGNED, blob(0, 500), SIGNED, blob(500, 900), SIGNED, blob(900)
    )
    assert (tmp_path / "f").read_bytes() == FILE
    assert [r.headers.get("Range") for r in transport.requests[1::2]] == [
        None,
        "bytes=500-",
        "bytes=900-",
    ]
    assert transport.requests[3].headers["If-Match"] == '"1"'


async def test_a_store_without_ranges_starts_again(tmp_path: Path) -> None:
    await fetch(tmp_path / "f", SIGNED, blob(0, 500), SIGNED, blob())
    assert (tmp_path / "f").read_bytes() == FILE


@pytest.mark.parametrize(
    ("answers", "reason"),
    [
        ((SIGNED, blob(0, 500), SIGNED, answer(412)), "changed while"),
        ((SIGNED, blob(0, 500), SIGNED, blob(400)), "another range"),
        ((SIGNED, blob(md5=digest(b"other"))), "MD5"),
        ((SIGNED, answer(404)), "blob store refuses: 404"),
        ((SIGNED, answer(302, Location="https://x.example")), "blob store refuses: .*302"),
        ((SIGNED, answer(400, "token=?")), "blob store refuses: 400"),
        ([SIGNED, blob(0, 500)] + [SIGNED, answer(503)] * 9, "gave up: 503"),
        ([SIGNED, TransportError(message="reset")] * 9, "gave up: .*reset"),
    ],
)
async def test_what_cannot_be_fetched_leaves_nothing(
    tmp_path: Path, answers: tuple[Answer, ...], reason: str
) -> None:
    with pytest.raises(DownloadError, match=reason) as caught:
        await fetch(tmp_path / "f", *answers)
    assert caught.value.destination == str(tmp_path / "f")
    assert "sig" not in str(caught.value)
    assert not list(tmp_path.iterdir())


async def test_a_length_and_digest_that_are_not_told_are_not_checked(tmp_path: Path) -> None:
    await fetch(tmp_path / "f", SIGNED, answer(200, "abc", Content_MD5="rubbish"))
    assert (tmp_path / "f").read_text() == "abc"


@pytest.mark.parametrize("location", ["http://blobs.example/f", "", "/f", "ftp://x/y"])
async def test_an_address_that_is_not_safe_is_not_fetched(tmp_path: Path, location: str) -> None:
    with pytest.raises(ProtocolError, match="cannot be followed"):
        await fetch(tmp_path / "f", answer(302, Location=location))


async def test_a_name_from_the_service_stays_in_the_folder(tmp_path: Path) -> None:
    named = answer(200, '{"file": {"id": "f1", "displayName": "../../etc/passwd"}}')
    transport = Answers(named, SIGNED, blob())
    async with ExportClient("t", transport=transport) as client:
        assert await client.storage.download("f1", tmp_path) == tmp_path / "passwd"


async def test_two_downloads_to_one_place_do_not_mix(tmp_path: Path) -> None:
    class Slow(Answers):
        async def send(self, request: Request, /) -> Response:
            await asyncio.sleep(1)
            return await super().send(request)

    answers = [SIGNED, blob(0, 500), SIGNED, blob(500)]
    async with ExportClient("t", transport=Slow(*answers)) as client:
        first = asyncio.create_task(client.storage.download("f1", tmp_path / "f"))
        await asyncio.sleep(1.5)
        with pytest.raises(DownloadError, match="another download is writing it"):
            await client.storage.download("f1", tmp_path / "f")
        await first
    assert (tmp_path / "f").read_bytes() == FILE
    assert os.listdir(tmp_path) == ["f"]


async def test_what_an_earlier_process_left_half_done_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / "f.part").write_bytes(b"left" * 1000)
    await fetch(tmp_path / "f", SIGNED, blob())
    assert (tmp_path / "f").read_bytes() == FILE
    assert os.listdir(tmp_path) == ["f"]


async def test_large_files_are_written_piece_by_piece(tmp_path: Path) -> None:
    large = "x" * 3_000_000
    await fetch(tmp_path / "f", SIGNED, answer(200, large))
    assert (tmp_path / "f").read_text() == large


MIB = 1024 * 1024
AT_ONCE, IN_THREADS = math.inf, 0.0  # how much patience there is with the disk
LARGE = os.urandom(10 * MIB)


@asynccontextmanager
async def part_of(
    path: Path, content: Content, *, patience: float = AT_ONCE
) -> AsyncIterator[partfile.PartFile]:
    """A part that has taken up an answer."""
    part = partfile.PartFile(path, patience=patience)
    try:
        await part.open()
        await part.begin(content)
        yield part
    finally:
        await part.close()


async def add_all(part: partfile.PartFile, data: bytes) -> None:
    for start in range(0, len(data), MIB):
        await part.add(data[start : start + MIB])


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


async def test_a_small_file_goes_to_a_thread_only_to_be_opened_and_finished(
    tmp_path: Path, trips: Trips
) -> None:
    await fetch(tmp_path / "new" / "f", SIGNED, blob())
    assert (tmp_path / "new" / "f").read_bytes() == FILE
    assert trips.count == 2


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


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="this system has no /dev/full")
@pytest.mark.parametrize("ends_well", [True, False])
async def test_a_disk_that_fills_up_in_a_thread_is_told_once(
    tmp_path: Path, trips: Trips, ends_well: bool
) -> None:
    """And not at all when something else went wrong meanwhile."""
    (tmp_path / "f.part").symlink_to("/dev/full")
    with pytest.raises(DownloadError if ends_well else LookupError, match=r"No space left|else"):
        async with part_of(tmp_path / "f", Content(start=0, md5=b"unknown")) as part:
            await add_all(part, LARGE[: 4 * MIB])
            await asyncio.to_thread(int)  # the one thread has written before
            if not ends_well:
                raise LookupError("else")
            await part.finish()
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
    part = partfile.PartFile(tmp_path / "f")
    opening = asyncio.create_task(part.open())
    await asyncio.sleep(0)
    late.has_begun.wait()
    opening.cancel()
    await part.close()
    late.shutdown()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("wait", [0.0, 0.1])
async def test_what_on_progress_raises_is_raised_and_leaves_nothing(
    tmp_path: Path, wait: float
) -> None:
    async def fail(done: int, total: int | None) -> None:
        await asyncio.sleep(wait)
        raise LookupError

    transport = Answers(SIGNED, answer(200, "x" * 5_000_000))
    async with ExportClient("t", transport=transport) as client:
        with pytest.raises(LookupError):
            await client.storage.download("f1", tmp_path / "a.ifc", on_progress=fail)
    assert not list(tmp_path.iterdir())


async def test_outputs_of_one_name_get_numbers(tmp_path: Path) -> None:
    tasks = [{"id": n, "state": "Completed", "exportOutputFileId": n} for n in "abc"]
    jobs = [{"id": "j", "state": "Completed", "tasks": tasks}]
    run = {"id": "r1", "state": "Completed", "result": "Success", "jobs": jobs}

    def serve(request: Request) -> Response:
        path = request.url.partition("?")[0].rsplit("/", 2)
        if "blobs" in request.url:
            return answer(200, "content")
        if path[-1] == "download":
            return SIGNED
        if path[-2] == "files":
            return answer(200, '{"file": {"id": "x", "displayName": "out.ifc"}}')
        return answer(200, json.dumps({"run": run}))

    async with ExportClient("t", transport=Answers(serve)) as client:
        paths = await client.run("c1", "r1").download(tmp_path)
        named = await client.run("c1", "r1").download(tmp_path / "b.ifc")
    assert [path.name for path in paths] == ["out.ifc", "out-2.ifc", "out-3.ifc"]
    assert [path.name for path in named] == ["b.ifc", "b-2.ifc", "b-3.ifc"]


async def test_a_file_without_a_composite_id_is_tried_as_it_is(tmp_path: Path) -> None:
    tasks = '[{"id": "t", "state": "Completed", "exportOutputFileId": "no-guid"}]'
    jobs = f'[{{"id": "j", "state": "Completed", "tasks": {tasks}}}]'

    def serve(request: Request) -> Response:
        if "/files/" in request.url:
            return answer(404, "{}")
        if request.url.endswith("/runs/r1"):
            run = f'"id": "r1", "state": "Completed", "result": "Success", "jobs": {jobs}'
            return answer(200, f'{{"run": {{{run}}}}}')
        return answer(200, connection("a0471655-6b18-419e-ab01-ebf4fbff9dff"))

    async with ExportClient("t", transport=Answers(serve)) as client:
        with pytest.raises(DownloadError, match="tried as no-guid for 30 s"):
            await client.run("c1", "r1").download(tmp_path / "x.ifc")


def connection(itwin_id: str) -> str:
    return f'{{"connection": {{"id": "c1", "iTwinId": "{itwin_id}"}}}}'


async def test_a_break_after_the_last_byte_is_no_break(tmp_path: Path) -> None:
    class Breaking(Answers):
        @asynccontextmanager
        async def stream(self, request: Request, /) -> AsyncIterator[BodyStream]:
            async with super().stream(request) as stream:

                async def chunks() -> AsyncIterator[bytes]:
                    async for chunk in stream.chunks:
                        yield chunk
                    raise TransportError(message="reset")

                yield BodyStream(head=stream.head, chunks=chunks())

    async with ExportClient("t", transport=Breaking(SIGNED, blob())) as client:
        await client.storage.download("f1", tmp_path / "f")
    assert (tmp_path / "f").read_bytes() == FILE


async def test_goes_that_get_no_further_come_to_an_end(tmp_path: Path) -> None:
    goes = [SIGNED, blob(0, 5, etag=""), SIGNED, blob(0, 6, etag="")] * 50
    with pytest.raises(DownloadError, match=r"gave up: .*6 of 1300 bytes"):
        await fetch(tmp_path / "f", *goes)


async def test_a_weak_version_is_not_asked_for(tmp_path: Path) -> None:
    goes = [SIGNED, blob(0, 500, etag='W/"1"'), SIGNED, blob()]
    transport = await fetch(tmp_path / "f", *goes)
    assert "If-Match" not in transport.requests[3].headers
    assert (tmp_path / "f").read_bytes() == FILE


async def test_a_blob_store_may_not_ask_for_hours(tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match="gave up: 503"):
        await fetch(tmp_path / "f", SIGNED, answer(503, Retry_After="1000000"))
    assert asyncio.get_running_loop().time() < 1


async def test_what_is_told_of_an_encoded_file_does_not_fit_the_decoded_one(tmp_path: Path) -> None:
    encoded = answer(200, "decoded", Content_Encoding="gzip", Content_Length="3", ETag='"1"')
    await fetch(tmp_path / "f", SIGNED, encoded)
    assert (tmp_path / "f").read_text() == "decoded"


async def test_a_file_system_without_locks_will_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fcntl = pytest.importorskip("fcntl", reason="only some systems have locks at all")

    def no_locks(*_: object) -> None:
        raise OSError(errno.ENOTSUP, "not supported")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    await fetch(tmp_path / "f", SIGNED, blob())
    assert (tmp_path / "f").read_bytes() == FILE


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
    await fetch(tmp_path / "f", SIGNED, blob())
    assert (tmp_path / "f").read_bytes() == FILE


async def test_slow_downloads_do_not_stop_the_polls(tmp_path: Path) -> None:
    class Stalled(Answers):
        async def send(self, request: Request, /) -> Response:
            if "blobs" in request.url:
                await asyncio.sleep(1e6)
            return SIGNED if "download" in request.url else answer(200, RUNNING)

    async with ExportClient("t", transport=Stalled(SIGNED)) as client:
        calls = [
            asyncio.create_task(client.storage.download("f1", tmp_path / str(n)))
            for n in range(150)
        ]
        await asyncio.sleep(10)
        async with asyncio.timeout(1):
            assert (await client.get_run("c1", "r1")).id == "r1"
        for call in calls:
            call.cancel()
        await asyncio.wait(calls)


RUNNING = '{"run": {"id": "r1", "state": "Executing"}}'


async def test_an_output_id_that_is_none_is_told(tmp_path: Path) -> None:
    run = RUNNING.replace("Executing", "Completed").replace(
        "}}", ', "jobs": [{"id": "j", "state": "Completed", "tasks": [{"id": "t", "state": '
        '"Completed", "exportOutputFileId": ".."}]}], "result": "Success"}}'
    )  # fmt: skip
    async with ExportClient("t", transport=Answers(answer(200, run))) as client:
        with pytest.raises(DownloadError, match=r"exportOutputFileId '\.\.' is not an id"):
            await client.run("c1", "r1").download(tmp_path)


async def test_what_was_done_of_a_partial_success_is_fetched(tmp_path: Path) -> None:
    tasks = [
        {"id": "1", "state": "Completed", "result": "Error", "exportOutputFileId": "bad"},
        {"id": "2", "state": "Completed", "result": "Success", "exportOutputFileId": "good"},
    ]
    jobs = [{"id": "j", "state": "Completed", "tasks": tasks}]
    run = {"id": "r1", "state": "Completed", "result": "PartialSuccess", "jobs": jobs}

    def serve(request: Request) -> Response:
        if "/runs/" in request.url:
            return answer(200, json.dumps({"run": run}))
        if "blobs" in request.url:
            return answer(200, "content")
        return SIGNED if "good" in request.url else answer(404, "{}")

    async with ExportClient("t", transport=Answers(serve)) as client:
        await client.run("c1", "r1").download(tmp_path / "x.ifc")
    assert (tmp_path / "x.ifc").read_text() == "content"


async def test_a_connection_that_is_gone_is_no_obstacle(
    run: RunHandle, client: ExportClient, emulator: Emulator, tmp_path: Path
) -> None:
    await client.delete_connection(run.connection_id)
    missing = answer(404, '{"error": {"code": "FileNotFound", "message": "not yet"}}')
    emulator.script("download_file", missing, missing)
    (path,) = await run.download(tmp_path / "x.ifc")
    assert path.read_bytes() == content(run, emulator)


async def test_a_cancelled_download_leaves_nothing(tmp_path: Path) -> None:
    class Stuck(Answers):
        async def send(self, request: Request, /) -> Response:
            if "blobs" in request.url:
                await asyncio.sleep(1e6)
            return await super().send(request)

    async with ExportClient("t", transport=Stuck(SIGNED)) as client:
        call = asyncio.create_task(client.storage.download("f1", tmp_path / "f"))
        await asyncio.sleep(10)
        assert os.listdir(tmp_path) == ["f.part"]
        call.cancel()
        await asyncio.wait([call])
    assert not os.listdir(tmp_path)


async def test_a_folder_that_cannot_be_written_is_named(
    run: RunHandle, emulator: Emulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    before = len(emulator.requests)
    with pytest.raises(DownloadError, match=r"file/deeper: the folder cannot be written: Not a"):
        await run.download(tmp_path / "file/deeper/x.ifc")
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(DownloadError, match="Permission denied"):
        await run.download(tmp_path / "x.ifc")
    assert len(emulator.requests) == before


async def test_a_full_disk_is_told(run: RunHandle) -> None:
    if not os.path.exists("/dev/full"):
        pytest.skip("this system has no /dev/full")
    with pytest.raises(DownloadError, match=r"full\.ifc: cannot be written: No space left"):
        folder = Path("/tmp") / f"full-{os.getpid()}"
        folder.mkdir()
        (folder / "full.ifc.part").symlink_to("/dev/full")
        try:
            await run.download(folder / "full.ifc")
        finally:
            assert not list(folder.iterdir())
            folder.rmdir()


async def test_a_file_in_storage_is_described(client: ExportClient, emulator: Emulator) -> None:
    file_id = emulator.add_file("plan.pdf", b"%PDF")
    stored = await client.storage.get_file(file_id)
    assert (stored.id, stored.display_name, stored.size) == (file_id, "plan.pdf", 4)
    assert not stored.is_folder


def own_blob(sas_url: str) -> ExportOptions:
    return ExportOptions(output=OutputOptions(location="USER_BLOB_STORAGE", output_sas_url=sas_url))


async def test_an_output_in_a_blob_of_ones_own_comes_from_there(
    client: ExportClient, emulator: Emulator, tmp_path: Path
) -> None:
    sas_url = emulator.user_blob("results/my bridge.ifc")
    connection = await client.create_connection(emulator.add_imodel("Bridge"))
    run = await client.start_run(connection.id, own_blob(sas_url))
    await run.wait()
    (path,) = await run.download(tmp_path)
    assert path.name == "my bridge.ifc"
    assert path.read_bytes().startswith(b"ISO-10303-21;")
    assert emulator.count("download_file") == 0
    other = client.resume(run.token)
    with pytest.raises(DownloadError, match="download_blob"):
        await other.wait()
        await other.download(tmp_path)
    again = await client.storage.download_blob(sas_url, tmp_path / "again.ifc")
    assert again.read_bytes() == path.read_bytes()
    for holder in (pickle.dumps(run).decode(errors="replace"), run.token, repr(run)):
        assert "sig=" not in holder


async def test_a_run_that_failed_wrote_no_blob(
    client: ExportClient, emulator: Emulator, tmp_path: Path
) -> None:
    imodel_id = emulator.add_imodel()
    emulator.fate(imodel_id, "Error")
    connection = await client.create_connection(imodel_id)
    run = await client.start_run(connection.id, own_blob(emulator.user_blob("a.ifc")))
    await run.wait(check=False)
    with pytest.raises(DownloadError, match="ended with Error and made no output"):
        await run.download(tmp_path)


BLOB = "https://blobs.example/f.ifc?sig=planted"
NOT_THERE = answer(404)


@pytest.mark.parametrize(
    ("answers", "says"),
    [
        ([answer(403)], "does not allow reading, or has expired: 403"),
        ([NOT_THERE], "the blob store refuses: 404"),
    ],
)
async def test_a_blob_that_cannot_be_read_is_told_without_its_signature(
    tmp_path: Path, answers: list[Answer], says: str
) -> None:
    transport = Answers(*answers)
    async with ExportClient("t", transport=transport) as client:
        with pytest.raises(DownloadError, match=says) as caught:
            await client.storage.download_blob(BLOB, tmp_path / "f.ifc")
    assert "planted" not in str(caught.value) + repr(caught.value)
    assert len(transport.requests) == 1
    assert not list(tmp_path.iterdir())


async def test_a_blob_that_is_not_there_yet_is_waited_for(
    client: ExportClient, emulator: Emulator, tmp_path: Path
) -> None:
    connection = await client.create_connection(emulator.add_imodel())
    run = await client.start_run(connection.id, own_blob(emulator.user_blob("a.ifc")))
    await run.wait()
    emulator.script("get_blob", NOT_THERE, NOT_THERE)
    assert await run.download(tmp_path) == [tmp_path / "a.ifc"]
    emulator.script("get_blob", answer(400))
    with pytest.raises(DownloadError, match="refuses: 400"):
        await run.download(tmp_path)
    emulator.script("get_blob", *[NOT_THERE] * 30)
    with pytest.raises(DownloadError, match="still no such blob 30 s after the end") as caught:
        await run.download(tmp_path)
    assert isinstance(caught.value.__cause__, NotFound)


async def test_a_blob_address_must_be_safe(client: ExportClient, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="sas_url"):
        await client.storage.download_blob("http://blobs.example/f", tmp_path)
