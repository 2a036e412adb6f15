"""The blob store behind Storage: reading a blob or a part of it, writing one whole or in blocks.

Its URLs are signed. They are used byte for byte and without the bearer token, which the store would
reject and must not see. A file of up to BLOCK_SIZE bytes is sent in one request; a larger one in
blocks of that size, followed by a list that gives their order. Every body is sent with its MD5,
which the store checks.

https://learn.microsoft.com/rest/api/storageservices/get-blob
https://learn.microsoft.com/rest/api/storageservices/put-block-list
"""

import base64
import hashlib
import re
from typing import Literal
from urllib.parse import quote, unquote

from attrs import Factory, define, evolve, field, frozen

from itwin_export_async._protocol.error_responses import error_from_response
from itwin_export_async._protocol.messages import Request, Response

BLOCK_SIZE = 32 * 1024 * 1024
_LENGTH = re.compile(r"[0-9]{1,18}")
_COMPRESSED = re.compile(r"gzip|compress|deflate|br|zstd", re.IGNORECASE)
_CONTENT_RANGE = re.compile(r"bytes ([0-9]{1,18})-([0-9]{1,18})/([0-9]{1,18})")
_END_OF_BLOB = re.compile(r"bytes \*/([0-9]{1,18})")


@define(eq=False)
class UnusableContent(Exception):
    """A response whose bytes cannot be used: of another version, or not known to be complete.

    `reason` is that of the `DownloadError` that the caller raises.
    """

    message: str
    reason: Literal["refused", "incomplete", "mismatch"] = "mismatch"


class SizesDiffer(UnusableContent):
    """The blob store and Storage report different lengths: one of them may be late."""


@frozen(kw_only=True)
class Content:
    """What a response of the blob store contains: the bytes from `start` up to `stop`.

    `total` is the length of the whole blob, `md5` its digest, `etag` its version; these and `stop`
    are None where the response does not give them. `is_bounded`: whether the response marks its own
    end, so that a broken connection cannot pass for it.
    """

    start: int
    stop: int | None = None
    total: int | None = None
    etag: str | None = None
    md5: bytes | None = None
    is_bounded: bool = True


@frozen(kw_only=True)
class ReadState:
    """How far the bytes from `start` up to `stop` (None: to the end) of a blob have been read.

    `position` is the next byte. `known` is what the first response said of the blob, None before
    it. `failures` counts the connections that failed since the last byte.
    """

    start: int = 0
    stop: int | None = None
    position: int = field(default=Factory(lambda self: self.start, takes_self=True))
    known: Content | None = None
    failures: int = 0
    failed_at: int = -1

    @property
    def total(self) -> int | None:
        """The length of the whole blob, None where it is not known."""
        return None if self.known is None else self.known.total

    @property
    def end(self) -> int | None:
        """Where the stream ends, None where that is not known."""
        bounds = [bound for bound in (self.stop, self.total) if bound is not None]
        return min(bounds, default=None)

    @property
    def is_complete(self) -> bool:
        """Whether the last byte has been read."""
        return self.position == self.end

    @property
    def is_short(self) -> bool:
        """Whether bytes are missing that the blob has. Without a length, that is not known."""
        return self.total is not None and not self.is_complete

    @property
    def md5(self) -> bytes | None:
        """The digest that the stream must have, None where none is known of just these bytes."""
        whole = self.known is not None and self.start == 0 and self.stop in (None, self.total)
        return self.known.md5 if self.known is not None and whole else None

    @property
    def request_start(self) -> int:
        """The first byte to request: the next one, or all again where no ETag pins the version."""
        return self.position if self.known is None or self.known.etag is not None else self.start

    def with_content(self, content: Content) -> "ReadState":
        """After a response. Only the length can still be learned from a later one."""
        if self.known is None:
            return evolve(self, known=content)
        if self.known.total is None:
            return evolve(self, known=evolve(self.known, total=content.total))
        return self

    def with_bytes(self, count: int) -> "ReadState":
        """After `count` more bytes."""
        return evolve(self, position=self.position + count)

    def with_failure(self, *, counts_bytes: bool = True) -> "ReadState":
        """After a connection that failed. Bytes since the last failure reset the count."""
        is_first = counts_bytes and self.position > max(self.failed_at, self.start)
        failures = 1 if is_first else self.failures + 1
        return evolve(self, failures=failures, failed_at=self.position)

    def repeats(self, content: Content) -> bool:
        """Whether a response begins with bytes that were read, of a version without an ETag."""
        is_pinned = self.known is not None and content.etag == self.known.etag is not None
        return not is_pinned and content.start < self.position > self.start


def get_blob_request(
    url: str, *, start: int = 0, stop: int | None = None, etag: str | None = None
) -> Request:
    """Read the bytes from `start` up to `stop` (None: to the end), of the version `etag` only."""
    headers = {"Accept-Encoding": "identity"}
    if start or stop is not None:
        last = "" if stop is None else max(start, stop - 1)  # a range has at least one byte
        headers["Range"] = f"bytes={start}-{last}"
    if etag is not None:
        headers["If-Match"] = etag
    return Request(method="GET", url=url, headers=headers)


def parse_blob(
    response: Response, *, start: int = 0, etag: str | None = None, total: int | None = None
) -> Content:
    """What the response contains.

    `start` is the first byte that was requested; a store without ranges sends the blob from 0 on.
    `etag` and `total` are what is known of the version that is being read, None where nothing is.
    Raises `UnusableContent`, and the error of an error response.
    """
    match response.status:
        case 200 | 206 if _COMPRESSED.search(response.headers.get("Content-Encoding", "")):
            raise UnusableContent(  # decoding hides where the connection broke
                "the response is compressed although identity was requested (proxy?); "
                "completeness cannot be verified",
                "incomplete",
            )
        case 200:
            length = _length(response)
            content = _content(response, 0, length, length)
        case 206:
            found = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
            if not found or int(found[1]) != start:
                raise UnusableContent("the server sent another range than requested")
            content = _content(response, start, int(found[2]) + 1, int(found[3]))
        case 416:
            content = _nothing_left(response, start, total)
        case 412:
            raise UnusableContent(_changed("its version is another one"))
        case _:
            raise error_from_response(response)
    if etag is not None and content.etag not in (None, etag):
        raise UnusableContent(_changed(f"version {content.etag} instead of {etag}"))
    if None not in (total, content.total) and content.total != total:
        raise UnusableContent(_changed(f"{content.total} bytes instead of {total}"))
    return content


def _nothing_left(response: Response, start: int, total: int | None) -> Content:
    """The content of a 416: none, where the blob ends exactly at `start`."""
    found = _END_OF_BLOB.fullmatch(response.headers.get("Content-Range", ""))
    end = int(found[1]) if found else None
    if end == start:
        return _content(response, start, end, end)
    if total is not None or end is None:
        raise UnusableContent(_changed(f"it has no byte {start} any more"))
    raise UnusableContent(f"cannot start at byte {start}: the file has {end} bytes", "refused")


def _changed(how: str) -> str:
    return f"the file changed while it was read ({how})"


def _length(response: Response) -> int | None:
    found = _LENGTH.fullmatch(response.headers.get("Content-Length", ""))
    return int(found[0]) if found else None


def _is_bounded(response: Response) -> bool:
    """Whether the end of the response differs from the end of its connection.

    (RFC 9112, section 6.3.)
    """
    outermost = response.headers.get("Transfer-Encoding", "").rpartition(",")[2]
    return _length(response) is not None or outermost.strip().lower() == "chunked"


def _content(response: Response, start: int, stop: int | None, total: int | None) -> Content:
    digest = response.headers.get("x-ms-blob-content-md5")
    if digest is None and response.status == 200:
        digest = response.headers.get("Content-MD5")  # in a 206 it is the digest of the range
    try:
        md5 = base64.b64decode(digest or "", validate=True)
    except ValueError:
        md5 = b""
    etag = response.headers.get("ETag", "")
    return Content(
        start=start,
        stop=stop,
        total=total,
        etag=None if etag.startswith("W/") else etag or None,  # If-Match takes strong ones only
        md5=md5 if len(md5) == 16 else None,
        is_bounded=total is not None or _is_bounded(response),
    )


def must_ask_size(content: Content, size: int | None) -> bool:
    """Whether to read the file's size from Storage. `size` is what Storage reported earlier.

    That costs a call, so only where the response does not give its length (a proxy may have ended
    it well after a broken connection), or another length than Storage reported.
    """
    if content.total is None:
        return size is None
    return size is not None and size != content.total


def with_size(content: Content, size: int | None) -> Content:
    """The content with its length from Storage where the response gives none. None: not known.

    Raises `UnusableContent` where the two differ, and where nothing could distinguish a complete
    file from the beginning of one.
    """
    if content.total is not None:
        if size is not None and size != content.total:
            raise SizesDiffer(
                f"the blob store has {content.total} bytes, Storage reports {size}: "
                "the file may be changing"
            )
        return content
    if size is None and content.md5 is None and not content.is_bounded:
        raise UnusableContent(
            "completeness cannot be verified: the response has no Content-Length (proxy?), and "
            "neither size nor digest is known",
            "incomplete",
        )
    return evolve(content, total=size)


def put_blob_request(url: str, content: bytes) -> Request:
    """Write a blob whole."""
    headers = {"x-ms-blob-type": "BlockBlob", "Content-Type": "application/octet-stream"}
    return _put(url, content, headers)


def put_block_request(url: str, number: int, content: bytes) -> Request:
    """Write a block of a blob; blocks are counted from 0."""
    return _put(f"{url}{_query_separator(url)}comp=block&blockid={_block_id(number)}", content, {})


def put_block_list_request(url: str, blocks: int, md5: bytes) -> Request:
    """Make the first `blocks` blocks a blob. `md5` is the digest of the whole blob."""
    numbers = range(blocks)
    listed = "".join(f"<Latest>{unquote(_block_id(number))}</Latest>" for number in numbers)
    text = f'<?xml version="1.0" encoding="utf-8"?><BlockList>{listed}</BlockList>'
    headers = {
        "Content-Type": "application/xml",
        "x-ms-blob-content-type": "application/octet-stream",
        "x-ms-blob-content-md5": base64.b64encode(md5).decode(),
    }
    return _put(f"{url}{_query_separator(url)}comp=blocklist", text.encode(), headers)


def is_same_blob(url: str, other: str) -> bool:
    """Whether two signed URLs differ in their signatures only, so that blocks of one count."""
    return url.partition("?")[0] == other.partition("?")[0]


def _put(url: str, content: bytes, headers: dict[str, str]) -> Request:
    digest = hashlib.md5(content, usedforsecurity=False).digest()
    checked = {"Content-MD5": base64.b64encode(digest).decode()}
    return Request(method="PUT", url=url, headers=headers | checked, body=content)


def _query_separator(url: str) -> str:
    return "&" if "?" in url else "?"


def _block_id(number: int) -> str:
    """All of one length, as the store requires, and safe in a query."""
    return quote(base64.b64encode(f"{number:06d}".encode()), safe="")


def parse_put(response: Response) -> None:
    """None, or the error of the blob store's error response."""
    if response.status not in (200, 201):
        raise error_from_response(response)
