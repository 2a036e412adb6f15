"""The Storage API: files and folders by id, downloads, and the steps around an upload.

A download starts with a redirect (302) to a signed URL of the blob store. The signature expires
soon, so the URL is requested just before it is used. An upload has three steps: create the file,
send the bytes to a signed URL, complete the file. The requests to the blob store are in `blobs`.

https://developer.bentley.com/apis/storage/operations/
"""

import base64
import re
from urllib.parse import unquote, urlsplit
from uuid import UUID

from attrs import field, frozen

from itwin_export_async._errors import ProtocolError
from itwin_export_async._models import ExecutionResult, Run, StoredFile
from itwin_export_async._protocol.codec import decode, encode, json_object
from itwin_export_async._protocol.error_responses import error_from_response
from itwin_export_async._protocol.headers import JSON_BODY
from itwin_export_async._protocol.messages import Request, Response
from itwin_export_async._protocol.model_hooks import href
from itwin_export_async._protocol.paging import Page, page_of, page_query
from itwin_export_async._protocol.urls import (
    is_loopback,
    is_valid_signed_url,
    origin,
    quote_segment,
    validate_id,
)
from itwin_export_async._redaction import without_query

OCTETS = "application/vnd.bentley.itwin-platform.v1+octet-stream"
_MAX_NAME_LENGTH = 255
_FOLDER = re.compile(r".*/folders/(?P<id>[^/]+)/?", re.IGNORECASE)
_COMPLETE = re.compile(r".*/files/(?P<id>[^/]+)/complete/?", re.IGNORECASE)


@frozen(kw_only=True)
class Upload:
    """A file that was created and has no content yet. The URLs are signed: a secret.

    The bytes go to `upload_url`; `complete_url` is called after them.
    """

    file_id: str
    upload_url: str = field(repr=False)
    complete_url: str = field(repr=without_query)


def get_file_request(file_id: str) -> Request:
    """Read a file's metadata."""
    return Request(method="GET", url=f"/storage/files/{quote_segment('file_id', file_id)}")


def parse_file(response: Response) -> StoredFile:
    """The file's metadata."""
    if response.status != 200:
        raise error_from_response(response)
    return decode(response, "file", StoredFile)


def download_file_request(file_id: str) -> Request:
    """Request the signed URL of a file's content."""
    return Request(
        method="GET",
        url=f"/storage/files/{quote_segment('file_id', file_id)}/download",
        headers={"Accept": OCTETS},
    )


def parse_download(response: Response, *, base_url: str) -> str:
    """The signed URL of the content, byte for byte as the service gave it."""
    if response.status not in (302, 303, 307):
        raise error_from_response(response)
    url = response.headers.get("Location", "")
    if not is_usable_signed_url(url, base_url=base_url):
        raise ProtocolError(
            message=f"the redirect to {without_query(url)!r} cannot be followed",
            method=response.method,
            url=response.url,
        )
    return url


def is_usable_signed_url(url: str, *, base_url: str) -> bool:
    """Whether bytes may be read from, or sent to, a URL that the API at `base_url` gave.

    Plain http to this machine is for an API on this machine: any other API could have the client
    read or write a local service.
    """
    if not is_valid_signed_url(url):
        return False
    return origin(url)[0] == "https" or is_loopback(base_url)


def list_folder_request(folder_id: str, *, page_size: int | None, offset: int) -> Request:
    """Read one page of a folder's items."""
    path = f"/storage/folders/{quote_segment('folder_id', folder_id)}/list"
    return Request(method="GET", url=f"{path}{page_query({}, page_size, offset)}")


def list_root_folder_request(itwin_id: str, *, page_size: int | None, offset: int) -> Request:
    """Read one page of the items of an iTwin's root folder."""
    parameters = {"iTwinId": validate_id("itwin_id", itwin_id)}
    return Request(method="GET", url=f"/storage/{page_query(parameters, page_size, offset)}")


def parse_items(response: Response) -> Page[StoredFile]:
    """One page of files and folders."""
    return page_of(response, "items", StoredFile)


def parse_root_folder(response: Response) -> str:
    """The id of the root folder, which only a link of its listing contains."""
    parse_items(response)  # raises the error of an error response
    folder_id = _id_in(href(json_object(response), "folder") or "", _FOLDER)
    if folder_id is None:
        raise _unusable_link(response, "folder", "is missing, or names no folder")
    return folder_id


def create_file_request(folder_id: str, display_name: str, description: str | None) -> Request:
    """Create a file without content. Repeatable: Storage never lists a file without content."""
    if not isinstance(display_name, str):
        raise TypeError(f"display_name must be a string, not {display_name!r}")
    if not display_name.strip() or len(display_name) > _MAX_NAME_LENGTH:
        raise ValueError(f"display_name must have 1 to {_MAX_NAME_LENGTH} characters")
    body = {"displayName": display_name}
    if description is not None:
        if not isinstance(description, str):
            raise TypeError(f"description must be a string, not {description!r}")
        body["description"] = description
    return Request(
        method="POST",
        url=f"/storage/folders/{quote_segment('folder_id', folder_id)}/files",
        headers=JSON_BODY,
        body=encode(body),
        retryable=True,
    )


def update_content_request(file_id: str) -> Request:
    """Request new signed URLs for the content of a file."""
    return Request(
        method="POST",
        url=f"/storage/files/{quote_segment('file_id', file_id)}/updatecontent",
        retryable=True,
    )


def parse_created_file(response: Response, *, base_url: str) -> Upload:
    """The URLs of an upload. The file's id is found in the URL that completes it, and only there.

    That URL gets the token, so it must belong to the API at `base_url`. It is checked before any
    byte is sent.
    """
    if response.status not in (200, 201, 202):
        raise error_from_response(response)
    links = json_object(response)
    upload_url, complete_url = href(links, "uploadUrl"), href(links, "completeUrl")
    if upload_url is None or not is_usable_signed_url(upload_url, base_url=base_url):
        raise _unusable_link(response, "uploadUrl")
    file_id = _id_in(complete_url or "", _COMPLETE)
    if complete_url is None or file_id is None or not is_valid_signed_url(complete_url):
        raise _unusable_link(response, "completeUrl")
    if origin(complete_url) != origin(base_url):
        raise _unusable_link(response, "completeUrl", "points to a foreign host")
    return Upload(file_id=file_id, upload_url=upload_url, complete_url=complete_url)


def complete_file_request(upload: Upload) -> Request:
    """Report that all bytes were sent. Repeatable: completing twice changes nothing."""
    return Request(method="POST", url=upload.complete_url, retryable=True)


def parse_completed_file(response: Response) -> StoredFile:
    """The new file."""
    if response.status not in (200, 201):
        raise error_from_response(response)
    return decode(response, "file", StoredFile)


def _unusable_link(
    response: Response, link: str, message: str = "is missing, or is not a usable URL"
) -> ProtocolError:
    return ProtocolError(
        message=message,
        method=response.method,
        url=response.url,
        path=f"_links.{link}.href",
    )


def _id_in(url: str, pattern: re.Pattern[str]) -> str | None:
    """The `id` that the pattern finds in the URL's path, None where there is no valid one."""
    try:
        found = pattern.fullmatch(urlsplit(url).path)
        return validate_id("id", unquote(found["id"])) if found else None
    except ValueError:
        return None


def output_ids(run: Run) -> tuple[str, ...]:
    """The ids of the files worth fetching: those of tasks that did not fail, or all if all did."""
    failed = {task.export_output_file_id for task in run.failed_tasks}
    good = tuple(file_id for file_id in run.output_file_ids if file_id not in failed)
    return good or run.output_file_ids


def has_output(run: Run) -> bool:
    """Whether part of the run succeeded, so that there can be an output."""
    return run.outcome in (ExecutionResult.SUCCESS, ExecutionResult.PARTIAL_SUCCESS)


def was_skipped(run: Run) -> bool:
    """Whether the service skipped the run, so that there is nothing to fetch."""
    return run.outcome == ExecutionResult.SKIPPED and not run.output_file_ids


def composite_id(itwin_id: str | None, file_id: str) -> str | None:
    """The Storage id that a plain GUID may stand for: the iTwin's GUID and the file's, packed.

    None when either is not a GUID. The service does not document this, so it is tried second.
    """
    try:
        packed = UUID(itwin_id).bytes_le + UUID(file_id).bytes_le
    except (ValueError, TypeError, AttributeError):
        return None
    return base64.urlsafe_b64encode(packed).decode().rstrip("=")
