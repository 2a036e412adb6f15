"""The blob store's operations, as Azure has them: read, put a blob, put its blocks.

A URL must be signed for the operation. Like the store behind the real service, this one refuses an
`Authorization` header beside a signature.
"""

import base64
import re
from collections.abc import Iterator
from urllib.parse import urlsplit

from attrs import evolve

from itwin_export_async._protocol.messages import Response
from itwin_export_async.emulator._http.messages import ApiError, LazyResponse, header_of
from itwin_export_async.emulator._http.router import open_to_all
from itwin_export_async.emulator._state.blobs import content_md5
from itwin_export_async.emulator._state.platform import Platform, RequestContext

_RANGE = re.compile(r"bytes=([0-9]{1,18})-([0-9]{0,18})")
_BLOCK_LIST = re.compile(
    rb"\s*(?:<\?xml[^>]*\?>)?\s*<BlockList>"
    rb"(?:\s*<(Latest|Uncommitted|Committed)>[^<]*</\1>)*\s*</BlockList>\s*"
)
_BLOCK = re.compile(rb"<(Latest|Uncommitted|Committed)>\s*([^<]*?)\s*</")
_MAX_BLOCK_ID = 64


@open_to_all("blobs", "GET", "/{}/{}")
def get_blob(platform: Platform, context: RequestContext) -> Response:
    """Read a blob, or a range of it."""
    path = _authorize(platform, context, "r")
    blob = platform.file_store.blobs.get(path, now=context.now)
    if blob is None:
        return _store_error(404, "BlobNotFound")
    if header_of(context.request, "If-Match") not in ("", "*", blob.etag):
        return _store_error(412, "ConditionNotMet")
    content = blob.write()
    size = len(content)
    headers = {
        "Accept-Ranges": "bytes",
        "Content-Disposition": context.query["rscd"],
        "Content-Length": str(size),
        "Content-Type": "application/octet-stream",
        "ETag": blob.etag,
    }
    checksum = blob.checksum(content)
    if checksum is not None:
        headers["Content-MD5"] = checksum
    whole = LazyResponse(status=200, headers=headers, content=content, first=0, stop=size)
    requested = _RANGE.fullmatch(header_of(context.request, "Range"))
    return _partial_content(whole, requested) if requested else whole


@open_to_all("blobs", "PUT", "/{}/{}")
def put_blob(platform: Platform, context: RequestContext) -> Response:
    """Put a whole blob."""
    path = _authorize(platform, context, "w")
    blob_type = header_of(context.request, "x-ms-blob-type")
    if blob_type != "BlockBlob":
        return _store_error(400, "InvalidHeaderValue" if blob_type else "MissingRequiredHeader")
    content = _content(platform, context)
    store = platform.file_store.blobs
    store.uncommitted.pop(path, None)
    blob = store.put(path, lambda: content, since=context.now, now=context.now, held=len(content))
    headers = {"ETag": blob.etag, "Content-MD5": content_md5(content)}
    return _created(platform, context, headers)


@open_to_all("blobs", "PUT", "/{}/{}", comp="block")
def put_block(platform: Platform, context: RequestContext) -> Response:
    """Put one block. It belongs to no blob yet."""
    path = _authorize(platform, context, "w")
    if not context.query.get("blockid"):
        return _store_error(400, "MissingRequiredQueryParameter")
    block_id = context.query["blockid"]
    if not _is_block_id(block_id):
        return _store_error(400, "InvalidQueryParameterValue")
    content = _content(platform, context)
    blocks = platform.file_store.blobs.uncommitted.setdefault(path, {})
    if any(len(other) != len(block_id) for other in blocks):
        return _store_error(400, "InvalidBlobOrBlock")
    blocks[block_id] = content
    return _created(platform, context, {"Content-MD5": content_md5(content)})


@open_to_all("blobs", "PUT", "/{}/{}", comp="blocklist")
def put_block_list(platform: Platform, context: RequestContext) -> Response:
    """Make a blob of blocks."""
    path = _authorize(platform, context, "w")
    body = context.request.body or b""
    if not _BLOCK_LIST.fullmatch(body):
        return _store_error(400, "InvalidXmlDocument")
    store = platform.file_store.blobs
    parts = list(_blocks(platform, context, path, body))
    spans, position = {}, 0
    for block_id, content in parts:
        spans[block_id] = slice(position, position + len(content))
        position += len(content)
    whole = b"".join(content for _, content in parts)
    checksum = header_of(context.request, "x-ms-blob-content-md5") or None
    store.uncommitted.pop(path, None)
    blob = store.put(
        path,
        lambda: whole,
        since=context.now,
        now=context.now,
        checksum=lambda _: checksum,
        blocks=spans,
        held=len(whole),
    )
    return _created(platform, context, {"ETag": blob.etag})


def _authorize(platform: Platform, context: RequestContext, right: str) -> str:
    """Return the path of the blob. Raises an error unless the signature grants the right."""
    if header_of(context.request, "Authorization"):
        raise ApiError(_store_error(400, "InvalidAuthenticationInfo"))
    query = urlsplit(context.request.url).query
    moment = platform.clock.moment(context.now)
    rights = platform.file_store.blobs.rights(context.path, query, at=moment)
    if not rights:
        raise ApiError(_store_error(403, "AuthenticationFailed"))
    if right not in rights:
        raise ApiError(_store_error(403, "AuthorizationPermissionMismatch"))
    return context.path


def _content(platform: Platform, context: RequestContext) -> bytes:
    """Return the body. Raises an error if it is too long, or does not match its MD5."""
    content = context.request.body or b""
    settings = platform.settings
    if len(content) > settings.max_put_bytes:
        raise ApiError(_store_error(413, "RequestBodyTooLarge"))
    if platform.file_store.blobs.held_bytes() + len(content) > settings.max_stored_bytes:
        raise ApiError(_store_error(507, "InsufficientStorage"))
    if header_of(context.request, "Content-MD5") not in ("", content_md5(content)):
        raise ApiError(_store_error(400, "Md5Mismatch"))
    return content


def _is_block_id(text: str) -> bool:
    try:
        return len(base64.b64decode(text, validate=True)) <= _MAX_BLOCK_ID
    except ValueError:
        return False


def _blocks(
    platform: Platform, context: RequestContext, path: str, body: bytes
) -> Iterator[tuple[str, bytes]]:
    """Yield the blocks that a list names: uncommitted ones, and those of the current blob."""
    store = platform.file_store.blobs
    uncommitted = store.uncommitted.get(path, {})
    blob = store.get(path, now=context.now)
    for kind, block_id in _BLOCK.findall(body):
        name = block_id.decode("utf-8", "replace")
        if kind != b"Committed" and name in uncommitted:
            yield name, uncommitted[name]
        elif kind != b"Uncommitted" and blob is not None and name in blob.blocks:
            yield name, blob.write()[blob.blocks[name]]
        else:
            raise ApiError(_store_error(400, "InvalidBlockList"))


def _partial_content(whole: LazyResponse, requested: re.Match[str]) -> Response:
    first = int(requested[1])
    last = min(int(requested[2] or whole.stop), whole.stop - 1)
    if first > last:
        response = _store_error(416, "InvalidRange")
        length = {"Content-Range": f"bytes */{whole.stop}"}
        return evolve(response, headers={**response.headers, **length})
    headers = dict(whole.headers)
    if "Content-MD5" in headers:
        headers["x-ms-blob-content-md5"] = headers.pop("Content-MD5")
    headers["Content-Length"] = str(last + 1 - first)
    headers["Content-Range"] = f"bytes {first}-{last}/{whole.stop}"
    return evolve(whole, status=206, headers=headers, first=first, stop=last + 1)


def _created(platform: Platform, context: RequestContext, headers: dict[str, str]) -> Response:
    common = {
        "Last-Modified": platform.clock.http_date(context.now),
        "x-ms-request-server-encrypted": "true",
    }
    return Response(status=201, headers=headers | common)


def _store_error(status: int, code: str) -> Response:
    body = f'<?xml version="1.0" encoding="utf-8"?><Error><Code>{code}</Code></Error>'
    headers = {"Content-Type": "application/xml", "x-ms-error-code": code}
    return Response(status=status, headers=headers, body=body.encode())
