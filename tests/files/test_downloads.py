"""Downloads: a file is complete on disk, or absent."""

import asyncio
import base64
import hashlib
import json
import logging
import os
import pickle
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

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


def blob(
    start: int = 0, stop: int | None = None, *, etag: str = '"1"', md5: str = "", data: bytes = FILE
) -> Response:
    """Part of the file as a blob store sends it, silently cut off at `stop`."""
    total, part = len(data), data[start:stop]
    headers = {"ETag": etag, "x-ms-blob-content-md5": md5 or digest(data)}
    if start:
        headers["Content-Range"] = f"bytes {start}-{total - 1}/{total}"
    else:
        headers["Content-Length"] = str(total)
    return answer(206 if start else 200, part.decode(), **headers)


SIGNED = answer(302, Location="https://blobs.example/f?sig=a%2Fb%2Bc%3D")
OTHER_LENGTH = answer(206, "rest", ETag='"1"', Content_Range="bytes 500-503/504")
BLOB = "https://blobs.example/f.ifc?sig=planted"
CHUNKED = "chunked"


async def fetch(path: Path, *answers: Answer) -> Answers:
    transport = Answers(*answers)
    async with ExportClient("t", transport=transport) as client:
        await client.storage.download("f1", path)
    return transport


async def test_signed_url_is_used_byte_for_byte_and_without_the_token(tmp_path: Path) -> None:
    transport = await fetch(tmp_path / "f.ifc", SIGNED, blob())
    assert transport.requests[1].url == "https://blobs.example/f?sig=a%2Fb%2Bc%3D"
    assert transport.requests[1].headers == {"Accept-Encoding": "identity"}
    assert transport.requests[0].headers["Accept"].endswith("octet-stream")


async def test_broken_download_requests_the_rest_of_the_same_version(tmp_path: Path) -> None:
    transport = await fetch(tmp_path / "f.ifc", SIGNED, blob(0, 500), blob(500, 900), blob(900))
    assert (tmp_path / "f.ifc").read_bytes() == FILE
    ranges = [request.headers.get("Range") for request in transport.requests[1:]]
    assert ranges == [None, "bytes=500-", "bytes=900-"]
    assert transport.requests[2].headers["If-Match"] == '"1"'


async def test_new_signed_url_is_requested_only_when_the_old_one_is_refused(tmp_path: Path) -> None:
    renewed = answer(302, Location="https://blobs.example/f?sig=2")
    transport = await fetch(
        tmp_path / "f.ifc", SIGNED, blob(0, 500), answer(403), renewed, blob(500, 900), blob(900)
    )
    assert (tmp_path / "f.ifc").read_bytes() == FILE
    assert [request.url.rpartition("sig=")[2] for request in transport.requests] == [
        "https://api.bentley.com/storage/files/f1/download",
        *["a%2Fb%2Bc%3D"] * 2,
        "https://api.bentley.com/storage/files/f1/download",
        *["2"] * 2,
    ]


async def test_store_without_ranges_is_read_again_from_the_start(tmp_path: Path) -> None:
    transport = await fetch(tmp_path / "f.ifc", SIGNED, blob(0, 500), blob())
    assert (tmp_path / "f.ifc").read_bytes() == FILE
    assert len(transport.requests) == 3


@pytest.mark.parametrize(
    ("answers", "text", "reason"),
    [
        ((SIGNED, blob(0, 500), answer(412)), "changed while", "mismatch"),
        ((SIGNED, blob(0, 500), blob(500, etag='"2"')), "changed while", "mismatch"),
        ((SIGNED, blob(0, 500), blob(etag='"2"')), "changed while", "mismatch"),
        ((SIGNED, blob(0, 500), OTHER_LENGTH), "changed while", "mismatch"),
        ((SIGNED, blob(0, 500), blob(400)), "another range", "mismatch"),
        ((SIGNED, blob(md5=digest(b"other"))), "MD5 mismatch: download the file", "mismatch"),
        ((SIGNED, answer(404)), "no such file: 404", "not_available"),
        ((SIGNED, answer(302, Location="https://x.example")), "store refuses: .*302", "refused"),
        ((SIGNED, answer(400, "token=?")), "blob store refuses: 400", "refused"),
        (
            [SIGNED, blob(0, 500)] + [answer(503)] * 9,
            "gave up after attempt 5 of 5: 503",
            "incomplete",
        ),
        (
            [SIGNED] + [TransportError(message="reset")] * 9,
            "gave up after attempt 5 of 5: .*reset",
            "incomplete",
        ),
        (
            [SIGNED, answer(403)] * 9,
            "gave up after attempt 5 of 5: 403 .*each had a new signed URL: a proxy",
            "refused",
        ),
    ],
)
async def test_failed_download_leaves_nothing_and_says_why(
    tmp_path: Path, answers: tuple[Answer, ...], text: str, reason: str
) -> None:
    with pytest.raises(DownloadError, match=text) as caught:
        await fetch(tmp_path / "f.ifc", *answers)
    assert caught.value.reason == reason
    assert caught.value.destination == str(tmp_path / "f.ifc")
    assert pickle.loads(pickle.dumps(caught.value)).reason == reason
    assert "sig=" not in str(caught.value)
    assert not list(tmp_path.iterdir())


async def test_unreadable_digest_is_ignored(tmp_path: Path) -> None:
    response = answer(200, "abc", Content_Length="3", Content_MD5="rubbish")
    await fetch(tmp_path / "f.ifc", SIGNED, response)
    assert (tmp_path / "f.ifc").read_text() == "abc"


def described(size: int | None, name: str = "f.ifc") -> Response:
    """The metadata of the file in Storage."""
    return answer(200, json.dumps({"file": {"id": "f1", "displayName": name, "size": size}}))


def unbounded(stop: int | None = None, **headers: str) -> Response:
    """The file from a store that gives no length, silently cut off at `stop`."""
    return answer(200, FILE[:stop].decode(), **headers)


async def test_response_without_length_is_complete_at_the_size_in_storage(tmp_path: Path) -> None:
    """The size is read once, and only where it is needed."""
    cut = unbounded(500)
    transport = await fetch(
        tmp_path / "f.ifc", SIGNED, cut, described(len(FILE)), cut, cut, unbounded()
    )
    assert (tmp_path / "f.ifc").read_bytes() == FILE
    reads = [request for request in transport.requests if request.url.endswith("/files/f1")]
    assert len(reads) == 1


async def test_response_without_length_is_resumed_where_it_broke_off(tmp_path: Path) -> None:
    cut = unbounded(500, ETag='"1"')
    answers = [SIGNED, cut, described(len(FILE)), cut, blob(500)]
    transport = await fetch(tmp_path / "f.ifc", *answers)
    assert (tmp_path / "f.ifc").read_bytes() == FILE
    assert transport.requests[-1].headers["Range"] == "bytes=500-"


async def test_response_without_length_is_checked_by_its_digest(tmp_path: Path) -> None:
    whole = unbounded(Content_MD5=digest(FILE), ETag='"1"')
    await fetch(tmp_path / "f.ifc", SIGNED, whole, described(None), whole)
    assert (tmp_path / "f.ifc").read_bytes() == FILE
    cut = unbounded(500, Content_MD5=digest(FILE), ETag='"1"')
    with pytest.raises(DownloadError, match="MD5"):
        await fetch(tmp_path / "g.ifc", SIGNED, cut, described(None), cut)


async def test_chunks_mark_the_end_where_storage_does_not_know_the_size(tmp_path: Path) -> None:
    chunks = unbounded(Transfer_Encoding=CHUNKED)
    transport = await fetch(tmp_path / "f.ifc", SIGNED, chunks, described(None), chunks)
    assert (tmp_path / "f.ifc").read_bytes() == FILE
    assert len(transport.requests) == 4


async def test_chunks_mark_the_end_where_storage_refuses_the_size(tmp_path: Path) -> None:
    refusal, chunks = answer(403, "{}"), unbounded(Transfer_Encoding=CHUNKED)
    await fetch(tmp_path / "f.ifc", SIGNED, chunks, refusal, chunks)
    assert (tmp_path / "f.ifc").read_bytes() == FILE
    with pytest.raises(PermissionDenied):
        await fetch(tmp_path / "g.ifc", SIGNED, unbounded(), refusal)
    assert not (tmp_path / "g.ifc").exists()


async def test_no_connection_is_held_while_the_size_is_read(tmp_path: Path) -> None:
    """Reading the size may take minutes where Storage asks to wait."""

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
    answers = [SIGNED, unbounded(), busy, described(len(FILE)), unbounded()]
    transport = Counting(*answers)
    async with ExportClient("t", transport=transport) as client:
        await client.storage.download("f1", tmp_path / "f.ifc")
    assert (tmp_path / "f.ifc").read_bytes() == FILE
    assert (len(transport.requests), transport.open) == (len(answers), 0)


@pytest.mark.parametrize(
    ("size", "stop", "text"),
    [
        (None, None, "completeness cannot be verified"),
        (1300, 400, "ended after byte 400 of 1300"),
        (9, None, "received more than the 9 bytes that Storage"),
    ],
)
async def test_response_without_length_or_of_another_size_is_no_file(
    tmp_path: Path, size: int | None, stop: int | None, text: str
) -> None:
    def serve(request: Request) -> Response:
        if "blobs" in request.url:
            return unbounded(stop)
        return SIGNED if request.url.endswith("/download") else described(size)

    with pytest.raises(DownloadError, match=text):
        await fetch(tmp_path / "f.ifc", serve)
    assert not list(tmp_path.iterdir())


async def test_size_that_is_older_than_the_content_is_read_again(tmp_path: Path) -> None:
    size = len(FILE)
    transport = await fetch(tmp_path, described(7), SIGNED, blob(), described(size), blob())
    assert (tmp_path / "f.ifc").read_bytes() == FILE
    assert len(transport.requests) == 5
    transport = await fetch(tmp_path, described(size), SIGNED, blob())
    assert len(transport.requests) == 3


async def test_size_that_stays_different_is_an_error_before_any_byte(tmp_path: Path) -> None:
    progress: list[int] = []
    transport = Answers(described(7), SIGNED, blob(), described(9), blob())
    async with ExportClient("t", transport=transport) as client:
        with pytest.raises(DownloadError, match=r"has 1300 bytes, Storage reports 9") as caught:
            await client.storage.download(
                "f1", tmp_path, on_progress=lambda done, total: progress.append(done)
            )
    assert (caught.value.destination, caught.value.reason) == (str(tmp_path), "mismatch")
    assert (progress, os.listdir(tmp_path)) == ([], [])


async def test_chunks_of_less_than_the_size_in_storage_are_no_file(tmp_path: Path) -> None:
    """A proxy ends its response normally when its own connection breaks."""
    cut, size = unbounded(400, Transfer_Encoding=CHUNKED), described(len(FILE))
    with pytest.raises(DownloadError, match="ended after byte 400 of 1300"):
        await fetch(tmp_path, size, SIGNED, *[cut] * 9)
    with pytest.raises(DownloadError, match="ended after byte 400 of 1300"):
        await fetch(tmp_path / "g.ifc", SIGNED, cut, size, *[cut] * 9)
    assert not list(tmp_path.iterdir())


async def test_own_blob_without_a_length_is_refused(tmp_path: Path) -> None:
    transport = Answers(unbounded())
    async with ExportClient("t", transport=transport) as client:
        with pytest.raises(DownloadError, match="completeness cannot be verified") as caught:
            await client.storage.download_blob(BLOB, tmp_path / "f.ifc")
    assert caught.value.reason == "incomplete"
    assert len(transport.requests) == 1
    assert not list(tmp_path.iterdir())


async def raw_blob(path: Path, body: bytes, *headers: str, version: str = "HTTP/1.1") -> bool:
    """Whether a blob is downloaded whose connection ends after these bytes."""

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


@pytest.mark.usefixtures("integration")
async def test_end_of_a_connection_is_not_the_end_of_a_file(tmp_path: Path) -> None:
    chunked = f"Transfer-Encoding: {CHUNKED}"
    assert await raw_blob(tmp_path / "a.ifc", b"file", "Content-Length: 4")
    assert await raw_blob(tmp_path / "b.ifc", b"4\r\nfile\r\n0\r\n\r\n", chunked)
    assert await raw_blob(tmp_path / "c.ifc", b"file", f"Content-MD5: {digest(b'file')}")
    assert not await raw_blob(tmp_path / "d.ifc", b"fil", "Content-Length: 4")
    assert not await raw_blob(tmp_path / "e.ifc", b"4\r\nfile\r\n", chunked)
    assert not await raw_blob(tmp_path / "f.ifc", b"file")
    assert not await raw_blob(tmp_path / "g.ifc", b"file", "Connection: close")
    assert not await raw_blob(tmp_path / "h.ifc", b"file", "Connection: close, x")
    assert not await raw_blob(tmp_path / "i.ifc", b"file", version="HTTP/1.0")
    assert sorted(os.listdir(tmp_path)) == ["a.ifc", "b.ifc", "c.ifc"]


@pytest.mark.parametrize("location", ["http://blobs.example/f", "", "/f", "ftp://x/y"])
async def test_unsafe_redirect_is_not_followed(tmp_path: Path, location: str) -> None:
    with pytest.raises(ProtocolError, match="cannot be followed"):
        await fetch(tmp_path / "f.ifc", answer(302, Location=location))


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::1]"])
async def test_remote_api_may_not_redirect_to_this_machine(tmp_path: Path, host: str) -> None:
    transport = Answers(answer(302, Location=f"http://{host}:6379/CONFIG"), blob())
    async with ExportClient("t", transport=transport) as client:
        with pytest.raises(ProtocolError, match="cannot be followed"):
            await client.storage.download("f1", tmp_path / "f.ifc")
    assert len(transport.requests) == 1


async def test_name_from_storage_stays_in_the_folder(tmp_path: Path) -> None:
    transport = Answers(described(len(FILE), "../../etc/passwd"), SIGNED, blob())
    async with ExportClient("t", transport=transport) as client:
        assert await client.storage.download("f1", tmp_path) == tmp_path / "passwd"


async def test_name_from_storage_never_replaces_a_hidden_file(tmp_path: Path) -> None:
    (tmp_path / ".bashrc").write_text("mine")
    transport = Answers(described(len(FILE), ".bashrc"), SIGNED, blob())
    async with ExportClient("t", transport=transport) as client:
        assert await client.storage.download("f1", tmp_path) == tmp_path / "_bashrc"
    assert (tmp_path / ".bashrc").read_text() == "mine"


async def test_name_from_storage_replaces_only_what_this_client_wrote(tmp_path: Path) -> None:
    (tmp_path / "f.ifc").write_text("mine")
    answers = [described(len(FILE)), SIGNED, blob()]
    async with ExportClient("t", transport=Answers(*answers * 3)) as client:
        for _ in range(2):
            assert await client.storage.download("f1", tmp_path) == tmp_path / "f-2.ifc"
        (tmp_path / "f-2.ifc").write_text("mine now")
        assert await client.storage.download("f1", tmp_path) == tmp_path / "f-3.ifc"
    assert (tmp_path / "f.ifc").read_text() == "mine"
    assert (tmp_path / "f-2.ifc").read_text() == "mine now"


async def test_replaced_file_keeps_its_mode(tmp_path: Path) -> None:
    (tmp_path / "f.ifc").write_text("older")
    (tmp_path / "f.ifc").chmod(0o640)
    await fetch(tmp_path / "f.ifc", SIGNED, blob())
    assert (tmp_path / "f.ifc").stat().st_mode & 0o777 == 0o640
    assert (tmp_path / "f.ifc").read_bytes() == FILE


async def test_two_downloads_to_one_path_do_not_mix(tmp_path: Path) -> None:
    def serve(request: Request) -> Response:
        return blob() if "blobs" in request.url else SIGNED

    async with ExportClient("t", transport=Answers(serve)) as client:
        await asyncio.gather(*(client.storage.download("f1", tmp_path / "f.ifc") for _ in range(2)))
    assert (tmp_path / "f.ifc").read_bytes() == FILE
    assert os.listdir(tmp_path) == ["f.ifc"]


@pytest.mark.parametrize("wait", [0.0, 0.1])
async def test_exception_of_on_progress_propagates_and_leaves_nothing(
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
    """Each of its responses from a blob store breaks where it would end."""

    @asynccontextmanager
    async def stream(self, request: Request, /) -> AsyncIterator[StreamedResponse]:
        async with super().stream(request) as stream:

            async def chunks() -> AsyncIterator[bytes]:
                async for chunk in stream.chunks:
                    yield chunk
                raise TransportError(message="reset")

            yield StreamedResponse(response=stream.response, chunks=chunks())


async def test_break_after_the_last_byte_is_no_failure(tmp_path: Path) -> None:
    transport = Breaking(SIGNED, blob())
    async with ExportClient("t", transport=transport) as client:
        await client.storage.download("f1", tmp_path / "f.ifc")
    assert (tmp_path / "f.ifc").read_bytes() == FILE
    assert len(transport.requests) == 2


async def test_break_after_the_last_chunk_is_found_to_be_the_end(tmp_path: Path) -> None:
    """Only the refusal of a further range says that the chunk was the last one."""
    chunks = unbounded(Transfer_Encoding=CHUNKED, ETag='"1"', Content_MD5=digest(FILE))
    no_more = answer(416, "<Error/>", Content_Range=f"bytes */{len(FILE)}")
    transport = Breaking(chunks, no_more)
    async with ExportClient("t", transport=transport) as client:
        await client.storage.download_blob(BLOB, tmp_path / "f.ifc")
    assert (tmp_path / "f.ifc").read_bytes() == FILE
    assert transport.requests[-1].headers["Range"] == f"bytes={len(FILE)}-"


async def test_attempts_without_progress_come_to_an_end(tmp_path: Path) -> None:
    answers = [blob(0, 5, etag=""), blob(0, 6, etag="")] * 50
    with pytest.raises(DownloadError, match=r"attempt 5 of 5: .*ended after byte 6 of 1300"):
        await fetch(tmp_path / "f.ifc", SIGNED, *answers)


async def test_weak_etag_is_not_sent_and_the_repeated_bytes_are_compared(tmp_path: Path) -> None:
    answers = [SIGNED, blob(0, 500, etag='W/"1"'), blob(etag='W/"1"')]
    transport = await fetch(tmp_path / "f.ifc", *answers)
    assert {"If-Match", "Range"}.isdisjoint(transport.requests[2].headers)
    assert (tmp_path / "f.ifc").read_bytes() == FILE


async def test_file_without_etag_that_changed_is_read_again_from_the_start(tmp_path: Path) -> None:
    other = bytes(reversed(FILE))
    first, changed = blob(0, 500, etag=""), blob(etag="", data=other)
    transport = await fetch(tmp_path / "f.ifc", SIGNED, first, changed, SIGNED, changed)
    assert (tmp_path / "f.ifc").read_bytes() == other
    assert len(transport.requests) == 5


async def test_store_that_loses_its_etag_cannot_be_resumed_by_repetition(tmp_path: Path) -> None:
    first = answer(200, FILE[:500].decode(), ETag='"1"', Content_Length=str(len(FILE)))
    with pytest.raises(DownloadError, match="cannot be resumed"):
        await fetch(tmp_path / "f.ifc", SIGNED, first, blob(etag=""))


async def test_retry_after_of_a_blob_store_is_bounded(tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match="gave up after attempt 1 of 5: 503"):
        await fetch(tmp_path / "f.ifc", SIGNED, answer(503, Retry_After="1000000"))
    assert asyncio.get_running_loop().time() < 1


@pytest.mark.parametrize("encoding", ["gzip", "br, GZip", "x-gzip"])
async def test_compressed_response_is_no_file(tmp_path: Path, encoding: str) -> None:
    """Neither its length nor a break of its connection could be noticed."""
    encoded = answer(200, "decoded", Content_Encoding=encoding, Content_Length="3", ETag='"1"')
    with pytest.raises(DownloadError, match="is compressed although identity"):
        await fetch(tmp_path / "f.ifc", SIGNED, encoded)
    rest = blob(500)
    rest = answer(206, "rest", **{**rest.headers, "Content-Encoding": encoding})
    with pytest.raises(DownloadError, match="is compressed"):
        await fetch(tmp_path / "f.ifc", SIGNED, blob(0, 500), rest)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("encoding", ["identity", "", "utf-8"])
async def test_content_encoding_that_is_no_compression_is_ignored(
    tmp_path: Path, encoding: str
) -> None:
    whole = answer(200, "content", Content_Encoding=encoding, Content_Length="7")
    await fetch(tmp_path / "f.ifc", SIGNED, whole)
    assert (tmp_path / "f.ifc").read_text() == "content"


RUNNING = '{"run": {"id": "r1", "state": "Executing"}}'


async def test_slow_downloads_do_not_delay_polls(tmp_path: Path) -> None:
    class Stalled(Answers):
        async def send(self, request: Request, /) -> Response:
            if "blobs" in request.url:
                await asyncio.sleep(1e6)
            return SIGNED if "download" in request.url else answer(200, RUNNING)

    async with ExportClient("t", transport=Stalled(SIGNED)) as client:
        calls = [
            asyncio.create_task(client.storage.download("f1", tmp_path / f"{n}.ifc"))
            for n in range(150)
        ]
        await asyncio.sleep(10)
        async with asyncio.timeout(1):
            assert (await client.get_run("c1", "r1")).id == "r1"
        for call in calls:
            call.cancel()
        await asyncio.wait(calls)


async def test_cancelled_download_leaves_nothing(tmp_path: Path) -> None:
    class Stuck(Answers):
        @asynccontextmanager
        async def stream(self, request: Request, /) -> AsyncIterator[StreamedResponse]:
            async with super().stream(request) as stream:

                async def chunks() -> AsyncIterator[bytes]:
                    yield FILE[:500]
                    await asyncio.sleep(1e6)

                yield StreamedResponse(response=stream.response, chunks=chunks())

    async with ExportClient("t", transport=Stuck(SIGNED, blob())) as client:
        call = asyncio.create_task(client.storage.download("f1", tmp_path / "f.ifc"))
        await asyncio.sleep(10)
        assert len(os.listdir(tmp_path)) == 1
        assert not (tmp_path / "f.ifc").exists()
        call.cancel()
        await asyncio.wait([call])
    assert not os.listdir(tmp_path)


async def test_written_file_is_logged_with_path_size_and_seconds(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "itwin_export_async.files"):
        await fetch(tmp_path / "f.ifc", SIGNED, blob())
    (record,) = (record for record in caplog.records if "written" in record.getMessage())
    facts: dict[str, Any] = vars(record)["itwin"]
    assert (facts["path"], facts["size"]) == (str(tmp_path / "f.ifc"), len(FILE))
    assert facts["seconds"] >= 0


async def test_metadata_of_a_file_is_read(client: ExportClient, emulator: Emulator) -> None:
    file_id = emulator.add_file("plan.pdf", b"%PDF")
    stored = await client.storage.get_file(file_id)
    assert (stored.id, stored.display_name, stored.size) == (file_id, "plan.pdf", 4)
    assert not stored.is_folder


@pytest.mark.parametrize(
    ("answers", "text", "reason"),
    [
        ([answer(403)], "has expired or does not allow reading: 403", "refused"),
        ([answer(404)], "no such file: 404", "not_available"),
    ],
)
async def test_unreadable_own_blob_is_an_error_without_its_signature(
    tmp_path: Path, answers: list[Answer], text: str, reason: str
) -> None:
    transport = Answers(*answers)
    async with ExportClient("t", transport=transport) as client:
        with pytest.raises(DownloadError, match=text) as caught:
            await client.storage.download_blob(BLOB, tmp_path / "f.ifc")
    assert caught.value.reason == reason
    assert "planted" not in str(caught.value) + repr(caught.value)
    assert len(transport.requests) == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("url", ["http://blobs.example/f", "http://127.0.0.1/f", "f?sig=planted"])
async def test_url_of_an_own_blob_must_be_safe(
    client: ExportClient, tmp_path: Path, url: str
) -> None:
    with pytest.raises(ValueError, match="sas_url") as caught:
        await client.storage.download_blob(url, tmp_path)
    assert "planted" not in str(caught.value)


@pytest.mark.parametrize(("status", "is_transient"), [(503, True), (403, False), (400, False)])
async def test_failed_download_says_whether_a_later_one_may_succeed(
    tmp_path: Path, status: int, is_transient: bool
) -> None:
    def serve(request: Request) -> Response:
        return answer(status) if "blobs" in request.url else SIGNED

    with pytest.raises(DownloadError) as caught:
        await fetch(tmp_path / "f.ifc", serve)
    assert caught.value.is_transient is is_transient
