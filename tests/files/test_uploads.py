"""Files sent to Storage, in memory."""

import asyncio
import os
import threading
from pathlib import Path
from typing import Any

import pytest

from itwin_export_async import (
    ExportClient,
    InvalidRequest,
    NotFound,
    PermissionDenied,
    ProtocolError,
    TransportError,
    UploadError,
)
from itwin_export_async._files import upload as uploads
from itwin_export_async._protocol import blobs as uploading
from itwin_export_async.emulator import Emulator
from itwin_export_async.transport import Request, Response
from tests.support.fakes import Answers, answer

ITWIN = "c36c0051-0590-4282-be2f-ed3e8520ad01"
LINKS = (
    '{"_links": {"uploadUrl": {"href": "https://blobs.example.com/b?sig=a%2Fb%3D"},'
    ' "completeUrl": {"href": "https://api.bentley.com/storage/files/f1/complete"}}}'
)
STORED = '{"file": {"id": "f1", "displayName": "mapping.json", "size": 2}}'


@pytest.fixture
def folder(emulator: Emulator) -> str:
    """The root folder of an iTwin."""
    emulator.add_imodel("Bridge", itwin_id=ITWIN)
    return emulator.root_folder(ITWIN)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "mapping.json"
    path.write_bytes(b'{"Class": []}')
    return path


@pytest.fixture
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uploads, "PIECE", 10)


async def test_a_file_is_sent_and_listed(
    client: ExportClient, emulator: Emulator, folder: str, file: Path
) -> None:
    stored = await client.storage.upload(file, folder, description="how classes map")
    assert (stored.display_name, stored.size, stored.is_folder) == ("mapping.json", 13, False)
    assert stored.description == "how classes map"
    assert emulator.read_file(stored.id) == file.read_bytes()
    assert [item.id async for item in client.storage.list_folder(folder)] == [stored.id]
    assert await client.storage.download(stored.id, file.with_suffix(".back"))
    assert file.with_suffix(".back").read_bytes() == file.read_bytes()


@pytest.mark.usefixtures("small_pieces")
@pytest.mark.parametrize("size", [0, 9, 10, 11, 95, 100, 101])
async def test_a_large_file_is_sent_in_pieces(
    client: ExportClient, emulator: Emulator, folder: str, file: Path, size: int
) -> None:
    file.write_bytes(os.urandom(size))
    told: list[tuple[int, int | None]] = []
    stored = await client.storage.upload(
        file, folder, display_name="large.bin", on_progress=lambda *now: told.append(now)
    )
    assert emulator.read_file(stored.id) == file.read_bytes()
    assert told[0] == (0, size)
    assert told[-1] == (size, size)
    assert emulator.count("put_block") == (0 if size <= 10 else -(-size // 10))


@pytest.mark.usefixtures("small_pieces")
@pytest.mark.parametrize("size", [5, 50])
async def test_what_fails_in_passing_is_sent_again(
    client: ExportClient, emulator: Emulator, folder: str, file: Path, size: int
) -> None:
    file.write_bytes(os.urandom(size))
    kind = "put_blob" if size <= 10 else "put_block"
    emulator.inject(kind, answer(503), ConnectionResetError(), answer(500))
    emulator.inject("complete_file", ConnectionResetError(), apply_effect=True)
    stored = await client.storage.upload(file, folder)
    assert emulator.read_file(stored.id) == file.read_bytes()
    assert len(await client.storage.list_folder(folder)) == 1


async def test_an_expired_signature_is_asked_for_anew(
    client: ExportClient, emulator: Emulator, folder: str, file: Path
) -> None:
    emulator.inject("put_blob", answer(403), answer(403))
    stored = await client.storage.upload(file, folder)
    assert emulator.count("create_file") == 3
    assert [item.id async for item in client.storage.list_folder(folder)] == [stored.id]


async def test_a_lost_announcement_is_made_again(
    client: ExportClient, emulator: Emulator, folder: str, file: Path
) -> None:
    emulator.inject("create_file", ConnectionResetError(), apply_effect=True)
    stored = await client.storage.upload(file, folder)
    assert await client.storage.list_folder(folder) == (stored,)


async def test_a_signature_that_never_holds_is_given_up(
    client: ExportClient, emulator: Emulator, folder: str, file: Path
) -> None:
    emulator.inject("put_blob", *[answer(403)] * 5)
    with pytest.raises(UploadError, match=r"mapping\.json.*403") as caught:
        await client.storage.upload(file, folder)
    assert isinstance(caught.value.__cause__, PermissionDenied)
    assert await client.storage.list_folder(folder) == ()


async def test_a_store_that_refuses_is_told(
    client: ExportClient, emulator: Emulator, folder: str, file: Path
) -> None:
    emulator.inject("put_blob", answer(400))
    with pytest.raises(UploadError, match="400"):
        await client.storage.upload(file, folder)
    assert emulator.count("put_blob") == 1


async def test_what_storage_refuses_is_told(
    client: ExportClient, emulator: Emulator, folder: str, file: Path
) -> None:
    with pytest.raises(NotFound, match="FolderNotFound"):
        await client.storage.upload(file, "nowhere")
    with pytest.raises(InvalidRequest):
        await client.storage.upload(file, folder, display_name="a/b?.exe")
    assert emulator.count("put_blob") == 0


async def test_a_caller_without_rights_is_told_at_once(file: Path) -> None:
    transport = Answers(answer(403))
    async with ExportClient("token", transport=transport) as client:
        with pytest.raises(PermissionDenied):
            await client.storage.upload(file, "folder")
    assert len(transport.requests) == 1


async def test_the_token_stays_away_from_the_blob_store(file: Path) -> None:
    transport = Answers(answer(202, LINKS), answer(201), answer(200, STORED))
    async with ExportClient("token", transport=transport) as client:
        await client.storage.upload(file, "folder")
    create, put, complete = transport.requests
    assert "Authorization" in create.headers
    assert "Authorization" in complete.headers
    assert not {"Authorization", "Accept"} & set(put.headers)
    assert put.url == "https://blobs.example.com/b?sig=a%2Fb%3D"
    assert (complete.method, complete.body) == ("POST", None)


@pytest.mark.parametrize(
    "links",
    [
        LINKS.replace("https://api.bentley.com", "https://elsewhere.example.com"),
        LINKS.replace("https://blobs.", "http://blobs."),
    ],
)
async def test_foreign_addresses_get_neither_token_nor_bytes(file: Path, links: str) -> None:
    transport = Answers(answer(202, links))
    async with ExportClient("token", transport=transport) as client:
        with pytest.raises(ProtocolError):
            await client.storage.upload(file, "folder")
    assert len(transport.requests) == 1


async def test_a_completion_that_was_lost_and_then_refused_is_looked_at(file: Path) -> None:
    transport = Answers(
        answer(202, LINKS),
        answer(201),
        TransportError(message="reset"),
        answer(409),
        answer(200, STORED),
    )
    async with ExportClient("token", transport=transport) as client:
        stored = await client.storage.upload(file, "folder")
    assert stored.id == "f1"
    assert transport.requests[-1].url.endswith("/storage/files/f1")


async def test_a_completion_that_is_refused_is_told(file: Path) -> None:
    transport = Answers(answer(202, LINKS), answer(201), answer(422))
    async with ExportClient("token", transport=transport) as client:
        with pytest.raises(InvalidRequest):
            await client.storage.upload(file, "folder")


@pytest.mark.usefixtures("small_pieces")
@pytest.mark.parametrize("change", [b"longer than it was before it was sent", b"short", b"x" * 15])
async def test_a_file_that_changes_meanwhile_is_not_sent_as_if_whole(
    file: Path, change: bytes
) -> None:
    file.write_bytes(b"a" * 15)

    def changed(_: Request) -> Response:
        os.utime(file, ns=(1, 1))
        file.write_bytes(change)
        return answer(201)

    transport = Answers(answer(202, LINKS), changed, answer(201))
    async with ExportClient("token", transport=transport) as client:
        with pytest.raises(UploadError, match="changed"):
            await client.storage.upload(file, "folder")
    assert not any("complete" in request.url for request in transport.requests)


async def test_a_file_that_is_not_there_is_an_os_error(client: ExportClient) -> None:
    with pytest.raises(FileNotFoundError):
        await client.storage.upload("/no/such/file", "folder")


async def test_the_root_folder_is_found(client: ExportClient, folder: str) -> None:
    assert await client.storage.get_root_folder_id(ITWIN) == folder
    assert await client.storage.list_root_folder(ITWIN) == ()


async def test_folders_are_listed_page_by_page(
    client: ExportClient, emulator: Emulator, folder: str, file: Path
) -> None:
    names = [f"{n}.json" for n in range(5)]
    for name in names:
        await client.storage.upload(file, folder, display_name=name)
    pages = [page async for page in client.storage.list_folder(folder, page_size=2).pages()]
    assert [len(page) for page in pages] == [2, 2, 1]
    assert sorted(item.display_name for page in pages for item in page) == names
    assert len(await client.storage.list_root_folder(ITWIN)) == 5


def test_a_piece_is_no_larger_than_the_store_takes() -> None:
    assert uploading.PIECE <= 256 * 1024 * 1024


async def test_a_cancelled_upload_is_never_complete(
    client: ExportClient, emulator: Emulator, folder: str, file: Path
) -> None:
    emulator.latency = 1.0
    sending = asyncio.create_task(client.storage.upload(file, folder))
    await asyncio.sleep(1.5)
    sending.cancel()
    with pytest.raises(asyncio.CancelledError):
        await sending
    assert await client.storage.list_folder(folder) == ()


@pytest.mark.parametrize("there", [True, False])
async def test_an_upload_that_is_cancelled_while_it_opens_the_file_leaves_none_open(
    client: ExportClient, file: Path, monkeypatch: pytest.MonkeyPatch, there: bool
) -> None:
    opened: list[Any] = []
    may_open = threading.Event()
    truly_open: Any = Path.open

    def slowly(path: Path, *mode: str) -> Any:
        may_open.wait(5)
        opened.append(truly_open(path if there else path / "nowhere", *mode))
        return opened[-1]

    monkeypatch.setattr(Path, "open", slowly)
    sending = asyncio.create_task(client.storage.upload(file, "folder"))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    sending.cancel()
    may_open.set()
    with pytest.raises(asyncio.CancelledError):
        await sending
    await asyncio.to_thread(lambda: None)
    await asyncio.sleep(1)
    assert len(opened) == there
    assert all(one.closed for one in opened)
