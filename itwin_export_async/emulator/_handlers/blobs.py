"""The blob store's operations, as Azure has them: reading, putting whole, putting in blocks.

An address must be signed for what is done with it. Like the store behind the real service, this
one refuses an Authorization header beside a signature.
"""

import base64
import re
from collections.abc import Iterator
from urllib.parse import urlsplit

from attrs import evolve

from itwin_export_async._protocol.messages import Response
from itwin_export_async.emulator._http.messages import ApiError, Streamed, header_of
from itwin_export_async.emulator._state.blobs import md5_of
from itwin_export_async.emulator._state.platform import Call, Platform

_RANGE = re.compile(r"bytes=(\d+)-(\d*)")
_BLOCK_LIST = re.compile(
    rb"\s*(?:<\?xml[^>]*\?>)?\s*<BlockList>"
    rb"(?:\s*<(Latest|Uncommitted|Committed)>[^<]*</\1>)*\s*</BlockList>\s*"
)
_BLOCK = re.compile(rb"<(Latest|Uncommitted|Committed)>\s*([^<]*?)\s*</")
_LONGEST_BLOCK_ID = 64


def get_blob(world: Platform, call: Call) -> Response:
    """`GET` of a signed address."""
    path = _allowed(world, call, "r")
    blob = world.drive.blobs.get(path, now=call.now)
    if blob is None:
        return _refusal(404, "BlobNotFound")
    if header_of(call.request, "If-Match") not in ("", "*", blob.tag):
        return _refusal(412, "ConditionNotMet")
    content = blob.write()
    size = len(content)
    headers = {
        "Accept-Ranges": "bytes",
        "Content-Disposition": call.query["rscd"],
        "Content-Length": str(size),
        "Content-Type": "application/octet-stream",
        "ETag": blob.tag,
    }
    told = blob.checksum(content)
    if told is not None:
        headers["Content-MD5"] = told
    whole = Streamed(status=200, headers=headers, content=content, first=0, stop=size)
    asked = _RANGE.fullmatch(header_of(call.request, "Range"))
    return _part(whole, asked) if asked else whole


def put_blob(world: Platform, call: Call) -> Response:
    """`PUT` of a whole blob."""
    path = _allowed(world, call, "w")
    kind = header_of(call.request, "x-ms-blob-type")
    if kind != "BlockBlob":
        return _refusal(400, "InvalidHeaderValue" if kind else "MissingRequiredHeader")
    content = _content(world, call)
    world.drive.blobs.uncommitted.pop(path, None)
    blob = world.drive.blobs.put(path, lambda: content, since=call.now)
    return _created(world, call, {"ETag": blob.tag, "Content-MD5": md5_of(content)})


def put_block(world: Platform, call: Call) -> Response:
    """`PUT` of one block, which is no blob yet."""
    path = _allowed(world, call, "w")
    if not call.query.get("blockid"):
        return _refusal(400, "MissingRequiredQueryParameter")
    block_id = call.query["blockid"]
    if not _is_block_id(block_id):
        return _refusal(400, "InvalidQueryParameterValue")
    blocks = world.drive.blobs.uncommitted.setdefault(path, {})
    if any(len(other) != len(block_id) for other in blocks):
        return _refusal(400, "InvalidBlobOrBlock")
    content = _content(world, call)
    blocks[block_id] = content
    return _created(world, call, {"Content-MD5": md5_of(content)})


def put_block_list(world: Platform, call: Call) -> Response:
    """`PUT` of the list that makes blocks a blob."""
    path = _allowed(world, call, "w")
    body = call.request.body or b""
    if not _BLOCK_LIST.fullmatch(body):
        return _refusal(400, "InvalidXmlDocument")
    store = world.drive.blobs
    found = list(_blocks(world, call, path, body))
    spans, position = {}, 0
    for block_id, content in found:
        spans[block_id] = slice(position, position + len(content))
        position += len(content)
    whole = b"".join(content for _, content in found)
    told = header_of(call.request, "x-ms-blob-content-md5") or None
    store.uncommitted.pop(path, None)
    blob = store.put(path, lambda: whole, since=call.now, checksum=lambda _: told, blocks=spans)
    return _created(world, call, {"ETag": blob.tag})


def _allowed(world: Platform, call: Call, right: str) -> str:
    """The path of the address, when its signature allows this."""
    if header_of(call.request, "Authorization"):
        raise ApiError(_refusal(400, "InvalidAuthenticationInfo"))
    url = call.request.url
    rights = world.drive.blobs.rights(url, moment=world.clock.moment(call.now))
    if not rights:
        raise ApiError(_refusal(403, "AuthenticationFailed"))
    if right not in rights:
        raise ApiError(_refusal(403, "AuthorizationPermissionMismatch"))
    return urlsplit(url).path


def _content(world: Platform, call: Call) -> bytes:
    """The body, when it is short enough and what the sender says it is."""
    content = call.request.body or b""
    if len(content) > world.settings.max_put_bytes:
        raise ApiError(_refusal(413, "RequestBodyTooLarge"))
    if header_of(call.request, "Content-MD5") not in ("", md5_of(content)):
        raise ApiError(_refusal(400, "Md5Mismatch"))
    return content


def _is_block_id(text: str) -> bool:
    try:
        return len(base64.b64decode(text, validate=True)) <= _LONGEST_BLOCK_ID
    except ValueError:
        return False


def _blocks(world: Platform, call: Call, path: str, body: bytes) -> Iterator[tuple[str, bytes]]:
    """The blocks that a list names: new ones, and those of the blob as it is."""
    store = world.drive.blobs
    new = store.uncommitted.get(path, {})
    blob = store.get(path, now=call.now)
    for kind, block_id in _BLOCK.findall(body):
        name = block_id.decode("utf-8", "replace")
        if kind != b"Committed" and name in new:
            yield name, new[name]
        elif kind != b"Uncommitted" and blob is not None and name in blob.blocks:
            yield name, blob.write()[blob.blocks[name]]
        else:
            raise ApiError(_refusal(400, "InvalidBlockList"))


def _part(whole: Streamed, asked: re.Match[str]) -> Response:
    first = int(asked[1])
    last = min(int(asked[2] or whole.stop), whole.stop - 1)
    if first > last:
        refusal = _refusal(416, "InvalidRange")
        length = {"Content-Range": f"bytes */{whole.stop}"}
        return evolve(refusal, headers={**refusal.headers, **length})
    headers = dict(whole.headers)
    if "Content-MD5" in headers:
        headers["x-ms-blob-content-md5"] = headers.pop("Content-MD5")
    headers["Content-Length"] = str(last + 1 - first)
    headers["Content-Range"] = f"bytes {first}-{last}/{whole.stop}"
    return evolve(whole, status=206, headers=headers, first=first, stop=last + 1)


def _created(world: Platform, call: Call, headers: dict[str, str]) -> Response:
    served = {
        "Last-Modified": world.clock.http_date(call.now),
        "x-ms-request-server-encrypted": "true",
    }
    return Response(status=201, headers=headers | served)


def _refusal(status: int, code: str) -> Response:
    body = f'<?xml version="1.0" encoding="utf-8"?><Error><Code>{code}</Code></Error>'
    headers = {"Content-Type": "application/xml", "x-ms-error-code": code}
    return Response(status=status, headers=headers, body=body.encode())
