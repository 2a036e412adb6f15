"""The iModels API v2, and the permissions of the Access Control API v2.

An iModel that the caller may not view is absent from the lists.
https://developer.bentley.com/apis/imodels-v2/operations/get-itwin-imodels/
"""

import base64
import binascii
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar
from urllib.parse import quote

from itwin_export_async._protocol.messages import Response
from itwin_export_async.emulator._handlers.imodel_items import (
    JSON,
    changeset_item,
    imodel_item,
    named_version_item,
)
from itwin_export_async.emulator._handlers.validation import (
    MAX_PAGE,
    find_imodel,
    int_parameter,
    page_of,
    wants_representation,
)
from itwin_export_async.emulator._http.messages import (
    ApiError,
    detail,
    error,
    header_of,
    invalid,
    invalid_value,
    json_response,
)
from itwin_export_async.emulator._http.router import V2, api
from itwin_export_async.emulator._state.ids import is_guid
from itwin_export_async.emulator._state.imodels import (
    IMODEL_STATES,
    VERSION_STATES,
    Changeset,
    IModel,
    NamedVersion,
)
from itwin_export_async.emulator._state.platform import Platform, RequestContext

T = TypeVar("T")

_INVALID = "InvalidiModelsRequest"
_KEPT_PARAMETERS = (
    *("iTwinId", "name", "$search", "state", "$orderBy"),
    *("afterIndex", "lastIndex"),
)
_PREFERENCES = ("", "return=minimal", "return=representation")


@api("GET", "/imodels", accepts=V2)
def list_imodels(platform: Platform, context: RequestContext) -> Response:
    """List the iModels of an iTwin that the caller may view."""
    itwin_id = context.query.get("itwinid", "")
    if not itwin_id:
        raise _invalid(detail("MissingRequiredParameter", "iTwinId was not provided.", "iTwinId"))
    if not is_guid(itwin_id):
        raise _invalid(invalid_value("iTwinId"))
    _check_parameters(context, states=IMODEL_STATES)
    if itwin_id not in platform.file_store.itwins:
        raise ApiError(error(404, "iTwinNotFound", "Requested iTwin is not available."))
    found = [
        imodel
        for imodel in platform.imodels.values()
        if imodel.itwin_id == itwin_id
        and "imodels_webview" in platform.permissions_in(imodel)
        and context.query.get("state") in (None, imodel.state)
        and _matches_name(context, imodel.name)
    ]
    keys: dict[str, Callable[[IModel], Any]] = {
        "name": lambda imodel: imodel.name,
        "createdDateTime": lambda imodel: imodel.created_at,
    }
    found = _sorted(context, found, keys)
    is_full = wants_representation(context)
    return _page(
        platform,
        context,
        "iModels",
        found,
        lambda imodel: imodel_item(platform, context, imodel, is_full=is_full),
    )


@api("GET", "/imodels/{}", accepts=V2)
def get_imodel(platform: Platform, context: RequestContext) -> Response:
    """Return an iModel."""
    imodel = find_imodel(platform, context.ids[0], "imodels_webview")
    item = imodel_item(platform, context, imodel, is_full=True)
    return json_response(200, {"iModel": item})


@api("GET", "/imodels/{}/namedversions", accepts=V2)
def list_named_versions(platform: Platform, context: RequestContext) -> Response:
    """List the named versions of an iModel, hidden ones too unless `state` excludes them."""
    imodel = find_imodel(platform, context.ids[0], "imodels_webview")
    _check_parameters(context, states=VERSION_STATES)
    found = [
        version
        for version in imodel.named_versions
        if context.query.get("state") in (None, version.state)
        and _matches_name(context, version.name)
    ]
    keys: dict[str, Callable[[NamedVersion], Any]] = {
        "changesetIndex": lambda version: version.changeset_index,
        "createdDateTime": lambda version: version.created_at,
    }
    is_full = wants_representation(context)
    return _page(
        platform,
        context,
        "namedVersions",
        _sorted(context, found, keys),
        lambda version: named_version_item(platform, context, imodel, version, is_full=is_full),
    )


@api("GET", "/imodels/{}/namedversions/{}", accepts=V2)
def get_named_version(platform: Platform, context: RequestContext) -> Response:
    """Return a named version."""
    imodel = find_imodel(platform, context.ids[0], "imodels_webview")
    for version in imodel.named_versions:
        if version.id == context.ids[1]:
            item = named_version_item(platform, context, imodel, version, is_full=True)
            return json_response(200, {"namedVersion": item})
    return error(404, "NamedVersionNotFound", "Requested Named Version is not available.")


@api("GET", "/imodels/{}/changesets", accepts=V2)
def list_changesets(platform: Platform, context: RequestContext) -> Response:
    """List the changesets of an iModel, the oldest first unless `$orderBy` reverses it."""
    imodel = find_imodel(platform, context.ids[0])
    _check_parameters(context)
    after = int_parameter(context, "afterIndex", 0, _INVALID)
    last = int_parameter(context, "lastIndex", 2**31, _INVALID)
    found = [c for c in imodel.changesets(context.now) if after < c.index <= last]
    keys: dict[str, Callable[[Changeset], Any]] = {"index": lambda changeset: changeset.index}
    is_full = wants_representation(context)
    return _page(
        platform,
        context,
        "changesets",
        _sorted(context, found, keys),
        lambda changeset: changeset_item(platform, context, imodel, changeset, is_full=is_full),
    )


@api("GET", "/imodels/{}/changesets/{}", accepts=V2)
def get_changeset(platform: Platform, context: RequestContext) -> Response:
    """Return a changeset, by its id or its index."""
    imodel = find_imodel(platform, context.ids[0])
    changeset = imodel.find_changeset(context.ids[1], context.now)
    if changeset is None:
        return error(404, "ChangesetNotFound", "Requested Changeset is not available.")
    item = changeset_item(platform, context, imodel, changeset, is_full=True)
    return json_response(200, {"changeset": item})


@api("GET", "/imodels/{}/permissions", accepts=V2)
def get_imodel_permissions(platform: Platform, context: RequestContext) -> Response:
    """Return the caller's permissions in an iModel."""
    imodel = find_imodel(platform, context.ids[0], None)
    held = sorted(p for p in platform.permissions_in(imodel) if p.startswith("imodels_"))
    return json_response(200, {"permissions": held})


@api("GET", "/accesscontrol/itwins/{}/permissions", accepts=V2)
def get_itwin_permissions(platform: Platform, context: RequestContext) -> Response:
    """Return the caller's permissions in an iTwin."""
    itwin_id = context.ids[0]
    if itwin_id not in platform.file_store.itwins:
        return error(404, "iTwinNotFound", "Requested iTwin is not available.")
    return json_response(200, {"permissions": sorted(platform.permissions_in_itwin(itwin_id))})


def _check_parameters(context: RequestContext, *, states: Sequence[str] = ()) -> None:
    """Raise the 422 for parameters that exclude each other, or have an unknown value."""
    query = context.query
    for pair in (("$skip", "$continuationToken"), ("name", "$search")):
        if all(name.lower() in query for name in pair):
            message = f"Parameters {pair[0]} and {pair[1]} are mutually exclusive."
            raise _invalid(detail("MutuallyExclusiveParametersProvided", message, pair[0]))
    if states and query.get("state", states[0]) not in states:
        raise _invalid(invalid_value("state"))
    if header_of(context.request, "Prefer") not in _PREFERENCES:
        raise _invalid(
            detail("InvalidHeaderValue", "Provided Prefer value is not valid.", "Prefer")
        )


def _matches_name(context: RequestContext, name: str) -> bool:
    query = context.query
    if "name" in query:
        return name == query["name"]
    return query.get("$search", "").casefold() in name.casefold()


def _sorted(
    context: RequestContext, items: Sequence[T], keys: Mapping[str, Callable[[T], Any]]
) -> list[T]:
    """Return the items in the order that `$orderBy` names."""
    order = context.query.get("$orderby")
    if order is None:
        return list(items)
    name, _, direction = order.partition(" ")
    if name not in keys or direction not in ("", "asc", "desc"):
        raise _invalid(invalid_value("$orderBy"))
    return sorted(items, key=keys[name], reverse=direction == "desc")


def _page(
    platform: Platform,
    context: RequestContext,
    member: str,
    items: Sequence[T],
    serialize: Callable[[T], JSON],
) -> Response:
    """Return a page of a list. Its links use `$skip` if the request does, else tokens."""
    page_size = platform.settings.imodels_page_size
    skip, top = page_of(context, _INVALID, default=page_size, max_size=MAX_PAGE)
    uses_skip = "$skip" in context.query
    token = context.query.get("$continuationtoken", "")
    if token:
        skip = _parse_token(token)

    def link(start: int) -> JSON:
        position = f"$skip={start}" if uses_skip else f"$continuationToken={_token(start)}"
        kept = "".join(
            f"{name}={quote(context.query[name.lower()], safe='')}&"
            for name in _KEPT_PARAMETERS
            if name.lower() in context.query
        )
        return {"href": f"{context.endpoints.api}{context.path}?{kept}$top={top}&{position}"}

    has_next = skip + top < len(items)
    return json_response(
        200,
        {
            member: [serialize(item) for item in items[skip : skip + top]],
            "_links": {
                "self": link(skip),
                "prev": link(max(skip - top, 0)) if skip else None,
                "next": link(skip + top) if has_next else None,
            },
        },
    )


def _token(start: int) -> str:
    return base64.urlsafe_b64encode(f"start={start}".encode()).decode().rstrip("=")


def _parse_token(token: str) -> int:
    try:
        decoded = base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True)
        name, _, start = decoded.decode("ascii").partition("=")
        if name == "start":
            return max(int(start), 0)
    except (binascii.Error, ValueError):
        pass
    raise _invalid(invalid_value("$continuationToken"))


def _invalid(*details: dict[str, str]) -> ApiError:
    return ApiError(invalid(_INVALID, *details))
