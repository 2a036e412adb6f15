"""The blob store: reads, resumed reads, and writes."""

import base64
import hashlib
import pickle
from urllib.parse import parse_qs, unquote, urlsplit
from xml.etree import ElementTree

import pytest
from attrs import evolve
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
    Content,
    ReadState,
    SizesDiffer,
    UnusableContent,
    get_blob_request,
    is_same_blob,
    must_ask_size,
    parse_blob,
    parse_put,
    put_blob_request,
    put_block_list_request,
    put_block_request,
    with_size,
)
from itwin_export_async._protocol.messages import Response
from tests.support.samples import answer

BLOB = "https://blobs.example.com/c/b?sv=2017-04-17&sig=pl%2Fanted%3D&rscd=x%3B%20y%22&z=%7e"
MD5 = bytes(range(16))


def md5(content: bytes) -> str:
    return base64.b64encode(hashlib.md5(content, usedforsecurity=False).digest()).decode()


@pytest.mark.parametrize(
    ("start", "stop", "expected"),
    [
        (0, None, None),
        (7, None, "bytes=7-"),
        (0, 9, "bytes=0-8"),
        (7, 9, "bytes=7-8"),
        (7, 7, "bytes=7-7"),  # an empty range cannot be requested
    ],
)
def test_range_names_the_first_and_the_last_byte(
    start: int, stop: int | None, expected: str | None
) -> None:
    request = get_blob_request(BLOB, start=start, stop=stop)
    assert request.url == BLOB
    assert request.headers.get("Range") == expected
    assert "If-Match" not in request.headers
    assert get_blob_request(BLOB, start=start, etag='"v1"').headers["If-Match"] == '"v1"'


@pytest.mark.parametrize("start", [0, 7])
def test_read_carries_no_token_and_requests_no_compression(start: int) -> None:
    request = get_blob_request(BLOB, start=start, etag='"v1"')
    assert "Authorization" not in request.headers
    assert request.headers["Accept-Encoding"] == "identity"
    assert "sig" not in repr(request)


def test_whole_response_begins_at_zero_whatever_was_requested() -> None:
    response = answer(b"", Content_Length="100", ETag='"v1"')
    whole = Content(start=0, stop=100, total=100, etag='"v1"')
    for start in (0, 7):
        assert parse_blob(response, start=start) == whole
        assert parse_blob(response, start=start, etag='"v1"', total=100) == whole


@pytest.mark.parametrize("length", ["", "many", "-1", "1.5"])
def test_unreadable_length_is_none(length: str) -> None:
    content = parse_blob(answer(b"", Content_Length=length))
    assert content == Content(start=0, is_bounded=False)


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
def test_response_without_length_and_chunks_does_not_mark_its_end(
    headers: dict[str, str], is_bounded: bool
) -> None:
    assert parse_blob(answer(b"", 200, **headers)).is_bounded is is_bounded


@pytest.mark.parametrize(
    ("content", "size", "must"),
    [
        (Content(start=0, total=9), None, False),
        (Content(start=0, total=9), 9, False),
        (Content(start=0, total=9), 8, True),  # the size may be older than the content
        (Content(start=0), None, True),  # a proxy may have ended what broke off before it
        (Content(start=0), 9, False),
        (Content(start=0, is_bounded=False), None, True),
        (Content(start=0, is_bounded=False), 9, False),
    ],
)
def test_size_is_read_only_where_nothing_else_gives_the_length(
    content: Content, size: int | None, must: bool
) -> None:
    assert must_ask_size(content, size) is must


@pytest.mark.parametrize(
    ("content", "size", "total"),
    [
        (Content(start=0, total=9), None, 9),
        (Content(start=0, total=9), 9, 9),
        (Content(start=0), 9, 9),
        (Content(start=0), None, None),  # its last chunk marks the end
        (Content(start=0, is_bounded=False), 9, 9),
        (Content(start=0, is_bounded=False, md5=MD5), None, None),
        (Content(start=0, total=0), 0, 0),
    ],
)
def test_size_in_storage_is_the_length_where_the_response_has_none(
    content: Content, size: int | None, total: int | None
) -> None:
    assert with_size(content, size).total == total


@pytest.mark.parametrize(
    ("content", "size", "text", "reason"),
    [
        (Content(start=0, total=400), 1000, "has 400 bytes, Storage reports 1000", "mismatch"),
        (Content(start=0, total=400), 0, "has 400 bytes, Storage reports 0", "mismatch"),
        (Content(start=0, is_bounded=False), None, "cannot be verified", "incomplete"),
    ],
)
def test_content_that_cannot_be_known_to_be_complete_is_unusable(
    content: Content, size: int | None, text: str, reason: str
) -> None:
    with pytest.raises(UnusableContent) as caught:
        with_size(content, size)
    assert text in caught.value.message
    assert caught.value.reason == reason
    assert isinstance(caught.value, SizesDiffer) is (reason == "mismatch")


def test_range_begins_where_it_was_requested() -> None:
    response = answer(b"", 206, Content_Range="bytes 7-49/100", ETag='"v1"')
    content = Content(start=7, stop=50, total=100, etag='"v1"')
    for total in (None, 100):
        assert parse_blob(response, start=7, etag='"v1"', total=total) == content


def test_range_without_an_etag_is_of_the_requested_version() -> None:
    content = parse_blob(answer(b"", 206, Content_Range="bytes 7-99/100"), start=7, etag='"v1"')
    assert content == Content(start=7, stop=100, total=100)


@pytest.mark.parametrize(
    "content_range", ["", "bytes 8-99/100", "bytes */100", "bytes 7-99/*", "7-99/100"]
)
def test_other_range_than_requested_is_unusable(content_range: str) -> None:
    with pytest.raises(UnusableContent, match="another range"):
        parse_blob(answer(b"", 206, Content_Range=content_range), start=7)


@pytest.mark.parametrize(
    ("status", "headers"),
    [
        (412, {}),
        (416, {}),
        (416, {"Content-Range": "bytes */7"}),  # it had 100
        (416, {"Content-Range": "bytes */5"}),
        (206, {"ETag": '"v2"', "Content-Range": "bytes 7-99/100"}),
        (206, {"ETag": '"v1"', "Content-Range": "bytes 7-98/99"}),
        (200, {"ETag": '"v2"', "Content-Length": "100"}),
        (200, {"ETag": '"v1"', "Content-Length": "99"}),
    ],
)
def test_other_version_is_unusable(status: int, headers: dict[str, str]) -> None:
    with pytest.raises(UnusableContent, match="changed while it was read") as caught:
        parse_blob(answer(b"", status, **headers), start=7, etag='"v1"', total=100)
    assert caught.value.reason == "mismatch"


@pytest.mark.parametrize("headers", [{}, {"ETag": '"v1"'}])
def test_read_that_begins_at_the_end_of_the_blob_is_empty(
    headers: dict[str, str],
) -> None:
    response = answer(b"", 416, **{"Content-Range": "bytes */7", **headers})
    content = parse_blob(response, start=7, etag='"v1"')
    assert (content.start, content.stop, content.total) == (7, 7, 7)


def test_byte_behind_the_end_is_refused_with_the_length() -> None:
    response = answer(b"", 416, **{"Content-Range": "bytes */7"})
    with pytest.raises(UnusableContent, match="start at byte 9: the file has 7 bytes") as caught:
        parse_blob(response, start=9)
    assert caught.value.reason == "refused"


def test_compressed_response_is_unusable() -> None:
    for status in (200, 206):
        with pytest.raises(UnusableContent, match="compressed"):
            parse_blob(answer(b"", status, Content_Encoding="x-gzip"))


@pytest.mark.parametrize(("status", "kind"), [(403, PermissionDenied), (503, ServerError)])
def test_error_response_of_a_read_is_raised(status: int, kind: type[ExportError]) -> None:
    with pytest.raises(kind):
        parse_blob(answer(b"<Error/>", status))


@pytest.mark.parametrize(
    ("status", "headers", "digest"),
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
def test_digest_of_a_part_is_ignored(
    status: int, headers: dict[str, str], digest: bytes | None
) -> None:
    headers = {"Content-Range": "bytes 7-9/10", "ETag": '"v1"', **headers}
    assert parse_blob(answer(b"", status, **headers), start=7, etag='"v1"').md5 == digest


KNOWN = Content(start=0, stop=100, total=100, etag='"v1"', md5=MD5)


@pytest.mark.parametrize(
    ("stop", "total", "end"), [(None, None, None), (9, None, 9), (None, 7, 7), (9, 7, 7), (5, 7, 5)]
)
def test_stream_ends_at_the_nearer_of_its_bounds(
    stop: int | None, total: int | None, end: int | None
) -> None:
    state = ReadState(stop=stop).with_content(Content(start=0, total=total))
    assert state.end == end


@pytest.mark.parametrize(
    ("total", "position", "is_complete", "is_short"),
    [(100, 99, False, True), (100, 100, True, False), (None, 99, False, False)],
)
def test_missing_bytes_are_known_only_with_a_length(
    total: int | None, position: int, is_complete: bool, is_short: bool
) -> None:
    state = ReadState().with_content(evolve(KNOWN, total=total)).with_bytes(position)
    assert (state.is_complete, state.is_short) == (is_complete, is_short)


@pytest.mark.parametrize(
    ("start", "stop", "digest"),
    [(0, None, MD5), (0, 100, MD5), (1, None, None), (0, 99, None)],
)
def test_digest_is_checked_only_where_all_of_the_blob_is_read(
    start: int, stop: int | None, digest: bytes | None
) -> None:
    state = ReadState(start=start, stop=stop)
    assert state.md5 is None
    assert state.with_content(KNOWN).md5 == digest


def test_later_response_gives_only_a_missing_length() -> None:
    later = Content(start=50, total=100, etag='"v2"', md5=b"")
    state = ReadState().with_content(evolve(KNOWN, total=None)).with_content(later)
    assert state.known == KNOWN
    assert state.with_content(evolve(later, total=7)).known == KNOWN


@pytest.mark.parametrize(("etag", "start"), [('"v1"', 50), (None, 10)])
def test_read_is_resumed_at_the_next_byte_or_repeated_where_no_etag_pins_the_version(
    etag: str | None, start: int
) -> None:
    state = ReadState(start=10)
    assert state.request_start == 10
    state = state.with_content(evolve(KNOWN, etag=etag)).with_bytes(40)
    assert state.request_start == start


@pytest.mark.parametrize(
    ("known", "start", "etag", "repeats"),
    [
        ('"v1"', 0, '"v1"', False),
        ('"v1"', 0, None, True),
        ('"v1"', 50, None, False),
        (None, 10, None, True),
        (None, 10, '"v1"', True),
        (None, 50, None, False),
    ],
)
def test_bytes_that_come_again_without_an_etag_have_to_be_compared(
    known: str | None, start: int, etag: str | None, repeats: bool
) -> None:
    state = ReadState(start=10).with_content(evolve(KNOWN, etag=known))
    content = Content(start=start, etag=etag)
    assert not state.repeats(content)  # nothing was read yet
    assert state.with_bytes(40).repeats(content) is repeats


def test_failures_count_from_the_last_byte() -> None:
    state = ReadState(start=10).with_failure().with_failure()
    assert state.failures == 2
    state = state.with_bytes(1).with_failure()
    assert state.failures == 1
    assert state.with_failure().failures == 2
    assert state.with_bytes(1).with_failure(counts_bytes=False).failures == 2


@pytest.mark.parametrize(
    ("other", "is_same"),
    [(BLOB.replace("sig=pl", "sig=x"), True), (BLOB.replace("/b?", "/c?"), False), ("", False)],
)
def test_urls_of_one_blob_differ_in_their_signatures_only(other: str, is_same: bool) -> None:
    assert is_same_blob(BLOB, other) is is_same


def test_small_file_is_sent_whole() -> None:
    request = put_blob_request(BLOB, b"content")
    assert (request.method, request.url, request.body) == ("PUT", BLOB, b"content")
    assert request.headers == {
        "x-ms-blob-type": "BlockBlob",
        "Content-Type": "application/octet-stream",
        "Content-MD5": md5(b"content"),
    }
    assert request.retryable


def test_empty_file_has_a_body() -> None:
    request = put_blob_request(BLOB, b"")
    assert request.body == b""  # None would leave the length of the body out
    assert request.headers["Content-MD5"] == "1B2M2Y8AsgTpgAmY7PhCfg=="


@given(st.integers(0, 49_999), st.integers(0, 49_999))
def test_block_ids_have_one_length_and_fit_any_query(one: int, other: int) -> None:
    first, second = put_block_request(BLOB, one, b"1"), put_block_request(BLOB, other, b"2")
    assert first.url.startswith(f"{BLOB}&comp=block&blockid=")
    assert len(first.url) == len(second.url)
    assert (first.url == second.url) is (one == other)
    id = first.url.removeprefix(f"{BLOB}&comp=block&blockid=")
    assert id.isascii()
    assert not set(id) & set("+/=&#? ")
    assert len(base64.b64decode(unquote(id), validate=True)) <= 64


def test_block_is_sent_with_its_digest_and_nothing_else() -> None:
    request = put_block_request(BLOB, 3, b"part")
    assert (request.method, request.body, request.retryable) == ("PUT", b"part", True)
    assert request.headers == {"Content-MD5": md5(b"part")}


@pytest.mark.parametrize("blocks", [2, 3, 101])
def test_block_list_names_the_blocks_in_order(blocks: int) -> None:
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


def test_url_without_a_query_gets_one() -> None:
    bare = "https://blobs.example.com/b"
    assert put_block_request(bare, 0, b"").url.startswith(f"{bare}?comp=block&blockid=")
    assert put_block_list_request(bare, 2, b"").url == f"{bare}?comp=blocklist"


@given(st.binary(max_size=20), st.integers(0, 9))
def test_blob_store_gets_no_secret_but_the_url(content: bytes, number: int) -> None:
    for request in (
        put_blob_request(BLOB, content),
        put_block_request(BLOB, number, content),
        put_block_list_request(BLOB, number, content),
    ):
        assert {"authorization", "accept"}.isdisjoint(name.lower() for name in request.headers)
        assert request.url.startswith(BLOB)


@pytest.mark.parametrize("status", [200, 201])
def test_written_blob_is_accepted(status: int) -> None:
    parse_put(Response(status=status))


@pytest.mark.parametrize(
    ("status", "kind"),
    [(403, PermissionDenied), (404, NotFound), (400, InvalidRequest), (503, ServerError),
     (202, ProtocolError), (304, ProtocolError)],
)  # fmt: skip
def test_error_response_of_the_store_shows_no_signature(
    status: int, kind: type[ExportError]
) -> None:
    text = f"<Error><Message>{BLOB.replace('&', '&amp;')}</Message></Error>".encode()
    with pytest.raises(kind) as caught:
        parse_put(Response(status=status, body=text, method="PUT", url=BLOB))
    shown = repr(caught.value) + str(caught.value) + pickle.dumps(caught.value).decode("latin-1")
    assert "anted" not in shown
    error = UploadError(message=str(caught.value), source="in/map.json")
    assert "in/map.json" in str(error)
    assert "anted" not in repr(error) + str(error)


def test_upload_error_shows_no_signature() -> None:
    error = UploadError(message=f"cannot send to {BLOB}", source="map.json")
    shown = repr(error) + str(error) + pickle.dumps(error).decode("latin-1")
    assert "anted" not in shown
    assert "cannot send to https://blobs.example.com/c/b?***" in shown
