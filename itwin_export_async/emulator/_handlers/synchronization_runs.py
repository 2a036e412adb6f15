"""The Synchronization API: the runs of storage connections."""

from itwin_export_async._protocol.messages import Response
from itwin_export_async.emulator._handlers.serializers import run_detail, run_summary
from itwin_export_async.emulator._handlers.synchronization import (
    connection_address,
    endless_links,
    find_connection,
    find_connection_strict,
    wants_whole_items,
)
from itwin_export_async.emulator._handlers.validation import page
from itwin_export_async.emulator._http.messages import empty, error, json_answer
from itwin_export_async.emulator._state.connections import Connection
from itwin_export_async.emulator._state.platform import Call, Platform
from itwin_export_async.emulator._state.run_lifecycle import (
    Run,
    plan_synchronization,
    plan_unauthorized_run,
)

_RUN = "InvalidStorageConnectionRunRequest"
_RUNS = "InvalidStorageConnectionRunsRequest"


def start_synchronization(world: Platform, call: Call) -> Response:
    """`POST /synchronization/imodels/storageconnections/{connectionId}/run`"""
    connection = find_connection_strict(world, call, _RUN)
    active = world.synchronizations.active_run(connection.imodel, call.now)
    if active is not None and call.now - active.starts_at < world.settings.create_conflict_window:
        return error(
            409, "IModelAlreadyProcessingRequest", "The iModel is already processing this request."
        )
    if active is not None:
        return empty(303, location=_run_address(world, active))
    run = _planned(world, connection, call.now)
    world.synchronizations.add_run(connection, run)
    return empty(202, location=_run_address(world, run))


def get_synchronization(world: Platform, call: Call) -> Response:
    """`GET .../{connectionId}/runs/{runId}`"""
    connection = find_connection(world, call)
    run = world.synchronizations.runs(connection).get(call.ids[1])
    if run is None:
        return error(404, "ConnectionRunNotFound", "Requested Connection Run not available.")
    return json_answer(200, {"run": run_detail(run, clock=world.clock, now=call.now)})


def list_synchronizations(world: Platform, call: Call) -> Response:
    """`GET .../{connectionId}/runs`

    The order is that of the ids, which says nothing. The page links are the service's own: a wrong
    path with a blank for the connection in it, and never an end.
    """
    connection = find_connection(world, call)
    skip, top = page(call, _RUNS, default=world.settings.synchronization_page_size)
    runs = world.synchronizations.runs(connection)
    shown = [runs[run_id] for run_id in sorted(runs)[skip : skip + top]]
    if wants_whole_items(call):
        items = [run_detail(run, clock=world.clock, now=call.now) for run in shown]
    else:
        items = [run_summary(run, now=call.now) for run in shown]
    address = f"{world.addresses.api}/synchronization/imodels/connection/{{connectionId}}/runs?"
    return json_answer(200, {"runs": items, "_links": endless_links(address, skip, top)})


def _planned(world: Platform, connection: Connection, now: float) -> Run:
    if connection.authentication_type == "User" and not world.settings.user_authorized:
        return plan_unauthorized_run(
            connection_id=connection.id,
            now=now,
            settings=world.settings,
            ids=world.ids,
            course=world.course,
            is_synchronization=True,
        )
    sources: dict[str, list[str]] = {}
    for source in connection.source_files:
        sources.setdefault(source.connector_type, []).append(source.storage_file_id)
    return plan_synchronization(
        connection_id=connection.id,
        now=now,
        plan=world.synchronizations.next_plan(connection.imodel),
        settings=world.settings,
        ids=world.ids,
        course=world.course,
        sources=sources,
    )


def _run_address(world: Platform, run: Run) -> str:
    return f"{connection_address(world, run.connection_id)}/runs/{run.id}"
