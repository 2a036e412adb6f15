"""The commands and what they take."""

import logging
from pathlib import Path
from typing import Annotated

import typer

from itwin_export_async import ExportClient, IfcVersion
from itwin_export_async.cli.demo import run_demo
from itwin_export_async.cli.emulator import serve_emulator
from itwin_export_async.cli.ending import EXIT_CODES, conclude
from itwin_export_async.cli.export import ExportOrder, run_export, watch_run

app = typer.Typer(
    help="Export iModels from the Bentley iTwin Platform, mostly to IFC.",
    epilog=EXIT_CODES,
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

_IFC_VERSIONS = ", ".join(f"'{version.value}'" for version in IfcVersion)

BaseUrl = Annotated[
    str | None,
    typer.Option(
        help="Address of the API; by default ITP_API_URL of the environment, or Bentley's own.",
        show_default=False,
    ),
]
Output = Annotated[
    str,
    typer.Option("--output", "-o", help="File to write, or a folder (it gets a name there)."),
]
Timeout = Annotated[
    float | None,
    typer.Option(
        min=0.001,
        help="Seconds to wait for the run, then exit code 3. 24 hours by default.",
        show_default=False,
    ),
]
Speed = Annotated[float, typer.Option(min=0.001, help="How much faster than life the runs go.")]
Seed = Annotated[int, typer.Option(help="Equal seeds give equal runs.")]


@app.callback()
def options(
    verbose: Annotated[
        int,
        typer.Option("--verbose", "-v", count=True, help="Log to stderr; twice for all."),
    ] = 0,
) -> None:
    """What holds for all commands."""
    if verbose:
        level = logging.DEBUG if verbose > 1 else logging.INFO
        logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s: %(message)s")
        logging.getLogger("itwin_export_async").setLevel(level)


@app.command(epilog="Example: itwin-export demo -o exports")
def demo(
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the files.")] = Path(
        "exports"
    ),
    imodels: Annotated[int, typer.Option(min=1, max=100, help="How many to export.")] = 5,
    speed: Speed = 60.0,
    seed: Seed = 0,
) -> None:
    """Export several emulated iModels at once: no account, no network, real IFC files."""
    conclude(run_demo(output, imodels=imodels, speed=speed, seed=seed))


@app.command(epilog="Example: itwin-export emulator --port 8321")
def emulator(
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Port of the API; 0 takes a free one.")
    ] = 8321,
    imodels: Annotated[int, typer.Option(min=1, max=100, help="How many there are.")] = 3,
    speed: Speed = 60.0,
    seed: Seed = 0,
) -> None:
    """Serve an emulated iTwin Platform on this machine until Ctrl-C."""
    conclude(
        serve_emulator(port=port, imodels=imodels, speed=speed, seed=seed),
        interruptible=True,
    )


@app.command(epilog="Example: itwin-export run 7dbd531d-6967-47b2-8945-a722a437ad7a -o bridge.ifc")
def run(
    imodel_id: Annotated[str, typer.Argument(help="The iModel's id.", metavar="IMODEL_ID")],
    output: Output,
    base_url: BaseUrl = None,
    ifc_version: Annotated[
        str | None,
        typer.Option(help=f"One of {_IFC_VERSIONS}; the service chooses otherwise."),
    ] = None,
    connection: Annotated[
        str, typer.Option(help="Name of the connection that is used, or made.")
    ] = "itwin-export",
    authentication_type: Annotated[
        str | None, typer.Option(help="User or Service; the service chooses otherwise.")
    ] = None,
    if_active: Annotated[
        str, typer.Option(help="What to do about an active run: join, wait or raise.")
    ] = "join",
    timeout: Timeout = None,
) -> None:
    """Export one iModel: connection, run, wait, download.

    The token comes from ITWIN_ACCESS_TOKEN, or from ITP_SERVICE_CLIENT_ID and
    ITP_SERVICE_CLIENT_SECRET (with ITP_ISSUER_URL for another issuer).
    """
    order = ExportOrder(
        imodel_id=imodel_id,
        output=output,
        ifc_version=ifc_version,
        connection=connection,
        authentication_type=authentication_type,
        if_active=if_active,
        timeout=timeout,
    )
    conclude(run_export(lambda: _client(base_url), order, base_url))


@app.command(epilog="Example: itwin-export watch '{\"v\":1,...}' -o bridge.ifc")
def watch(
    token: Annotated[str, typer.Argument(help="What an interrupted run printed.")],
    output: Output,
    base_url: BaseUrl = None,
    timeout: Timeout = None,
) -> None:
    """Take up a run that was left, wait for it and download its files."""
    conclude(watch_run(lambda: _client(base_url), token, output, timeout, base_url))


def _client(base_url: str | None) -> ExportClient:
    return ExportClient.from_env(**({} if base_url is None else {"base_url": base_url}))
