"""The Synchronization API: the runs of storage connections."""

from itwin_export_async._protocol.http import Response
from itwin_export_async.emulator._answers import empty, error, json_answer
from itwin_export_async.emulator._asked import page
from itwin_export_async.emulator._run_items import run_alone, run_in_short
from itwin_export_async.emulator._runs import (
    Run,
    plan_refused_run,
    plan_synchronization,
)
from itwin_export_async.emulator._service import Connection
from itwin_export_async.emulator._synchronization import (
    connection_address,
    endless_links,
    known_connection,
    wants_whole_items,
    well_formed_connection,
)
from itwin_export_async.emulator._world import Call, World

_RUN = "InvalidStorageConnectionRunRequest"
_RUNS = "InvalidStorageConnectionRunsRequest"


def start_synchronization(world: World, call: Call) -> Response:
    """`POST /synchronization/imodels/storageconnections/{connectionId}/run`"""
    connection = well_formed_connection(world, call, _RUN)
    active = world.synchronizations.active_run(connection.imodel, call.now)
    if active is not None and call.now - active.starts_at < world.settings.race_window:
        return error(
            409, "IModelAlreadyProcessingRequest", "The iModel is already processing this request."
        )
    if active is not None:
        return empty(303, location=_run_address(world, active))
    run = _planned(world, connection, call.now)
    world.synchronizations.add_run(connection, run)
    return empty(202, location=_run_address(world, run))


def get_synchronization(world: World, call: Call) -> Response:
    """`GET .../{connectionId}/runs/{runId}`"""
    connection = known_connection(world, call)
    run = world.synchronizations.runs(connection).get(call.ids[1])
    if run is None:
        return error(404, "ConnectionRunNotFound", "Requested Connection Run not available.")
    return json_answer(200, {"run": run_alone(run, clock=world.clock, now=call.now)})


def list_synchronizations(world: World, call: Call) -> Response:
    """`GET .../{connectionId}/runs`

    The order is that of the ids, which says nothing. The page links are the service's own: a wrong
    path with a blank for the connection in it, and never an end.
    """
    connection = known_connection(world, call)
    skip, top = page(call, _RUNS, default=world.settings.synchronization_page_size)
    runs = world.synchronizations.runs(connection)
    shown = [runs[run_id] for run_id in sorted(runs)[skip : skip + top]]
    if wants_whole_items(call):
        items = [run_alone(run, clock=world.clock, now=call.now) for run in shown]
    else:
        items = [run_in_short(run, now=call.now) for run in shown]
    address = f"{world.addresses.api}/synchronization/imodels/connection/{{connectionId}}/runs?"
    return json_answer(200, {"runs": items, "_links": endless_links(address, skip, top)})


def _planned(world: World, connection: Connection, now: float) -> Run:
    if connection.authentication_type == "User" and not world.settings.user_authorized:
        return plan_refused_run(
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
        fate=world.synchronizations.next_fate(connection.imodel),
        settings=world.settings,
        ids=world.ids,
        course=world.course,
        sources=sources,
    )


def _run_address(world: World, run: Run) -> str:
    return f"{connection_address(world, run.connection_id)}/runs/{run.id}"
