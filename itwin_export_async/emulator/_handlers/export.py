"""The Export API: connections, runs, and the user's consent."""

from typing import Any
from urllib.parse import urlsplit

from itwin_export_async._protocol.messages import Response
from itwin_export_async.emulator._handlers.run_validation import faults
from itwin_export_async.emulator._handlers.serializers import run_detail, run_list_item
from itwin_export_async.emulator._handlers.validation import json_object, malformed, page, permitted
from itwin_export_async.emulator._http.messages import (
    ApiError,
    detail,
    empty,
    error,
    invalid,
    invalid_value,
    json_answer,
)
from itwin_export_async.emulator._state.connections import Connection
from itwin_export_async.emulator._state.ids import is_guid, pair
from itwin_export_async.emulator._state.outputs import deliver
from itwin_export_async.emulator._state.platform import Call, Platform
from itwin_export_async.emulator._state.run_lifecycle import Run, plan_run, plan_unauthorized_run

_CONNECTION = "InvalidExportConnectionRequest"
_RUN = "InvalidConnectionRunRequest"
_RUNS = "InvalidConnectionRunsRequest"


def create_connection(world: Platform, call: Call) -> Response:
    """`POST /export/connections`"""
    body = _body(call, _CONNECTION)
    imodel_id = body.get("iModelId")
    if imodel_id is None:
        missing = detail("MissingRequiredProperty", "imodelId was not provided.", "imodelId")
        raise ApiError(invalid(_CONNECTION, missing))
    if not isinstance(imodel_id, str) or not is_guid(imodel_id):
        raise ApiError(invalid(_CONNECTION, invalid_value("imodelId")))
    display_name = body.get("displayName")
    if not isinstance(display_name, str | None):
        raise ApiError(invalid(_CONNECTION, invalid_value("displayName")))
    authentication_type = body.get("authenticationType", "User")
    if authentication_type not in ("User", "Service"):
        raise ApiError(invalid(_CONNECTION, invalid_value("authenticationType")))
    imodel = world.imodels.get(imodel_id)
    if imodel is None:
        return error(404, "iModelNotFound", "Requested iModel is not available.")
    connection = world.new_connection(
        permitted(imodel), display_name=display_name, authentication_type=authentication_type
    )
    world.exports.keep(connection)
    return json_answer(201, {"connection": _connection(world, connection)})


def get_connection(world: Platform, call: Call) -> Response:
    """`GET /export/connections/{connectionId}`"""
    connection = _known_connection(world, call.ids[0])
    return json_answer(200, {"connection": _connection(world, connection)})


def list_connections(world: Platform, call: Call) -> Response:
    """`GET /export/connections?imodelId=`

    The page links are the service's own: they lose `imodelId`, jump, and never end.
    """
    if "imodelid" not in call.query:
        missing = detail("MissingRequiredParameter", "imodelId was not provided.", "imodelId")
        raise ApiError(invalid(_CONNECTION, missing))
    imodel = world.imodels.get(call.query["imodelid"])
    if imodel is None:
        raise ApiError(_connection_not_found())
    permitted(imodel)
    skip, top = page(call, _CONNECTION, default=world.settings.page_size)
    found = world.exports.of(imodel)
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


def delete_connection(world: Platform, call: Call) -> Response:
    """`DELETE /export/connections/{connectionId}`"""
    connection = _well_formed_connection(world, call, _CONNECTION)
    if any(run.is_active(call.now) for run in world.exports.runs(connection).values()):
        return error(409, "ConnectionAlreadyInUse", "Connection is already being processed.")
    world.exports.remove(connection)
    return empty(204)


def create_run(world: Platform, call: Call) -> Response:
    """`POST /export/connections/{connectionId}/runs`"""
    connection = _well_formed_connection(world, call, _RUN)
    body = _body(call, _RUN)
    found = faults(body)
    if found:
        raise ApiError(invalid(_RUN, *found))
    active = world.exports.active_run(connection.imodel, call.now)
    if active is not None and call.now - active.starts_at < world.settings.create_conflict_window:
        return error(
            409,
            "ConflictWithAnotherIModelRequest",
            "This request is already being processed for this iModel.",
        )
    if active is not None:
        return empty(303, location=_run_address(world, active))
    run = _planned(world, connection, body, call.now)
    world.exports.add_run(connection, run)
    return empty(202, location=_run_address(world, run))


def list_runs(world: Platform, call: Call) -> Response:
    """`GET /export/connections/{connectionId}/runs`

    The order is that of the ids, which says nothing. The page links are the service's own: they
    have `&` in place of `?`, and never end.
    """
    connection = _known_connection(world, call.ids[0])
    skip, top = page(call, _RUNS, default=world.settings.page_size)
    runs = world.exports.runs(connection)
    shown = [runs[run_id] for run_id in sorted(runs)[skip : skip + top]]
    address = f"{_connection_address(world, connection.id)}/runs"
    return json_answer(
        200,
        {
            "runs": [run_list_item(run, clock=world.clock, now=call.now) for run in shown],
            "_links": {
                "self": {"href": f"{address}&$skip={skip}&$top={top}"},
                "next": {"href": f"{address}&$skip={skip + top}&$top={top}"},
            },
        },
    )


def get_run(world: Platform, call: Call) -> Response:
    """`GET /export/connections/{connectionId}/runs/{runId}`"""
    connection = _known_connection(world, call.ids[0])
    run = world.exports.runs(connection).get(call.ids[1])
    if run is None:
        return error(404, "ConnectionRunNotFound", "Requested Connection Run not available.")
    return json_answer(200, {"run": run_detail(run, clock=world.clock, now=call.now)})


def get_authorization(world: Platform, call: Call) -> Response:
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


def _planned(world: Platform, connection: Connection, body: dict[str, Any], now: float) -> Run:
    if connection.authentication_type == "User" and not world.settings.user_authorized:
        return plan_unauthorized_run(
            connection_id=connection.id,
            now=now,
            settings=world.settings,
            ids=world.ids,
            course=world.course,
            is_synchronization=False,
        )
    run = plan_run(
        connection_id=connection.id,
        now=now,
        plan=world.exports.next_plan(connection.imodel),
        settings=world.settings,
        ids=world.ids,
        course=world.course,
        in_storage=body.get("outputOptions", {}).get("location") != "USER_BLOB_STORAGE",
    )
    return deliver(world, run, connection.imodel, body)


def _connection(world: Platform, connection: Connection) -> dict[str, Any]:
    imodel = connection.imodel
    links = {
        "iModel": {"href": f"{world.addresses.api}/imodels/{imodel.id}"},
        "iTwin": {"href": f"{world.addresses.api}/itwins/{imodel.itwin_id}"},
    }
    last_run = world.exports.last_run(connection)
    if last_run is not None:
        links["lastRun"] = {"href": _run_address(world, last_run)}
    return {
        "id": connection.id,
        "displayName": connection.display_name,
        "iModelId": imodel.id,
        "iTwinId": imodel.itwin_id,
        "authenticationType": connection.authentication_type,
        "_links": links,
    }


def _known_connection(world: Platform, connection_id: str) -> Connection:
    connection = world.exports.connections.get(connection_id)
    if connection is None:
        raise ApiError(_connection_not_found())
    permitted(connection.imodel)
    return connection


def _well_formed_connection(world: Platform, call: Call, code: str) -> Connection:
    connection_id = call.ids[0]
    if pair(connection_id) is None and not is_guid(connection_id):
        raise ApiError(invalid(code, invalid_value("connectionId")))
    return _known_connection(world, connection_id)


def _body(call: Call, code: str) -> dict[str, Any]:
    if not call.request.body:
        raise ApiError(
            invalid(code, detail("MissingRequestBody", "Request body was not provided."))
        )
    body = json_object(call)
    if body is None:
        raise malformed(code)
    return body


def _connection_not_found() -> Response:
    return error(404, "ConnectionNotFound", "Requested Connection is not available.")


def _connection_address(world: Platform, connection_id: str) -> str:
    return f"{world.addresses.api}/export/connections/{connection_id}"


def _run_address(world: Platform, run: Run) -> str:
    return f"{_connection_address(world, run.connection_id)}/runs/{run.id}"
