"""Uploads to Storage, in the service's three steps: create, send the bytes, complete.

The bytes go straight to the blob store behind Storage, to a signed address that is used byte for
byte and without the bearer token. A file of up to PIECE bytes is sent in one go; a larger one in
blocks of that size, each for itself, and a list that says in which order they make the file. Every
body is sent with its MD5, which the store checks.

https://developer.bentley.com/apis/storage/operations/create-file/
https://learn.microsoft.com/rest/api/storageservices/put-block-list
"""

import base64
import hashlib
import re
from urllib.parse import quote, unquote

from attrs import field, frozen

from itwin_export_async._errors import ProtocolError
from itwin_export_async._models import StoredFile
from itwin_export_async._protocol.codec import decode, encode, href, json_object
from itwin_export_async._protocol.error_responses import error_from_response
from itwin_export_async._protocol.folders import id_in
from itwin_export_async._protocol.messages import Request, Response
from itwin_export_async._protocol.urls import is_valid_signed_url, origin, quote_segment
from itwin_export_async._redaction import without_query

PIECE = 32 * 1024 * 1024
_LONGEST_NAME = 255
_COMPLETE = re.compile(r".*/files/(?P<id>[^/]+)/complete/?", re.IGNORECASE)


@frozen(kw_only=True)
class Upload:
    """Where a new file's bytes go, and what is called when they are there. Signed: a secret."""

    file_id: str
    upload_url: str = field(repr=False)
    complete_url: str = field(repr=without_query)


def create_file_request(folder_id: str, display_name: str, description: str | None) -> Request:
    """Announce a file. Repeatable: what is announced and never completed is seen by nobody."""
    if not isinstance(display_name, str):
        raise TypeError(f"display_name must be a string, not {display_name!r}")
    if not display_name.strip() or len(display_name) > _LONGEST_NAME:
        raise ValueError(f"display_name must have 1 to {_LONGEST_NAME} characters")
    body = {"displayName": display_name}
    if description is not None:
        if not isinstance(description, str):
            raise TypeError(f"description must be a string, not {description!r}")
        body["description"] = description
    return Request(
        method="POST",
        url=f"/storage/folders/{quote_segment('folder_id', folder_id)}/files",
        headers={"Content-Type": "application/json"},
        body=encode(body),
        retryable=True,
    )


def parse_created_file(response: Response, *, base_url: str) -> Upload:
    """Where the bytes go. The file's id stands nowhere but in the address that completes it.

    That one gets the token, so that it has to be of the API at `base_url`; better to know before
    the bytes have gone.
    """
    if response.status not in (200, 201, 202):
        raise error_from_response(response)
    links = json_object(response)
    upload_url, complete_url = href(links, "uploadUrl"), href(links, "completeUrl")
    if upload_url is None or not is_valid_signed_url(upload_url):
        raise _unusable(response, "_links.uploadUrl.href")
    file_id = id_in(complete_url or "", _COMPLETE)
    if complete_url is None or file_id is None or not is_valid_signed_url(complete_url):
        raise _unusable(response, "_links.completeUrl.href")
    if origin(complete_url) != origin(base_url):
        raise _unusable(response, "_links.completeUrl.href", "points to a foreign host")
    return Upload(file_id=file_id, upload_url=upload_url, complete_url=complete_url)


def _unusable(
    response: Response, path: str, message: str = "is missing, or no address that can be used"
) -> ProtocolError:
    return ProtocolError(
        message=message,
        method=response.method,
        url=response.url,
        path=path,
    )


def complete_file_request(upload: Upload) -> Request:
    """Say that the bytes are there. Repeatable: a file is no more than complete."""
    return Request(method="POST", url=upload.complete_url, retryable=True)


def parse_completed_file(response: Response) -> StoredFile:
    """The new file."""
    match response.status:
        case 200 | 201:
            return decode(response, "file", StoredFile)
        case _:
            raise error_from_response(response)


def put_blob_request(address: str, content: bytes) -> Request:
    """Send a file whole."""
    headers = {"x-ms-blob-type": "BlockBlob", "Content-Type": "application/octet-stream"}
    return _put(address, content, headers)


def put_block_request(address: str, number: int, content: bytes) -> Request:
    """Send a part of a file, counted from 0."""
    return _put(f"{address}{_and(address)}comp=block&blockid={_block_id(number)}", content, {})


def put_block_list_request(address: str, blocks: int, md5: bytes) -> Request:
    """Say that the file consists of so many parts. `md5` is the digest of the whole."""
    numbers = range(blocks)
    listed = "".join(f"<Latest>{unquote(_block_id(number))}</Latest>" for number in numbers)
    text = f'<?xml version="1.0" encoding="utf-8"?><BlockList>{listed}</BlockList>'
    headers = {
        "Content-Type": "application/xml",
        "x-ms-blob-content-type": "application/octet-stream",
        "x-ms-blob-content-md5": base64.b64encode(md5).decode(),
    }
    return _put(f"{address}{_and(address)}comp=blocklist", text.encode(), headers)


def _put(address: str, content: bytes, headers: dict[str, str]) -> Request:
    digest = hashlib.md5(content, usedforsecurity=False).digest()
    checked = {"Content-MD5": base64.b64encode(digest).decode()}
    return Request(method="PUT", url=address, headers=headers | checked, body=content)


def _and(address: str) -> str:
    return "&" if "?" in address else "?"


def _block_id(number: int) -> str:
    """All of one length, as the store wants them, and safe in a query."""
    return quote(base64.b64encode(f"{number:06d}".encode()), safe="")


def parse_put(response: Response) -> None:
    """Nothing, or the blob store's refusal."""
    match response.status:
        case 200 | 201:
            return
        case _:
            raise error_from_response(response)
