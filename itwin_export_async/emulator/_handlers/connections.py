"""What the connections of Export and Synchronization have in common, and their runs."""

from collections.abc import Callable
from typing import Any, TypeAlias
from urllib.parse import urlsplit

from attrs import evolve

from itwin_export_async._protocol.messages import Response
from itwin_export_async.emulator._handlers.connection_kinds import (
    KINDS,
    MANIFEST,
    STORAGE,
    ConnectionKind,
)
from itwin_export_async.emulator._handlers.serializers import (
    connection_item,
    connection_summary,
    run_detail,
    run_summary,
)
from itwin_export_async.emulator._handlers.validation import (
    connection_option_errors,
    find_imodel,
    json_body,
    page_of,
    require_access,
    wants_representation,
)
from itwin_export_async.emulator._http.messages import (
    ApiError,
    error,
    invalid,
    invalid_value,
    json_response,
    no_content,
)
from itwin_export_async.emulator._http.router import Route, api
from itwin_export_async.emulator._state.connections import Connection
from itwin_export_async.emulator._state.ids import decode_storage_id, is_guid
from itwin_export_async.emulator._state.platform import Platform, RequestContext
from itwin_export_async.emulator._state.run_lifecycle import Run, plan_unauthorized_run

KindHandler: TypeAlias = Callable[[Platform, RequestContext, ConnectionKind], Response]


def synchronization_routes(
    *operations: tuple[str, str, KindHandler, str, str],
) -> tuple[Route, ...]:
    """Declare operations that storage and manifest connections have in common.

    Each has a method, the path below the connections, a handler, and its two names.
    """

    def declare(
        kind: ConnectionKind, method: str, path: str, handle: KindHandler, name: str
    ) -> Route:
        def handler(platform: Platform, context: RequestContext) -> Response:
            return handle(platform, context, kind)

        return api(method, kind.path + path, operation=name)(handler)

    return tuple(
        declare(kind, method, path, handle, name)
        for method, path, handle, *names in operations
        for kind, name in zip((STORAGE, MANIFEST), names, strict=True)
    )


def find_connection(
    platform: Platform, context: RequestContext, kind: ConnectionKind
) -> Connection:
    """Return the connection that the path names. Raises 404 or 403."""
    connection = kind.service(platform).connections.get(context.ids[0])
    if connection is None or connection.kind != kind.name:
        raise ApiError(connection_not_found(kind))
    require_access(platform, connection.imodel)
    return connection


def find_connection_strict(
    platform: Platform, context: RequestContext, kind: ConnectionKind, code: str
) -> Connection:
    """Return the connection that the path names. A text that is no id at all is a 422."""
    connection_id = context.ids[0]
    if decode_storage_id(connection_id) is None and not is_guid(connection_id):
        raise ApiError(invalid(code, invalid_value("connectionId")))
    return find_connection(platform, context, kind)


def connection_not_found(kind: ConnectionKind) -> Response:
    """Return the 404 of a connection."""
    return error(404, f"{kind.noun}NotFound", f"Requested {kind.noun} is not available.")


def visible_connections(
    platform: Platform, context: RequestContext, kind: ConnectionKind
) -> list[Connection]:
    """Return the connections that a list shows; new ones may be absent for a while."""
    shown_until = context.now - platform.settings.connection_visibility_delay
    return [
        connection
        for connection in kind.service(platform).connections.values()
        if connection.kind == kind.name and connection.created_at <= shown_until
    ]


def get_connection(platform: Platform, context: RequestContext, kind: ConnectionKind) -> Response:
    """Answer a read of one connection."""
    connection = find_connection(platform, context, kind)
    item = connection_item(platform, context, connection)
    return json_response(200, {"connection": item})


def update_connection(
    platform: Platform, context: RequestContext, kind: ConnectionKind
) -> Response:
    """Answer a change of the name or the authentication type."""
    code = kind.invalid_connection
    connection = find_connection_strict(platform, context, kind, code)
    body = required_body(context, code)
    errors = connection_option_errors(body)
    if errors:
        raise ApiError(invalid(code, *errors))
    updated = evolve(
        connection,
        display_name=body.get("displayName", connection.display_name),
        authentication_type=body.get("authenticationType", connection.authentication_type),
    )
    kind.service(platform).save(updated)
    item = connection_item(platform, context, updated, version="v1/")
    return json_response(200, {"connection": item})


def list_connections(platform: Platform, context: RequestContext, kind: ConnectionKind) -> Response:
    """Answer a list of connections of Synchronization.

    Without `imodelId` it shows all that the caller may read. The page links never end, and name the
    parameter `iModelId`, which the operation does not know.
    """
    url, found = kind.url(context.endpoints), visible_connections(platform, context, kind)
    if "imodelid" in context.query:
        imodel = find_imodel(platform, context.query["imodelid"])
        url, found = f"{url}?iModelId={imodel.id}&", [c for c in found if c.imodel is imodel]
    else:
        url, found = f"{url}?", [c for c in found if platform.may_read(c.imodel)]
    page_size = platform.settings.synchronization_page_size
    skip, top = page_of(context, kind.invalid_connection, default=page_size)
    is_full = wants_representation(context)
    items = [
        connection_item(platform, context, c) if is_full else connection_summary(c)
        for c in found[skip : skip + top]
    ]
    return json_response(200, {"connections": items, "_links": endless_links(url, skip, top)})


def start_run(
    platform: Platform,
    context: RequestContext,
    kind: ConnectionKind,
    connection: Connection,
    body: dict[str, Any],
    plan: Callable[[], Run],
) -> Response:
    """Answer the start of a run: 202, or 303 or 409 while the iModel has an active run.

    Without the user's consent a run of a `User` connection starts and fails. Otherwise `plan`
    returns the run.
    """
    service, settings = kind.service(platform), platform.settings
    active = service.active_run(connection.imodel, context.now)
    if active is not None and context.now - active.starts_at < settings.create_conflict_window:
        return error(409, kind.conflict_code, kind.conflict_message)
    if active is not None:
        return no_content(303, location=KINDS[active.kind].run_url(context.endpoints, active))
    if connection.authentication_type == "User" and not settings.user_authorized:
        run = plan_unauthorized_run(
            connection_id=connection.id,
            kind=connection.kind,
            now=context.now,
            settings=settings,
            id_rng=platform.id_rng,
            run_rng=platform.run_rng,
        )
    else:
        run = plan()
    service.add_run(connection, run, body)
    return no_content(202, location=kind.run_url(context.endpoints, run))


def get_run(platform: Platform, context: RequestContext, kind: ConnectionKind) -> Response:
    """Answer a read of one run."""
    connection = find_connection(platform, context, kind)
    run = kind.service(platform).runs(connection).get(context.ids[1])
    if run is None:
        return error(404, "ConnectionRunNotFound", "Requested Connection Run not available.")
    return json_response(200, {"run": run_detail(run, clock=platform.clock, now=context.now)})


def run_page(
    platform: Platform, context: RequestContext, kind: ConnectionKind, *, page_size: int
) -> tuple[Connection, list[Run], int, int]:
    """Return a connection, one page of its runs, and the `$skip` and `$top` of the page.

    The runs are in the order of their ids, which means nothing.
    """
    connection = find_connection(platform, context, kind)
    skip, top = page_of(context, kind.invalid_runs, default=page_size)
    runs = kind.service(platform).runs(connection)
    return connection, [runs[run_id] for run_id in sorted(runs)[skip : skip + top]], skip, top


def list_runs(platform: Platform, context: RequestContext, kind: ConnectionKind) -> Response:
    """Answer a list of runs of Synchronization.

    The page links have a wrong path with a placeholder for the connection, and never end.
    """
    page_size = platform.settings.synchronization_page_size
    _, runs, skip, top = run_page(platform, context, kind, page_size=page_size)
    if wants_representation(context):
        items = [run_detail(run, clock=platform.clock, now=context.now) for run in runs]
    else:
        items = [run_summary(run, now=context.now) for run in runs]
    url = f"{context.endpoints.api}/synchronization/imodels/connection/{{connectionId}}/runs?"
    return json_response(200, {"runs": items, "_links": endless_links(url, skip, top)})


def authorization_information(
    platform: Platform, redirect_url: str | None, *, invalid_url: dict[str, str]
) -> Response:
    """Answer whether the user has consented, and where consent is given."""
    page = "https://connect-itwinbridgeportal.bentley.com/authenticate"
    if redirect_url is not None:
        if not _is_absolute_url(redirect_url):
            return invalid("InvalidAuthorizationInformationRequest", invalid_url)
        page = f"{page}?redirect_url={redirect_url}"
    information = {
        "isUserAuthorized": platform.settings.user_authorized,
        "_links": {"authorizationUrl": {"href": page}},
    }
    return json_response(200, {"authorizationInformation": information})


def required_body(context: RequestContext, code: str) -> dict[str, Any]:
    """Return the body of a request to Synchronization. Raises a 422 without one."""
    if not context.request.body:
        raise ApiError(error(422, "MissingRequestBody", "Request body was not provided."))
    return json_body(context, code)


def endless_links(url: str, skip: int, top: int) -> dict[str, dict[str, str]]:
    """Return links to the pages before and after, whether these exist or not."""
    starts = {"self": skip, "prev": max(skip - top, 0), "next": skip + top}
    return {name: {"href": f"{url}$skip={start}&$top={top}"} for name, start in starts.items()}


def _is_absolute_url(url: str) -> bool:
    try:
        parts = urlsplit(url)
    except ValueError:
        return False
    return bool(parts.scheme and parts.netloc)
