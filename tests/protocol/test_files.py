"""The Storage API: files and their URLs, uploads, and two ids for one file."""

import base64
import json
import uuid
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from itwin_export_async._errors import ExportError, InvalidRequest, NotFound, ProtocolError
from itwin_export_async._models import StoredFile
from itwin_export_async._protocol.blobs import put_blob_request
from itwin_export_async._protocol.files import (
    Upload,
    complete_file_request,
    composite_id,
    create_file_request,
    download_file_request,
    get_file_request,
    parse_completed_file,
    parse_created_file,
    parse_download,
    parse_file,
    update_content_request,
)
from tests.support.samples import BASE, answer, example

BLOB = "https://blobs.example.com/c/b?sv=2017-04-17&sig=pl%2Fanted%3D&rscd=x%3B%20y%22&z=%7e"
COMPLETE = "https://api.bentley.com/storage/files/f%2F1/complete"
UPLOAD = Upload(file_id="f/1", upload_url=BLOB, complete_url=COMPLETE)
LOCAL = "http://127.0.0.1:8080"
SIGNED = (
    "https://blobs.example.com/a%2Fb/c.ifc?sv=2017&sig=4Nf%2FoEP%2BPo%3D&se=2020-10-19T15:12:51Z"
)


@pytest.mark.parametrize(
    ("container", "own", "packed"),
    [
        (
            "a0471655-6b18-419e-ab01-ebf4fbff9dff",
            "bcca2f1c-81e3-46a5-91ae-7053debb43b3",
            "VRZHoBhrnkGrAev0-_-d_xwvyrzjgaVGka5wU967Q7M",
        ),
        (
            "c36c0051-0590-4282-be2f-ed3e8520ad01",
            "c36c0051-0590-4282-be2f-ed3e8520ad01",
            "UQBsw5AFgkK-L-0-hSCtAVEAbMOQBYJCvi_tPoUgrQE",
        ),
    ],
)
def test_composite_id_packs_two_guids(container: str, own: str, packed: str) -> None:
    assert composite_id(container, own) == packed


@given(st.uuids(), st.uuids())
def test_composite_id_gives_both_guids_back(container: uuid.UUID, own: uuid.UUID) -> None:
    packed = composite_id(str(container), str(own))
    assert packed is not None
    assert len(packed) == 43
    raw = base64.urlsafe_b64decode(packed + "=")
    assert uuid.UUID(bytes_le=raw[:16]) == container
    assert uuid.UUID(bytes_le=raw[16:]) == own


@pytest.mark.parametrize(
    ("container", "own"),
    [
        (None, str(uuid.UUID(int=1))),
        ("", str(uuid.UUID(int=1))),
        (str(uuid.UUID(int=1)), ""),
        (str(uuid.UUID(int=1)), "TYJsPN0xtkWId0yUrXkS5pN5AQzuullIkxz5aDnDJSI"),
        ("no guid", "no guid"),
    ],
)
def test_text_that_is_no_guid_has_no_composite_id(container: str | None, own: str) -> None:
    assert composite_id(container, own) is None


def test_id_is_one_segment_of_the_path() -> None:
    assert get_file_request("a/b").url == "/storage/files/a%2Fb"
    assert download_file_request("a/b").url == "/storage/files/a%2Fb/download"
    assert "octet-stream" in download_file_request("f1").headers["Accept"]


def test_metadata_of_a_file_or_an_error_is_read() -> None:
    body = {"file": {"id": "f1", "displayName": "a.ifc", "size": 9}}
    assert parse_file(answer(body)) == StoredFile(id="f1", display_name="a.ifc", size=9)
    with pytest.raises(NotFound):
        parse_file(answer({}, 404))


@pytest.mark.parametrize("status", [302, 303, 307])
def test_signed_url_is_kept_byte_for_byte(status: int) -> None:
    assert parse_download(answer(b"", status, Location=SIGNED), base_url=BASE) == SIGNED


@pytest.mark.parametrize(
    "location",
    ["http://blobs.example.com/x?sig=planted", "http://127.0.0.1/x?sig=planted", "ftp://blobs.example.com/x?sig=planted",
     "/x?sig=planted", "", "https://", "https://[bad?sig=planted", "https://h:port/?sig=planted",
     "https://user:planted@h/x", "https://h/x?sig=planted#part", "https://h/x y?sig=planted"],
)  # fmt: skip
def test_unsafe_redirect_is_a_protocol_error(location: str) -> None:
    with pytest.raises(ProtocolError) as caught:
        parse_download(answer(b"", 302, Location=location), base_url=BASE)
    assert "planted" not in str(caught.value)


def test_redirect_without_a_url_is_a_protocol_error() -> None:
    with pytest.raises(ProtocolError):
        parse_download(answer(b"", 302), base_url=BASE)
    with pytest.raises(ProtocolError):
        parse_download(answer(b"content", 200), base_url=BASE)
    with pytest.raises(NotFound):
        parse_download(answer({}, 404), base_url=BASE)


@pytest.mark.parametrize("base_url", [LOCAL, "https://localhost"])
def test_plain_http_to_this_machine_is_for_an_api_on_this_machine(base_url: str) -> None:
    location = f"{LOCAL}/blob?sig=x"
    assert parse_download(answer(b"", 302, Location=location), base_url=base_url) == location
    links = {
        "uploadUrl": {"href": location},
        "completeUrl": {"href": f"{base_url}/files/f/complete"},
    }
    created = parse_created_file(answer({"_links": links}, 202), base_url=base_url)
    assert created.upload_url == location


def created(
    upload_url: object = BLOB, complete_url: object = COMPLETE, status: int = 202
) -> Upload:
    links = {"uploadUrl": {"href": upload_url}, "completeUrl": {"href": complete_url}}
    return parse_created_file(answer({"_links": links}, status), base_url=BASE)


def test_file_is_created_by_its_name() -> None:
    request = create_file_request("f/1", "map.json", None)
    assert (request.method, request.url) == ("POST", "/storage/folders/f%2F1/files")
    assert request.headers == {"Content-Type": "application/json"}
    assert request.retryable
    assert json.loads(request.body or b"") == {"displayName": "map.json"}
    described = create_file_request("f1", "ä/ö.json", "")
    assert json.loads(described.body or b"") == {"displayName": "ä/ö.json", "description": ""}


@pytest.mark.parametrize("folder", ["", " ", "..", "f\n", None, 7])
def test_invalid_folder_id_is_refused(folder: str) -> None:
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
def test_invalid_name_is_refused(
    name: str, description: str | None, kind: type[Exception], named: str
) -> None:
    with pytest.raises(kind, match=named):
        create_file_request("f1", name, description)


def test_longest_name_is_sent() -> None:
    body = json.loads(create_file_request("f1", "ä" * 255, None).body or b"")
    assert body == {"displayName": "ä" * 255}


def test_upload_url_is_kept_byte_for_byte() -> None:
    upload = created()
    assert upload == UPLOAD
    assert put_blob_request(upload.upload_url, b"x").url == BLOB
    assert complete_file_request(upload).url == COMPLETE


@pytest.mark.parametrize(
    "complete_url",
    [COMPLETE, COMPLETE + "/", COMPLETE.replace("/files", "/v1/Files"), COMPLETE.upper(),
     COMPLETE + "?x=/files/f2/complete"],
)  # fmt: skip
def test_file_id_is_found_in_the_completing_url(complete_url: str) -> None:
    assert created(complete_url=complete_url).file_id.lower() == "f/1"


@pytest.mark.parametrize(
    "upload_url",
    [None, "", 7, "/c/b?sig=planted", "//blobs.example.com/b?sig=planted",
     "http://blobs.example.com/b?sig=planted", "http://localhost/b?sig=planted", "ftp://blobs.example.com/b?sig=planted",
     "file:///etc/passwd", "https:///b?sig=planted", "https://[blobs/b?sig=planted",
     "https://blobs.example.com:99999/b?sig=planted", "https://blobs.example.com/b?sig=planted#x",
     "https://blobs.example.com/b?sig=planted\r\nX-Evil: 1", "https://blobs.example.com/b?sig=p q",
     "https://blobs.example.com/b?sig=planted\x00", " https://blobs.example.com/b?sig=planted",
     "https://user:planted@blobs.example.com/b?sig=planted"],
)  # fmt: skip
def test_unsafe_upload_url_is_a_protocol_error(upload_url: object) -> None:
    with pytest.raises(ProtocolError) as caught:
        created(upload_url)
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
def test_unusable_completing_url_is_a_protocol_error(complete_url: object) -> None:
    with pytest.raises(ProtocolError) as caught:
        created(complete_url=complete_url)
    assert caught.value.path == "_links.completeUrl.href"
    assert "planted" not in str(caught.value) + repr(caught.value)


@pytest.mark.parametrize("body", [{}, {"_links": None}, {"_links": {"uploadUrl": None}}])
def test_creation_without_links_is_a_protocol_error(body: object) -> None:
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
def test_error_response_of_storage_is_an_error(
    name: str, status: int, kind: type[ExportError]
) -> None:
    for read in (partial(parse_created_file, base_url=BASE), parse_completed_file):
        with pytest.raises(kind) as caught:
            read(answer(example(name), status))
        gateway = isinstance(caught.value, NotFound) and caught.value.is_gateway
        assert gateway == name.startswith("platform")


def test_completion_has_no_body_and_is_repeatable() -> None:
    request = complete_file_request(UPLOAD)
    assert (request.method, request.url, request.body) == ("POST", COMPLETE, None)
    assert dict(request.headers) == {}
    assert request.retryable


def test_new_urls_are_requested_for_the_content_of_a_file() -> None:
    request = update_content_request("f/1")
    assert (request.method, request.url) == ("POST", "/storage/files/f%2F1/updatecontent")
    assert (request.body, request.retryable) == (None, True)


def test_upload_shows_no_signature() -> None:
    upload = created(complete_url=f"{COMPLETE}?sig=planted")
    assert "anted" not in repr(upload) + str(upload)
    assert "f/1" in repr(upload)


def test_completed_file_is_read() -> None:
    file = parse_completed_file(answer(example("storage.complete_file.200.json")))
    assert (file.display_name, file.size, file.is_folder) == ("test.txt", 8, False)
    with pytest.raises(ProtocolError):
        parse_completed_file(answer({"file": None}))
