"""Validation of requests: bodies, pages, permissions, and the schemas of the services."""

import json
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Any, cast

from itwin_export_async.emulator._http.messages import (
    ApiError,
    detail,
    error,
    header_of,
    insufficient_permissions,
    invalid,
    invalid_value,
    not_provided,
)
from itwin_export_async.emulator._state.ids import decode_storage_id, is_guid
from itwin_export_async.emulator._state.imodels import IModel
from itwin_export_async.emulator._state.platform import Platform, RequestContext
from itwin_export_async.emulator._state.sample_files import IFC_VERSIONS

MAX_PAGE = 1000

AUTHENTICATION_TYPES = ("User", "Service")
CONNECTOR_TYPES = (
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

_Check = Callable[[Any], bool]


def parse_json(body: bytes | None) -> dict[str, Any] | None:
    """Return a body as an object, None if it is no JSON object."""
    try:
        parsed = json.loads(body or b"")
    except (ValueError, RecursionError):
        return None
    return cast("dict[str, Any]", parsed) if isinstance(parsed, dict) else None


def json_body(context: RequestContext, code: str) -> dict[str, Any]:
    """Return the body of a request. Raises the 422 with this code if it is no JSON object."""
    body = parse_json(context.request.body)
    if body is None:
        malformed = detail("InvalidRequestBody", "Error parsing JSON, malformed JSON.")
        raise ApiError(invalid(code, malformed))
    return body


def page_of(
    context: RequestContext, code: str, *, default: int, max_size: int = MAX_PAGE
) -> tuple[int, int]:
    """Return how many items to skip, and how many to return."""
    skip = int_parameter(context, "$skip", 0, code)
    top = int_parameter(context, "$top", default, code)
    if not 1 <= top <= max_size:
        raise ApiError(invalid(code, detail("InvalidValue", "Page size is out of limits.", "$top")))
    return max(skip, 0), top


def int_parameter(context: RequestContext, name: str, default: int, code: str) -> int:
    """Return a parameter of the query as an integer."""
    try:
        return int(context.query.get(name.lower(), default))
    except ValueError:
        raise ApiError(invalid(code, invalid_value(name))) from None


def wants_representation(context: RequestContext) -> bool:
    """Whether a list is to show its items in full."""
    return "return=representation" in header_of(context.request, "Prefer").lower()


def find_imodel(
    platform: Platform, imodel_id: str, permission: str | None = "imodels_read"
) -> IModel:
    """Return an iModel. Raises 404, or 403 if the caller lacks a permission that is required."""
    imodel = platform.imodels.get(imodel_id)
    if imodel is None:
        raise ApiError(error(404, "iModelNotFound", "Requested iModel is not available."))
    return imodel if permission is None else require_access(platform, imodel, permission)


def require_access(platform: Platform, imodel: IModel, permission: str = "imodels_read") -> IModel:
    """Return the iModel. Raises 403 if the caller lacks the permission in it."""
    if permission not in platform.permissions_in(imodel):
        raise ApiError(insufficient_permissions())
    return imodel


def missing_property(name: str) -> dict[str, str]:
    """Return the detail for a property that is absent."""
    return detail(
        "MissingRequiredProperty",
        "A property required to create or update a connection is missing.",
        name,
    )


def imodel_id_errors(body: Mapping[str, Any]) -> list[dict[str, str]]:
    """Return the details for the `iModelId` of a new connection."""
    imodel_id = body.get("iModelId")
    if imodel_id is None:
        return [not_provided("imodelId")]
    is_valid = isinstance(imodel_id, str) and is_guid(imodel_id)
    return [] if is_valid else [invalid_value("imodelId")]


def connection_option_errors(body: Mapping[str, Any]) -> list[dict[str, str]]:
    """Return the details for the optional members of a connection."""
    errors = []
    if not isinstance(body.get("displayName"), str | None):
        errors.append(invalid_value("displayName"))
    if body.get("authenticationType", "User") not in AUTHENTICATION_TYPES:
        errors.append(invalid_value("authenticationType"))
    return errors


def storage_source_errors(source: object) -> list[dict[str, str]]:
    """Return the details for a source file of a storage connection."""
    if not isinstance(source, dict):
        return [invalid_value("sourceFiles")]
    required = ("connectorType", "storageFileId")
    errors = [missing_property(name) for name in required if source.get(name) is None]
    if source.get("connectorType", "IFC") not in (None, *CONNECTOR_TYPES):
        names = ", ".join(f"'{name}'" for name in CONNECTOR_TYPES)
        message = f"connectorType must be one of: {names}."
        errors.append(detail("InvalidValue", message, "connectorType"))
    if not _is_file_id(source.get("storageFileId")):
        errors.append(invalid_value("storageFileId"))
    return errors


def manifest_source_errors(source: object) -> list[dict[str, str]]:
    """Return the details for a source file of a manifest connection."""
    if not isinstance(source, dict):
        return [invalid_value("sourceFiles")]
    file_id = source.get("sourceFileId")
    if file_id is None:
        return [missing_property("sourceFileId")]
    return [] if isinstance(file_id, str) and file_id else [invalid_value("sourceFileId")]


def source_list_errors(
    body: Mapping[str, Any], check: Callable[[object], list[dict[str, str]]]
) -> list[dict[str, str]]:
    """Return the details for the `sourceFiles` of a new connection."""
    sources = body.get("sourceFiles")
    if sources is None:
        return [missing_property("sourceFiles")]
    if not isinstance(sources, list):
        return [invalid_value("sourceFiles")]
    if not sources:
        message = "At least one input file must be included to create a ConnectionDefinition."
        return [detail("MissingRequiredProperty", message, "sourceFiles")]
    return [each for source in sources for each in check(source)]


def _is_file_id(value: object) -> bool:
    if value is None:
        return True  # reported as missing
    return isinstance(value, str) and (is_guid(value) or decode_storage_id(value) is not None)


def _text(value: Any) -> bool:
    return isinstance(value, str)


def _flag(value: Any) -> bool:
    return isinstance(value, bool)


def _object(value: Any) -> bool:
    return isinstance(value, dict)


def _model_ids(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(v, str) for v in value)


def _one_of(*allowed: str) -> _Check:
    return lambda value: isinstance(value, str) and value in allowed


_RUN: Mapping[str, _Check] = MappingProxyType(
    {
        "exportType": _one_of("IFC", "PDF"),
        "ifcVersion": _one_of(*IFC_VERSIONS),
        "inputOptions": _object,
        "outputOptions": _object,
    }
)
_RUN_OPTIONS: Mapping[str, Mapping[str, _Check]] = MappingProxyType(
    {
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
)

RUN_MEMBERS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {name: {inner: {} for inner in _RUN_OPTIONS.get(name, ())} for name in _RUN}
)
"""The members of the body that starts an export, and those within them."""


def run_errors(body: Mapping[str, Any]) -> list[dict[str, str]]:
    """Return the details for the body that starts an export.

    The service's schema permits no unknown members and no nulls. Only `exportType` is required.
    """
    errors = [invalid_value(name) for name in _wrong_members(body, _RUN)]
    if "exportType" not in body:
        errors.append(not_provided("exportType"))
    for group, checks in _RUN_OPTIONS.items():
        options = body.get(group)
        if isinstance(options, dict):
            errors += [invalid_value(f"{group}.{name}") for name in _wrong_members(options, checks)]
    return errors


def _wrong_members(members: Mapping[str, Any], checks: Mapping[str, _Check]) -> Iterator[str]:
    for name, value in members.items():
        if name not in checks or not checks[name](value):
            yield name
