"""Files in Storage: two ids for one file, safe names, and pieces of content."""

import base64
import uuid
from pathlib import PurePosixPath, PureWindowsPath

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from itwin_export_async._errors import (
    DownloadError,
    NotFound,
    PermissionDenied,
    ProtocolError,
    ServerError,
)
from itwin_export_async._models import StoredFile
from itwin_export_async._protocol.files import (
    Content,
    composite_id,
    download_file_request,
    get_blob_request,
    get_file_request,
    measured,
    must_ask_size,
    parse_blob,
    parse_download,
    parse_file,
    safe_name,
)
from tests.support.samples import answer

SIGNED = (
    "https://blobs.example.com/a%2Fb/c.ifc?sv=2017&sig=4Nf%2FoEP%2BPo%3D&se=2020-10-19T15:12:51Z"
)
MD5 = bytes(range(16))


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
def test_a_composite_id_packs_two_guids(container: str, own: str, packed: str) -> None:
    assert composite_id(container, own) == packed


@given(st.uuids(), st.uuids())
def test_a_composite_id_gives_both_guids_back(container: uuid.UUID, own: uuid.UUID) -> None:
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
def test_what_is_no_guid_has_no_composite_id(container: str | None, own: str) -> None:
    assert composite_id(container, own) is None


@pytest.mark.parametrize(
    ("display_name", "name"),
    [
        ("bridge.ifc", "bridge.ifc"),
        ("Brücke 3 (neu).ifc", "Brücke 3 (neu).ifc"),
        ("../../etc/passwd", "passwd"),
        ("..\\..\\boot.ini", "boot.ini"),
        ("/abs/olute.ifc", "olute.ifc"),
        ("C:\\temp\\a.ifc", "a.ifc"),
        ("a:b*c?.ifc", "a_b_c_.ifc"),
        ("nul", "_nul"),
        ("CON.ifc", "_CON.ifc"),
        ("conduit.ifc", "conduit.ifc"),
        ("a.ifc. .", "a.ifc"),
        ("a\x00b\n.ifc", "a_b_.ifc"),
        ("a.ifc.part", "a.ifc.part_"),
        ("a.PART", "a.PART_"),
        (".part", ".part_"),
        ("", "f1"),
        (".", "f1"),
        ("..", "f1"),
        ("folder/", "f1"),
        ("  ", "f1"),
    ],
)
def test_a_name_is_made_safe(display_name: str, name: str) -> None:
    assert safe_name(display_name, fallback="f1") == name


nasty = st.text() | st.lists(
    st.sampled_from(["..", "/", "\\", ".", " ", "con", "a", "\x00", ":", "橋" * 90, "x" * 250])
).map("".join)


@given(nasty, nasty)
@example("", "../../x")
@example("..", "..")
@example("", "")
@example("橋" * 250 + ".ifc", "f")
@example("x" * 199 + ". y.ifc", "f")
@example("a .", "f")
@example("\ud800.ifc", "f")
@example("x" * 235 + ".part" + "y" * 21, "f")
def test_any_name_stays_in_its_folder_and_fits_any_file_system(
    display_name: str, fallback: str
) -> None:
    name = safe_name(display_name, fallback=fallback)
    assert name not in ("", ".", "..")
    assert PurePosixPath("out", name).parent == PurePosixPath("out")
    assert PureWindowsPath("out", name).parent == PureWindowsPath("out")
    assert PureWindowsPath("out", name).name == name
    assert not PureWindowsPath(name).drive
    assert not set(name) & set('\x00/\\<>:"|?*')
    assert name == name.strip().rstrip(".")
    assert not name.lower().endswith(".part")
    assert len(f"{name}.part".encode()) <= 255


@pytest.mark.parametrize("long", ["x" * 300, "橋" * 300])
def test_a_long_name_keeps_its_ending(long: str) -> None:
    name = safe_name(f"{long}.ifc", fallback="f1")
    assert name.startswith(long[:40])
    assert name.endswith(".ifc")


def test_ids_are_one_segment_of_the_path() -> None:
    assert get_file_request("a/b").url == "/storage/files/a%2Fb"
    assert download_file_request("a/b").url == "/storage/files/a%2Fb/download"
    assert "octet-stream" in download_file_request("f1").headers["Accept"]


def test_a_files_metadata_or_its_refusal_is_read() -> None:
    body = {"file": {"id": "f1", "displayName": "a.ifc", "size": 9}}
    assert parse_file(answer(body)) == StoredFile(id="f1", display_name="a.ifc", size=9)
    with pytest.raises(NotFound):
        parse_file(answer({}, 404))


@pytest.mark.parametrize("status", [302, 303, 307])
def test_a_signed_address_is_kept_byte_for_byte(status: int) -> None:
    assert parse_download(answer(b"", status, Location=SIGNED)) == SIGNED


@pytest.mark.parametrize(
    "location",
    ["http://blobs.example.com/x?sig=planted", "ftp://blobs.example.com/x?sig=planted",
     "/x?sig=planted", "", "https://", "https://[bad?sig=planted", "https://h:port/?sig=planted",
     "https://user:planted@h/x", "https://h/x?sig=planted#part", "https://h/x y?sig=planted"],
)  # fmt: skip
def test_a_redirect_that_cannot_be_followed_is_a_protocol_error(location: str) -> None:
    with pytest.raises(ProtocolError) as caught:
        parse_download(answer(b"", 302, Location=location))
    assert "planted" not in str(caught.value)


def test_a_redirect_without_an_address_is_a_protocol_error() -> None:
    with pytest.raises(ProtocolError):
        parse_download(answer(b"", 302))
    with pytest.raises(ProtocolError):
        parse_download(answer(b"content", 200))
    with pytest.raises(NotFound):
        parse_download(answer({}, 404))


def test_content_is_asked_for_whole_or_from_where_it_stopped() -> None:
    assert "Range" not in get_blob_request(SIGNED, done=0, etag=None).headers
    assert "Range" not in get_blob_request(SIGNED, done=7, etag=None).headers
    resumed = get_blob_request(SIGNED, done=7, etag='"v1"')
    assert resumed.headers["Range"] == "bytes=7-"
    assert resumed.headers["If-Match"] == '"v1"'
    assert resumed.url == SIGNED


@pytest.mark.parametrize("done", [0, 7])
def test_the_blob_store_never_sees_the_token_or_compresses(done: int) -> None:
    headers = get_blob_request(SIGNED, done=done, etag='"v1"').headers
    assert "Authorization" not in headers
    assert headers["Accept-Encoding"] == "identity"
    assert "sig" not in repr(get_blob_request(SIGNED, done=done, etag=None))


def test_a_whole_answer_begins_at_the_beginning() -> None:
    response = answer(b"", Content_Length="100", ETag='"v1"')
    whole = Content(start=0, total=100, etag='"v1"', md5=None)
    for done in (0, 7):
        assert parse_blob(response, done=done, etag='"v0"', total=99) == whole


@pytest.mark.parametrize("length", ["", "many", "-1", "1.5"])
def test_an_untold_length_is_none(length: str) -> None:
    content = parse_blob(answer(b"", Content_Length=length), done=0)
    assert content == Content(start=0, total=None, is_bounded=False)


@pytest.mark.parametrize(
    ("headers", "is_bounded"),
    [
        ({"Content-Length": "9"}, True),
        ({"Transfer-Encoding": "chunked"}, True),
        ({"Transfer-Encoding": "gzip, Chunked "}, True),
        ({"Transfer-Encoding": "chunked", "Connection": "close"}, True),
        ({"Transfer-Encoding": "chunked, gzip"}, False),
        ({"Connection": "close"}, False),
        ({"Connection": "keep-alive"}, False),
        ({}, False),
    ],
)
def test_an_answer_without_length_and_chunks_has_no_bounds(
    headers: dict[str, str], is_bounded: bool
) -> None:
    content = parse_blob(answer(b"", 200, **headers), done=0)
    assert isinstance(content, Content)
    assert content.is_bounded is is_bounded


@pytest.mark.parametrize(
    ("content", "size", "needs"),
    [
        (Content(start=0, total=9), None, False),
        (Content(start=0, total=9), 9, False),
        (Content(start=0, total=9), 8, True),  # what was told may be older than the content
        (Content(start=0), None, True),  # a proxy ends well what broke off before it
        (Content(start=0), 9, False),
        (Content(start=0, is_bounded=False), None, True),
        (Content(start=0, is_bounded=False), 9, False),
    ],
)
def test_the_size_is_asked_for_where_nothing_else_tells_the_length(
    content: Content, size: int | None, needs: bool
) -> None:
    assert must_ask_size(content, size) is needs


@pytest.mark.parametrize(
    ("content", "size", "total"),
    [
        (Content(start=0, total=9), None, 9),
        (Content(start=0, total=9), 9, 9),
        (Content(start=0), 9, 9),
        (Content(start=0), None, None),  # its last chunk tells
        (Content(start=0, is_bounded=False), 9, 9),
        (Content(start=0, is_bounded=False, md5=MD5), None, None),
        (Content(start=0, total=0), 0, 0),
    ],
)
def test_the_size_is_the_length_where_the_answer_tells_none(
    content: Content, size: int | None, total: int | None
) -> None:
    assert measured(content, size).total == total


@pytest.mark.parametrize(
    ("content", "size", "reason"),
    [
        (Content(start=0, total=400), 1000, "has 400 bytes, and Storage tells of 1000"),
        (Content(start=0, total=400), 0, "has 400 bytes, and Storage tells of 0"),
        (Content(start=0, is_bounded=False), None, "nothing tells"),
    ],
)
def test_what_cannot_be_known_to_be_whole_is_refused(
    content: Content, size: int | None, reason: str
) -> None:
    with pytest.raises(DownloadError, match=reason):
        measured(content, size)


def test_the_rest_of_a_file_begins_where_it_stopped() -> None:
    response = answer(b"", 206, Content_Range="bytes 7-99/100", ETag='"v1"')
    rest = Content(start=7, total=100, etag='"v1"', md5=None)
    for total in (None, 100):
        assert parse_blob(response, done=7, etag='"v1"', total=total) == rest


def test_a_range_that_begins_at_the_beginning_is_the_rest_of_nothing() -> None:
    for etag in (None, '"v2"'):
        told = {} if etag is None else {"ETag": etag}
        response = answer(b"", 206, **{"Content-Range": "bytes 0-99/100", **told})
        content = parse_blob(response, done=0, etag='"v1"', total=99)
        assert content == Content(start=0, total=100, etag=etag)
    refusal = answer(b"", 416, **{"Content-Range": "bytes */0"})
    assert isinstance(parse_blob(refusal, done=0), DownloadError)


@pytest.mark.parametrize(
    "range_", ["", "bytes 8-99/100", "bytes */100", "bytes 7-99/*", "7-99/100"]
)
def test_another_range_than_asked_for_is_an_error(range_: str) -> None:
    assert isinstance(parse_blob(answer(b"", 206, Content_Range=range_), done=7), DownloadError)


@pytest.mark.parametrize(
    ("status", "headers", "says"),
    [
        (412, {}, "changed"),
        (416, {}, "changed"),
        (416, {"Content-Range": "bytes */7"}, "changed"),  # it had 100
        (206, {"ETag": '"v2"', "Content-Range": "bytes 7-99/100"}, "changed"),
        (206, {"ETag": '"v1"', "Content-Range": "bytes 7-98/99"}, "changed"),
    ],
)
def test_what_may_be_the_rest_of_another_file_is_an_error(
    status: int, headers: dict[str, str], says: str
) -> None:
    error = parse_blob(answer(b"", status, **headers), done=7, etag='"v1"', total=100)
    assert isinstance(error, DownloadError)
    assert says in str(error)


def test_a_rest_that_tells_no_version_is_of_the_one_that_was_asked_for() -> None:
    rest = parse_blob(answer(b"", 206, Content_Range="bytes 7-99/100"), done=7, etag='"v1"')
    assert rest == Content(start=7, total=100, etag='"v1"')


@pytest.mark.parametrize(
    ("headers", "is_whole"),
    [
        ({"Content-Range": "bytes */7"}, True),
        ({"Content-Range": "bytes */7", "ETag": '"v1"'}, True),
        ({"Content-Range": "bytes */7", "ETag": '"v2"'}, False),
        ({"Content-Range": "bytes */6"}, False),
        ({"Content-Range": "bytes */8"}, False),
    ],
)
def test_nothing_is_missing_where_the_file_ends_where_the_rest_was_to_begin(
    headers: dict[str, str], is_whole: bool
) -> None:
    rest = parse_blob(answer(b"", 416, **headers), done=7, etag='"v1"', total=None)
    assert (rest is None) is is_whole


def test_a_refusal_of_the_blob_store_is_returned() -> None:
    assert isinstance(parse_blob(answer(b"<Error/>", 403), done=0), PermissionDenied)
    assert isinstance(parse_blob(answer(b"", 503), done=0), ServerError)


@pytest.mark.parametrize(
    ("status", "headers", "md5"),
    [
        (200, {"Content-MD5": base64.b64encode(MD5).decode()}, MD5),
        (200, {"x-ms-blob-content-md5": base64.b64encode(MD5).decode()}, MD5),
        (206, {"x-ms-blob-content-md5": base64.b64encode(MD5).decode()}, MD5),
        (206, {"Content-MD5": base64.b64encode(MD5).decode()}, None),
        (200, {"Content-MD5": "no base64!"}, None),
        (200, {"Content-MD5": "é"}, None),
        (200, {"Content-MD5": ""}, None),
        (200, {"Content-MD5": "AAAA"}, None),
        (200, {}, None),
    ],
)
def test_only_a_digest_of_the_whole_file_counts(
    status: int, headers: dict[str, str], md5: bytes | None
) -> None:
    told = {"Content-Range": "bytes 7-9/10", "ETag": '"v1"', **headers}
    content = parse_blob(answer(b"", status, **told), done=7, etag='"v1"')
    assert isinstance(content, Content)
    assert content.md5 == md5
