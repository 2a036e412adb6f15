"""The commands of `itwin-export`."""

from typing import Annotated

import typer

from itwin_export_async import __version__
from itwin_export_async.cli.command import add_command, set_up_logging
from itwin_export_async.cli.commands.auth import show_status, wait_for_consent
from itwin_export_async.cli.commands.batch import EPILOG, batch
from itwin_export_async.cli.commands.check import check
from itwin_export_async.cli.commands.connections import (
    create_connection,
    delete_connection,
    list_connections,
)
from itwin_export_async.cli.commands.demo import demo
from itwin_export_async.cli.commands.emulator import serve_emulator
from itwin_export_async.cli.commands.imodels import list_imodels, list_versions
from itwin_export_async.cli.commands.ledger_report import report
from itwin_export_async.cli.commands.run import run, watch
from itwin_export_async.cli.commands.runs import download_run, list_runs, show_run
from itwin_export_async.cli.commands.storage import download_file, list_files, upload_file
from itwin_export_async.cli.runner import EXIT_CODES

_ID = "7dbd531d-6967-47b2-8945-a722a437ad7a"
_CONNECTION = "VRZHoBhrnkGrAev0-_-d_xwvyrzjgaVGka5wU967Q7w"
_RUN = "5ffeb1f4-6ab8-4d07-b6ec-dd5ef2af8d39"


def _group(help: str, epilog: str = "") -> typer.Typer:
    return typer.Typer(
        help=help,
        epilog="\n\n".join(filter(None, [epilog, EXIT_CODES])),
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        rich_markup_mode="markdown",
        context_settings={"help_option_names": ["-h", "--help"]},
    )


app = _group(
    "Export iModels from the Bentley iTwin Platform, mostly to IFC.",
    "Each option can be set by a variable: --if-active by ITP_EXPORT_IF_ACTIVE.\n\n"
    "Completion of commands and options in your shell: itwin-export --install-completion.",
)

add_command(app, "run", run, example=f"run {_ID} -o bridge.ifc")
add_command(app, "watch", watch, example="watch RESUME_TOKEN -o bridge.ifc")
add_command(app, "batch", batch, example="batch models.csv -o exports", epilog=EPILOG)
add_command(app, "check", check, example=f"check {_ID}")
add_command(
    app, "report", report, example="report exports/itwin-export.db --since 24h -o report.html"
)
add_command(app, "demo", demo, example="demo -o exports")
add_command(app, "emulator", serve_emulator, example="emulator --port 8321", is_service=True)

_runs = _group("Runs of a connection.")
add_command(_runs, "list", list_runs, example=f"runs list {_CONNECTION}")
add_command(_runs, "show", show_run, example=f"runs show {_CONNECTION} {_RUN}")
add_command(_runs, "download", download_run, example=f"runs download {_CONNECTION} {_RUN} -o out/")
app.add_typer(_runs, name="runs")

_connections = _group("Export connections of an iModel.")
add_command(_connections, "list", list_connections, example=f"connections list {_ID}")
add_command(_connections, "create", create_connection, example=f"connections create {_ID}")
add_command(_connections, "delete", delete_connection, example=f"connections delete {_CONNECTION}")
app.add_typer(_connections, name="connections")

_imodels = _group("iModels of an iTwin, and their named versions.")
add_command(_imodels, "list", list_imodels, example=f"imodels list {_RUN}")
add_command(_imodels, "versions", list_versions, example=f"imodels versions {_ID}")
app.add_typer(_imodels, name="imodels")

_storage = _group("Files in iTwin Storage.")
add_command(_storage, "list", list_files, example=f"storage list --itwin {_RUN}")
add_command(_storage, "upload", upload_file, example=f"storage upload mapping.json --itwin {_RUN}")
add_command(_storage, "download", download_file, example="storage download FILE_ID -o bridge.ifc")
app.add_typer(_storage, name="storage")

_auth = _group("The user's consent to background work.")
add_command(_auth, "status", show_status, example="auth status")
add_command(_auth, "consent", wait_for_consent, example="auth consent --open")
app.add_typer(_auth, name="auth")


def _print_version(is_requested: bool) -> None:
    if is_requested:
        print(f"itwin-export {__version__}")
        raise typer.Exit


@app.callback()
def options(
    verbose: Annotated[
        int,
        typer.Option(
            "--verbose",
            "-v",
            count=True,
            help="Log to standard error; -vv for everything.",
            show_default=False,
        ),
    ] = 0,
    _: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version."
        ),
    ] = False,
) -> None:
    """Options before the command."""
    set_up_logging(verbose)
