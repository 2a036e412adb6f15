"""The Export API: connections, runs, and the user's consent."""

from typing import Any

from itwin_export_async._protocol.messages import Response
from itwin_export_async.emulator._handlers.connection_kinds import EXPORT
from itwin_export_async.emulator._handlers.connections import (
    authorization_information,
    connection_not_found,
    find_connection_strict,
    run_page,
    start_run,
    visible_connections,
)
from itwin_export_async.emulator._handlers.connections import get_connection as get_any_connection
from itwin_export_async.emulator._handlers.connections import get_run as get_any_run
from itwin_export_async.emulator._handlers.serializers import connection_item, run_list_item
from itwin_export_async.emulator._handlers.validation import (
    connection_option_errors,
    find_imodel,
    imodel_id_errors,
    json_body,
    page_of,
    require_access,
    run_errors,
)
from itwin_export_async.emulator._http.messages import (
    ApiError,
    detail,
    error,
    invalid,
    json_response,
    no_content,
)
from itwin_export_async.emulator._http.router import api
from itwin_export_async.emulator._state.connections import Connection
from itwin_export_async.emulator._state.outputs import write_outputs
from itwin_export_async.emulator._state.platform import Platform, RequestContext
from itwin_export_async.emulator._state.run_lifecycle import Run, RunPlan, plan_run


@api("POST", "/export/connections")
def create_connection(platform: Platform, context: RequestContext) -> Response:
    """Create a connection."""
    body = _required_body(context, EXPORT.invalid_connection)
    errors = imodel_id_errors(body) or connection_option_errors(body)
    if errors:
        raise ApiError(invalid(EXPORT.invalid_connection, *errors))
    connection = platform.new_connection(
        "export",
        find_imodel(platform, body["iModelId"]),
        display_name=body.get("displayName"),
        authentication_type=body.get("authenticationType", "User"),
        now=context.now,
    )
    platform.exports.save(connection)
    item = connection_item(platform, context, connection)
    return json_response(201, {"connection": item})


@api("GET", "/export/connections/{}")
def get_connection(platform: Platform, context: RequestContext) -> Response:
    """Return a connection."""
    return get_any_connection(platform, context, EXPORT)


@api("GET", "/export/connections")
def list_connections(platform: Platform, context: RequestContext) -> Response:
    """List the connections of an iModel.

    The page links are the service's own: they lose `imodelId`, jump, and never end.
    """
    if "imodelid" not in context.query:
        missing = detail("MissingRequiredParameter", "imodelId was not provided.", "imodelId")
        raise ApiError(invalid(EXPORT.invalid_connection, missing))
    imodel = platform.imodels.get(context.query["imodelid"])
    if imodel is None:
        raise ApiError(connection_not_found(EXPORT))
    require_access(platform, imodel)
    page_size = platform.settings.page_size
    skip, top = page_of(context, EXPORT.invalid_connection, default=page_size)
    found = [c for c in visible_connections(platform, context, EXPORT) if c.imodel is imodel]
    url = EXPORT.url(context.endpoints)
    return json_response(
        200,
        {
            "connections": [
                connection_item(platform, context, c) for c in found[skip : skip + top]
            ],
            "_links": {
                "self": {"href": f"{url}?$skip={skip}&$top={top}"},
                "prev": {"href": f"{url}?$skip={max(skip - top, 0)}&$top={top}"},
                "next": {"href": f"{url}?$skip={skip + 3 * top}&$top={top}"},
            },
        },
    )


@api("DELETE", "/export/connections/{}")
def delete_connection(platform: Platform, context: RequestContext) -> Response:
    """Delete a connection that has no active run."""
    connection = find_connection_strict(platform, context, EXPORT, EXPORT.invalid_connection)
    if any(run.is_active(context.now) for run in platform.exports.runs(connection).values()):
        return error(409, "ConnectionAlreadyInUse", "Connection is already being processed.")
    platform.exports.remove(connection)
    return no_content(204)


@api("POST", "/export/connections/{}/runs")
def create_run(platform: Platform, context: RequestContext) -> Response:
    """Start an export."""
    connection = find_connection_strict(platform, context, EXPORT, EXPORT.invalid_run)
    body = _required_body(context, EXPORT.invalid_run)
    errors = run_errors(body)
    if errors:
        raise ApiError(invalid(EXPORT.invalid_run, *errors))
    return start_run(
        platform,
        context,
        EXPORT,
        connection,
        body,
        lambda: _plan(platform, context, connection, body),
    )


@api("GET", "/export/connections/{}/runs")
def list_runs(platform: Platform, context: RequestContext) -> Response:
    """List the runs of a connection.

    The page links are the service's own: they have `&` in place of `?`, and never end.
    """
    page_size = platform.settings.page_size
    connection, runs, skip, top = run_page(platform, context, EXPORT, page_size=page_size)
    url = f"{EXPORT.url(context.endpoints, connection.id)}/runs"
    return json_response(
        200,
        {
            "runs": [run_list_item(run, clock=platform.clock, now=context.now) for run in runs],
            "_links": {
                "self": {"href": f"{url}&$skip={skip}&$top={top}"},
                "next": {"href": f"{url}&$skip={skip + top}&$top={top}"},
            },
        },
    )


@api("GET", "/export/connections/{}/runs/{}")
def get_run(platform: Platform, context: RequestContext) -> Response:
    """Return a run."""
    return get_any_run(platform, context, EXPORT)


@api("GET", "/export/authorizationinformation")
def get_authorization(platform: Platform, context: RequestContext) -> Response:
    """Return whether the user has consented. `redirectUrl` is required."""
    message = "redirectUrl must be a valid URL."
    return authorization_information(
        platform,
        context.query.get("redirecturl", ""),
        invalid_url=detail("InvalidValue", message, "$redirectUrl"),
    )


def _plan(
    platform: Platform, context: RequestContext, connection: Connection, body: dict[str, Any]
) -> Run:
    """Return the run that starts now, its outputs written for the moment of its end."""
    imodel = connection.imodel
    plan = platform.exports.next_plan(imodel)
    if imodel.state != "initialized":  # there is nothing to export
        plan = RunPlan(result="Error", duration=plan.duration)
    run = plan_run(
        connection_id=connection.id,
        kind="export",
        now=context.now,
        plan=plan,
        settings=platform.settings,
        id_rng=platform.id_rng,
        run_rng=platform.run_rng,
        sources=[(None, [None])],
        has_output=body.get("outputOptions", {}).get("location") != "USER_BLOB_STORAGE",
    )
    return write_outputs(platform, context.endpoints, run, imodel, body)


def _required_body(context: RequestContext, code: str) -> dict[str, Any]:
    if not context.request.body:
        missing = detail("MissingRequestBody", "Request body was not provided.")
        raise ApiError(invalid(code, missing))
    return json_body(context, code)
