"""The outputs of exports: files in Storage, or blobs at the caller's own SAS URLs.

The end of a run and the rights of a SAS URL at that moment are known when the run starts.
"""

from collections.abc import Callable
from typing import Any, TypeAlias

from itwin_export_async.emulator._state.failures import NO_WRITE_PERMISSION, NOT_WRITABLE
from itwin_export_async.emulator._state.imodels import IModel
from itwin_export_async.emulator._state.platform import Endpoints, Platform
from itwin_export_async.emulator._state.run_lifecycle import HAS_OUTPUT, Run
from itwin_export_async.emulator._state.sample_files import ifc_file, pdf_file

_Write: TypeAlias = Callable[[], bytes]


def write_outputs(
    platform: Platform, endpoints: Endpoints, run: Run, imodel: IModel, body: dict[str, Any]
) -> Run:
    """Write the outputs for the moment of the run's end, and return the run.

    Returns a failed run if the outputs cannot be written.
    """
    options = body.get("outputOptions", {})
    export_type = body["exportType"]
    write = _output(imodel.name, export_type, body.get("ifcVersion", "IFC4.3"))
    if options.get("location") == "USER_BLOB_STORAGE":
        return _write_to_caller(platform, endpoints, run, options, write)
    if run.output_id is None:
        return run
    if "storage_write" not in platform.permissions_in_itwin(imodel.itwin_id):
        return run.failed(NO_WRITE_PERMISSION)
    stored = platform.file_store.add_file(
        write,
        guid=run.output_id,
        itwin_id=imodel.itwin_id,
        name=f"{imodel.name}.{export_type.lower()}",
        since=run.ends_at + platform.settings.output_visibility_delay,
        description=f"Exported from {imodel.name}",
        folder_id=options.get("folderId"),
        imodel_id=imodel.id,
    )
    if options.get("replaceOlderFile"):
        platform.file_store.replace_outputs(stored)
    return run


def _write_to_caller(
    platform: Platform, endpoints: Endpoints, run: Run, options: dict[str, Any], write: _Write
) -> Run:
    """Write the output and the log to the caller's own SAS URLs."""
    outputs: list[tuple[str, _Write]] = []
    if run.jobs[0].result in HAS_OUTPUT:
        outputs.append((options.get("outputSasUrl", ""), write))
    if options.get("saveLogs"):
        outputs.append((options.get("logsSasUrl", ""), lambda: _log(platform, run)))
    if not all(_is_writable(platform, endpoints, url, at=run.ends_at) for url, _ in outputs):
        return run.failed(NOT_WRITABLE)
    for url, content in outputs:
        path, _ = platform.blob_location(url, endpoints) or (None, "")
        if path is not None:
            platform.file_store.blobs.put(path, content, since=run.ends_at)
    return run


def _is_writable(platform: Platform, endpoints: Endpoints, url: str, *, at: float) -> bool:
    """Whether a SAS URL grants writing then. Other stores are assumed to accept everything."""
    location = platform.blob_location(url, endpoints)
    if location is None:
        return bool(url)
    return "w" in platform.file_store.blobs.rights(*location, at=platform.clock.moment(at))


def _log(platform: Platform, run: Run) -> bytes:
    states = [*run.timeline, (run.result, run.ends_at)]
    lines = (f"{platform.clock.stamp(at)} {run.id} {state}\n" for state, at in states)
    return "".join(lines).encode()


def _output(name: str, export_type: str, ifc_version: str) -> _Write:
    if export_type == "PDF":
        return lambda: pdf_file(name)
    return lambda: ifc_file(name, ifc_version=ifc_version)
