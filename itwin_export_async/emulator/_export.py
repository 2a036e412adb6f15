"""The Export API: connections, runs, and the user's consent."""

import json
from typing import Any, cast
from urllib.parse import urlsplit

from itwin_export_async._protocol.http import Response
from itwin_export_async.emulator._answers import (
    Refused,
    detail,
    empty,
    error,
    insufficient_permissions,
    invalid,
    invalid_value,
    json_answer,
)
from itwin_export_async.emulator._ids import is_guid, pair
from itwin_export_async.emulator._run_request import faults
from itwin_export_async.emulator._runs import Run, run_alone, run_item
from itwin_export_async.emulator._world import Call, Connection, IModel, World

_CONNECTION = "InvalidExportConnectionRequest"
_RUN = "InvalidConnectionRunRequest"
_RUNS = "InvalidConnectionRunsRequest"

_LARGEST_PAGE = 1000


def create_connection(world: World, call: Call) -> Response:
    """`POST /export/connections`"""
    body = _json_object(call, _CONNECTION)
    imodel_id = body.get("iModelId")
    if imodel_id is None:
        missing = detail("MissingRequiredProperty", "imodelId was not provided.", "imodelId")
        raise Refused(invalid(_CONNECTION, missing))
    if not isinstance(imodel_id, str) or not is_guid(imodel_id):
        raise Refused(invalid(_CONNECTION, invalid_value("imodelId")))
    display_name = body.get("displayName")
    if not isinstance(display_name, str | None):
        raise Refused(invalid(_CONNECTION, invalid_value("displayName")))
    authentication_type = body.get("authenticationType", "User")
    if authentication_type not in ("User", "Service"):
        raise Refused(invalid(_CONNECTION, invalid_value("authenticationType")))
    imodel = world.imodels.get(imodel_id)
    if imodel is None:
        return error(404, "iModelNotFound", "Requested iModel is not available.")
    connection = world.add_connection(
        _permitted(imodel),
        display_name=display_name,
        authentication_type=authentication_type,
    )
    return json_answer(201, {"connection": _connection(world, connection)})


def get_connection(world: World, call: Call) -> Response:
    """`GET /export/connections/{connectionId}`"""
    connection = _known_connection(world, call.ids[0])
    return json_answer(200, {"connection": _connection(world, connection)})


def list_connections(world: World, call: Call) -> Response:
    """`GET /export/connections?imodelId=`

    The page links are the service's own: they lose `imodelId`, jump, and never end.
    """
    if "imodelid" not in call.query:
        missing = detail("MissingRequiredParameter", "imodelId was not provided.", "imodelId")
        raise Refused(invalid(_CONNECTION, missing))
    imodel = world.imodels.get(call.query["imodelid"])
    if imodel is None:
        raise Refused(_connection_not_found())
    _permitted(imodel)
    skip, top = _page(world, call, _CONNECTION)
    found = [c for c in world.connections.values() if c.imodel is imodel]
    address = f"{world.addresses.api}/export/connections"
    return json_answer(
        200,
        {
            "connections": [_connection(world, c) for c in found[skip : skip + top]],
            "_links": {
                "self": {"href": f"{address}?$skip={skip}&$top={top}"},
                "prev": {"href": f"{address}?$skip={max(skip - top, 0)}&$top={top}"},
                "next": {"href": f"{address}?$skip={skip + 3 * top}&$top={top}"},
            },
        },
    )


def delete_connection(world: World, call: Call) -> Response:
    """`DELETE /export/connections/{connectionId}`"""
    connection = _well_formed_connection(world, call, _CONNECTION)
    if any(run.is_active(call.now) for run in world.runs[connection.id].values()):
        return error(409, "ConnectionAlreadyInUse", "Connection is already being processed.")
    world.remove_connection(connection)
    return empty(204)


def create_run(world: World, call: Call) -> Response:
    """`POST /export/connections/{connectionId}/runs`"""
    connection = _well_formed_connection(world, call, _RUN)
    body = _json_object(call, _RUN)
    found = faults(body)
    if found:
        raise Refused(invalid(_RUN, *found))
    active = world.latest.get(connection.imodel.id)
    if active is not None and active.is_active(call.now):
        return _while_active(world, call, active)
    output = body.get("outputOptions", {})
    run = world.add_run(
        connection,
        now=call.now,
        export_type=body["exportType"],
        ifc_version=body.get("ifcVersion", "IFC4.3"),
        folder_id=output.get("folderId"),
        in_storage=output.get("location") != "USER_BLOB_STORAGE",
    )
    return empty(202, location=_run_address(world, run))


def list_runs(world: World, call: Call) -> Response:
    """`GET /export/connections/{connectionId}/runs`

    The order is that of the ids, which says nothing. The page links are the service's own: they
    have `&` in place of `?`, and never end.
    """
    connection = _known_connection(world, call.ids[0])
    skip, top = _page(world, call, _RUNS)
    runs = world.runs[connection.id]
    shown = [runs[run_id] for run_id in sorted(runs)[skip : skip + top]]
    address = f"{_connection_address(world, connection.id)}/runs"
    return json_answer(
        200,
        {
            "runs": [run_item(run, clock=world.clock, now=call.now) for run in shown],
            "_links": {
                "self": {"href": f"{address}&$skip={skip}&$top={top}"},
                "next": {"href": f"{address}&$skip={skip + top}&$top={top}"},
            },
        },
    )


def get_run(world: World, call: Call) -> Response:
    """`GET /export/connections/{connectionId}/runs/{runId}`"""
    connection = _known_connection(world, call.ids[0])
    run = world.runs[connection.id].get(call.ids[1])
    if run is None:
        return error(404, "ConnectionRunNotFound", "Requested Connection Run not available.")
    return json_answer(200, {"run": run_alone(run, clock=world.clock, now=call.now)})


def get_authorization(world: World, call: Call) -> Response:
    """`GET /export/authorizationinformation?redirectUrl=`"""
    redirect_url = call.query.get("redirecturl", "")
    parts = urlsplit(redirect_url)
    if not parts.scheme or not parts.netloc:
        wrong = detail("InvalidValue", "redirectUrl must be a valid URL.", "$redirectUrl")
        return invalid("InvalidAuthorizationInformationRequest", wrong)
    page = "https://connect-itwinbridgeportal.bentley.com/authenticate"
    return json_answer(
        200,
        {
            "authorizationInformation": {
                "isUserAuthorized": world.settings.user_authorized,
                "_links": {
                    "authorizationUrl": {"href": f"{page}?redirect_url={redirect_url}"},
                },
            }
        },
    )


def _connection(world: World, connection: Connection) -> dict[str, Any]:
    imodel = connection.imodel
    links = {
        "iModel": {"href": f"{world.addresses.api}/imodels/{imodel.id}"},
        "iTwin": {"href": f"{world.addresses.api}/itwins/{imodel.itwin_id}"},
    }
    runs = world.runs[connection.id]
    if runs:
        links["lastRun"] = {"href": _run_address(world, next(reversed(runs.values())))}
    return {
        "id": connection.id,
        "displayName": connection.display_name,
        "iModelId": imodel.id,
        "iTwinId": imodel.itwin_id,
        "authenticationType": connection.authentication_type,
        "_links": links,
    }


def _while_active(world: World, call: Call, active: Run) -> Response:
    if call.now - active.starts_at < world.settings.race_window:
        return error(
            409,
            "ConflictWithAnotherIModelRequest",
            "This request is already being processed for this iModel.",
        )
    return empty(303, location=_run_address(world, active))


def _known_connection(world: World, connection_id: str) -> Connection:
    connection = world.connections.get(connection_id)
    if connection is None:
        raise Refused(_connection_not_found())
    _permitted(connection.imodel)
    return connection


def _well_formed_connection(world: World, call: Call, code: str) -> Connection:
    connection_id = call.ids[0]
    if pair(connection_id) is None and not is_guid(connection_id):
        raise Refused(invalid(code, invalid_value("connectionId")))
    return _known_connection(world, connection_id)


def _permitted(imodel: IModel) -> IModel:
    if not imodel.authorized:
        raise Refused(insufficient_permissions())
    return imodel


def _json_object(call: Call, code: str) -> dict[str, Any]:
    if not call.request.body:
        raise Refused(invalid(code, detail("MissingRequestBody", "Request body was not provided.")))
    malformed = invalid(code, detail("InvalidRequestBody", "Error parsing JSON, malformed JSON."))
    try:
        body = json.loads(call.request.body)
    except ValueError:
        raise Refused(malformed) from None
    if not isinstance(body, dict):
        raise Refused(malformed)
    return cast("dict[str, Any]", body)


def _page(world: World, call: Call, code: str) -> tuple[int, int]:
    skip = _number(call, "$skip", 0, code)
    top = _number(call, "$top", world.settings.page_size, code)
    if not 1 <= top <= _LARGEST_PAGE:
        raise Refused(invalid(code, detail("InvalidValue", "Page size is out of limits.", "$top")))
    return max(skip, 0), top


def _number(call: Call, name: str, default: int, code: str) -> int:
    try:
        return int(call.query.get(name, default))
    except ValueError:
        raise Refused(invalid(code, invalid_value(name))) from None


def _connection_not_found() -> Response:
    return error(404, "ConnectionNotFound", "Requested Connection is not available.")


def _connection_address(world: World, connection_id: str) -> str:
    return f"{world.addresses.api}/export/connections/{connection_id}"


def _run_address(world: World, run: Run) -> str:
    return f"{_connection_address(world, run.connection_id)}/runs/{run.id}"
