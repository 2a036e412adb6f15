"""`itwin-export demo`: the library against the emulator, on this machine alone."""

import asyncio
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

from rich.table import Table

from itwin_export_async import AdaptiveSchedule, ClientCredentials, ExportClient, ExportOptions
from itwin_export_async._files.download import prepare_folder
from itwin_export_async.cli.export_record import Record
from itwin_export_async.cli.output.console import tell, window
from itwin_export_async.cli.output.format import duration, size
from itwin_export_async.cli.output.progress import Board, shown
from itwin_export_async.emulator import Emulator

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


async def run_demo(folder: Path, *, imodels: int, speed: float, seed: int) -> None:
    """Export some emulated iModels at once, and print what came of each."""
    console = window()
    await prepare_folder(folder)
    emulator = Emulator(seed=seed, speed=speed, run_seconds=_RUN_SECONDS)
    made = {emulator.add_imodel(name): name for name in names(imodels)}
    async with emulator.serve() as served:
        auth = ClientCredentials(
            emulator.client_id, emulator.client_secret, token_url=served.token_url
        )
        tell(f"An emulated iTwin Platform serves {imodels} iModels at {served.base_url}.")
        # the runs are faster than life, and so are the looks at them
        schedule = AdaptiveSchedule(poll_cost=3.0 / speed, minimum=min(1.0, 6.0 / speed))
        async with ExportClient(auth, base_url=served.base_url, schedule=schedule) as client:
            board = Board(console)
            files = {imodel_id: folder / f"{name}.ifc" for imodel_id, name in made.items()}
            with shown(console, board.table):
                records = await _export_all(client, board, files)
    console.print(_report(records))
    tell(f"The files are in {folder}")


def names(count: int) -> list[str]:
    """Names for so many iModels, no two alike."""
    rounds = range(1, 2 + count // len(_NAMES))
    every = [name if n == 1 else f"{name} {n}" for n in rounds for name in _NAMES]
    return every[:count]


async def _export_all(
    client: ExportClient, board: Board, files: Mapping[str, Path]
) -> list[Record]:
    try:
        async with asyncio.TaskGroup() as group:
            exports = [
                group.create_task(_export(client, board, imodel_id, file))
                for imodel_id, file in files.items()
            ]
    except ExceptionGroup as several:  # the first one ended the others
        raise several.exceptions[0] from None
    return [export.result() for export in exports]


async def _export(client: ExportClient, board: Board, imodel_id: str, file: Path) -> Record:
    record = Record(name=file.stem, imodel_id=imodel_id, destination=str(file))
    board.add(record)
    connection = await client.find_or_create_connection(imodel_id, display_name="demo")
    run = await client.start_run(connection.id, ExportOptions(ifc_version="IFC4.3"))
    board.started(record, run)
    await run.wait(on_update=lambda update: board.updated(record, update))
    record.end(paths=await run.download(file))
    board.ended(record)
    return record


def _report(records: list[Record]) -> Table:
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
