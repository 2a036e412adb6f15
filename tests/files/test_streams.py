"""Streams of files: whole or an error, over any number of connections, and nothing on a disk."""

import asyncio
import base64
import hashlib
import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest
from attrs import define, field

from itwin_export_async import DownloadError, ExportClient, NotFound, Session, TransportError
from itwin_export_async._files.download import Downloader
from itwin_export_async._protocol.messages import StreamedResponse
from itwin_export_async.emulator import Emulator
from itwin_export_async.transport import Request, Response
from tests.support.fakes import answer

FILE = os.urandom(10_000)


@define(kw_only=True)
class Store:
    """Storage and its blob store for one file, without a network.

    Each response breaks off after `piece` bytes. `etag` None: the store gives none. `digest_of` is
    the content whose digest is sent, None for the right one. `honours_ranges` and
    `honours_conditions`: whether `Range` and `If-Match` count. `url_uses`: number of uses after
    which a URL is refused. `api_fails`: number of the next requests for a URL that fail.
    """

    data: bytes = FILE
    piece: int = 10**9
    chunk: int = 700
    etag: str | None = '"1"'
    md5: bool = True
    digest_of: bytes | None = None
    gives_length: bool = True
    size: int | None = len(FILE)
    honours_ranges: bool = True
    honours_conditions: bool = True
    url_uses: int | None = None
    chunk_delay: float = 0.0
    requests: list[Request] = field(factory=list)
    urls: int = 0
    uses: int = 0
    open: int = 0
    api_fails: int = 0

    async def send(self, request: Request, /) -> Response:
        self.requests.append(request)
        if request.url.endswith("/download"):
            if self.api_fails:
                self.api_fails -= 1
                return answer(404, "{}")
            self.urls, self.uses = self.urls + 1, 0
            return answer(302, Location=f"https://blobs.example/f?sig={self.urls}")
        file = {"id": "f1", "displayName": "bridge.ifc", "size": self.size}
        return answer(200, json.dumps({"file": file}))

    @asynccontextmanager
    async def stream(self, request: Request, /) -> AsyncIterator[StreamedResponse]:
        self.requests.append(request)
        assert "Authorization" not in request.headers
        response, body, breaks = self._read(request)

        async def chunks() -> AsyncIterator[bytes]:
            for start in range(0, len(body), self.chunk):
                await asyncio.sleep(self.chunk_delay)
                yield body[start : start + self.chunk]
            if breaks:
                raise TransportError(message="reset")

        self.open += 1
        try:
            yield StreamedResponse(response=response, chunks=chunks())
        finally:
            self.open -= 1

    def _read(self, request: Request) -> tuple[Response, bytes, bool]:
        if self.uses == self.url_uses:
            return answer(403), b"", False
        self.uses += 1
        if self.honours_conditions and request.headers.get("If-Match", self.etag) != self.etag:
            return answer(412), b"", False
        headers = {} if self.etag is None else {"ETag": self.etag}
        if self.md5:
            headers["x-ms-blob-content-md5"] = base64.b64encode(
                hashlib.md5(self.digest_of or self.data).digest()
            ).decode()
        total, start, stop = len(self.data), 0, len(self.data)
        wanted = request.headers.get("Range")
        if wanted and self.honours_ranges:
            first, _, last = wanted.removeprefix("bytes=").partition("-")
            start, stop = int(first), min(total, int(last or total) + 1)
            if start >= total:
                return answer(416, Content_Range=f"bytes */{total}"), b"<Error/>", False
            headers["Content-Range"] = f"bytes {start}-{stop - 1}/{total}"
        if self.gives_length:
            headers["Content-Length"] = str(stop - start)
        else:
            headers["Transfer-Encoding"] = "chunked"
        body = self.data[start:stop]
        status = 206 if "Content-Range" in headers else 200
        return answer(status, **headers), body[: self.piece], len(body) > self.piece

    async def close(self) -> None: ...

    @property
    def ranges(self) -> list[str | None]:
        """The ranges that were requested from the blob store."""
        return [r.headers.get("Range") for r in self.requests if "blobs" in r.url]


async def read(store: Store, **options: Any) -> bytes:
    async with ExportClient("t", transport=store) as client:
        async with client.storage.open("f1", **options) as file:
            return await file.read()


async def test_stream_gives_name_size_and_version_before_the_first_byte() -> None:
    store = Store()
    async with ExportClient("t", transport=store) as client:
        async with client.storage.open("f1") as file:
            assert (file.name, file.size, file.etag) == ("bridge.ifc", len(FILE), '"1"')
            assert (file.start, file.stop, file.position) == (0, len(FILE), 0)
            chunks = [chunk async for chunk in file]
            assert file.position == len(FILE)
            assert [chunk async for chunk in file] == []
    assert b"".join(chunks) == FILE
    assert max(map(len, chunks)) == store.chunk
    assert store.open == 0


@pytest.mark.parametrize("tenth", range(1, 11))
@pytest.mark.parametrize(
    "store",
    [
        {},
        {"etag": None},
        {"etag": 'W/"1"'},
        {"etag": None, "md5": False},
        {"honours_ranges": False},
        {"honours_ranges": False, "etag": None},
        {"gives_length": False},
        {"url_uses": 1},
    ],
)
async def test_stream_broken_at_any_tenth_comes_out_whole(
    tenth: int, store: dict[str, object]
) -> None:
    one = Store(piece=len(FILE) * tenth // 10, **store)  # type: ignore[arg-type]
    data = b""
    async with ExportClient("t", transport=one) as client:
        async with client.storage.open("f1") as file:
            async for chunk in file:
                data += chunk
                if len(data) >= one.piece:
                    one.piece = 10**9  # the next connection holds
    assert data == FILE
    assert one.open == 0
    assert one.urls == (2 if one.url_uses and tenth < 10 else 1)


@pytest.mark.parametrize("piece", [1_000, 1_001, 3_333])
async def test_stream_broken_again_and_again_comes_out_whole_from_one_url(piece: int) -> None:
    store = Store(piece=piece)
    assert await read(store) == FILE
    assert store.urls == 1
    assert store.ranges == [
        None,
        *(f"bytes={start}-" for start in range(piece, len(FILE), piece)),
    ]


async def test_expired_url_is_renewed_within_the_iteration() -> None:
    store = Store(piece=1_000, url_uses=3)
    assert await read(store) == FILE
    assert store.urls == 4


async def test_slow_reader_outlives_the_signature(client: ExportClient, emulator: Emulator) -> None:
    file_id = emulator.add_file("a.ifc", bytes(300_000))
    emulator.download_lifetime = 60.0
    emulator.inject("get_blob", None, truncate_after=100_000)
    async with client.storage.open(file_id) as file:
        count = 0
        async for chunk in file:
            count += len(chunk)
            await asyncio.sleep(100)  # longer than the signature lasts
    assert count == 300_000
    assert emulator.count("download_file") == 2


@pytest.mark.parametrize("etag", ['"2"', None])
@pytest.mark.parametrize("conditions", [True, False])
async def test_file_that_changes_meanwhile_is_an_error(etag: str | None, conditions: bool) -> None:
    store = Store(piece=5_000, honours_conditions=conditions, etag=None if etag is None else '"1"')
    async with ExportClient("t", transport=store) as client:
        async with client.storage.open("f1") as file:
            data = await anext(file)
            store.data, store.etag = os.urandom(len(FILE)), etag
            with pytest.raises(DownloadError, match="changed while it was read") as caught:
                async for chunk in file:
                    data += chunk
            with pytest.raises(RuntimeError, match="failed"):
                await anext(file)
    assert (caught.value.reason, caught.value.file_id) == ("mismatch", "f1")
    assert data == FILE[: len(data)]
    assert store.open == 0


async def test_damaged_file_is_an_error_at_the_end() -> None:
    store = Store(digest_of=FILE[:-1] + b"?")
    data = b""
    async with ExportClient("t", transport=store) as client:
        async with client.storage.open("f1") as file:
            with pytest.raises(DownloadError, match="MD5 mismatch") as caught:
                async for chunk in file:
                    data += chunk
        assert caught.value.reason == "mismatch"
        assert data == FILE
        async with client.storage.open("f1", start=1) as file:
            assert await file.read() == FILE[1:]  # the digest says nothing about a part


@pytest.mark.parametrize(
    ("start", "stop", "sent"),
    [
        (0, None, None),
        (1, None, "bytes=1-"),
        (0, 10, "bytes=0-9"),
        (3_000, 7_001, "bytes=3000-7000"),
        (3_000, 99_999, "bytes=3000-99998"),
        (5, 5, "bytes=5-5"),
        (9_999, 10_000, "bytes=9999-9999"),
        (10_000, None, "bytes=10000-"),
    ],
)
@pytest.mark.parametrize("ranges", [True, False])
@pytest.mark.parametrize("piece", [10**9, 900])
async def test_part_of_a_file_is_read_by_its_bounds(
    start: int, stop: int | None, sent: str | None, ranges: bool, piece: int
) -> None:
    store = Store(honours_ranges=ranges, piece=piece if ranges else 10**9)
    async with ExportClient("t", transport=store) as client:
        async with client.storage.open("f1", start=start, stop=stop) as file:
            assert (file.start, file.size) == (start, len(FILE))
            assert file.stop == min(len(FILE), stop or len(FILE))
            assert await file.read() == FILE[start:stop]
    assert store.ranges[0] == sent


async def test_part_of_a_chunked_file_ends_at_its_bound() -> None:
    store = Store(gives_length=False, honours_ranges=False, size=None)
    assert await read(store, start=100, stop=5_000) == FILE[100:5_000]
    assert await read(store, start=100, stop=50_000) == FILE[100:]


@pytest.mark.parametrize("etag", ['"1"', None])
async def test_part_without_an_etag_is_resumed_from_its_start(etag: str | None) -> None:
    store = Store(piece=2_000, etag=etag)
    async with ExportClient("t", transport=store) as client:
        async with client.storage.open("f1", start=1_000) as file:
            data = await anext(file)
            store.piece = 10**9
            data += await file.read()
    assert data == FILE[1_000:]
    assert store.ranges[-1] == ("bytes=3000-" if etag else "bytes=1000-")


@pytest.mark.parametrize("conditions", [True, False])
@pytest.mark.parametrize("etag", ['"0"', 'W/"1"', "Sat, 28 Nov 2026 09:00:00 GMT"])
async def test_part_of_another_version_than_if_range_is_the_whole_file(
    etag: str, conditions: bool
) -> None:
    store = Store(honours_conditions=conditions)
    async with ExportClient("t", transport=store) as client:
        async with client.storage.open("f1", start=500, stop=900, if_range=etag) as file:
            assert (file.start, file.stop) == (0, len(FILE))
            assert await file.read() == FILE
        async with client.storage.open("f1", start=500, stop=900, if_range='"1"') as file:
            assert (file.start, file.stop) == (500, 900)
            assert await file.read() == FILE[500:900]


@pytest.mark.parametrize("conditions", [True, False])
@pytest.mark.parametrize("etag", ['"0"', 'W/"1"', "Sat, 28 Nov 2026 09:00:00 GMT"])
@pytest.mark.parametrize("size", [len(FILE), None])
async def test_shorter_version_than_if_range_is_the_whole_file(
    etag: str, conditions: bool, size: int | None
) -> None:
    store = Store(honours_conditions=conditions, size=size)
    async with ExportClient("t", transport=store) as client:
        async with client.storage.open("f1", start=20_000, if_range=etag) as file:
            assert (file.start, file.stop, file.size) == (0, len(FILE), len(FILE))
            assert await file.read() == FILE
        with pytest.raises(DownloadError, match="cannot start at byte 20000") as caught:
            async with client.storage.open("f1", start=20_000, if_range='"1"') as file:
                await file.read()
    assert caught.value.reason == "refused"


@pytest.mark.parametrize("conditions", [True, False])
@pytest.mark.parametrize("size", [len(FILE), None])
@pytest.mark.parametrize("stop", [None, 20_000])
async def test_part_from_the_end_of_the_version_if_range_is_empty(
    conditions: bool, size: int | None, stop: int | None
) -> None:
    store = Store(honours_conditions=conditions, size=size)
    async with ExportClient("t", transport=store) as client:
        async with client.storage.open("f1", start=len(FILE), stop=stop, if_range='"1"') as file:
            assert (file.start, file.stop, file.size) == (len(FILE),) * 3
            assert (file.position, file.etag) == (len(FILE), '"1"')
            assert await file.read() == b""
        async with client.storage.open("f1", start=len(FILE), stop=stop, if_range='"0"') as file:
            assert await file.read() == FILE


async def test_count_of_received_bytes_is_never_negative() -> None:
    counts: list[int] = []

    class Counting(Session):
        def count_download(self, size: int) -> None:
            counts.append(size)

    async with Counting("t", transport=Store()) as session:
        downloader = Downloader(session)
        source = await downloader.described_file("f1")
        for start in (20_000, 9_000):
            file = downloader.reader(source, start=start, if_range='"1"')
            with suppress(DownloadError):
                await file.read()
            await file.close()
        downloader.close()
    assert counts == [0, 1_000]


@pytest.mark.parametrize(
    ("bounds", "text"),
    [
        ({"start": -1}, "start must be at least 0"),
        ({"start": 10_001}, "start must be at most 10000"),
        ({"start": 5, "stop": 4}, "stop must be at least 5"),
        ({"start": True}, "start must be an integer"),
        ({"stop": 1.5}, "stop must be an integer"),
    ],
)
async def test_bounds_that_cannot_be_are_refused(bounds: dict[str, int], text: str) -> None:
    store = Store()
    with pytest.raises((ValueError, TypeError), match=text):
        await read(store, **bounds)
    assert store.ranges == []


async def test_start_behind_the_end_is_refused_where_the_size_was_not_known() -> None:
    with pytest.raises(DownloadError, match="the file has 10000 bytes") as caught:
        await read(Store(size=None), start=10_001)
    assert caught.value.reason == "refused"


@pytest.mark.parametrize("gives_length", [True, False])
async def test_empty_file_is_an_empty_stream(gives_length: bool) -> None:
    store = Store(data=b"", size=0, gives_length=gives_length)
    assert await read(store) == b""
    assert await read(store, start=0, stop=10) == b""


async def test_cancelled_read_loses_no_byte() -> None:
    store = Store(chunk_delay=10.0)
    async with ExportClient("t", transport=store) as client:
        async with client.storage.open("f1") as file:
            data = await anext(file)
            for _ in range(3):
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(5):
                        await anext(file)
                assert store.open == 0
            data += await file.read()
    assert data == FILE


async def test_stream_that_is_left_early_gives_its_connection_back() -> None:
    store = Store()
    async with ExportClient("t", transport=store) as client:
        with pytest.raises(LookupError):
            async with client.storage.open("f1") as file:
                await anext(file)
                assert store.open == 1
                raise LookupError
        assert store.open == 0
        with pytest.raises(RuntimeError, match="closed"):
            await anext(file)


async def test_failure_of_the_api_propagates_and_the_stream_can_continue() -> None:
    store = Store(piece=5_000, url_uses=1)
    async with ExportClient("t", transport=store) as client:
        async with client.storage.open("f1") as file:
            store.api_fails = 1
            data = b""
            with pytest.raises(NotFound):
                async for chunk in file:
                    data += chunk
            assert len(data) == 5_000
            data += await file.read()
    assert data == FILE


async def test_speed_is_measured_anew_in_each_window() -> None:
    store = Store(data=os.urandom(1_000_000), size=None, chunk=100_000, chunk_delay=30.0)
    assert await read(store) == store.data
    assert len(store.ranges) == 1


@pytest.mark.parametrize("status", [408, 429, 500])
async def test_transient_error_of_the_blob_store_is_retried(
    client: ExportClient, emulator: Emulator, status: int
) -> None:
    file_id = emulator.add_file("a.ifc", FILE)
    emulator.inject("get_blob", answer(status))
    async with client.storage.open(file_id) as file:
        assert await file.read() == FILE


async def test_server_below_the_least_speed_is_given_up() -> None:
    store = Store(chunk=100, chunk_delay=20.0)
    with pytest.raises(DownloadError, match=r"attempt 5 of 5: .*received \d+ bytes in \d+ s"):
        await read(store)
    assert len(store.ranges) == 5


@pytest.mark.parametrize(("delay", "seconds"), [(0.005, 0.7), (20.0, 1.0)])
async def test_end_of_a_block_waits_a_second_for_the_rest_at_most(
    delay: float, seconds: float
) -> None:
    store = Store(chunk=70, chunk_delay=delay)
    clock = asyncio.get_running_loop().time
    async with ExportClient("t", transport=store) as client:
        async with client.storage.open("f1") as file:
            await anext(file)
            left_at = clock()
        assert clock() - left_at == pytest.approx(seconds, abs=0.05)
    assert store.open == 0


async def test_error_in_a_block_waits_for_nothing() -> None:
    store = Store(chunk=70, chunk_delay=20.0)
    clock = asyncio.get_running_loop().time
    async with ExportClient("t", transport=store) as client:
        with pytest.raises(ZeroDivisionError):
            async with client.storage.open("f1") as file:
                await anext(file)
                left_at = clock()
                raise ZeroDivisionError
        assert clock() == left_at
    assert store.open == 0


async def test_slow_consumer_is_no_slow_server() -> None:
    store = Store()
    data = b""
    async with ExportClient("t", transport=store) as client:
        async with client.storage.open("f1") as file:
            async for chunk in file:
                data += chunk
                await asyncio.sleep(600)
    assert data == FILE
    assert len(store.ranges) == 1


async def test_version_and_size_cost_one_byte(client: ExportClient, emulator: Emulator) -> None:
    file_id = emulator.add_file("a.ifc", bytes(300_000))
    async with client.storage.open(file_id, stop=0) as file:
        assert file.size == 300_000
        assert file.etag is not None
    async with client.storage.open(file_id, stop=0) as file:
        assert await file.read() == b""
    emulator.assert_no_violations()


async def test_break_while_the_rest_is_drained_does_no_harm() -> None:
    store = Store(piece=5)
    async with ExportClient("t", transport=store) as client:
        async with client.storage.open("f1", stop=10):
            pass
    assert store.open == 0


async def test_unknown_file_is_not_found(client: ExportClient) -> None:
    with pytest.raises(NotFound):
        async with client.storage.open("nowhere"):
            pass
