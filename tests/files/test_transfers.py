"""Files over real sockets, to and from servers that misbehave."""

import asyncio
import os
import re
import resource
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiohttp import web
from attrs import define, field

from itwin_export_async import DownloadError, ExportClient, RetryPolicy
from tests.support.servers import web_server

pytestmark = pytest.mark.usefixtures("integration")

CONTENT = os.urandom(1_000_003)
SIGNATURE = "sig=a%2Fb%2Bc%3D"


@define
class Store:
    """Storage and its blob store behind one server, for one file in either direction.

    Each answer breaks off after `piece` bytes. `expires_after`: after how many uses an address is
    refused. `changes_after`: after how many of them the file is another one. `mute`: how many
    requests get no answer at all.
    """

    piece: int | None = None
    expires_after: int | None = None
    changes_after: int | None = None
    mute: int = 0
    delay: float = 0.0
    addresses: int = 0
    ranges: list[str | None] = field(factory=list)
    uses: int = 0
    received: dict[str, bytes] = field(factory=dict)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        assert ("Authorization" in request.headers) == request.path.startswith("/storage/")
        if request.method == "PUT":
            return await self._put(request)
        if request.path == "/storage/files/f1/download":
            self.addresses, self.uses = self.addresses + 1, 0
            location = f"http://{request.host}/blob?n={self.addresses}&{SIGNATURE}"
            return web.Response(status=302, headers={"Location": location})
        if request.path == "/storage/folders/d1/files":
            links = {
                "uploadUrl": {"href": f"http://{request.host}/blob?{SIGNATURE}"},
                "completeUrl": {"href": f"http://{request.host}/storage/files/f1/complete"},
            }
            return web.json_response({"_links": links}, status=202)
        if request.path == "/storage/files/f1/complete":
            return web.json_response({"file": {"id": "f1"}})
        return await self._get(request)

    async def _put(self, request: web.Request) -> web.Response:
        assert request.raw_path.startswith(f"/blob?{SIGNATURE}")
        assert "chunked" not in request.headers.get("Transfer-Encoding", "")
        self.received[
            request.query.get("blockid", request.query.get("comp", ""))
        ] = await request.read()
        await asyncio.sleep(self.delay)
        return web.Response(status=201)

    async def _get(self, request: web.Request) -> web.StreamResponse:
        assert request.raw_path.endswith(f"&{SIGNATURE}")
        if len(self.ranges) < self.mute:
            self.ranges.append(None)
            assert request.transport is not None
            request.transport.close()
            return web.Response()
        if self.uses == self.expires_after:
            return web.Response(status=403)
        self.uses += 1
        self.ranges.append(request.headers.get("Range"))
        changed = self.changes_after is not None and len(self.ranges) > self.changes_after
        tag = '"2"' if changed else '"1"'
        if request.headers.get("If-Match", tag) != tag:
            return web.Response(status=412)
        found = re.fullmatch(r"bytes=(\d+)-", request.headers.get("Range", ""))
        start = int(found[1]) if found else 0
        answer = web.StreamResponse(status=206 if found else 200, headers={"ETag": tag})
        if found:
            answer.headers["Content-Range"] = f"bytes {start}-{len(CONTENT) - 1}/{len(CONTENT)}"
        answer.content_length = len(CONTENT) - start
        await answer.prepare(request)
        end = len(CONTENT) if self.piece is None else start + self.piece
        await answer.write(CONTENT[start:end])
        if end < len(CONTENT):
            assert request.transport is not None
            request.transport.close()
        return answer


@asynccontextmanager
async def client_of(store: Store, **options: float) -> AsyncIterator[ExportClient]:
    async with (
        web_server(store.handle) as base_url,
        ExportClient(
            "token",
            base_url=base_url,
            retry=RetryPolicy(initial=0.001, maximum=0.001),
            request_timeout=options.get("request_timeout", 30.0),
        ) as client,
    ):
        yield client


async def test_a_download_cut_at_every_tenth_comes_to_the_same_bytes(tmp_path: Path) -> None:
    store = Store(piece=len(CONTENT) // 10)
    async with client_of(store) as client:
        path = await client.storage.download("f1", tmp_path / "a.ifc")
    assert path.read_bytes() == CONTENT
    starts = [0 if asked is None else int(asked[6:-1]) for asked in store.ranges]
    assert starts == [n * (len(CONTENT) // 10) for n in range(11)]
    assert os.listdir(tmp_path) == ["a.ifc"]


async def test_a_store_that_does_not_answer_is_asked_again(tmp_path: Path) -> None:
    store = Store(mute=2)
    async with client_of(store) as client:
        path = await client.storage.download("f1", tmp_path / "a.ifc")
    assert path.read_bytes() == CONTENT
    assert store.addresses > 1  # an idle connection that breaks is no news: aiohttp asks again


async def test_a_file_that_changes_meanwhile_is_not_mixed(tmp_path: Path) -> None:
    store = Store(piece=400_000, changes_after=1)
    async with client_of(store) as client:
        with pytest.raises(DownloadError, match=r"a\.ifc: the file changed"):
            await client.storage.download("f1", tmp_path / "a.ifc")
    assert os.listdir(tmp_path) == []
    assert len(store.ranges) == 2


async def test_a_signature_that_expires_halfway_is_asked_for_anew(tmp_path: Path) -> None:
    store = Store(piece=300_000, expires_after=2)
    async with client_of(store) as client:
        path = await client.storage.download("f1", tmp_path / "a.ifc")
    assert path.read_bytes() == CONTENT
    assert len(store.ranges) == 4


async def test_an_error_of_ones_own_is_not_taken_for_a_broken_connection(tmp_path: Path) -> None:
    def tell(done: int, total: int | None) -> None:
        raise BrokenPipeError

    store = Store()
    async with client_of(store) as client:
        with pytest.raises(BrokenPipeError):
            await client.storage.download("f1", tmp_path / "a.ifc", on_progress=tell)
    assert len(store.ranges) == 1
    assert os.listdir(tmp_path) == []


@pytest.fixture
def full_disk() -> Iterator[None]:
    """No file may grow beyond 200 kB."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.usefixtures("full_disk")
async def test_a_disk_without_room_is_told_and_nothing_is_left(tmp_path: Path) -> None:
    async with client_of(Store()) as client:
        with pytest.raises(DownloadError, match=r"a\.ifc: cannot be written: File too large"):
            await client.storage.download("f1", tmp_path / "a.ifc")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("size", [0, 1, 3_000_000])
async def test_an_upload_goes_out_whole(tmp_path: Path, size: int) -> None:
    file = tmp_path / "a.dgn"
    file.write_bytes(os.urandom(size))
    store = Store()
    async with client_of(store) as client:
        stored = await client.storage.upload(file, "d1")
    assert stored.id == "f1"
    assert store.received == {"": file.read_bytes()}


async def test_a_large_upload_may_take_longer_than_a_small_request(tmp_path: Path) -> None:
    file = tmp_path / "a.dgn"
    file.write_bytes(os.urandom(100_000))
    async with client_of(Store(delay=1.3), request_timeout=1.0) as client:
        assert (await client.storage.upload(file, "d1")).id == "f1"
