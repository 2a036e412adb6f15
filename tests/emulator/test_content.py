"""Files of any length in the emulator, which take no memory."""

import asyncio
import tracemalloc
from collections.abc import Callable
from hashlib import md5
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import pytest
from hypothesis import given
from hypothesis import strategies as st
from yarl import URL

from itwin_export_async._protocol.messages import Request
from itwin_export_async.emulator import Emulator, SparseContent, run_virtual

Caller = Any

GIB = 1024**3
SIZE = 50_000
CONTENT = SparseContent(SIZE)
WHOLE = CONTENT[:]


@given(st.integers(0, SIZE + 10), st.integers(0, SIZE + 10))
def test_slice_of_a_content_equals_the_slice_of_its_bytes(first: int, stop: int) -> None:
    assert CONTENT[first:stop] == WHOLE[first:stop]


def test_content_has_its_configured_size() -> None:
    assert len(WHOLE) == len(CONTENT) == SIZE
    assert SparseContent(0)[:] == b""
    assert len(SparseContent(5000 * GIB)) == 5000 * GIB
    with pytest.raises(ValueError, match="size"):
        SparseContent(-1)


def test_parts_of_a_content_differ() -> None:
    blocks = [WHOLE[start : start + 4096] for start in range(0, SIZE, 4096)]
    assert len(set(blocks)) == len(blocks)
    assert SparseContent(SIZE)[:] == WHOLE
    assert SparseContent(SIZE, seed=1)[:] != WHOLE
    assert SparseContent(2**40)[2**40 - 5 :] != WHOLE[-5:]


def test_slice_of_a_content_has_step_1() -> None:
    with pytest.raises(ValueError, match="step 1, got 2"):
        CONTENT[::2]


def address_of(call: Caller, emulator: Emulator, content: SparseContent) -> str:
    file_id = emulator.add_file("large.ifc", content)
    location = call("GET", f"/storage/files/{file_id}/download").headers["Location"]
    assert isinstance(location, str)
    return location


def test_sparse_file_has_no_checksum(call: Caller, emulator: Emulator) -> None:
    url = address_of(call, emulator, CONTENT)
    answer = emulator.handle(Request(method="GET", url=url))
    assert answer.body == WHOLE
    assert answer.headers["Content-Length"] == str(SIZE)
    assert "ETag" in answer.headers
    assert "Content-MD5" not in answer.headers
    part = {"Range": "bytes=4090-40000"}
    answer = emulator.handle(Request(method="GET", url=url, headers=part))
    assert answer.status == 206
    assert answer.body == WHOLE[4090:40001]
    assert answer.headers["Content-Range"] == f"bytes 4090-40000/{SIZE}"
    assert "x-ms-blob-content-md5" not in answer.headers
    file_id = emulator.add_file("a", CONTENT)
    assert emulator.read_file(file_id) == WHOLE
    assert b'"size": 50000' in call("GET", f"/storage/files/{file_id}").body


def test_large_file_is_streamed_in_flat_memory(call: Caller, emulator: Emulator) -> None:
    url = address_of(call, emulator, SparseContent(2 * GIB))
    end = {"Range": f"bytes={2 * GIB - 40_000_000}-"}

    async def main() -> int:
        request = Request(method="GET", url=url, headers=end)
        async with emulator.stream(request) as stream:
            assert stream.response.status == 206
            assert stream.response.body == b""
            return sum([len(piece) async for piece in stream.chunks])

    tracemalloc.start()
    try:
        assert run_virtual(main()) == 40_000_000
        assert tracemalloc.get_traced_memory()[1] < 4_000_000
    finally:
        tracemalloc.stop()


def test_injected_answer_is_streamed_too(call: Caller, emulator: Emulator) -> None:
    async def main() -> None:
        request = call.request("GET", "/export/connections")
        async with emulator.stream(request) as stream:
            assert stream.response.status == 422
            assert b"".join([piece async for piece in stream.chunks]).startswith(b'{"error"')

    run_virtual(main())


@pytest.mark.usefixtures("integration")
async def test_large_file_is_served_in_flat_memory(
    caller_of: Callable[[Emulator], Any],
) -> None:
    emulator = Emulator()
    content = SparseContent(48 * 1024**2)
    digest, expected = md5(usedforsecurity=False), md5(usedforsecurity=False)
    for start in range(0, content.size, 1024**2):
        expected.update(content[start : start + 1024**2])
    async with emulator.serve() as served, aiohttp.ClientSession() as http:
        call = caller_of(emulator)
        file_id = emulator.add_file("large.ifc", content)
        path = f"{served.base_url}/storage/files/{file_id}/download"
        url = URL(call("GET", path).headers["Location"], encoded=True)
        tracemalloc.start()
        try:
            async with http.get(url) as answer:
                assert answer.status == 200
                assert answer.headers["Content-Length"] == str(content.size)
                async for piece in answer.content.iter_any():
                    digest.update(piece)
            assert tracemalloc.get_traced_memory()[1] < 8_000_000
        finally:
            tracemalloc.stop()
    assert digest.digest() == expected.digest()


@pytest.mark.usefixtures("integration")
async def test_uploads_and_own_blobs_over_real_sockets() -> None:
    emulator = Emulator()
    emulator.max_put_bytes = 1000
    async with emulator.serve(), aiohttp.ClientSession() as http:
        url = URL(emulator.user_blob("a b.ifc"), encoded=True)
        put = {"x-ms-blob-type": "BlockBlob"}
        async with http.put(url, data=b"x" * 1001, headers=put) as answer:
            assert answer.status == 413
        async with http.put(url, data=b"content", headers=put) as answer:
            assert (answer.status, await answer.read()) == (201, b"")
        async with http.get(url) as answer:
            assert (answer.status, await answer.read()) == (200, b"content")
    assert emulator.count("put_blob") == 2


@pytest.mark.usefixtures("integration")
async def test_client_that_disconnects_is_no_error(
    caplog: pytest.LogCaptureFixture, caller_of: Callable[[Emulator], Any]
) -> None:
    emulator = Emulator()
    async with emulator.serve() as served:
        call = caller_of(emulator)
        file_id = emulator.add_file("large.ifc", SparseContent(2 * GIB))
        path = f"{served.base_url}/storage/files/{file_id}/download"
        location = urlsplit(call("GET", path).headers["Location"])
        reader, writer = await asyncio.open_connection(location.hostname, location.port)
        request = f"GET {location.path}?{location.query} HTTP/1.1\r\nHost: blobs\r\n\r\n"
        writer.write(request.encode())
        assert (await reader.readline()).startswith(b"HTTP/1.1 200")
        writer.transport.abort()
        async with aiohttp.ClientSession() as http, http.get(f"{served.base_url}/x") as answer:
            assert answer.status == 404
    assert caplog.records == []
