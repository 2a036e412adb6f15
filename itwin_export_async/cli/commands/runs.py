"""`itwin-export runs`: the runs of a connection."""

from collections.abc import Iterator
from datetime import UTC, datetime

from itwin_export_async import Run, RunFailed
from itwin_export_async.cli.checks import STDOUT, check_id, check_output
from itwin_export_async.cli.command import Invocation
from itwin_export_async.cli.errors import failed_tasks, hints
from itwin_export_async.cli.options import AsJson, ConnectionId, Output, RunId
from itwin_export_async.cli.output.console import echo
from itwin_export_async.cli.output.format import duration, size
from itwin_export_async.cli.output.json_lines import print_json, run_to_json
from itwin_export_async.cli.output.streams import write_output
from itwin_export_async.cli.output.tables import print_items, print_table, short_moment

_QUEUED = datetime.max.replace(tzinfo=UTC)  # without a start yet: newer than all others


async def list_runs(
    invocation: Invocation, connection_id: ConnectionId, as_json: AsJson = False
) -> None:
    """List the runs of a connection, newest first."""
    check_id("connection_id", connection_id)
    async with invocation.open_client() as client:
        runs = await client.list_runs(connection_id)
    print_items(
        sorted(runs, key=lambda run: run.start_date_time or _QUEUED, reverse=True),
        note=invocation.note,
        as_json=as_json,
        to_json=run_to_json,
        names=("run", "started (UTC)", "took", "state"),
        to_row=_row,
        if_empty="no runs yet",
    )


async def show_run(
    invocation: Invocation, connection_id: ConnectionId, run_id: RunId, as_json: AsJson = False
) -> None:
    """Show a run with its jobs and tasks, and why it failed."""
    check_id("connection_id", connection_id)
    check_id("run_id", run_id)
    async with invocation.open_client() as client:
        run = await client.get_run(connection_id, run_id)
        token = client.attach(connection_id, run_id).resume_token
    error = RunFailed(connection_id=connection_id, run_id=run_id, run=run, message="")
    tasks = failed_tasks(error)
    if as_json:
        failures = [{"id": task.id, "reason": task.reason, "link": task.link} for task in tasks]
        print_json({**run_to_json(run), "resume_token": token, "failures": failures})
        return
    echo(f"run         {run.id}")
    echo(f"state       {run.state.value} {_result(run)}".rstrip())
    echo(f"started     {short_moment(run.start_date_time)}")
    echo(f"ended       {short_moment(run.end_date_time)}")
    echo(f"took        {duration(run.duration)}")
    echo(f"resume      {token}")
    if run.jobs:
        echo("")
        print_table(("", "id", "state", "result"), list(_part_rows(run)))
    for task in tasks:
        echo(f"\ntask {task.id} failed: {task.reason}")
        if task.link:
            echo(f"  see {task.link}")
    for text in hints(error):
        echo(f"  {text}")


async def download_run(
    invocation: Invocation,
    connection_id: ConnectionId,
    run_id: RunId,
    output: Output = "",
    as_json: AsJson = False,
) -> None:
    """Download the files of a finished run, also of one that failed in part."""
    check_id("connection_id", connection_id)
    check_id("run_id", run_id)
    check_output(output, as_json=as_json)
    async with invocation.open_client() as client:
        run = client.attach(connection_id, run_id)
        if output == STDOUT:
            await write_output(await run.outputs())
            return
        for path in await run.download(output):
            length = path.stat().st_size
            if as_json:
                print_json({"path": str(path), "size": length})
            else:
                echo(str(path))
                invocation.note(f"{path.name}: {size(length)}")


def _part_rows(run: Run) -> Iterator[tuple[str, ...]]:
    for job in run.jobs:
        yield "job", job.id, job.state.value, job.result.value if job.result else ""
        for task in job.tasks:
            yield "task", task.id, task.state.value, task.result.value if task.result else ""


def _row(run: Run) -> tuple[str, ...]:
    state = _result(run) or run.state.value
    return run.id, short_moment(run.start_date_time), duration(run.duration), state


def _result(run: Run) -> str:
    return run.outcome.value if run.is_completed else ""
