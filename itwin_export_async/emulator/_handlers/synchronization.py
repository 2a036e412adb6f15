"""The Synchronization API: storage connections and the user's consent.

Lists tell the least of their items unless asked for whole ones by `Prefer: return=representation`.
"""

from typing import Any
from urllib.parse import urlsplit

from attrs import evolve

from itwin_export_async._protocol.messages import Response
from itwin_export_async.emulator._handlers.source_file_validation import (
    missing_property,
    source_faults,
    sources_in,
)
from itwin_export_async.emulator._handlers.validation import json_object, malformed, page, permitted
from itwin_export_async.emulator._http.messages import (
    ApiError,
    detail,
    empty,
    error,
    header_of,
    invalid,
    invalid_value,
    json_answer,
)
from itwin_export_async.emulator._state.connections import Connection, IModel
from itwin_export_async.emulator._state.ids import is_guid, pair
from itwin_export_async.emulator._state.platform import Call, Platform

_CONNECTION = "InvalidStorageConnectionRequest"

_AUTHENTICATION_TYPES = ("User", "Service")


def create_storage_connection(world: Platform, call: Call) -> Response:
    """`POST /synchronization/imodels/storageconnections`"""
    body = sent_object(call, _CONNECTION)
    found = [*_source_list_faults(body), *_imodel_faults(body), *_option_faults(body)]
    if found:
        raise ApiError(invalid(_CONNECTION, *found))
    imodel = permitted(_known_imodel(world, body["iModelId"]))
    connection = world.new_connection(
        imodel,
        display_name=body.get("displayName"),
        authentication_type=body.get("authenticationType", "User"),
        source_files=sources_in(world.ids, body["sourceFiles"]),
    )
    check_mappings(world, connection)
    world.synchronizations.keep(connection)
    return json_answer(201, {"connection": _connection(world, connection)})


def get_storage_connection(world: Platform, call: Call) -> Response:
    """`GET /synchronization/imodels/storageconnections/{connectionId}`"""
    connection = find_connection(world, call)
    return json_answer(200, {"connection": _connection(world, connection)})


def list_storage_connections(world: Platform, call: Call) -> Response:
    """`GET /synchronization/imodels/storageconnections?imodelId=`

    Without `imodelId` all that those who ask may see. The page links never end, and spell the
    parameter in another way than it must be sent.
    """
    service = world.synchronizations
    address, found = _address(world), list(service.connections.values())
    if "imodelid" in call.query:
        imodel = permitted(_known_imodel(world, call.query["imodelid"]))
        address, found = f"{address}?iModelId={imodel.id}&", service.of(imodel)
    else:
        address, found = f"{address}?", [c for c in found if c.imodel.authorized]
    skip, top = page(call, _CONNECTION, default=world.settings.synchronization_page_size)
    is_whole = wants_whole_items(call)
    items = [_connection(world, c) if is_whole else _in_short(c) for c in found]
    return json_answer(
        200,
        {"connections": items[skip : skip + top], "_links": endless_links(address, skip, top)},
    )


def update_storage_connection(world: Platform, call: Call) -> Response:
    """`PUT /synchronization/imodels/storageconnections/{connectionId}`"""
    connection = find_connection_strict(world, call)
    body = sent_object(call, _CONNECTION)
    found = _option_faults(body)
    if found:
        raise ApiError(invalid(_CONNECTION, *found))
    updated = evolve(
        connection,
        display_name=body.get("displayName", connection.display_name),
        authentication_type=body.get("authenticationType", connection.authentication_type),
    )
    world.synchronizations.keep(updated)
    return json_answer(200, {"connection": _connection(world, updated, version="v1/")})


def delete_storage_connection(world: Platform, call: Call) -> Response:
    """`DELETE /synchronization/imodels/storageconnections/{connectionId}`"""
    world.synchronizations.remove(find_connection_strict(world, call))
    return empty(204)


def get_synchronization_authorization(world: Platform, call: Call) -> Response:
    """`GET /synchronization/imodels/connections/authorizationinformation[?redirectUrl=]`"""
    address = "https://connect-itwinbridgeportal.bentley.com/authenticate"
    redirect_url = call.query.get("redirecturl")
    if redirect_url is not None:
        parts = urlsplit(redirect_url)
        if not parts.scheme or not parts.netloc:
            wrong = detail("InvalidValue", "redirectUrl should be a valid URL.", "redirectUrl")
            return invalid("InvalidAuthorizationInformationRequest", wrong)
        address = f"{address}?redirect_url={redirect_url}"
    return json_answer(
        200,
        {
            "authorizationInformation": {
                "isUserAuthorized": world.settings.user_authorized,
                "_links": {"authorizationUrl": {"href": address}},
            }
        },
    )


def sent_object(call: Call, code: str) -> dict[str, Any]:
    """The body, which must be a JSON object."""
    if not call.request.body:
        raise ApiError(error(422, "MissingRequestBody", "Request body was not provided."))
    body = json_object(call)
    if body is None:
        raise malformed(code)
    return body


def find_connection(world: Platform, call: Call) -> Connection:
    """The connection that is asked for, when those who ask may use it."""
    connection = world.synchronizations.connections.get(call.ids[0])
    if connection is None:
        raise ApiError(
            error(404, "StorageConnectionNotFound", "Requested StorageConnection is not available.")
        )
    permitted(connection.imodel)
    return connection


def find_connection_strict(world: Platform, call: Call, code: str = _CONNECTION) -> Connection:
    """The connection to be changed; what is no id at all is invalid rather than unknown."""
    connection_id = call.ids[0]
    if pair(connection_id) is None and not is_guid(connection_id):
        raise ApiError(invalid(code, invalid_value("connectionId")))
    return find_connection(world, call)


def check_mappings(world: Platform, connection: Connection) -> None:
    """Refuse a connection with a file that the iModel has already."""
    others = (c for c in world.synchronizations.of(connection.imodel) if c.id != connection.id)
    mapped = [source.storage_file_id for c in (*others, connection) for source in c.source_files]
    own = [source.storage_file_id for source in connection.source_files]
    if any(mapped.count(file_id) > 1 for file_id in own):
        raise ApiError(
            error(
                409,
                "FileMappingToTheIModelAlreadyExists",
                "One or more SourceFiles are already mapped to the iModel.",
            )
        )


def connection_address(world: Platform, connection_id: str) -> str:
    """Where a connection is."""
    return f"{_address(world)}/{connection_id}"


def wants_whole_items(call: Call) -> bool:
    """Whether a list is to show all of its items."""
    return "return=representation" in header_of(call.request, "Prefer").lower()


def endless_links(address: str, skip: int, top: int) -> dict[str, dict[str, str]]:
    """Links to pages before and after, whether there are any or not."""
    starts = {"self": skip, "prev": max(skip - top, 0), "next": skip + top}
    return {name: {"href": f"{address}$skip={n}&$top={top}"} for name, n in starts.items()}


def _connection(world: Platform, connection: Connection, *, version: str = "") -> dict[str, Any]:
    imodel, api = connection.imodel, world.addresses.api
    links = {
        "iModel": {"href": f"{api}/imodels/{version}{imodel.id}"},
        "iTwin": {"href": f"{api}/itwins/{version}{imodel.itwin_id}"},
    }
    last_run = world.synchronizations.last_run(connection)
    if last_run is not None:
        own = connection_address(world, connection.id)
        links["lastRun"] = {"href": f"{own}/runs/{last_run.id}"}
    return {
        **_in_short(connection),
        "iModelId": imodel.id,
        "iTwinId": imodel.itwin_id,
        "authenticationType": connection.authentication_type,
        "_links": links,
    }


def _in_short(connection: Connection) -> dict[str, Any]:
    return {"id": connection.id, "displayName": connection.display_name}


def _source_list_faults(body: dict[str, Any]) -> list[dict[str, str]]:
    sources = body.get("sourceFiles")
    if sources is None:
        return [missing_property("sourceFiles")]
    if not isinstance(sources, list):
        return [invalid_value("sourceFiles")]
    if not sources:
        nothing = "At least one input file must be included to create a ConnectionDefinition."
        return [detail("MissingRequiredProperty", nothing, "sourceFiles")]
    return [fault for source in sources for fault in source_faults(source)]


def _imodel_faults(body: dict[str, Any]) -> list[dict[str, str]]:
    imodel_id = body.get("iModelId")
    if imodel_id is None:
        return [detail("MissingRequiredProperty", "imodelId was not provided.", "imodelId")]
    is_id = isinstance(imodel_id, str) and is_guid(imodel_id)
    return [] if is_id else [invalid_value("imodelId")]


def _option_faults(body: dict[str, Any]) -> list[dict[str, str]]:
    found = []
    if not isinstance(body.get("displayName"), str | None):
        found.append(invalid_value("displayName"))
    if body.get("authenticationType", "User") not in _AUTHENTICATION_TYPES:
        found.append(invalid_value("authenticationType"))
    return found


def _known_imodel(world: Platform, imodel_id: str) -> IModel:
    imodel = world.imodels.get(imodel_id)
    if imodel is None:
        raise ApiError(error(404, "iModelNotFound", "Requested iModel is not available."))
    return imodel


def _address(world: Platform) -> str:
    return f"{world.addresses.api}/synchronization/imodels/storageconnections"
