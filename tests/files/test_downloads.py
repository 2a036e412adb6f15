"""Files of Storage and blobs of one's own, fetched whole or not at all."""

import asyncio
import base64
import hashlib
import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from itwin_export_async import (
    DownloadError,
    ExportClient,
    PermissionDenied,
    ProtocolError,
    RetryPolicy,
    TransportError,
)
from itwin_export_async._protocol.messages import StreamedResponse
from itwin_export_async.emulator import Emulator
from itwin_export_async.transport import Request, Response
from tests.support.fakes import Answer, Answers, answer

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
SHORTER = answer(206, "rest", ETag='"1"', Content_Range="bytes 500-503/504")


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
        ((SIGNED, blob(0, 500), SIGNED, blob(500, etag='"2"')), "changed while"),
        ((SIGNED, blob(0, 500), SIGNED, SHORTER), "changed while"),
        ((SIGNED, blob(0, 500), SIGNED, blob(400)), "another range"),
        ((SIGNED, blob(md5=digest(b"other"))), "does not fit its MD5: download it again"),
        ((SIGNED, answer(404)), "blob store refuses: 404"),
        ((SIGNED, answer(302, Location="https://x.example")), "blob store refuses: .*302"),
        ((SIGNED, answer(400, "token=?")), "blob store refuses: 400"),
        ([SIGNED, blob(0, 500)] + [SIGNED, answer(503)] * 9, "gave up at try 5 of 5: 503"),
        ([SIGNED, TransportError(message="reset")] * 9, "gave up at try 5 of 5: .*reset"),
        (
            [SIGNED, answer(403)] * 9,
            "gave up at try 5 of 5: 403 .* signed address was renewed for each; a proxy",
        ),
    ],
)
async def test_what_cannot_be_fetched_leaves_nothing(
    tmp_path: Path, answers: tuple[Answer, ...], reason: str
) -> None:
    with pytest.raises(DownloadError, match=reason) as caught:
        await fetch(tmp_path / "f", *answers)
    assert caught.value.destination == str(tmp_path / "f")
    assert "sig=" not in str(caught.value)
    assert not list(tmp_path.iterdir())


async def test_a_digest_that_cannot_be_read_is_not_checked(tmp_path: Path) -> None:
    told = answer(200, "abc", Content_Length="3", Content_MD5="rubbish")
    await fetch(tmp_path / "f", SIGNED, told)
    assert (tmp_path / "f").read_text() == "abc"


CHUNKED = "chunked"


def described(size: int | None, name: str = "f") -> Response:
    """Storage tells of the file."""
    return answer(200, json.dumps({"file": {"id": "f1", "displayName": name, "size": size}}))


def unbounded(stop: int | None = None, **headers: str) -> Response:
    """The file from a store that tells no length, cut off at `stop` without saying so."""
    return answer(200, FILE[:stop].decode(), **headers)


async def test_what_has_no_length_is_whole_when_it_has_the_size_in_storage(tmp_path: Path) -> None:
    """Which is asked for once, and only then."""
    size, cut = described(len(FILE)), unbounded(500)
    goes = [SIGNED, cut, size, cut, SIGNED, cut, SIGNED, unbounded()]
    transport = await fetch(tmp_path / "f", *goes)
    assert (tmp_path / "f").read_bytes() == FILE
    asked = [request for request in transport.requests if request.url.endswith("/files/f1")]
    assert len(asked) == 1


async def test_what_has_no_length_is_taken_up_where_it_broke_off(tmp_path: Path) -> None:
    cut = unbounded(500, ETag='"1"')
    goes = [SIGNED, cut, described(len(FILE)), cut, SIGNED, blob(500)]
    transport = await fetch(tmp_path / "f", *goes)
    assert (tmp_path / "f").read_bytes() == FILE
    assert transport.requests[-1].headers["Range"] == "bytes=500-"


async def test_what_has_no_length_is_told_by_its_digest(tmp_path: Path) -> None:
    told = unbounded(Content_MD5=digest(FILE))
    await fetch(tmp_path / "f", SIGNED, told, described(None), told)
    assert (tmp_path / "f").read_bytes() == FILE
    cut = unbounded(500, Content_MD5=digest(FILE))
    with pytest.raises(DownloadError, match="MD5"):
        await fetch(tmp_path / "g", SIGNED, cut, described(None), cut)


async def test_chunks_tell_where_the_file_ends_when_storage_does_not(tmp_path: Path) -> None:
    chunks = unbounded(Transfer_Encoding=CHUNKED)
    transport = await fetch(tmp_path / "f", SIGNED, chunks, described(None), chunks)
    assert (tmp_path / "f").read_bytes() == FILE
    assert len(transport.requests) == 4


async def test_chunks_tell_where_the_file_ends_when_storage_cannot_be_asked(tmp_path: Path) -> None:
    refusal, chunks = answer(403, "{}"), unbounded(Transfer_Encoding=CHUNKED)
    await fetch(tmp_path / "f", SIGNED, chunks, refusal, chunks)
    assert (tmp_path / "f").read_bytes() == FILE
    with pytest.raises(PermissionDenied):
        await fetch(tmp_path / "g", SIGNED, unbounded(), refusal)
    assert not (tmp_path / "g").exists()


async def test_no_connection_is_held_while_the_size_is_asked_for(tmp_path: Path) -> None:
    """Which may take minutes, where Storage asks for patience."""

    class Counting(Answers):
        open = 0

        async def send(self, request: Request, /) -> Response:
            if request.url.endswith("/files/f1"):
                assert self.open == 0
            return await super().send(request)

        @asynccontextmanager
        async def stream(self, request: Request, /) -> AsyncIterator[StreamedResponse]:
            async with super().stream(request) as stream:
                self.open += 1
                yield stream
                self.open -= 1

    busy = answer(429, Retry_After="60")
    goes = [SIGNED, unbounded(), busy, described(len(FILE)), unbounded()]
    transport = Counting(*goes)
    async with ExportClient("t", transport=transport) as client:
        await client.storage.download("f1", tmp_path / "f")
    assert (tmp_path / "f").read_bytes() == FILE
    assert (len(transport.requests), transport.open) == (len(goes), 0)


@pytest.mark.parametrize(
    ("size", "stop", "reason"),
    [
        (None, None, "nothing tells whether it is whole"),
        (1300, 400, "400 of 1300 bytes came"),
        (9, None, "more bytes came than the 9 that Storage"),
    ],
)
async def test_what_has_no_length_and_not_the_size_is_no_file(
    tmp_path: Path, size: int | None, stop: int | None, reason: str
) -> None:
    def serve(request: Request) -> Response:
        if "blobs" in request.url:
            return unbounded(stop)
        return SIGNED if request.url.endswith("/download") else described(size)

    with pytest.raises(DownloadError, match=reason):
        await fetch(tmp_path / "f", serve)
    assert not list(tmp_path.iterdir())


async def fetch_into(folder: Path, *answers: Answer) -> Answers:
    transport = Answers(*answers)
    async with ExportClient("t", transport=transport) as client:
        await client.storage.download("f1", folder)
    return transport


async def test_a_size_that_is_older_than_the_content_is_asked_for_again(tmp_path: Path) -> None:
    size = len(FILE)
    transport = await fetch_into(tmp_path, described(7), SIGNED, blob(), described(size), blob())
    assert (tmp_path / "f").read_bytes() == FILE
    assert len(transport.requests) == 5
    transport = await fetch_into(tmp_path, described(size), SIGNED, blob())
    assert len(transport.requests) == 3


async def test_a_size_that_stays_another_is_told_before_anything_is_fetched(tmp_path: Path) -> None:
    told: list[int] = []
    transport = Answers(described(7), SIGNED, blob(), described(9), blob())
    async with ExportClient("t", transport=transport) as client:
        with pytest.raises(
            DownloadError, match=r"has 1300 bytes, and Storage tells of 9"
        ) as caught:
            await client.storage.download(
                "f1", tmp_path, on_progress=lambda done, total: told.append(done)
            )
    assert caught.value.destination == str(tmp_path / "f")
    assert (told, os.listdir(tmp_path)) == ([], [])


async def test_chunks_of_less_than_the_size_in_storage_are_not_the_file(tmp_path: Path) -> None:
    """A proxy ends them well when what came to it broke off."""
    cut, size = unbounded(400, Transfer_Encoding=CHUNKED), described(len(FILE))
    with pytest.raises(DownloadError, match="400 of 1300 bytes"):
        await fetch_into(tmp_path, size, *[SIGNED, cut] * 9)
    with pytest.raises(DownloadError, match="400 of 1300 bytes"):
        await fetch(tmp_path / "g", SIGNED, cut, size, cut, *[SIGNED, cut] * 9)
    assert not list(tmp_path.iterdir())


async def test_a_blob_of_ones_own_without_a_length_is_refused(tmp_path: Path) -> None:
    transport = Answers(unbounded())
    async with ExportClient("t", transport=transport) as client:
        with pytest.raises(DownloadError, match="nothing tells whether it is whole"):
            await client.storage.download_blob(BLOB, tmp_path / "f")
    assert len(transport.requests) == 1
    assert not list(tmp_path.iterdir())


async def raw_blob(path: Path, body: bytes, *headers: str, version: str = "HTTP/1.1") -> bool:
    """Whether a blob is fetched whose connection ends after these bytes."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        head = "\r\n".join([f"{version} 200 OK", *headers])
        writer.write(f"{head}\r\n\r\n".encode() + body)
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        base_url = f"http://127.0.0.1:{port}"
        async with ExportClient("t", base_url=base_url, retry=RetryPolicy(attempts=1)) as client:
            try:
                await client.storage.download_blob(f"{base_url}/f", path)
            except DownloadError:
                assert not path.exists()
                return False
    assert path.read_bytes() == b"file"
    return True


@pytest.mark.real_time
async def test_a_connection_that_ends_does_not_end_a_file(tmp_path: Path) -> None:
    chunked = f"Transfer-Encoding: {CHUNKED}"
    assert await raw_blob(tmp_path / "a", b"file", "Content-Length: 4")
    assert await raw_blob(tmp_path / "b", b"4\r\nfile\r\n0\r\n\r\n", chunked)
    assert await raw_blob(tmp_path / "c", b"file", f"Content-MD5: {digest(b'file')}")
    assert not await raw_blob(tmp_path / "d", b"fil", "Content-Length: 4")
    assert not await raw_blob(tmp_path / "e", b"4\r\nfile\r\n", chunked)
    assert not await raw_blob(tmp_path / "f", b"file")
    assert not await raw_blob(tmp_path / "g", b"file", "Connection: close")
    assert not await raw_blob(tmp_path / "h", b"file", "Connection: close, x")
    assert not await raw_blob(tmp_path / "i", b"file", version="HTTP/1.0")
    assert sorted(os.listdir(tmp_path)) == ["a", "b", "c"]


@pytest.mark.parametrize("location", ["http://blobs.example/f", "", "/f", "ftp://x/y"])
async def test_an_address_that_is_not_safe_is_not_fetched(tmp_path: Path, location: str) -> None:
    with pytest.raises(ProtocolError, match="cannot be followed"):
        await fetch(tmp_path / "f", answer(302, Location=location))


async def test_what_no_file_may_replace_is_told_before_anything_is_fetched(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "f")
    transport = Answers(SIGNED, blob())
    async with ExportClient("t", transport=transport) as client:
        with pytest.raises(DownloadError, match="f: cannot be written: it is neither") as caught:
            await client.storage.download("f1", tmp_path / "f")
    assert caught.value.destination == str(tmp_path / "f")
    assert transport.requests == []


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


async def test_large_files_are_written_piece_by_piece(tmp_path: Path) -> None:
    large = "x" * 3_000_000
    await fetch(tmp_path / "f", SIGNED, answer(200, large, Content_Length="3000000"))
    assert (tmp_path / "f").read_text() == large


@pytest.mark.parametrize("wait", [0.0, 0.1])
async def test_what_on_progress_raises_is_raised_and_leaves_nothing(
    tmp_path: Path, wait: float
) -> None:
    async def fail(done: int, total: int | None) -> None:
        await asyncio.sleep(wait)
        raise LookupError

    transport = Answers(SIGNED, answer(200, "x" * 5_000_000, Content_Length="5000000"))
    async with ExportClient("t", transport=transport) as client:
        with pytest.raises(LookupError):
            await client.storage.download("f1", tmp_path / "a.ifc", on_progress=fail)
    assert not list(tmp_path.iterdir())


class Breaking(Answers):
    """Each of its answers from a blob store breaks where it would end."""

    @asynccontextmanager
    async def stream(self, request: Request, /) -> AsyncIterator[StreamedResponse]:
        async with super().stream(request) as stream:

            async def chunks() -> AsyncIterator[bytes]:
                async for chunk in stream.chunks:
                    yield chunk
                raise TransportError(message="reset")

            yield StreamedResponse(response=stream.response, chunks=chunks())


async def test_a_break_after_the_last_byte_is_no_break(tmp_path: Path) -> None:
    async with ExportClient("t", transport=Breaking(SIGNED, blob())) as client:
        await client.storage.download("f1", tmp_path / "f")
    assert (tmp_path / "f").read_bytes() == FILE


async def test_a_break_after_the_last_chunk_is_no_break_either(tmp_path: Path) -> None:
    """Though nothing but the refusal to give more tells that it was the last."""
    chunks = unbounded(Transfer_Encoding=CHUNKED, ETag='"1"', Content_MD5=digest(FILE))
    no_more = answer(416, "<Error/>", Content_Range=f"bytes */{len(FILE)}")
    transport = Breaking(chunks, no_more)
    async with ExportClient("t", transport=transport) as client:
        await client.storage.download_blob(BLOB, tmp_path / "f")
    assert (tmp_path / "f").read_bytes() == FILE
    assert transport.requests[-1].headers["Range"] == f"bytes={len(FILE)}-"


async def test_goes_that_get_no_further_come_to_an_end(tmp_path: Path) -> None:
    goes = [SIGNED, blob(0, 5, etag=""), SIGNED, blob(0, 6, etag="")] * 50
    with pytest.raises(DownloadError, match=r"f: gave up at try 5 of 5: 6 of 1300 bytes"):
        await fetch(tmp_path / "f", *goes)


async def test_a_weak_version_is_not_asked_for(tmp_path: Path) -> None:
    goes = [SIGNED, blob(0, 500, etag='W/"1"'), SIGNED, blob()]
    transport = await fetch(tmp_path / "f", *goes)
    assert "If-Match" not in transport.requests[3].headers
    assert (tmp_path / "f").read_bytes() == FILE


async def test_a_blob_store_may_not_ask_for_hours(tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match="gave up at try 1 of 5: 503"):
        await fetch(tmp_path / "f", SIGNED, answer(503, Retry_After="1000000"))
    assert asyncio.get_running_loop().time() < 1


@pytest.mark.parametrize("encoding", ["gzip", "br, GZip", "x-gzip"])
async def test_what_comes_compressed_all_the_same_is_no_file(tmp_path: Path, encoding: str) -> None:
    """Nothing tells how long it is, and where its connection broke."""
    encoded = answer(200, "decoded", Content_Encoding=encoding, Content_Length="3", ETag='"1"')
    with pytest.raises(DownloadError, match="came compressed, as after a proxy"):
        await fetch(tmp_path / "f", SIGNED, encoded)
    rest = blob(500)
    rest = answer(206, "rest", **{**rest.headers, "Content-Encoding": encoding})
    with pytest.raises(DownloadError, match="came compressed"):
        await fetch(tmp_path / "f", SIGNED, blob(0, 500), SIGNED, rest)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("encoding", ["identity", "", "utf-8"])
async def test_what_is_called_encoded_and_is_not_is_a_file(tmp_path: Path, encoding: str) -> None:
    """Some uploads call the kind of their letters so."""
    whole = answer(200, "content", Content_Encoding=encoding, Content_Length="7")
    await fetch(tmp_path / "f", SIGNED, whole)
    assert (tmp_path / "f").read_text() == "content"


RUNNING = '{"run": {"id": "r1", "state": "Executing"}}'


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


async def test_a_file_in_storage_is_described(client: ExportClient, emulator: Emulator) -> None:
    file_id = emulator.add_file("plan.pdf", b"%PDF")
    stored = await client.storage.get_file(file_id)
    assert (stored.id, stored.display_name, stored.size) == (file_id, "plan.pdf", 4)
    assert not stored.is_folder


BLOB = "https://blobs.example/f.ifc?sig=planted"


@pytest.mark.parametrize(
    ("answers", "says"),
    [
        ([answer(403)], "does not allow reading, or has expired: 403"),
        ([answer(404)], "the blob store refuses: 404"),
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


async def test_a_blob_address_must_be_safe(client: ExportClient, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="sas_url"):
        await client.storage.download_blob("http://blobs.example/f", tmp_path)
