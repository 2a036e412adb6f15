"""Storage: files by id, and their content from the blob store behind it.

A download is two steps: Storage answers with a redirect (302) to a signed address in the blob
store, and that is fetched without the bearer token, which the blob store would refuse and must not
see. The signature expires soon, so that the address is asked for just before it is used.

https://developer.bentley.com/apis/storage/operations/
"""

import base64
import re
from uuid import UUID

from attrs import evolve, frozen

from itwin_export_async._errors import DownloadError, ExportError, ProtocolError
from itwin_export_async._models import ExecutionResult, Run, StoredFile
from itwin_export_async._protocol.codec import decode
from itwin_export_async._protocol.error_responses import error_from_response
from itwin_export_async._protocol.messages import Request, Response
from itwin_export_async._protocol.urls import is_valid_signed_url, quote_segment
from itwin_export_async._redaction import without_query

OCTETS = "application/vnd.bentley.itwin-platform.v1+octet-stream"
_UNFIT = re.compile(r'[\x00-\x1f\x7f<>:"|?*]')
_RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)\s*(\.|$)", re.IGNORECASE)
_LONGEST_NAME = 240  # bytes; file systems take 255, and `.part` and `-2` need some
_LENGTH = re.compile(r"[0-9]{1,18}")
_COMPRESSED = re.compile(r"gzip|compress|deflate|br|zstd", re.IGNORECASE)
_CHANGED = "the file changed while it was fetched"
_RANGE = re.compile(r"bytes ([0-9]{1,18})-[0-9]{1,18}/([0-9]{1,18})")


def get_file_request(file_id: str) -> Request:
    """Read a file's metadata."""
    return Request(method="GET", url=f"/storage/files/{quote_segment('file_id', file_id)}")


def parse_file(response: Response) -> StoredFile:
    """The file's metadata."""
    match response.status:
        case 200:
            return decode(response, "file", StoredFile)
        case _:
            raise error_from_response(response)


def download_file_request(file_id: str) -> Request:
    """Ask where a file's content can be fetched."""
    return Request(
        method="GET",
        url=f"/storage/files/{quote_segment('file_id', file_id)}/download",
        headers={"Accept": OCTETS},
    )


def parse_download(response: Response) -> str:
    """The signed address of the content, to be used byte for byte as it is."""
    match response.status:
        case 302 | 303 | 307:
            address = response.headers.get("Location", "")
            if not is_valid_signed_url(address):
                raise ProtocolError(
                    message=f"the redirect to {without_query(address)!r} cannot be followed",
                    method=response.method,
                    url=response.url,
                )
            return address
        case _:
            raise error_from_response(response)


def get_blob_request(address: str, *, done: int, etag: str | None) -> Request:
    """Fetch the content, or what is missing of it after `done` bytes of the version `etag`."""
    headers = {"Accept-Encoding": "identity"}
    if done and etag:
        headers |= {"Range": f"bytes={done}-", "If-Match": etag}
    return Request(method="GET", url=address, headers=headers)


@frozen(kw_only=True)
class Content:
    """What a blob's answer holds: bytes from `start` on, of `total` (None when not told).

    `md5` is the digest of the whole file, None where the answer has none. `is_bounded`: whether the
    answer tells where it ends, so that one which broke off is known.
    """

    start: int
    total: int | None = None
    etag: str | None = None
    md5: bytes | None = None
    is_bounded: bool = True


def parse_blob(
    response: Response, *, done: int, etag: str | None = None, total: int | None = None
) -> Content | ExportError | None:
    """What the answer holds, None where nothing is missing after the `done` bytes that are here.

    They are of the version `etag`, which has `total` of them, as far as that was told. A refusal is
    returned: an expired signature is asked for anew. What comes compressed is refused: it is
    decoded on the way, so that nothing told of it fits what arrives, and no decoder says that it
    broke off.
    """
    match response.status:
        case 200 | 206 if _COMPRESSED.search(response.headers.get("Content-Encoding", "")):
            return DownloadError(
                message="it came compressed, as after a proxy, although it was asked for as it is: "
                "nothing tells whether it is whole"
            )
        case 200:
            return _content(response, 0, _length(response))
        case 206:
            return _rest(response, done, etag, total)
        case 416 if done and total is None and _ends_at(done, response, etag):
            return None
        case 412 | 416:
            return DownloadError(message=_CHANGED)
        case _:
            return error_from_response(response)


def _rest(
    response: Response, done: int, etag: str | None, total: int | None
) -> Content | DownloadError:
    """What a range holds. Caches may give that of another version, whatever was asked for."""
    found = _RANGE.fullmatch(response.headers.get("Content-Range", ""))
    if not found or int(found[1]) != done:
        return DownloadError(message="the server sent another range than it was asked for")
    rest = _content(response, done, int(found[2]))
    if done and (rest.etag not in (None, etag) or total not in (None, rest.total)):
        return DownloadError(message=_CHANGED)
    return evolve(rest, etag=etag) if done else rest


def _ends_at(done: int, response: Response, etag: str | None) -> bool:
    """Whether the refusal of a range says that there is nothing behind it."""
    told = response.headers.get("Content-Range"), response.headers.get("ETag", etag)
    return told == (f"bytes */{done}", etag)


def _length(response: Response) -> int | None:
    told = _LENGTH.fullmatch(response.headers.get("Content-Length", ""))
    return int(told[0]) if told else None


def _is_bounded(response: Response) -> bool:
    """Whether the end of the answer is told: otherwise the connection's is taken for it.

    (RFC 9112, section 6.3.)
    """
    outermost = response.headers.get("Transfer-Encoding", "").rpartition(",")[2]
    return _length(response) is not None or outermost.strip().lower() == "chunked"


def _content(response: Response, start: int, total: int | None) -> Content:
    whole = response.headers.get("x-ms-blob-content-md5")
    if whole is None and start == 0:
        whole = response.headers.get("Content-MD5")
    try:
        md5 = base64.b64decode(whole or "", validate=True)
    except ValueError:
        md5 = b""
    etag = response.headers.get("ETag", "")
    return Content(
        start=start,
        total=total,
        etag=None if etag.startswith("W/") else etag or None,  # If-Match takes strong ones only
        md5=md5 if len(md5) == 16 else None,
        is_bounded=total is not None or _is_bounded(response),
    )


def must_ask_size(content: Content, size: int | None) -> bool:
    """Whether Storage is to be asked for the size of the file. `size`: what it told before.

    That costs a call, so only where the answer does not tell its length (a proxy may well have
    ended what broke off), or another one: what was told may be older than the content.
    """
    if content.total is None:
        return size is None
    return size is not None and size != content.total


class SizeMismatch(DownloadError):
    """The blob store and Storage tell of different lengths: one of them may be late."""


def measured(content: Content, size: int | None) -> Content:
    """The content with its length by Storage where its answer tells none. `size` None: not told.

    Raises `SizeMismatch` where the two contradict each other, and a `DownloadError` where nothing
    could tell a file from the beginning of one.
    """
    if content.total is not None:
        if size is not None and size != content.total:
            raise SizeMismatch(
                message=f"the blob store has {content.total} bytes, and Storage tells of {size}: "
                "the file may be changing"
            )
        return content
    if size is None and content.md5 is None and not content.is_bounded:
        raise DownloadError(
            message="nothing tells whether it is whole: the answer has no Content-Length, as after "
            "a proxy that drops it, and no size or digest is known"
        )
    return evolve(content, total=size)


def output_ids(run: Run) -> tuple[str, ...]:
    """The ids of the files worth fetching: those of tasks that did not fail, or all if all did."""
    failed = {task.export_output_file_id for task in run.failed_tasks}
    good = tuple(file_id for file_id in run.output_file_ids if file_id not in failed)
    return good or run.output_file_ids


def has_output(run: Run) -> bool:
    """Whether something of the run went well, so that there can be an output."""
    return run.outcome in (ExecutionResult.SUCCESS, ExecutionResult.PARTIAL_SUCCESS)


def was_skipped(run: Run) -> bool:
    """Whether the service skipped the run, so that there is nothing to fetch."""
    return run.outcome == ExecutionResult.SKIPPED and not run.output_file_ids


def composite_id(itwin_id: str | None, file_id: str) -> str | None:
    """The Storage id that a plain GUID may stand for: the iTwin's and its own, packed together.

    None when either is no GUID. The service does not document this; it is tried second.
    """
    try:
        packed = UUID(itwin_id).bytes_le + UUID(file_id).bytes_le
    except (ValueError, TypeError, AttributeError):
        return None
    return base64.urlsafe_b64encode(packed).decode().rstrip("=")


def safe_name(display_name: str, *, fallback: str) -> str:
    """A file name that stays in its folder and that every file system takes.

    It does not end in `.part`, as the names of files do that are still growing.
    """
    name = _cleaned(display_name) or _cleaned(fallback) or "output"
    return f"{name}_" if name.lower().endswith(".part") else name


def _cleaned(text: str) -> str:
    name = re.split(r"[/\\]", text)[-1].encode(errors="replace").decode()
    name = _UNFIT.sub("_", name).strip().rstrip(". ")
    if _RESERVED.match(name):
        name = f"_{name}"
    stem, dot, suffix = name.rpartition(".")
    if not stem or len(suffix.encode()) > 20:
        stem, dot, suffix = name, "", ""
    room = _LONGEST_NAME - len((dot + suffix).encode())
    return stem.encode()[:room].decode(errors="ignore").rstrip(". ") + dot + suffix
