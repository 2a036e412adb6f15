"""The JSON body of a start, checked before anything is sent. Each error names the field."""

import json
from typing import Any

from itwin_export_async import ExportOptions, IfcVersion, InputOptions, OutputOptions
from itwin_export_async.web._problems import InvalidBody

MAX_BODY = 1024 * 1024  # bytes

_INPUT = ("changeset_id", "mapping_file_id", "saved_view_id", "model_ids")
_OUTPUT = ("replace_older_file", "save_logs")
_OPTIONS = ("export_type", "ifc_version", *_INPUT, *_OUTPUT)

_TEXT = {"type": "string"}
_FLAG = {"type": "boolean"}
START_SCHEMA: dict[str, Any] = {
    "title": "StartRequest",
    "type": "object",
    "required": ["imodel_id"],
    "additionalProperties": False,
    "properties": {
        "imodel_id": {**_TEXT, "description": "The id of the iModel to export."},
        "options": {
            "title": "StartOptions",
            "type": "object",
            "description": "What to export; the service's defaults otherwise.",
            "additionalProperties": False,
            "properties": {
                **{name: _FLAG if name in _OUTPUT else _TEXT for name in _OPTIONS},
                "model_ids": {"type": "array", "items": _TEXT},
            },
        },
    },
}
"""The JSON schema of the body."""


def check_content_type(content_type: str) -> None:
    """Refuse other types than JSON: browsers let pages of other origins send those."""
    if content_type.partition(";")[0].strip().casefold() != "application/json":
        raise InvalidBody("the body is not JSON; send it with Content-Type: application/json")


def parse_start(body: Any) -> tuple[str, ExportOptions]:
    """The iModel's id and the options of a body `{imodel_id, options?}`, as bytes or JSON."""
    if isinstance(body, bytes | bytearray):
        body = _parse_json(body)
    if not isinstance(body, dict):
        raise InvalidBody("the body is not a JSON object; send {imodel_id, options?}")
    unknown = sorted({*map(str, body)} - {"imodel_id", "options"})
    if unknown:
        raise InvalidBody(f"{unknown[0][:80]!r} is no field; send imodel_id and options")
    imodel_id = body.get("imodel_id")
    if not isinstance(imodel_id, str) or not imodel_id.strip():
        raise InvalidBody("imodel_id is missing or not a string")
    return imodel_id, parse_options(body.get("options"))


def _parse_json(data: bytes | bytearray) -> Any:
    if len(data) > MAX_BODY:
        raise InvalidBody(f"the body is longer than {MAX_BODY} bytes")
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        raise InvalidBody("the body is not JSON; send {imodel_id, options?}") from None


def parse_options(options: Any) -> ExportOptions:
    """The options of a visitor: what to export, and never where the service writes it.

    `export_type`, `ifc_version`; of the input `changeset_id`, `mapping_file_id`, `saved_view_id`,
    `model_ids`; of the output `replace_older_file`, `save_logs`. None leaves one out.
    """
    if options is None:
        return ExportOptions()
    if not isinstance(options, dict):
        raise InvalidBody("options is not a JSON object")
    unknown = sorted({*map(str, options)} - {*_OPTIONS})
    if unknown:
        known = ", ".join(_OPTIONS)
        raise InvalidBody(f"options.{unknown[0][:80]} is no option; known are {known}")
    given = {name: value for name, value in options.items() if value is not None}
    version = given.get("ifc_version")
    if isinstance(version, str):
        try:
            IfcVersion.parse(version)
        except ValueError as exc:
            raise InvalidBody(f"options: ifc_version {exc}") from None
    try:
        return ExportOptions(
            **{name: given[name] for name in ("export_type", "ifc_version") if name in given},
            input=InputOptions(**{name: given[name] for name in _INPUT if name in given}),
            output=OutputOptions(**{name: given[name] for name in _OUTPUT if name in given}),
        )
    except (ValueError, TypeError) as exc:
        raise InvalidBody(f"options: {exc}") from exc
