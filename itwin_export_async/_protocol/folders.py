"""What is in a folder of Storage, and which folder is an iTwin's root.

https://developer.bentley.com/apis/storage/operations/
"""

import re
from urllib.parse import unquote, urlsplit

from itwin_export_async._errors import ProtocolError
from itwin_export_async._models import StoredFile
from itwin_export_async._protocol.codec import href, json_object
from itwin_export_async._protocol.messages import Request, Response
from itwin_export_async._protocol.paging import Page, page_of, page_query
from itwin_export_async._protocol.urls import quote_segment, validate_id

_FOLDER = re.compile(r".*/folders/(?P<id>[^/]+)/?", re.IGNORECASE)


def list_folder_request(folder_id: str, *, page_size: int | None, offset: int) -> Request:
    """One page of what is in a folder."""
    path = f"/storage/folders/{quote_segment('folder_id', folder_id)}/list"
    return Request(method="GET", url=f"{path}{page_query({}, page_size, offset)}")


def list_root_folder_request(itwin_id: str, *, page_size: int | None, offset: int) -> Request:
    """One page of what is in an iTwin's root folder."""
    parameters = {"iTwinId": validate_id("itwin_id", itwin_id)}
    return Request(method="GET", url=f"/storage/{page_query(parameters, page_size, offset)}")


def parse_items(response: Response) -> Page[StoredFile]:
    """One page of files and folders."""
    return page_of(response, "items", StoredFile)


def parse_root_folder(response: Response) -> str:
    """The id of the root folder, which stands only in a link of its listing."""
    parse_items(response)  # a refusal is raised
    folder_id = id_in(href(json_object(response), "folder") or "", _FOLDER)
    if folder_id is None:
        raise ProtocolError(
            message="is missing, or names no folder",
            method=response.method,
            url=response.url,
            path="_links.folder.href",
        )
    return folder_id


def id_in(address: str, pattern: re.Pattern[str]) -> str | None:
    """The `id` that the pattern finds in the address's path, None when there is none to use."""
    try:
        found = pattern.fullmatch(urlsplit(address).path)
        return validate_id("id", unquote(found["id"])) if found else None
    except ValueError:
        return None
