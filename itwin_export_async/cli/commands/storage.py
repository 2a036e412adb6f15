"""`itwin-export storage`: files in iTwin Storage."""

import os
from pathlib import Path
from typing import Annotated

import typer

from itwin_export_async import StoredFile
from itwin_export_async.cli.checks import STDOUT, check_guid, check_id, check_output
from itwin_export_async.cli.command import Invocation
from itwin_export_async.cli.errors import UsageError
from itwin_export_async.cli.options import AsJson, Output
from itwin_export_async.cli.output.console import echo
from itwin_export_async.cli.output.format import size
from itwin_export_async.cli.output.json_lines import file_to_json, print_json
from itwin_export_async.cli.output.streams import write_chunks
from itwin_export_async.cli.output.tables import print_items, short_moment

ITwinOption = Annotated[
    str | None,
    typer.Option(
        "--itwin", help="The iTwin whose root folder is meant.", metavar="ID", show_default=False
    ),
]


async def list_files(
    invocation: Invocation,
    folder_id: Annotated[
        str | None,
        typer.Argument(help="The folder's id.", metavar="[FOLDER_ID]", show_default=False),
    ] = None,
    itwin: ITwinOption = None,
    as_json: AsJson = False,
) -> None:
    """List the files and folders in a folder, or in the root folder of an iTwin."""
    _check_folder(folder_id, itwin)
    async with invocation.open_client() as client:
        if folder_id is not None:
            files = await client.storage.list_folder(folder_id)
        else:
            files = await client.storage.list_root_folder(itwin or "")
    print_items(
        files,
        note=invocation.note,
        as_json=as_json,
        to_json=file_to_json,
        names=("id", "name", "size", "modified (UTC)"),
        to_row=_row,
        if_empty="the folder is empty",
    )


async def upload_file(
    invocation: Invocation,
    path: Annotated[
        Path, typer.Argument(help="File to upload.", metavar="FILE", show_default=False)
    ],
    folder_id: Annotated[
        str | None,
        typer.Argument(help="The folder's id.", metavar="[FOLDER_ID]", show_default=False),
    ] = None,
    itwin: ITwinOption = None,
    name: Annotated[
        str | None,
        typer.Option(help="Name in Storage.", metavar="NAME", show_default="that of the file"),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Upload a file to a folder, or to the root folder of an iTwin. Prints the file's id."""
    _check_folder(folder_id, itwin)
    _check_file(path)
    async with invocation.open_client() as client:
        if folder_id is None:
            folder_id = await client.storage.get_root_folder_id(itwin or "")
        file = await client.storage.upload(path, folder_id, display_name=name)
    if as_json:
        print_json(file_to_json(file))
    else:
        echo(file.id)


async def download_file(
    invocation: Invocation,
    file_id: Annotated[
        str, typer.Argument(help="The file's id.", metavar="FILE_ID", show_default=False)
    ],
    output: Output = "",
    as_json: AsJson = False,
) -> None:
    """Download a file. Prints its path."""
    check_id("file_id", file_id)
    check_output(output, as_json=as_json)
    async with invocation.open_client() as client:
        if output == STDOUT:
            async with client.storage.open(file_id) as chunks:
                await write_chunks(chunks)
            return
        path = await client.storage.download(file_id, output)
    if as_json:
        print_json({"path": str(path), "size": path.stat().st_size})
    else:
        echo(str(path))


def _check_file(path: Path) -> None:
    if not os.path.isfile(path):
        raise UsageError(f"{path} is not a file")


def _check_folder(folder_id: str | None, itwin: str | None) -> None:
    if (folder_id is None) == (itwin is None):
        raise UsageError("give either a FOLDER_ID or --itwin ID")
    if folder_id is not None:
        check_id("folder_id", folder_id)
    if itwin is not None:
        check_guid("--itwin", itwin)


def _row(file: StoredFile) -> tuple[str, ...]:
    name = f"{file.display_name}/" if file.is_folder else file.display_name
    length = "" if file.size is None else size(file.size)
    return file.id, name, length, short_moment(file.last_modified_date_time)
