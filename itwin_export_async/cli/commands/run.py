"""`itwin-export run` and `watch`: one export to its end."""

from typing import Annotated, Any, cast

import typer

from itwin_export_async import (
    AuthenticationType,
    AuthorizationRequired,
    ExportClient,
    ExportOptions,
    RunHandle,
)
from itwin_export_async.cli.checks import check_guid, check_output
from itwin_export_async.cli.command import Invocation
from itwin_export_async.cli.commands.auth import REDIRECT_URL
from itwin_export_async.cli.errors import UsageError, user_input
from itwin_export_async.cli.export_record import Record
from itwin_export_async.cli.options import (
    ActiveRun,
    AsJson,
    AuthenticationTypeOption,
    ConnectionName,
    IfActive,
    IModelId,
    KeepPartial,
    Output,
    Report,
    Timeout,
    Version,
)
from itwin_export_async.cli.output.console import echo
from itwin_export_async.cli.output.json_lines import print_json
from itwin_export_async.cli.running_export import (
    OutputArgs,
    RunArgs,
    RunningExport,
    note_joined,
    resume_command,
)


async def run(
    invocation: Invocation,
    imodel_id: IModelId,
    output: Output = "",
    ifc_version: Version = None,
    connection: ConnectionName = "itwin-export",
    authentication_type: AuthenticationTypeOption = None,
    if_active: IfActive = ActiveRun.JOIN.value,
    timeout: Timeout = None,
    no_wait: Annotated[
        bool,
        typer.Option("--no-wait", help="Only start the run, and print the token for `watch`."),
    ] = False,
    keep_partial: KeepPartial = False,
    report: Report = None,
    as_json: AsJson = False,
) -> None:
    """Export one iModel: connection, run, wait, download. Prints the path of the file.

    Credentials come from ITWIN_ACCESS_TOKEN, or from ITP_SERVICE_CLIENT_ID and
    ITP_SERVICE_CLIENT_SECRET (with ITP_ISSUER_URL for another issuer).
    """
    if no_wait and (report or timeout or keep_partial):
        raise UsageError("--no-wait does not go with --report, --timeout or --keep-partial")
    args = RunArgs(
        imodel_id=check_guid("imodel_id", imodel_id),
        ifc_version=ifc_version,
        connection=connection,
        authentication_type=authentication_type,
        if_active=cast(Any, if_active),  # as the option has checked
    )
    delivery = OutputArgs(
        path=output or ("." if no_wait else ""),
        timeout=timeout,
        json=as_json,
        report=report,
        keep_partial=keep_partial,
    )
    if no_wait:
        await start_only(invocation, args, delivery)
    else:
        await run_export(invocation, args, delivery)


async def watch(
    invocation: Invocation,
    token: Annotated[
        str,
        typer.Argument(
            help="The resume token that `run` printed.", metavar="TOKEN", show_default=False
        ),
    ],
    output: Output = "",
    timeout: Timeout = None,
    keep_partial: KeepPartial = False,
    report: Report = None,
    as_json: AsJson = False,
) -> None:
    """Take up a run that was left: wait for its end and download its files."""
    delivery = OutputArgs(
        path=output, timeout=timeout, json=as_json, report=report, keep_partial=keep_partial
    )
    client = invocation.open_client()
    check_output(delivery.path)
    with user_input():
        run = client.resume(token)
    await delivery.check()
    record = Record(name=run.run_id, destination=delivery.path)
    export = RunningExport(invocation=invocation, client=client, output=delivery, record=record)
    async with client, export.reported():
        await export.follow(run)


async def run_export(invocation: Invocation, args: RunArgs, output: OutputArgs) -> None:
    """Export the iModel. What cannot work is reported before anything is sent."""
    client = invocation.open_client()
    await output.check()
    record = Record(name=args.imodel_id, imodel_id=args.imodel_id, destination=output.path)
    export = RunningExport(invocation=invocation, client=client, output=output, record=record)
    async with client, export.reported():
        if output.is_stdout:
            await export.follow(await _start(client, args))
        else:
            await export.export(args)


async def start_only(invocation: Invocation, args: RunArgs, output: OutputArgs) -> None:
    """Start the run, and print the token that resumes it."""
    async with invocation.open_client() as client:
        run = await _start(client, args)
    command = resume_command(invocation, run.resume_token, output)
    note_joined(invocation, run)
    if output.json:
        print_json(
            {
                "imodel_id": args.imodel_id,
                "connection_id": run.connection_id,
                "run_id": run.run_id,
                "joined": run.joined,
                "resume_token": run.resume_token,
                "command": command,
            }
        )
    else:
        invocation.note(f"this continues:\n  {command}")
        echo(run.resume_token)


async def _start(client: ExportClient, args: RunArgs) -> RunHandle:
    connection = await client.find_or_create_connection(
        args.imodel_id,
        display_name=args.connection,
        authentication_type=args.authentication_type,
    )
    if connection.authentication_type == AuthenticationType.USER:
        consent = await client.get_authorization(REDIRECT_URL)
        if not consent.is_user_authorized:
            raise AuthorizationRequired(url=consent.authorization_url)
    options = ExportOptions(ifc_version=args.ifc_version)
    return await client.start_run(connection.id, options, if_active=args.if_active)
