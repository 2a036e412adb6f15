"""The commands and what they take."""

import logging
from pathlib import Path
from typing import Annotated

import typer

from itwin_export_async import __version__
from itwin_export_async.cli.batch_file import COLUMNS
from itwin_export_async.cli.commands.auth import authorize as ask_to_authorize
from itwin_export_async.cli.commands.batch import BatchOrder, run_batch
from itwin_export_async.cli.commands.listings import list_connections, list_runs
from itwin_export_async.cli.commands.run import (
    Delivery,
    ExportOrder,
    run_export,
    start_only,
    watch_run,
)
from itwin_export_async.cli.id_arguments import TakesId
from itwin_export_async.cli.options import (
    ActiveRun,
    AsJson,
    BaseUrl,
    Calls,
    ConnectionName,
    Folder,
    IfActive,
    InTheNameOf,
    Output,
    Report,
    Seed,
    Speed,
    Tier,
    Timeout,
    Version,
    client_of,
    where_to,
)
from itwin_export_async.cli.output.progress import StandardError
from itwin_export_async.cli.runner import EXIT_CODES, conclude, same_command

app = typer.Typer(
    help="Export iModels from the Bentley iTwin Platform, mostly to IFC.",
    epilog=f"{EXIT_CODES} "
    "Completion of commands and options in your shell: itwin-export --install-completion.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _example(words: str) -> str:
    return f"Example: itwin-export {words}\n\n{EXIT_CODES}"


def _tell_release(is_asked: bool) -> None:
    if is_asked:
        print(f"itwin-export {__version__}")
        raise typer.Exit


@app.callback()
def options(
    verbose: Annotated[
        int,
        typer.Option("--verbose", "-v", count=True, help="Log to stderr; twice for all."),
    ] = 0,
    _: Annotated[
        bool,
        typer.Option("--version", callback=_tell_release, is_eager=True, help="Tell the release."),
    ] = False,
) -> None:
    """What holds for all commands."""
    if verbose:
        level = logging.DEBUG if verbose > 1 else logging.INFO
        form = "%(asctime)s %(levelname)s %(name)s: %(message)s"
        logging.basicConfig(format=form, stream=StandardError())
        logging.getLogger("itwin_export_async").setLevel(level)


@app.command(cls=TakesId, epilog=_example("run 7dbd531d-6967-47b2-8945-a722a437ad7a -o bridge.ifc"))
def run(
    imodel_id: Annotated[str, typer.Argument(help="The iModel's id.", metavar="IMODEL_ID")],
    output: Output = "",
    ifc_version: Version = None,
    connection: ConnectionName = "itwin-export",
    authentication_type: InTheNameOf = None,
    if_active: IfActive = ActiveRun.JOIN.value,
    timeout: Timeout = None,
    no_wait: Annotated[
        bool,
        typer.Option("--no-wait", help="Only start it, and print what `watch` takes it up by."),
    ] = False,
    report: Report = None,
    as_json: AsJson = False,
    base_url: BaseUrl = None,
) -> None:
    """Export one iModel: connection, run, wait, download.

    The token comes from ITWIN_ACCESS_TOKEN, or from ITP_SERVICE_CLIENT_ID and
    ITP_SERVICE_CLIENT_SECRET (with ITP_ISSUER_URL for another issuer).
    """
    if no_wait and (report or timeout):
        raise typer.BadParameter("does not go with --report or --timeout", param_hint="--no-wait")
    if not no_wait:
        where_to(output)
    order = ExportOrder(
        imodel_id=imodel_id,
        ifc_version=ifc_version,
        connection=connection,
        authentication_type=authentication_type,
        if_active=if_active,
    )
    delivery = Delivery(
        output=output or ".",
        base_url=base_url,
        timeout=timeout,
        json=as_json,
        report=report,
    )
    work = start_only if no_wait else run_export
    conclude(work(client_of(base_url), order, delivery))


@app.command(epilog=_example("watch '{\"v\":1,...}' -o bridge.ifc"))
def watch(
    token: Annotated[
        str, typer.Argument(help="What `run` printed when it was left.", metavar="TOKEN")
    ],
    output: Output,
    timeout: Timeout = None,
    report: Report = None,
    as_json: AsJson = False,
    base_url: BaseUrl = None,
) -> None:
    """Take up a run that was left: wait for it and download its files."""
    where_to(output)
    delivery = Delivery(
        output=output, base_url=base_url, timeout=timeout, json=as_json, report=report
    )
    conclude(watch_run(client_of(base_url), token, delivery))


@app.command(
    epilog=f"Columns: {', '.join(COLUMNS)}; output stands for destination, model_ids are separated "
    f"by semicolons.\n\n{_example('batch models.csv -o exports --ledger exports.db')}"
)
def batch(
    context: typer.Context,
    file: Annotated[
        str,
        typer.Argument(
            help="CSV with a header row, or one JSON object a line; - for standard input.",
            metavar="FILE",
        ),
    ],
    output: Folder,
    ledger: Annotated[
        Path | None,
        typer.Option(
            help="File that remembers what is done: the same command goes on after any end.",
            show_default=False,
            metavar="FILE",
        ),
    ] = None,
    concurrency: Annotated[
        int, typer.Option(min=1, help="How many exports go on at once.", metavar="NUMBER")
    ] = 20,
    tier: Calls = Tier.STANDARD.value,
    ifc_version: Version = None,
    connection: ConnectionName = "itwin-export",
    authentication_type: InTheNameOf = None,
    if_active: IfActive = ActiveRun.WAIT.value,
    timeout: Annotated[
        float | None,
        typer.Option(
            min=0.001,
            help="Seconds for all exports together, then exit code 3.",
            show_default=False,
            metavar="SECONDS",
        ),
    ] = None,
    report: Report = None,
    as_json: AsJson = False,
    base_url: BaseUrl = None,
) -> None:
    """Export many iModels, as a file says.

    Only the column imodel_id is needed. A destination is below the output folder; without one an
    export gets a folder of its own there. Options are for what a line leaves open.
    """
    where_to(output)
    order = BatchOrder(
        file=file,
        folder=output,
        ledger=ledger,
        concurrency=concurrency,
        ifc_version=ifc_version,
        connection=connection,
        authentication_type=authentication_type,
        if_active=if_active,
        timeout=timeout,
        report=report,
        json=as_json,
        again=same_command(context),
    )
    conclude(run_batch(client_of(base_url, rate_limit=Tier(tier).rate_limit), order))


@app.command(cls=TakesId, epilog=_example("runs 5ffeb1f4-6ab8-4d07-b6ec-dd5ef2af8d39"))
def runs(
    connection_id: Annotated[
        str, typer.Argument(help="The connection's id.", metavar="CONNECTION_ID")
    ],
    as_json: AsJson = False,
    base_url: BaseUrl = None,
) -> None:
    """List the runs of a connection, newest first."""
    conclude(list_runs(client_of(base_url), connection_id, as_json=as_json))


@app.command(cls=TakesId, epilog=_example("connections 7dbd531d-6967-47b2-8945-a722a437ad7a"))
def connections(
    imodel_id: Annotated[str, typer.Argument(help="The iModel's id.", metavar="IMODEL_ID")],
    as_json: AsJson = False,
    base_url: BaseUrl = None,
) -> None:
    """List the export connections of an iModel."""
    conclude(list_connections(client_of(base_url), imodel_id, as_json=as_json))


@app.command(epilog=_example("authorize --open"))
def authorize(
    synchronization: Annotated[
        bool, typer.Option("--synchronization", help="For synchronizations, not exports.")
    ] = False,
    open_page: Annotated[bool, typer.Option("--open", help="Open the page in a browser.")] = False,
    timeout: Annotated[
        float,
        typer.Option(
            min=0.001, help="Seconds to wait for the user, then exit code 4.", metavar="SECONDS"
        ),
    ] = 600.0,
    base_url: BaseUrl = None,
) -> None:
    """Show the page on which a user agrees to background work, and wait until they have."""
    work = ask_to_authorize(
        client_of(base_url),
        synchronization=synchronization,
        open_page=open_page,
        timeout=timeout,
    )
    conclude(work)


@app.command(epilog=_example("demo -o exports"))
def demo(
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Folder for the files.", metavar="FOLDER")
    ] = Path("exports"),
    imodels: Annotated[int, typer.Option(min=1, max=100, help="How many to export.")] = 5,
    speed: Speed = 60.0,
    seed: Seed = 0,
) -> None:
    """Export several emulated iModels at once: no account, no network, real IFC files."""
    # imported here: no other command shall wait for an emulator to be loaded
    from itwin_export_async.cli.commands.demo import run_demo

    conclude(run_demo(output, imodels=imodels, speed=speed, seed=seed))


@app.command(epilog=_example("emulator --port 8321"))
def emulator(
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Port of the API; 0 takes a free one.")
    ] = 8321,
    imodels: Annotated[int, typer.Option(min=1, max=100, help="How many there are.")] = 3,
    speed: Speed = 60.0,
    seed: Seed = 0,
) -> None:
    """Serve an emulated iTwin Platform on this machine until Ctrl-C."""
    from itwin_export_async.cli.commands.emulator import serve_emulator

    conclude(
        serve_emulator(port=port, imodels=imodels, speed=speed, seed=seed),
        interruptible=True,
    )
