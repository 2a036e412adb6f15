"""HTTP ranges of a file (RFC 9110, section 14): the requested part, and the answer's headers."""

import re
from urllib.parse import quote

from attrs import field, frozen

_RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})", re.IGNORECASE)


@frozen(kw_only=True)
class FileAnswer:
    """The status and the headers of a file's answer."""

    status: int
    headers: dict[str, str] = field(factory=dict)


@frozen
class ByteRange:
    """The bytes from `start` up to `stop`, None for the end of the file. Empty if beyond it."""

    start: int = 0
    stop: int | None = None

    @property
    def is_empty(self) -> bool:
        return self.stop is not None and self.start >= self.stop


WHOLE = ByteRange()


def parse_range(header: str | None, size: int | None) -> ByteRange:
    """The bytes that a `Range` header requests of a file of this size.

    A header that is invalid or names several ranges requests the whole file, and so does any
    header while the size is not known.
    """
    match = _RANGE.fullmatch((header or "").strip())
    if match is None or size is None:
        return WHOLE
    first, last = match.groups()
    if not first:  # the last bytes of the file
        return ByteRange(max(0, size - int(last)), size) if last else WHOLE
    if last and int(last) < int(first):
        return WHOLE
    start, stop = int(first), min(int(last) + 1, size) if last else size
    return ByteRange(min(start, size), stop)


def file_answer(
    *, name: str, size: int | None, etag: str | None, start: int, stop: int | None, is_range: bool
) -> FileAnswer:
    """206 where the range was accepted, else 200."""
    headers = {
        "Accept-Ranges": "bytes",
        "Cache-Control": "private, no-cache",
        "Content-Disposition": content_disposition(name),
        "Content-Type": "application/octet-stream",
        "X-Content-Type-Options": "nosniff",
    }
    if etag is not None:
        headers["ETag"] = etag
    if stop is not None:
        headers["Content-Length"] = str(stop - start)
    if is_range and stop is not None:
        headers["Content-Range"] = f"bytes {start}-{stop - 1}/{size}"
        return FileAnswer(status=206, headers=headers)
    return FileAnswer(status=200, headers=headers)


def unsatisfiable(size: int | None) -> FileAnswer:
    """416 for a range beyond the end of the file."""
    headers = {"Content-Range": f"bytes */{size}", "Content-Length": "0"}
    return FileAnswer(status=416, headers=headers)


def content_disposition(name: str) -> str:
    """An attachment with this name: in ASCII, and where it differs in UTF-8 (RFC 6266)."""
    ascii_name = re.sub(r'[^\x20-\x7e]|["\\%]', "_", name)
    text = f'attachment; filename="{ascii_name}"'
    if ascii_name != name:
        encoded = quote(name, safe="", errors="replace")
        text += f"; filename*=UTF-8''{encoded}"
    return text
