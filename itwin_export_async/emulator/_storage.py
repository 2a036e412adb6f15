"""Storage, as far as downloads need it, and the blob store that it sends them to.

A download address is signed: its query names what may be read and until when, and `sig` seals path
and query. The store accepts it only as it was given, byte for byte, and, like the one behind the
real service, not together with an Authorization header.
"""

import base64
import hmac
import re
from datetime import UTC, datetime
from hashlib import md5, sha256
from itertools import count
from urllib.parse import parse_qs, quote, urlsplit

from attrs import evolve

from itwin_export_async._protocol.http import Response
from itwin_export_async.emulator._answers import (
    Refused,
    empty,
    error,
    header_of,
    json_answer,
)
from itwin_export_async.emulator._world import Call, StoredFile, World

_MEMBER = "1140f95b-1ba0-49d9-bbf4-b53e54d80387"
_RANGE = re.compile(r"bytes=(\d+)-(\d*)")
_EXPIRY = "%Y-%m-%dT%H:%M:%SZ"


def get_file(world: World, call: Call) -> Response:
    """`GET /storage/files/{fileId}`"""
    stored = _readable(world, call)
    api = world.addresses.api
    member = {"href": f"{api}/projects/{stored.itwin_id}/members/{_MEMBER}"}
    written = world.clock.stamp(stored.available_at, zone="+00:00")
    return json_answer(
        200,
        {
            "file": {
                "id": stored.id,
                "displayName": stored.name,
                "description": stored.description,
                "path": stored.name,
                "size": len(stored.write()),
                "lastModifiedByDisplayName": "Export Service",
                "createdDateTime": written,
                "lastModifiedDateTime": written,
                "parentFolderId": stored.folder_id,
                "_links": {
                    "createdBy": member,
                    "lastModifiedBy": member,
                    "parentFolder": {"href": f"{api}/storage/folders/{stored.folder_id}"},
                },
            }
        },
    )


def download_file(world: World, call: Call) -> Response:
    """`GET /storage/files/{fileId}/download`"""
    stored = _readable(world, call)
    path = f"/{stored.itwin_id}/{stored.guid}"
    expiry = world.clock.moment(call.now + world.settings.download_lifetime)
    query = _signed_query(world, path, f"{expiry:{_EXPIRY}}", stored.name)
    return empty(302, location=f"{world.addresses.blobs}{path}?{query}")


def get_blob(world: World, call: Call) -> Response:
    """`GET` of a signed address."""
    request = call.request
    if header_of(request, "Authorization"):
        return _blob_error(400, "InvalidAuthenticationInfo")
    stored = world.files.get(call.ids[1])
    if stored is None or not _is_signed(world, call, stored):
        return _blob_error(403, "AuthenticationFailed")
    content = stored.write()
    digest = md5(content, usedforsecurity=False).digest()
    tag = f'"0x{digest.hex()[:15].upper()}"'
    if header_of(request, "If-Match") not in ("", "*", tag):
        return _blob_error(412, "ConditionNotMet")
    checksum = base64.b64encode(digest).decode()
    whole = Response(
        status=200,
        headers={
            "Accept-Ranges": "bytes",
            "Content-Disposition": _disposition(stored.name),
            "Content-Length": str(len(content)),
            "Content-MD5": checksum,
            "Content-Type": "application/octet-stream",
            "ETag": tag,
        },
        body=content,
    )
    asked = _RANGE.fullmatch(header_of(request, "Range"))
    return _part(whole, asked) if asked else whole


def _readable(world: World, call: Call) -> StoredFile:
    stored = world.file(call.ids[0])
    if stored is None or call.now < stored.available_at:
        raise Refused(error(404, "FileNotFound", "Requested file not available."))
    return stored


def _part(whole: Response, asked: re.Match[str]) -> Response:
    size = len(whole.body)
    first = int(asked[1])
    last = min(int(asked[2] or size), size - 1)
    if first > last:
        refusal = _blob_error(416, "InvalidRange")
        return evolve(refusal, headers={**refusal.headers, "Content-Range": f"bytes */{size}"})
    body = whole.body[first : last + 1]
    headers = dict(whole.headers)
    headers["x-ms-blob-content-md5"] = headers.pop("Content-MD5")
    headers["Content-Length"] = str(len(body))
    headers["Content-Range"] = f"bytes {first}-{last}/{size}"
    return evolve(whole, status=206, headers=headers, body=body)


def _signed_query(world: World, path: str, expiry: str, name: str) -> str:
    """The first query whose signature has what careless clients break: `%2F` and `%2B`."""
    candidates = (_sealed(world, path, expiry, name, version) for version in count(1))
    return next(f"{said}&sig={sig}" for said, sig in candidates if "%2F" in sig and "%2B" in sig)


def _sealed(world: World, path: str, expiry: str, name: str, version: int) -> tuple[str, str]:
    said = (
        f"sv=2020-08-04&sr=b&sp=r&se={quote(expiry, safe='')}&skv={version}"
        f"&rscd={quote(_disposition(name), safe='')}"
    )
    seal = hmac.digest(world.signing_key, f"{path}?{said}".encode(), sha256)
    return said, quote(base64.b64encode(seal).decode(), safe="")


def _is_signed(world: World, call: Call, stored: StoredFile) -> bool:
    address = urlsplit(call.request.url)
    expiry = parse_qs(address.query).get("se", [""])[0]
    try:
        ends = datetime.strptime(expiry, _EXPIRY).replace(tzinfo=UTC)
    except ValueError:
        return False
    expected = _signed_query(world, address.path, expiry, stored.name)
    return address.query == expected and world.clock.moment(call.now) < ends


def _disposition(name: str) -> str:
    return f"attachment; filename*=UTF-8''{quote(name, safe='')}"


def _blob_error(status: int, code: str) -> Response:
    body = f'<?xml version="1.0" encoding="utf-8"?><Error><Code>{code}</Code></Error>'
    headers = {"Content-Type": "application/xml", "x-ms-error-code": code}
    return Response(status=status, headers=headers, body=body.encode())
