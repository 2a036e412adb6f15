"""`itwin-export demo`: the library against the emulator, on this machine alone."""

import asyncio
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from itwin_export_async import AdaptiveSchedule, ClientCredentials, ExportClient, ExportOptions
from itwin_export_async.cli.checks import check_output, prepare_folder
from itwin_export_async.cli.command import Invocation
from itwin_export_async.cli.export_record import Record
from itwin_export_async.cli.options import AsJson, Seed, Speed
from itwin_export_async.cli.output.console import SafeConsole, echo, stdout_console
from itwin_export_async.cli.output.format import duration, size
from itwin_export_async.cli.output.json_lines import to_json_line
from itwin_export_async.cli.output.progress import RunProgress, live_display

_NAMES = (
    "Bridge",
    "Tunnel",
    "Station",
    "Water plant",
    "Interchange",
    "Harbour",
    "Substation",
)
_RUN_SECONDS = (120.0, 600.0)


async def demo(
    invocation: Invocation,
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Folder for the files.", metavar="FOLDER")
    ] = Path("exports"),
    imodels: Annotated[int, typer.Option(min=1, max=100, help="Number of iModels.")] = 5,
    speed: Speed = 60.0,
    seed: Seed = 0,
    as_json: AsJson = False,
) -> None:
    """Export several emulated iModels at once: no account, no network, real IFC files."""
    # no other command waits for the emulator to be imported
    from itwin_export_async.emulator import Emulator

    await prepare_folder(output, purpose="output")
    for name in names(imodels):
        check_output(str(output / f"{name}.ifc"))
    emulator = Emulator(seed=seed, speed=speed, run_seconds=_RUN_SECONDS)
    made = {emulator.add_imodel(name): name for name in names(imodels)}
    async with emulator.serve() as served:
        auth = ClientCredentials(
            emulator.client_id, emulator.client_secret, token_url=served.token_url
        )
        if invocation.shows_progress:
            text = f"An emulated iTwin Platform serves {imodels} iModels at {served.base_url}."
            invocation.note(text)
        # runs are faster than real ones, and so are polls
        schedule = AdaptiveSchedule(poll_cost=3.0 / speed, minimum=min(1.0, 6.0 / speed))
        async with ExportClient(
            auth, base_url=served.base_url, schedule=schedule, rate_limit=invocation.rate_limit
        ) as client:
            console = SafeConsole(stderr=True)
            progress = RunProgress(console, is_shown=invocation.shows_progress)
            files = {imodel_id: output / f"{name}.ifc" for imodel_id, name in made.items()}
            with live_display(console, progress.render, is_shown=progress.is_shown):
                records = await _export_all(client, progress, files)
    if as_json:
        for record in records:
            echo(to_json_line(record))
        return
    stdout_console().print(_table(records))
    echo(f"The files are in {output}")


def names(count: int) -> list[str]:
    """This many different names of iModels."""
    rounds = range(1, 2 + count // len(_NAMES))
    every = [name if n == 1 else f"{name} {n}" for n in rounds for name in _NAMES]
    return every[:count]


async def _export_all(
    client: ExportClient, progress: RunProgress, files: Mapping[str, Path]
) -> list[Record]:
    try:
        async with asyncio.TaskGroup() as group:
            exports = [
                group.create_task(_export(client, progress, imodel_id, file))
                for imodel_id, file in files.items()
            ]
    except ExceptionGroup as several:  # the first error has cancelled the others
        raise several.exceptions[0] from None
    return [export.result() for export in exports]


async def _export(
    client: ExportClient, progress: RunProgress, imodel_id: str, file: Path
) -> Record:
    record = Record(name=file.stem, imodel_id=imodel_id, destination=str(file))
    progress.add(record)
    outcome = await client.export_imodel(
        imodel_id,
        file,
        ExportOptions(ifc_version="IFC4.3"),
        display_name="demo",
        on_start=lambda run: progress.started(record, run),
        on_update=lambda update: progress.updated(record, update),
    )
    record.finish_with(outcome)
    progress.finished(record)
    return record


def _table(records: list[Record]) -> Table:
    table = Table("iModel", "run", "states passed", "time", "file", "size", box=None)
    now = datetime.now(UTC)
    for record in records:
        for file in record.files:
            table.add_row(
                record.name,
                (record.run_id or "")[:8],
                " > ".join(state for _, state in record.states),
                duration(record.seconds(now)),
                file.path.name,
                size(file.size),
            )
    return table
