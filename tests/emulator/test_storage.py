"""Downloads from the emulator: the redirect, and the blob store behind it."""

import asyncio
import base64
import json
import uuid
from collections.abc import Callable
from hashlib import md5
from typing import Any

import pytest

from itwin_export_async._protocol.messages import Request, Response
from itwin_export_async.emulator import Emulator, run_virtual

Example = Callable[[str], Any]
Caller = Any

CONTENT = bytes(range(256)) * 4


def shape(value: object) -> object:
    if isinstance(value, dict):
        return {name: shape(inner) for name, inner in value.items()}
    return type(value).__name__


@pytest.fixture
def file_id(emulator: Emulator) -> str:
    return emulator.add_file("Brücke 1.ifc", CONTENT)


@pytest.fixture
def address(call: Caller, file_id: str) -> str:
    answer: Response = call("GET", f"/storage/files/{file_id}/download")
    assert (answer.status, answer.body) == (302, b"")
    return answer.headers["Location"]


def fetch(emulator: Emulator, url: str, **headers: str) -> Response:
    named = {name.replace("_", "-"): text for name, text in headers.items()}
    return emulator.handle(Request(method="GET", url=url, headers=named))


async def finished_run(call: Caller, imodel_id: str, **members: object) -> str:
    """The output of a run that has just ended."""
    location = call.start(call.connect(imodel_id), **members)
    await asyncio.sleep(420)
    run = json.loads(call("GET", location).body)["run"]
    output = run["jobs"][0]["tasks"][0]["exportOutputFileId"]
    assert isinstance(output, str)
    return output


def composite(container: str, own: str) -> str:
    both = uuid.UUID(container).bytes_le + uuid.UUID(own).bytes_le
    return base64.urlsafe_b64encode(both).decode()[:43]


def test_metadata_have_the_documented_members(call: Caller, file_id: str, example: Example) -> None:
    answer = call("GET", f"/storage/files/{file_id}")
    assert answer.status == 200
    payload = json.loads(answer.body)
    assert shape(payload) == shape(example("storage.get_file.200"))
    assert payload["file"]["id"] == file_id
    assert payload["file"]["displayName"] == "Brücke 1.ifc"
    assert payload["file"]["size"] == len(CONTENT)
    assert payload["file"]["createdDateTime"].endswith("+00:00")


@pytest.mark.parametrize("suffix", ["", "/download"])
@pytest.mark.parametrize("unknown", ["nonsense", "ä!", str(uuid.UUID(int=1)), "A" * 43])
def test_an_unknown_file_is_not_found(
    call: Caller, example: Example, suffix: str, unknown: str
) -> None:
    answer = call("GET", f"/storage/files/{unknown}{suffix}")
    assert answer.status == 404
    assert json.loads(answer.body) == example("storage.get_file.404")


def test_a_file_is_not_found_in_another_container(call: Caller, file_id: str) -> None:
    own = base64.urlsafe_b64decode(file_id + "=")[16:]
    elsewhere = composite(str(uuid.UUID(int=1)), str(uuid.UUID(bytes_le=own)))
    assert call("GET", f"/storage/files/{elsewhere}").status == 404


@pytest.mark.parametrize(
    "accept", ["application/vnd.bentley.itwin-platform.v1+octet-stream", "*/*", ""]
)
def test_a_download_may_be_asked_for_as_bytes(call: Caller, file_id: str, accept: str) -> None:
    path = f"/storage/files/{file_id}/download"
    assert call("GET", path, headers={"Accept": accept}).status == 302


def test_the_output_of_a_run_is_found_under_both_its_ids(call: Caller, emulator: Emulator) -> None:
    itwin_id = str(uuid.UUID(int=77))
    imodel_id = emulator.add_imodel("Bridge", itwin_id=itwin_id)

    async def main() -> None:
        output = await finished_run(call, imodel_id, outputOptions={"folderId": "here"})
        assert len(output) == 36
        plain = call("GET", f"/storage/files/{output}")
        paired = call("GET", f"/storage/files/{composite(itwin_id, output)}")
        assert plain.status == paired.status == 200
        assert plain.body == paired.body
        described = json.loads(plain.body)["file"]
        assert described["displayName"] == "Bridge.ifc"
        assert described["parentFolderId"] == "here"
        location = call("GET", f"/storage/files/{output}/download").headers["Location"]
        assert fetch(emulator, location).body == emulator.read_file(output)
        emulator.accept_plain_file_ids = False
        assert call("GET", f"/storage/files/{output}").status == 404
        assert call("GET", f"/storage/files/{composite(itwin_id, output)}").status == 200
        assert emulator.read_file(output) == emulator.read_file(composite(itwin_id, output))

    run_virtual(main())


def test_output_is_absent_before_the_end_of_its_run(call: Caller, emulator: Emulator) -> None:
    emulator.output_visibility_delay = 3.0

    async def main() -> None:
        output = await finished_run(call, emulator.add_imodel())
        assert call("GET", f"/storage/files/{output}").status == 404
        await asyncio.sleep(3)
        assert call("GET", f"/storage/files/{output}").status == 200

    run_virtual(main())


def test_a_pdf_export_is_a_pdf(call: Caller, emulator: Emulator) -> None:
    async def main() -> None:
        output = await finished_run(call, emulator.add_imodel(), exportType="PDF")
        content = emulator.read_file(output)
        start = int(content.split(b"startxref\n")[1].split()[0])
        assert content.startswith(b"%PDF-1.4\n")
        assert content[start:].startswith(b"xref\n0 5\n")
        for line in content[start:].splitlines()[3:7]:
            assert content[int(line[:10]) :][1:6] == b" 0 ob"

    run_virtual(main())


def test_unknown_file_has_no_content(emulator: Emulator) -> None:
    with pytest.raises(KeyError):
        emulator.read_file("nonsense")


def test_signed_url_gives_the_file(emulator: Emulator, address: str) -> None:
    answer = fetch(emulator, address)
    assert (answer.status, answer.body) == (200, CONTENT)
    assert answer.headers["Content-Length"] == str(len(CONTENT))
    checksum = base64.b64encode(md5(CONTENT, usedforsecurity=False).digest()).decode()
    assert answer.headers["Content-MD5"] == checksum
    assert answer.headers["ETag"].startswith('"0x')
    assert answer.headers["Content-Disposition"].endswith("Br%C3%BCcke%201.ifc")


def test_signature_breaks_when_its_url_is_encoded_again(emulator: Emulator, address: str) -> None:
    signature = address.partition("&sig=")[2]
    assert "%2F" in signature
    assert "%2B" in signature
    for damaged in (
        address.replace("%2F", "/"),
        address.replace("%2B", "+"),
        address.replace("%2B", "%2b"),
        address.replace("%3A", ":"),
        address.replace("sr=b", "sr=c"),
        address + "&more=1",
        address.partition("?")[0],
    ):
        assert damaged != address
        answer = fetch(emulator, damaged)
        assert answer.status == 403
        assert answer.headers["x-ms-error-code"] == "AuthenticationFailed"


def test_signature_grants_one_file(emulator: Emulator, address: str) -> None:
    base, _, query = address.partition("?")
    other = emulator.add_file("other", b"")
    own = str(uuid.UUID(bytes_le=base64.urlsafe_b64decode(other + "=")[16:]))
    assert fetch(emulator, f"{base.rpartition('/')[0]}/{own}?{query}").status == 403
    assert fetch(emulator, f"{base}0?{query}").status == 403


def test_a_signature_expires(call: Caller, emulator: Emulator) -> None:
    emulator.download_lifetime = 60.0

    async def main() -> None:
        file_id = emulator.add_file("a", CONTENT)
        location = call("GET", f"/storage/files/{file_id}/download").headers["Location"]
        await asyncio.sleep(59)
        assert fetch(emulator, location).status == 200
        await asyncio.sleep(1)
        assert fetch(emulator, location).status == 403

    run_virtual(main())


def test_blobs_refuse_a_bearer_token(emulator: Emulator, address: str) -> None:
    answer = fetch(emulator, address, authorization="Bearer x")
    assert answer.status == 400
    assert answer.headers["Content-Type"] == "application/xml"


@pytest.mark.parametrize(
    ("requested", "first", "last"),
    [("bytes=0-0", 0, 0), ("bytes=1000-", 1000, 1023), ("bytes=10-5000", 10, 1023)],
)
def test_range_gives_a_part_of_a_blob(
    emulator: Emulator, address: str, requested: str, first: int, last: int
) -> None:
    tag = fetch(emulator, address).headers["ETag"]
    answer = fetch(emulator, address, Range=requested, If_Match=tag)
    assert answer.status == 206
    assert answer.body == CONTENT[first : last + 1]
    assert answer.headers["Content-Range"] == f"bytes {first}-{last}/1024"
    assert answer.headers["Content-Length"] == str(len(answer.body))
    assert "Content-MD5" not in answer.headers
    assert answer.headers["ETag"] == tag


@pytest.mark.parametrize("requested", ["bytes=1024-", "bytes=9-3"])
def test_range_beyond_the_end_is_a_416(emulator: Emulator, address: str, requested: str) -> None:
    answer = fetch(emulator, address, Range=requested)
    assert answer.status == 416
    assert answer.headers["Content-Range"] == "bytes */1024"


def test_malformed_range_is_ignored(emulator: Emulator, address: str) -> None:
    assert fetch(emulator, address, Range="lines=1-2").status == 200


def test_changed_blob_fails_if_match(emulator: Emulator, address: str) -> None:
    assert fetch(emulator, address, Range="bytes=5-", If_Match='"0xOLD"').status == 412
