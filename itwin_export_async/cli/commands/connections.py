"""`itwin-export connections`: the export connections of an iModel."""

from typing import Annotated

import typer

from itwin_export_async import Connection
from itwin_export_async.cli.checks import check_guid, check_id
from itwin_export_async.cli.command import Invocation
from itwin_export_async.cli.options import (
    AsJson,
    AuthenticationTypeOption,
    ConnectionId,
    IModelId,
)
from itwin_export_async.cli.output.console import echo
from itwin_export_async.cli.output.json_lines import connection_to_json, print_json
from itwin_export_async.cli.output.tables import print_items


async def list_connections(
    invocation: Invocation, imodel_id: IModelId, as_json: AsJson = False
) -> None:
    """List the export connections of an iModel."""
    check_guid("imodel_id", imodel_id)
    async with invocation.open_client() as client:
        connections = await client.list_connections(imodel_id)
    print_items(
        connections,
        note=invocation.note,
        as_json=as_json,
        to_json=connection_to_json,
        names=("connection", "name", "authentication type"),
        to_row=_row,
        if_empty="no connections yet",
    )


async def create_connection(
    invocation: Invocation,
    imodel_id: IModelId,
    name: Annotated[
        str, typer.Option(help="Name of the connection.", metavar="NAME")
    ] = "itwin-export",
    authentication_type: AuthenticationTypeOption = None,
    as_json: AsJson = False,
) -> None:
    """Create an export connection of an iModel, and print its id."""
    check_guid("imodel_id", imodel_id)
    async with invocation.open_client() as client:
        connection = await client.create_connection(
            imodel_id, display_name=name, authentication_type=authentication_type
        )
    if as_json:
        print_json(connection_to_json(connection))
    else:
        echo(connection.id)


async def delete_connection(
    invocation: Invocation, connection_id: ConnectionId, as_json: AsJson = False
) -> None:
    """Delete a connection and its runs; files in Storage stay."""
    check_id("connection_id", connection_id)
    async with invocation.open_client() as client:
        await client.delete_connection(connection_id)
    if as_json:
        print_json({"connection_id": connection_id, "deleted": True})
    else:
        invocation.note(f"deleted connection {connection_id}")


def _row(connection: Connection) -> tuple[str, ...]:
    kind = connection.authentication_type
    return connection.id, connection.display_name or "", kind.value if kind else ""
