"""What the body of a run's creation may say, by the schemas of the service.

No unknown members on any level, no nulls; only `exportType` is required.
"""

from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Any

from itwin_export_async.emulator._http.messages import detail, invalid_value
from itwin_export_async.emulator._state.ifc_samples import IFC_VERSIONS

_Check = Callable[[Any], bool]


def _text(value: Any) -> bool:
    return isinstance(value, str)


def _flag(value: Any) -> bool:
    return isinstance(value, bool)


def _model_ids(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(v, str) for v in value)


def _one_of(*allowed: str) -> _Check:
    return lambda value: isinstance(value, str) and value in allowed


_TOP: dict[str, _Check] = {
    "exportType": _one_of("IFC", "PDF"),
    "ifcVersion": _one_of(*IFC_VERSIONS),
    "inputOptions": lambda value: isinstance(value, dict),
    "outputOptions": lambda value: isinstance(value, dict),
}
_OPTIONS: dict[str, dict[str, _Check]] = {
    "inputOptions": {
        "changesetId": _text,
        "mappingFileId": _text,
        "mappingfileBlobUrl": _text,
        "savedViewId": _text,
        "modelIds": _model_ids,
    },
    "outputOptions": {
        "location": _one_of("STORAGE", "USER_BLOB_STORAGE"),
        "outputSasUrl": _text,
        "logsSasUrl": _text,
        "folderId": _text,
        "replaceOlderFile": _flag,
        "saveLogs": _flag,
    },
}

MEMBERS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {name: {inner: {} for inner in _OPTIONS.get(name, ())} for name in _TOP}
)
"""All members that there are, and those within them."""


def faults(body: dict[str, Any]) -> list[dict[str, str]]:
    """One line of error details for each thing wrong, none when the run can be created."""
    found = [invalid_value(name) for name in _wrong(body, _TOP)]
    if "exportType" not in body:
        found.append(
            detail("MissingRequiredProperty", "exportType was not provided.", "exportType")
        )
    for group, checks in _OPTIONS.items():
        options = body.get(group)
        if isinstance(options, dict):
            found += [invalid_value(f"{group}.{name}") for name in _wrong(options, checks)]
    return found


def _wrong(members: dict[str, Any], checks: dict[str, _Check]) -> Iterator[str]:
    for name, value in members.items():
        if name not in checks or not checks[name](value):
            yield name
