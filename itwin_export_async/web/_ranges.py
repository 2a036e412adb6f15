"""HTTP ranges of a file (RFC 9110, section 14): which part is asked for, and how it is named."""

import re
from urllib.parse import quote

from attrs import field, frozen

_RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})")


@frozen(kw_only=True)
class FileAnswer:
    """The head of a file's answer, and which bytes follow: from `start` up to `stop`."""

    status: int
    headers: dict[str, str] = field(factory=dict)
    start: int = 0
    stop: int = 0


def file_answer(
    *,
    name: str,
    size: int,
    etag: str | None,
    range_header: str | None = None,
    if_range: str | None = None,
) -> FileAnswer:
    """200 with the whole file, 206 with one range, or 416 for a range beyond the end.

    A header that names several ranges, or is none, gives the whole file. So does an `If-Range` that
    is not the file's ETag.
    """
    headers = {
        "Accept-Ranges": "bytes",
        "Cache-Control": "private, no-cache",
        "Content-Disposition": content_disposition(name),
        "Content-Type": "application/octet-stream",
        "X-Content-Type-Options": "nosniff",
    }
    if etag is not None:
        headers["ETag"] = etag
    if if_range is not None and (if_range != etag or if_range.startswith("W/")):
        range_header = None
    wanted = _wanted(range_header, size)
    if wanted is None:
        headers["Content-Length"] = str(size)
        return FileAnswer(status=200, headers=headers, stop=size)
    start, stop = wanted
    if start >= stop:
        headers = {"Content-Range": f"bytes */{size}", "Content-Length": "0"}
        return FileAnswer(status=416, headers=headers)
    headers["Content-Range"] = f"bytes {start}-{stop - 1}/{size}"
    headers["Content-Length"] = str(stop - start)
    return FileAnswer(status=206, headers=headers, start=start, stop=stop)


def _wanted(range_header: str | None, size: int) -> tuple[int, int] | None:
    """First byte and end of one range, None for the whole file; an empty one is unsatisfiable."""
    match = _RANGE.fullmatch((range_header or "").replace(" ", ""))
    if match is None or match.group(1) == match.group(2) == "":
        return None
    first, last = match.groups()
    if not first:
        return max(0, size - int(last)), size if int(last) else 0
    if last and int(last) < int(first):
        return None
    return int(first), min(int(last) + 1, size) if last else size


def content_disposition(name: str) -> str:
    """An attachment with this name: in ASCII, and where it differs in UTF-8 (RFC 6266)."""
    ascii_name = re.sub(r'[^\x20-\x7e]|["\\%]', "_", name)
    text = f'attachment; filename="{ascii_name}"'
    if ascii_name != name:
        text += f"; filename*=UTF-8''{quote(name, safe='')}"
    return text
