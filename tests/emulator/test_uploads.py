"""Uploads to the emulator's Storage: an address, its filling whole or in blocks, the completion."""

import asyncio
import base64
import uuid
from collections.abc import Callable
from hashlib import md5
from typing import Any
from urllib.parse import quote, urlsplit

import pytest

from itwin_export_async._protocol.messages import Request, Response
from itwin_export_async.emulator import Emulator, run_virtual
from tests.emulator.shapes import read, shape

Example = Callable[[str], Any]
Caller = Any

ITWIN = str(uuid.UUID(int=77))


@pytest.fixture
def root(emulator: Emulator) -> str:
    emulator.add_imodel("Bridge", itwin_id=ITWIN)
    return emulator.root_folder(ITWIN)


@pytest.fixture
def addresses(call: Caller, root: str) -> tuple[str, str]:
    """Where a new file is to be put, and how it is completed."""
    return ask(call, root)


def ask(call: Caller, root: str, name: str = "test.txt") -> tuple[str, str]:
    answer = call("POST", f"/storage/folders/{root}/files", {"displayName": name})
    assert answer.status == 202
    links = read(answer)["_links"]
    return links["uploadUrl"]["href"], links["completeUrl"]["href"]


def put(emulator: Emulator, url: str, content: bytes = b"", **headers: str) -> Response:
    named = {name.replace("_", "-"): text for name, text in headers.items()}
    return emulator.handle(Request(method="PUT", url=url, headers=named, body=content or None))


def put_whole(emulator: Emulator, url: str, content: bytes, **headers: str) -> Response:
    return put(emulator, url, content, **({"x_ms_blob_type": "BlockBlob"} | headers))


def put_block(emulator: Emulator, url: str, block_id: str, content: bytes) -> Response:
    return put(emulator, f"{url}&comp=block&blockid={quote(block_id, safe='')}", content)


def put_list(emulator: Emulator, url: str, *block_ids: str, kind: str = "Latest") -> Response:
    blocks = "".join(f"<{kind}>{block_id}</{kind}>" for block_id in block_ids)
    body = f'<?xml version="1.0" encoding="utf-8"?><BlockList>{blocks}</BlockList>'
    return put(emulator, f"{url}&comp=blocklist", body.encode())


def refusal(answer: Response) -> tuple[int, str]:
    assert answer.headers["Content-Type"] == "application/xml"
    return answer.status, answer.headers["x-ms-error-code"]


def block_name(number: int) -> str:
    return base64.b64encode(f"block {number:03}".encode()).decode()


def md5_of(content: bytes) -> str:
    return base64.b64encode(md5(content, usedforsecurity=False).digest()).decode()


def test_upload_from_start_to_end(
    call: Caller, emulator: Emulator, root: str, example: Example
) -> None:
    body = example("storage.create_file.request")
    announced = call("POST", f"/storage/folders/{root}/files", body)
    assert announced.status == 202
    assert shape(read(announced)) == shape(example("storage.create_file.202"))
    upload, complete = (read(announced)["_links"][n]["href"] for n in ("uploadUrl", "completeUrl"))
    file_id = complete.split("/")[-2]
    created = put_whole(emulator, upload, b"12345678")
    assert (created.status, created.body) == (201, b"")
    assert created.headers["ETag"].startswith('"0x')
    assert created.headers["Content-MD5"] == md5_of(b"12345678")
    assert call("GET", f"/storage/files/{file_id}").status == 404
    assert read(call("GET", f"/storage/folders/{root}/files"))["files"] == []
    completed = call("POST", complete)
    assert completed.status == 200
    assert shape(read(completed)) == shape(example("storage.complete_file.200"))
    stored = read(completed)["file"]
    assert (stored["id"], stored["size"]) == (file_id, 8)
    assert (stored["displayName"], stored["description"]) == ("test.txt", "test file")
    assert (stored["path"], stored["parentFolderId"]) == ("test.txt", root)
    assert read(call("GET", f"/storage/files/{file_id}")) == read(completed)
    assert [f["id"] for f in read(call("GET", f"/storage/folders/{root}/files"))["files"]] == [
        file_id
    ]
    assert emulator.read_file(file_id) == b"12345678"
    location = call("GET", f"/storage/files/{file_id}/download").headers["Location"]
    got = emulator.handle(Request(method="GET", url=location))
    assert (got.status, got.body) == (200, b"12345678")
    assert got.headers["ETag"] == created.headers["ETag"]
    operations = [record.operation for record in emulator.requests]
    assert operations[:2] == ["create_file", "put_blob"]
    assert emulator.count("complete_file") == 1


def test_file_without_content_cannot_be_completed(
    call: Caller, emulator: Emulator, addresses: tuple[str, str], example: Example
) -> None:
    upload, complete = addresses
    answer = call("POST", complete)
    assert answer.status == 422
    assert read(answer)["error"]["code"] == "InvalidStorageRequest"
    put_whole(emulator, upload, b"x")
    assert call("POST", complete).status == 200
    assert call("POST", complete).status == 422
    for unknown in "nonsense", "A" * 43:
        stranger = call("POST", f"/storage/files/{unknown}/complete")
        assert stranger.status == 404
        assert read(stranger) == example("storage.get_file.404")


def test_an_empty_file_is_a_file(
    call: Caller, emulator: Emulator, addresses: tuple[str, str]
) -> None:
    upload, complete = addresses
    assert put_whole(emulator, upload, b"").status == 201
    assert read(call("POST", complete))["file"]["size"] == 0


def test_a_new_content_for_a_file(call: Caller, emulator: Emulator, example: Example) -> None:
    async def main() -> None:
        file_id = emulator.add_file("mapping.json", b"old", itwin_id=ITWIN)
        before = read(call("GET", f"/storage/files/{file_id}"))["file"]
        await asyncio.sleep(5)
        announced = call("POST", f"/storage/files/{file_id}/updatecontent")
        assert announced.status == 202
        assert shape(read(announced)) == shape(example("storage.update_file_content.202"))
        links = read(announced)["_links"]
        assert put_whole(emulator, links["uploadUrl"]["href"], b"newer").status == 201
        assert emulator.read_file(file_id) == b"old"
        after = read(call("POST", links["completeUrl"]["href"]))["file"]
        assert emulator.read_file(file_id) == b"newer"
        assert after["id"] == file_id
        assert after["createdDateTime"] == before["createdDateTime"]
        assert after["lastModifiedDateTime"] > before["lastModifiedDateTime"]
        unknown = call("POST", f"/storage/files/{'A' * 43}/updatecontent")
        assert unknown.status == 404

    run_virtual(main())


def test_a_deleted_file_is_gone(call: Caller, emulator: Emulator) -> None:
    path = f"/storage/files/{emulator.add_file('a', b'')}"
    deleted = call("DELETE", path)
    assert (deleted.status, deleted.body) == (204, b"")
    assert call("GET", path).status == call("DELETE", path).status == 404


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({"x_ms_blob_type": ""}, (400, "MissingRequiredHeader")),
        ({"x_ms_blob_type": "Block"}, (400, "InvalidHeaderValue")),
        ({"Authorization": "Bearer x"}, (400, "InvalidAuthenticationInfo")),
        ({"Content_MD5": md5_of(b"other")}, (400, "Md5Mismatch")),
    ],
)
def test_a_blob_is_put_with_the_right_headers_only(
    call: Caller,
    emulator: Emulator,
    addresses: tuple[str, str],
    headers: dict[str, str],
    expected: tuple[int, str],
) -> None:
    upload, complete = addresses
    assert refusal(put_whole(emulator, upload, b"x", **headers)) == expected
    assert call("POST", complete).status == 422
    assert put_whole(emulator, upload, b"x", Content_MD5=md5_of(b"x")).status == 201


def test_large_content_is_put_in_blocks(
    call: Caller, emulator: Emulator, addresses: tuple[str, str]
) -> None:
    upload, complete = addresses
    emulator.max_put_bytes = 10
    content = bytes(range(25))
    parts = [content[:10], content[10:20], content[20:]]
    assert refusal(put_whole(emulator, upload, content)) == (413, "RequestBodyTooLarge")
    assert refusal(put_block(emulator, upload, block_name(0), content))[0] == 413
    for number in (2, 0, 1):
        answer = put_block(emulator, upload, block_name(number), parts[number])
        assert (answer.status, answer.body) == (201, b"")
        assert answer.headers["Content-MD5"] == md5_of(parts[number])
        assert "ETag" not in answer.headers
    assert call("POST", complete).status == 422
    listed = put_list(emulator, upload, *(block_name(n) for n in range(3)))
    assert listed.status == 201
    assert "ETag" in listed.headers
    file_id = read(call("POST", complete))["file"]["id"]
    assert emulator.read_file(file_id) == content
    counts = [emulator.count(name) for name in ("put_blob", "put_block", "put_block_list")]
    assert counts == [1, 4, 1]


def test_blob_of_blocks_has_the_checksum_of_its_sender(emulator: Emulator) -> None:
    url = emulator.user_blob("a.ifc")
    put_block(emulator, url, block_name(0), b"x")
    body = f"<BlockList>\n <Uncommitted>{block_name(0)}</Uncommitted>\n</BlockList>".encode()
    put(emulator, f"{url}&comp=blocklist", body)
    assert "Content-MD5" not in emulator.handle(Request(method="GET", url=url)).headers
    put(emulator, f"{url}&comp=blocklist", b"<BlockList/>".replace(b"/>", b"></BlockList>"))
    assert emulator.handle(Request(method="GET", url=url)).body == b""
    put_block(emulator, url, block_name(0), b"x")
    put(emulator, f"{url}&comp=blocklist", body, x_ms_blob_content_md5="given")
    whole = emulator.handle(Request(method="GET", url=url))
    assert whole.headers["Content-MD5"] == "given"


def test_block_list_can_be_sent_twice(emulator: Emulator) -> None:
    url = emulator.user_blob("a.ifc")
    put_block(emulator, url, block_name(0), b"ab")
    put_block(emulator, url, block_name(1), b"cd")
    for _ in range(2):
        assert put_list(emulator, url, block_name(0), block_name(1)).status == 201
        assert emulator.handle(Request(method="GET", url=url)).body == b"abcd"
    put_block(emulator, url, block_name(1), b"CD")
    assert put_list(emulator, url, block_name(1), kind="Committed").status == 201
    assert emulator.handle(Request(method="GET", url=url)).body == b"cd"
    again = put_list(emulator, url, block_name(1), kind="Uncommitted")
    assert refusal(again) == (400, "InvalidBlockList")


def test_whole_blob_discards_uncommitted_blocks(emulator: Emulator) -> None:
    url = emulator.user_blob("a.ifc")
    put_block(emulator, url, block_name(0), b"x")
    put_whole(emulator, url, b"whole")
    assert refusal(put_list(emulator, url, block_name(0))) == (400, "InvalidBlockList")
    assert emulator.handle(Request(method="GET", url=url)).body == b"whole"


@pytest.mark.parametrize(
    ("query", "code"),
    [
        ("comp=block", "MissingRequiredQueryParameter"),
        ("comp=block&blockid=", "MissingRequiredQueryParameter"),
        ("comp=block&blockid=%25%25%25", "InvalidQueryParameterValue"),
        ("comp=block&blockid=abc", "InvalidQueryParameterValue"),
        ("comp=block&blockid=%C3%A4", "InvalidQueryParameterValue"),
        ("comp=block&blockid=" + "QUJD" * 22, "InvalidQueryParameterValue"),
        ("comp=block&blockid=QUJD", "InvalidBlobOrBlock"),
    ],
)
def test_block_ids_are_checked(emulator: Emulator, query: str, code: str) -> None:
    url = emulator.user_blob("a.ifc")
    put_block(emulator, url, block_name(0), b"x")
    assert refusal(put(emulator, f"{url}&{query}", b"x")) == (400, code)


@pytest.mark.parametrize(
    "body", [b"", b"<BlockList>", b"<BlockList><Newest>x</Newest></BlockList>"]
)
def test_block_list_must_be_xml(emulator: Emulator, body: bytes) -> None:
    answer = put(emulator, f"{emulator.user_blob('a')}&comp=blocklist", body)
    assert refusal(answer) == (400, "InvalidXmlDocument")


def test_blob_store_refuses_other_operations(emulator: Emulator) -> None:
    assert put(emulator, f"{emulator.user_blob('a')}&comp=tier").status == 404


def test_signed_url_grants_its_rights_only(
    call: Caller, emulator: Emulator, addresses: tuple[str, str]
) -> None:
    upload, _ = addresses
    got = emulator.handle(Request(method="GET", url=upload))
    assert refusal(got) == (403, "AuthorizationPermissionMismatch")
    download = call("GET", f"/storage/files/{emulator.add_file('a', b'')}/download")
    wrong = put_whole(emulator, download.headers["Location"], b"x")
    assert refusal(wrong) == (403, "AuthorizationPermissionMismatch")
    for damaged in (
        upload.replace("%2F", "/"),
        upload.replace("sp=cw", "sp=rcw"),
        f"{upload}&more=1",
        upload.partition("?")[0],
    ):
        assert refusal(put_whole(emulator, damaged, b"x")) == (403, "AuthenticationFailed")
        assert refusal(put_block(emulator, damaged, block_name(0), b"x"))[0] == 403


def test_url_of_an_upload_expires(call: Caller, emulator: Emulator, root: str) -> None:
    emulator.download_lifetime = 60.0

    async def main() -> None:
        upload, _ = ask(call, root)
        await asyncio.sleep(59)
        assert put_whole(emulator, upload, b"x").status == 201
        await asyncio.sleep(1)
        assert refusal(put_whole(emulator, upload, b"x")) == (403, "AuthenticationFailed")

    run_virtual(main())


def test_user_blob_can_be_read_and_written(emulator: Emulator) -> None:
    url = emulator.user_blob("exports/Brücke 1.ifc")
    assert urlsplit(url).netloc == "callersblobs.blob.core.windows.net"
    nothing = emulator.handle(Request(method="GET", url=url))
    assert refusal(nothing) == (404, "BlobNotFound")
    first = put_whole(emulator, url, b"one")
    second = put_whole(emulator, url, b"two")
    assert first.headers["ETag"] != second.headers["ETag"]
    got = emulator.handle(Request(method="GET", url=url))
    assert (got.body, got.headers["ETag"]) == (b"two", second.headers["ETag"])
    filled = emulator.user_blob("mapping.json", content=b"{}")
    assert emulator.handle(Request(method="GET", url=filled)).body == b"{}"
    elsewhere = emulator.user_blob("exports/Brücke 1.ifc", lifetime=5.0)
    assert emulator.handle(Request(method="GET", url=elsewhere)).body == b"two"


def start(call: Caller, emulator: Emulator, **options: object) -> str:
    connection_id = call.connect(emulator.add_imodel("Bridge"))
    options = {"location": "USER_BLOB_STORAGE"} | options
    location = call.start(connection_id, outputOptions=options)
    assert isinstance(location, str)
    return location


def test_export_writes_to_the_sas_url_at_its_end(call: Caller, emulator: Emulator) -> None:
    url = emulator.user_blob("bridge.ifc", content=b"older")
    logs = emulator.user_blob("bridge.log")

    async def main() -> None:
        location = start(call, emulator, outputSasUrl=url, logsSasUrl=logs, saveLogs=True)
        await asyncio.sleep(419)
        assert emulator.handle(Request(method="GET", url=url)).body == b"older"
        assert emulator.handle(Request(method="GET", url=logs)).status == 404
        await asyncio.sleep(2)
        run = read(call("GET", location))["run"]
        assert run["result"] == "Success"
        assert "exportOutputFileId" not in run["jobs"][0]["tasks"][0]
        written = emulator.handle(Request(method="GET", url=url))
        assert written.body.startswith(b"ISO-10303-21;")
        log = emulator.handle(Request(method="GET", url=logs)).body.decode().splitlines()
        assert log[0] == f"{run['startDateTime']} {run['id']} Queued"
        assert log[-1].endswith(f"{run['id']} Success")

    run_virtual(main())


def test_an_export_that_fails_writes_only_its_log(call: Caller, emulator: Emulator) -> None:
    url, logs = emulator.user_blob("bridge.ifc"), emulator.user_blob("bridge.log")
    imodel_id = emulator.add_imodel()
    emulator.plan_next_run(imodel_id, "Error", duration=1)
    options = {
        "location": "USER_BLOB_STORAGE",
        "outputSasUrl": url,
        "logsSasUrl": logs,
        "saveLogs": True,
    }

    async def main() -> None:
        call.start(call.connect(imodel_id), outputOptions=options)
        await asyncio.sleep(2)
        assert emulator.handle(Request(method="GET", url=url)).status == 404
        assert emulator.handle(Request(method="GET", url=logs)).body.endswith(b" Error\n")

    run_virtual(main())


@pytest.mark.parametrize(
    "case",
    ["expired", "read only", "damaged", "malformed", "missing", "logs expired", "logs missing"],
)
def test_an_export_fails_when_it_cannot_write(call: Caller, emulator: Emulator, case: str) -> None:
    async def main() -> None:
        good = emulator.user_blob("good")
        short = emulator.user_blob("short", lifetime=400.0)
        stored = emulator.add_file("a", b"")
        download = call("GET", f"/storage/files/{stored}/download").headers["Location"]
        options: dict[str, object] = {
            "expired": {"outputSasUrl": short},
            "read only": {"outputSasUrl": download},
            "damaged": {"outputSasUrl": good.replace("%2F", "/")},
            "malformed": {"outputSasUrl": "https://["},
            "missing": {},
            "logs expired": {"outputSasUrl": good, "saveLogs": True, "logsSasUrl": short},
            "logs missing": {"outputSasUrl": good, "saveLogs": True},
        }
        chosen = options[case]
        assert isinstance(chosen, dict)
        location = start(call, emulator, **chosen)
        await asyncio.sleep(421)
        run = read(call("GET", location))["run"]
        (job,) = run["jobs"]
        (task,) = job["tasks"]
        assert run["result"] == job["result"] == task["result"] == "Error"
        assert task["error"]["descriptionKey"] == "OutputNotWritable"
        assert task["error"]["canUserFix"] is True
        assert emulator.handle(Request(method="GET", url=good)).status == 404

    run_virtual(main())


def test_skipped_run_needs_no_sas_url(call: Caller, emulator: Emulator) -> None:
    imodel_id = emulator.add_imodel()
    emulator.plan_next_run(imodel_id, "Canceled", duration=1)

    async def main() -> None:
        options = {"location": "USER_BLOB_STORAGE"}
        location = call.start(call.connect(imodel_id), outputOptions=options)
        await asyncio.sleep(2)
        assert read(call("GET", location))["run"]["result"] == "Canceled"

    run_virtual(main())


def test_logs_sas_url_without_save_logs_saves_no_log(call: Caller, emulator: Emulator) -> None:
    url, logs = emulator.user_blob("bridge.ifc"), emulator.user_blob("bridge.log")

    async def main() -> None:
        start(call, emulator, outputSasUrl=url, logsSasUrl=logs)
        await asyncio.sleep(421)
        assert emulator.handle(Request(method="GET", url=url)).status == 200
        assert emulator.handle(Request(method="GET", url=logs)).status == 404

    run_virtual(main())
