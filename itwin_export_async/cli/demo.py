"""`itwin-export demo`: the library against the emulator, on this machine alone."""

import asyncio
from pathlib import Path

from rich.console import Console
from rich.filesize import decimal
from rich.table import Table

from itwin_export_async import ClientCredentials, ExportClient, ExportOptions, Inspection
from itwin_export_async._storage import prepare_folder
from itwin_export_async.cli.board import Board, Row
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
    console = Console()
    if not console.is_terminal:
        console = Console(width=140)  # nobody's window, so that no line need be broken
    await prepare_folder(folder)
    emulator = Emulator(seed=seed, speed=speed, run_seconds=_RUN_SECONDS)
    made = {emulator.add_imodel(name): name for name in names(imodels)}
    async with emulator.serve() as served:
        auth = ClientCredentials(
            emulator.client_id, emulator.client_secret, token_url=served.token_url
        )
        console.print(f"An emulated iTwin Platform serves {imodels} iModels at {served.base_url}.")
        # the runs are faster than life, and so are the looks at them
        schedule = Inspection(poll_cost=3.0 / speed, minimum=min(1.0, 6.0 / speed))
        async with ExportClient(auth, base_url=served.base_url, schedule=schedule) as client:
            with Board(console) as board:
                async with asyncio.TaskGroup() as group:
                    exports = [
                        group.create_task(_export(client, board, imodel_id, folder / f"{name}.ifc"))
                        for imodel_id, name in made.items()
                    ]
    console.print(_report([export.result() for export in exports]))
    console.print(f"The files are in {folder}", soft_wrap=True, highlight=False)


def names(count: int) -> list[str]:
    """Names for so many iModels, no two alike."""
    rounds = range(1, 2 + count // len(_NAMES))
    every = [name if n == 1 else f"{name} {n}" for n in rounds for name in _NAMES]
    return every[:count]


async def _export(
    client: ExportClient, board: Board, imodel_id: str, file: Path
) -> tuple[Row, Path]:
    row = board.add(file.stem)
    connection = await client.find_or_create_connection(imodel_id, display_name="demo")
    run = await client.start_run(connection.id, ExportOptions(ifc_version="IFC4.3"))
    board.started(row, run.run_id)
    final = await run.wait(on_update=lambda update: board.updated(row, update))
    (path,) = await run.download(file)
    board.ended(row, final.outcome.value)
    return row, path


def _report(exports: list[tuple[Row, Path]]) -> Table:
    table = Table("iModel", "run", "states passed", "time", "file", "size", box=None)
    for row, path in exports:
        table.add_row(
            row.name,
            row.run_id[:8],
            " > ".join(row.states),
            f"{row.seconds(0):.1f} s",
            path.name,
            decimal(path.stat().st_size),
        )
    return table
