"""iModels API v2 and Access Control API v2: requests and what their responses say.

Lists page by continuation token: empty on the first call, then the `$continuationToken` of the
`next` link. Nothing else is taken from that link.

https://developer.bentley.com/apis/imodels-v2/operations/
https://developer.bentley.com/apis/access-control-v2/operations/
"""

from typing import TypeVar
from urllib.parse import parse_qsl, quote, urlsplit

from attrs import frozen

from itwin_export_async._models.imodels import Changeset, IModel, NamedVersion
from itwin_export_async._protocol.codec import decode, decode_list, json_object
from itwin_export_async._protocol.error_responses import error_from_response
from itwin_export_async._protocol.messages import Request, Response
from itwin_export_async._protocol.model_hooks import href
from itwin_export_async._protocol.paging import Page
from itwin_export_async._protocol.urls import quote_segment

T = TypeVar("T")

MAX_PAGE_SIZE = 1000
_V2 = {"Accept": "application/vnd.bentley.itwin-platform.v2+json"}
_IN_FULL = {**_V2, "Prefer": "return=representation"}


@frozen(kw_only=True)
class TokenPage(Page[T]):
    """One page of a list, and the token of the next page, None on the last one."""

    token: str | None = None


def list_imodels_request(
    itwin_id: str, *, name: str | None, search: str | None, page_size: int | None, token: str
) -> Request:
    """One page of an iTwin's iModels, in full. `token`: empty for the first page."""
    if name is not None and search is not None:
        raise ValueError("name and search exclude each other: give one of them")
    parameters = {"iTwinId": _identifier("itwin_id", itwin_id)}
    if name is not None:
        parameters["name"] = _text("name", name)
    if search is not None:
        parameters["$search"] = _text("search", search)
    return _list_request("/imodels/", parameters, page_size, token)


def parse_imodels(response: Response) -> TokenPage[IModel]:
    """One page of iModels."""
    return _parse_page(response, "iModels", IModel)


def get_imodel_request(imodel_id: str) -> Request:
    """Read an iModel."""
    return Request(method="GET", url=_imodel_path(imodel_id), headers=_V2)


def parse_imodel(response: Response) -> IModel:
    """The iModel."""
    if response.status != 200:
        raise error_from_response(response)
    return decode(response, "iModel", IModel)


def list_named_versions_request(imodel_id: str, *, page_size: int | None, token: str) -> Request:
    """One page of an iModel's named versions, hidden ones included, latest in the history first."""
    parameters = {"$orderBy": "changesetIndex desc"}
    path = f"{_imodel_path(imodel_id)}/namedversions"
    return _list_request(path, parameters, page_size, token)


def latest_named_version_request(imodel_id: str) -> Request:
    """The visible named version that is the latest in the history.

    The creation date is another order: a version can be put on an old changeset.
    """
    parameters = {"$orderBy": "changesetIndex desc", "state": "visible"}
    return _list_request(f"{_imodel_path(imodel_id)}/namedversions", parameters, 1, None)


def parse_named_versions(response: Response) -> TokenPage[NamedVersion]:
    """One page of named versions."""
    return _parse_page(response, "namedVersions", NamedVersion)


def latest_changeset_request(imodel_id: str) -> Request:
    """The newest changeset."""
    parameters = {"$orderBy": "index desc"}
    return _list_request(f"{_imodel_path(imodel_id)}/changesets", parameters, 1, None)


def parse_changesets(response: Response) -> TokenPage[Changeset]:
    """One page of changesets."""
    return _parse_page(response, "changesets", Changeset)


def imodel_permissions_request(imodel_id: str) -> Request:
    """The caller's permissions in an iModel."""
    return Request(method="GET", url=f"{_imodel_path(imodel_id)}/permissions", headers=_V2)


def itwin_permissions_request(itwin_id: str) -> Request:
    """The caller's permissions in an iTwin."""
    path = f"/accesscontrol/itwins/{quote_segment('itwin_id', itwin_id)}/permissions"
    return Request(method="GET", url=path, headers=_V2)


def parse_permissions(response: Response) -> frozenset[str]:
    """The names of the permissions, such as `imodels_read`."""
    if response.status != 200:
        raise error_from_response(response)
    return frozenset(decode_list(response, "permissions", str))


def _imodel_path(imodel_id: str) -> str:
    return f"/imodels/{quote_segment('imodel_id', imodel_id)}"


def _list_request(
    path: str, parameters: dict[str, str], page_size: int | None, token: str | None
) -> Request:
    top = MAX_PAGE_SIZE if page_size is None else page_size
    pairs = {**parameters, "$top": str(top)}
    if token is not None:
        pairs["$continuationToken"] = token
    query = "&".join(f"{name}={quote(value, safe='')}" for name, value in pairs.items())
    return Request(method="GET", url=f"{path}?{query}", headers=_IN_FULL)


def _parse_page(response: Response, member: str, cls: type[T]) -> TokenPage[T]:
    if response.status != 200:
        raise error_from_response(response)
    token = _next_token(href(json_object(response), "next"))
    items = decode_list(response, member, cls)
    return TokenPage(items=items, has_next=token is not None, token=token)


def _next_token(link: str | None) -> str | None:
    """The continuation token of a `next` link, None if it has none."""
    try:
        query = urlsplit(link or "").query
    except ValueError:
        return None
    pairs = {name.casefold(): value for name, value in parse_qsl(query)}
    return pairs.get("$continuationtoken") or None


def _identifier(name: str, value: str) -> str:
    quote_segment(name, value)  # raises for what cannot be an id
    return value


def _text(name: str, value: str) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{name} must be a string, not {type(value).__name__}")
    if not value.strip():
        raise ValueError(f"{name} is empty")
    return value
