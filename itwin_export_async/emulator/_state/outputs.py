"""Where exports put what they make: into Storage, or to the addresses their caller gave.

What an address will allow at the end of a run is known when the run begins, and so is its end.
"""

from collections.abc import Callable
from typing import Any, TypeAlias
from urllib.parse import urlsplit

from itwin_export_async.emulator._state.connections import IModel
from itwin_export_async.emulator._state.failures import UNWRITABLE
from itwin_export_async.emulator._state.ifc_samples import ifc_file
from itwin_export_async.emulator._state.pdf_samples import pdf_file
from itwin_export_async.emulator._state.platform import PUBLIC, Platform
from itwin_export_async.emulator._state.run_lifecycle import HAS_OUTPUT, Run

_Write: TypeAlias = Callable[[], bytes]


def deliver(world: Platform, run: Run, imodel: IModel, body: dict[str, Any]) -> Run:
    """The run as it goes with these options, its output laid up for the moment of its end."""
    options = body.get("outputOptions", {})
    export_type = body["exportType"]
    write = _output(imodel.name, export_type, body.get("ifcVersion", "IFC4.3"))
    if options.get("location") == "USER_BLOB_STORAGE":
        return _deliver_to_caller(world, run, options, write)
    if run.output_id is not None:
        stored = world.drive.add_file(
            write,
            guid=run.output_id,
            itwin_id=imodel.itwin_id,
            name=f"{imodel.name}.{export_type.lower()}",
            since=run.ends_at + world.settings.output_visibility_delay,
            description=f"Exported from {imodel.name}",
            folder_id=options.get("folderId"),
            imodel_id=imodel.id,
        )
        if options.get("replaceOlderFile"):
            world.drive.replace_outputs(stored)
    return run


def _deliver_to_caller(world: Platform, run: Run, options: dict[str, Any], write: _Write) -> Run:
    """The run as it goes when it is to write to its caller's own blobs."""
    due: list[tuple[str, _Write]] = []
    if run.jobs[0].result in HAS_OUTPUT:
        due.append((options.get("outputSasUrl", ""), write))
    if options.get("saveLogs"):
        due.append((options.get("logsSasUrl", ""), lambda: _log(world, run)))
    if not all(_is_writable(world, address, at=run.ends_at) for address, _ in due):
        return run.failed(UNWRITABLE)
    for address, content in due:
        if _is_ours(world, address):
            world.drive.blobs.put(urlsplit(address).path, content, since=run.ends_at)
    return run


def _is_writable(world: Platform, address: str, *, at: float) -> bool:
    """Whether it can be written then; a store elsewhere is taken to hold all, and holds nothing."""
    if not _is_ours(world, address):
        return bool(address)
    return "w" in world.drive.blobs.rights(address, moment=world.clock.moment(at))


def _is_ours(world: Platform, address: str) -> bool:
    parts = urlsplit(address)
    origin = f"{parts.scheme}://{parts.netloc.lower()}"
    return PUBLIC.have_blobs_at(origin) or world.addresses.have_blobs_at(origin)


def _log(world: Platform, run: Run) -> bytes:
    states = [*run.phases, (run.result, run.ends_at)]
    lines = (f"{world.clock.stamp(at)} {run.id} {state}\n" for state, at in states)
    return "".join(lines).encode()


def _output(name: str, export_type: str, ifc_version: str) -> _Write:
    if export_type == "PDF":
        return lambda: pdf_file(name)
    return lambda: ifc_file(name, ifc_version=ifc_version)
