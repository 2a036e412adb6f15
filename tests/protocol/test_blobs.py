"""Uploads: what Storage and the blob store are asked, and what their answers say."""

import base64
import hashlib
import json
import pickle
from functools import partial
from urllib.parse import parse_qs, unquote, urlsplit
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from itwin_export_async._errors import (
    ExportError,
    InvalidRequest,
    NotFound,
    PermissionDenied,
    ProtocolError,
    ServerError,
    UploadError,
)
from itwin_export_async._protocol.blobs import (
    Upload,
    complete_file_request,
    create_file_request,
    parse_completed_file,
    parse_created_file,
    parse_put,
    put_blob_request,
    put_block_list_request,
    put_block_request,
)
from itwin_export_async._protocol.messages import Response
from tests.support.samples import BASE, answer, example

BLOB = "https://blobs.example.com/c/b?sv=2017-04-17&sig=pl%2Fanted%3D&rscd=x%3B%20y%22&z=%7e"
COMPLETE = "https://api.bentley.com/storage/files/f%2F1/complete"
UPLOAD = Upload(file_id="f/1", upload_url=BLOB, complete_url=COMPLETE)


def told(upload_url: object = BLOB, complete_url: object = COMPLETE, status: int = 202) -> Upload:
    links = {"uploadUrl": {"href": upload_url}, "completeUrl": {"href": complete_url}}
    return parse_created_file(answer({"_links": links}, status), base_url=BASE)


def md5(content: bytes) -> str:
    return base64.b64encode(hashlib.md5(content, usedforsecurity=False).digest()).decode()


def test_a_file_is_announced() -> None:
    request = create_file_request("f/1", "map.json", None)
    assert (request.method, request.url) == ("POST", "/storage/folders/f%2F1/files")
    assert request.headers == {"Content-Type": "application/json"}
    assert request.retryable
    assert json.loads(request.body or b"") == {"displayName": "map.json"}
    described = create_file_request("f1", "ä/ö.json", "")
    assert json.loads(described.body or b"") == {"displayName": "ä/ö.json", "description": ""}


@pytest.mark.parametrize("folder", ["", " ", "..", "f\n", None, 7])
def test_what_is_no_folder_is_not_asked_for(folder: str) -> None:
    with pytest.raises((TypeError, ValueError), match="folder_id"):
        create_file_request(folder, "map.json", None)


@pytest.mark.parametrize(
    ("name", "description", "kind", "named"),
    [
        ("", None, ValueError, "display_name"),
        (" \t", None, ValueError, "display_name"),
        ("x" * 256, None, ValueError, "display_name"),
        (None, None, TypeError, "display_name"),
        (b"map.json", None, TypeError, "display_name"),
        (["map.json"], None, TypeError, "display_name"),
        ("map.json", 7, TypeError, "description"),
    ],
)
def test_a_name_that_cannot_be_is_not_sent(
    name: str, description: str | None, kind: type[Exception], named: str
) -> None:
    with pytest.raises(kind, match=named):
        create_file_request("f1", name, description)


def test_the_longest_name_is_sent() -> None:
    body = json.loads(create_file_request("f1", "ä" * 255, None).body or b"")
    assert body == {"displayName": "ä" * 255}


def test_the_address_of_the_bytes_is_kept_to_the_letter() -> None:
    upload = told()
    assert upload == UPLOAD
    assert put_blob_request(upload.upload_url, b"x").url == BLOB
    assert complete_file_request(upload).url == COMPLETE


@pytest.mark.parametrize(
    "complete_url",
    [COMPLETE, COMPLETE + "/", COMPLETE.replace("/files", "/v1/Files"), COMPLETE.upper(),
     COMPLETE + "?x=/files/f2/complete"],
)  # fmt: skip
def test_the_id_is_in_the_address_that_completes(complete_url: str) -> None:
    assert told(complete_url=complete_url).file_id.lower() == "f/1"


@pytest.mark.parametrize(
    "upload_url",
    [None, "", 7, "/c/b?sig=planted", "//blobs.example.com/b?sig=planted",
     "http://blobs.example.com/b?sig=planted", "ftp://blobs.example.com/b?sig=planted",
     "file:///etc/passwd", "https:///b?sig=planted", "https://[blobs/b?sig=planted",
     "https://blobs.example.com:99999/b?sig=planted", "https://blobs.example.com/b?sig=planted#x",
     "https://blobs.example.com/b?sig=planted\r\nX-Evil: 1", "https://blobs.example.com/b?sig=p q",
     "https://blobs.example.com/b?sig=planted\x00", " https://blobs.example.com/b?sig=planted",
     "https://user:planted@blobs.example.com/b?sig=planted"],
)  # fmt: skip
def test_bytes_go_to_no_address_that_is_not_safe(upload_url: object) -> None:
    with pytest.raises(ProtocolError) as caught:
        told(upload_url)
    assert caught.value.path == "_links.uploadUrl.href"
    assert "planted" not in str(caught.value) + repr(caught.value)


@pytest.mark.parametrize(
    "complete_url",
    [None, "", 7, "https://api.bentley.com/storage/files/complete",
     "https://api.bentley.com/storage/files//complete", "https://api.bentley.com/complete",
     "https://api.bentley.com/storage/files/f1", "https://api.bentley.com/storage/folders/f1/complete",
     "https://api.bentley.com/storage/files/%2E%2E/complete",
     "https://api.bentley.com/storage/files/%20/complete",
     "https://api.bentley.com/storage/files/f%0D%0A1/complete",
     "https://[api/storage/files/f1/complete",
     "https://api.bentley.com:99999/storage/files/f1/complete",
     "http://api.bentley.com/storage/files/f1/complete",
     "https://api.bentley.com/storage/files/f1/complete?x\r\nX-Evil: 1",
     "https://u:planted@api.bentley.com/storage/files/f1/complete",
     "https://elsewhere.example.com/storage/files/f1/complete",
     "https://api.bentley.com:8443/storage/files/f1/complete"],
)  # fmt: skip
def test_an_address_that_completes_no_file_is_no_answer(complete_url: object) -> None:
    with pytest.raises(ProtocolError) as caught:
        told(complete_url=complete_url)
    assert caught.value.path == "_links.completeUrl.href"
    assert "planted" not in str(caught.value) + repr(caught.value)


@pytest.mark.parametrize("body", [{}, {"_links": None}, {"_links": {"uploadUrl": None}}])
def test_an_announcement_without_links_is_no_answer(body: object) -> None:
    with pytest.raises(ProtocolError):
        parse_created_file(answer(body, 202), base_url=BASE)


@pytest.mark.parametrize(
    ("name", "status", "kind"),
    [
        ("storage.create_file.422.json", 422, InvalidRequest),
        ("storage.get_folder.404.json", 404, NotFound),
        ("platform.error.404.operation_not_found.json", 404, NotFound),
        ("storage.create_file.202.json", 303, ProtocolError),
    ],
)
def test_a_refusal_of_storage_is_an_error(name: str, status: int, kind: type[ExportError]) -> None:
    for read in (partial(parse_created_file, base_url=BASE), parse_completed_file):
        with pytest.raises(kind) as caught:
            read(answer(example(name), status))
        gateway = isinstance(caught.value, NotFound) and caught.value.is_gateway
        assert gateway == name.startswith("platform")


def test_a_file_is_completed_without_a_body_and_if_need_be_again() -> None:
    request = complete_file_request(UPLOAD)
    assert (request.method, request.url, request.body) == ("POST", COMPLETE, None)
    assert dict(request.headers) == {}
    assert request.retryable


def test_a_small_file_is_sent_whole() -> None:
    request = put_blob_request(BLOB, b"content")
    assert (request.method, request.url, request.body) == ("PUT", BLOB, b"content")
    assert request.headers == {
        "x-ms-blob-type": "BlockBlob",
        "Content-Type": "application/octet-stream",
        "Content-MD5": md5(b"content"),
    }
    assert request.retryable


def test_nothing_is_content_too() -> None:
    request = put_blob_request(BLOB, b"")
    assert request.body == b""  # None would leave the length of the body out
    assert request.headers["Content-MD5"] == "1B2M2Y8AsgTpgAmY7PhCfg=="


@given(st.integers(0, 49_999), st.integers(0, 49_999))
def test_parts_have_ids_of_one_length_that_any_query_can_hold(one: int, other: int) -> None:
    first, second = put_block_request(BLOB, one, b"1"), put_block_request(BLOB, other, b"2")
    assert first.url.startswith(f"{BLOB}&comp=block&blockid=")
    assert len(first.url) == len(second.url)
    assert (first.url == second.url) is (one == other)
    id = first.url.removeprefix(f"{BLOB}&comp=block&blockid=")
    assert id.isascii()
    assert not set(id) & set("+/=&#? ")
    assert len(base64.b64decode(unquote(id), validate=True)) <= 64


def test_a_part_is_sent_with_its_digest_and_nothing_else() -> None:
    request = put_block_request(BLOB, 3, b"part")
    assert (request.method, request.body, request.retryable) == ("PUT", b"part", True)
    assert request.headers == {"Content-MD5": md5(b"part")}


@pytest.mark.parametrize("blocks", [2, 3, 101])
def test_the_list_names_the_parts_in_order_as_they_were_sent(blocks: int) -> None:
    digest = hashlib.md5(b"whole", usedforsecurity=False).digest()
    request = put_block_list_request(BLOB, blocks, digest)
    assert (request.method, request.url) == ("PUT", f"{BLOB}&comp=blocklist")
    assert request.headers == {
        "Content-Type": "application/xml",
        "x-ms-blob-content-type": "application/octet-stream",
        "x-ms-blob-content-md5": md5(b"whole"),
        "Content-MD5": md5(request.body or b""),
    }
    listed = ElementTree.fromstring(request.body or b"")
    assert listed.tag == "BlockList"
    assert [part.tag for part in listed] == ["Latest"] * blocks
    sent = [put_block_request(BLOB, n, b"").url for n in range(blocks)]
    assert [part.text for part in listed] == [
        parse_qs(urlsplit(url).query)["blockid"][0] for url in sent
    ]


def test_an_address_without_a_query_gets_one() -> None:
    bare = "https://blobs.example.com/b"
    assert put_block_request(bare, 0, b"").url.startswith(f"{bare}?comp=block&blockid=")
    assert put_block_list_request(bare, 2, b"").url == f"{bare}?comp=blocklist"


@given(st.binary(max_size=20), st.integers(0, 9))
def test_the_blob_store_is_told_no_secret_but_the_address(content: bytes, number: int) -> None:
    for request in (
        put_blob_request(BLOB, content),
        put_block_request(BLOB, number, content),
        put_block_list_request(BLOB, number, content),
    ):
        assert {"authorization", "accept"}.isdisjoint(name.lower() for name in request.headers)
        assert request.url.startswith(BLOB)


@pytest.mark.parametrize("status", [200, 201])
def test_the_store_has_taken_it(status: int) -> None:
    parse_put(Response(status=status))


@pytest.mark.parametrize(
    ("status", "kind"),
    [(403, PermissionDenied), (404, NotFound), (400, InvalidRequest), (503, ServerError),
     (202, ProtocolError), (304, ProtocolError)],
)  # fmt: skip
def test_a_refusal_of_the_store_shows_no_signature(status: int, kind: type[ExportError]) -> None:
    text = f"<Error><Message>{BLOB.replace('&', '&amp;')}</Message></Error>".encode()
    with pytest.raises(kind) as caught:
        parse_put(Response(status=status, body=text, method="PUT", url=BLOB))
    shown = repr(caught.value) + str(caught.value) + pickle.dumps(caught.value).decode("latin-1")
    assert "anted" not in shown
    error = UploadError(message=str(caught.value), source="in/map.json")
    assert "in/map.json" in str(error)
    assert "anted" not in repr(error) + str(error)


def test_an_upload_shows_no_signature() -> None:
    upload = told(complete_url=f"{COMPLETE}?sig=planted")
    assert "anted" not in repr(upload) + str(upload)
    assert "f/1" in repr(upload)


def test_an_upload_error_shows_no_signature() -> None:
    error = UploadError(message=f"cannot send to {BLOB}", source="map.json")
    shown = repr(error) + str(error) + pickle.dumps(error).decode("latin-1")
    assert "anted" not in shown
    assert "cannot send to https://blobs.example.com/c/b?***" in shown


def test_a_completed_file_is_read() -> None:
    file = parse_completed_file(answer(example("storage.complete_file.200.json")))
    assert (file.display_name, file.size, file.is_folder) == ("test.txt", 8, False)
    with pytest.raises(ProtocolError):
        parse_completed_file(answer({"file": None}))
