"""`itwin-export imodels`: the iModels of an iTwin, and their named versions."""

from typing import Annotated

import typer

from itwin_export_async import IModel, NamedVersion
from itwin_export_async.cli.checks import check_guid
from itwin_export_async.cli.command import Invocation
from itwin_export_async.cli.errors import UsageError
from itwin_export_async.cli.options import AsJson, IModelId
from itwin_export_async.cli.output.format import NO_IMODELS
from itwin_export_async.cli.output.json_lines import imodel_to_json, version_to_json
from itwin_export_async.cli.output.tables import print_items, short_moment


async def list_imodels(
    invocation: Invocation,
    itwin_id: Annotated[
        str, typer.Argument(help="The iTwin's id.", metavar="ITWIN_ID", show_default=False)
    ],
    name: Annotated[
        str | None, typer.Option(help="Exact name.", metavar="NAME", show_default=False)
    ] = None,
    search: Annotated[
        str | None,
        typer.Option(help="Part of a name or description.", metavar="TEXT", show_default=False),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """List the iModels of an iTwin that this account may see."""
    check_guid("itwin_id", itwin_id)
    if name is not None and search is not None:
        raise UsageError("--name does not go with --search")
    async with invocation.open_client() as client:
        imodels = await client.imodels.list(itwin_id, name=name, search=search)
    print_items(
        imodels,
        note=invocation.note,
        as_json=as_json,
        to_json=imodel_to_json,
        names=("iModel", "name", "last changeset (UTC)", "state"),
        to_row=_row,
        if_empty=NO_IMODELS,
    )


async def list_versions(
    invocation: Invocation, imodel_id: IModelId, as_json: AsJson = False
) -> None:
    """List the named versions of an iModel, the latest in its history first."""
    check_guid("imodel_id", imodel_id)
    async with invocation.open_client() as client:
        versions = await client.imodels.list_named_versions(imodel_id)
    print_items(
        versions,
        note=invocation.note,
        as_json=as_json,
        to_json=version_to_json,
        names=("changeset", "name", "state", "changeset id"),
        to_row=_version_row,
        if_empty="no named versions yet",
    )


def _row(imodel: IModel) -> tuple[str, ...]:
    pushed = short_moment(imodel.last_changeset_push_date_time)
    return imodel.id, imodel.display_name, pushed, imodel.state or ""


def _version_row(version: NamedVersion) -> tuple[str, ...]:
    changeset = version.changeset_id or "baseline"
    return str(version.changeset_index), version.display_name, version.state or "", changeset
