"""What requests may say of source files, by the manual of the service."""

from collections.abc import Sequence
from random import Random
from typing import Any

from itwin_export_async.emulator._http.messages import detail, invalid_value
from itwin_export_async.emulator._state.connections import SourceFile
from itwin_export_async.emulator._state.ids import is_guid, new_guid, pair

_CONNECTORS = (
    "AUTOPLANT",
    "CIVIL",
    "CIVIL3D",
    "DACQJSON",
    "DWG",
    "GEOSPATIAL",
    "IFC",
    "INTELLIPID",
    "MSTN",
    "NWD",
    "OBD",
    "OPENTOWER",
    "PROSTRUCTURES",
    "PSEXCEL",
    "REVIT",
    "SPPID",
    "SPXREVIEW",
)
_NAMED = ", ".join(f"'{name}'" for name in _CONNECTORS)


def source_faults(said: object) -> list[dict[str, str]]:
    """One line of error details for each thing wrong with a source file, none when it is right."""
    if not isinstance(said, dict):
        return [invalid_value("sourceFiles")]
    needed = ("connectorType", "storageFileId")
    found = [missing_property(name) for name in needed if said.get(name) is None]
    if said.get("connectorType", "IFC") not in (None, *_CONNECTORS):
        wrong = f"connectorType must be one of: {_NAMED}."
        found.append(detail("InvalidValue", wrong, "connectorType"))
    if not _is_file_id(said.get("storageFileId")):
        found.append(invalid_value("storageFileId"))
    return found


def missing_property(name: str) -> dict[str, str]:
    """The line that says something is missing."""
    return detail(
        "MissingRequiredProperty",
        "A property required to create or update a connection is missing.",
        name,
    )


def sources_in(ids: Random, said: Sequence[dict[str, Any]]) -> tuple[SourceFile, ...]:
    """The source files that a request describes, new ids drawn for them."""
    return tuple(
        SourceFile(
            id=new_guid(ids),
            storage_file_id=source["storageFileId"],
            connector_type=source["connectorType"],
        )
        for source in said
    )


def _is_file_id(value: object) -> bool:
    if value is None:
        return True  # it is missing, which is another fault
    return isinstance(value, str) and (is_guid(value) or pair(value) is not None)
