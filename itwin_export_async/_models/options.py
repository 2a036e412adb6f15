"""The options of a run, checked before anything is sent.

An option left out is left out of the request, and the service's own default holds. A plain string
stands for a value this release knows; `ExportType("...")` and its like pass a newer one through.
"""

from collections.abc import Iterable
from typing import Any, Literal

from attrs import field, frozen
from attrs.validators import optional

from itwin_export_async._models.enums import ExportType, IfcVersion, OutputLocation
from itwin_export_async._models.reprs import short_repr
from itwin_export_async._models.validators import instance_of, not_blank, parse_enum
from itwin_export_async._redaction import holds_secret, safe_repr


# the literals are what editors offer; any spelling of a known value is taken
def _export_type(value: ExportType | Literal["IFC", "PDF", "LandXML"] | str) -> ExportType:
    return parse_enum(ExportType, "export_type", value)


def _location(
    value: OutputLocation | Literal["STORAGE", "USER_BLOB_STORAGE"] | str | None,
) -> OutputLocation | None:
    return None if value is None else parse_enum(OutputLocation, "location", value)


def _ifc_version(value: IfcVersion | str | None) -> IfcVersion | None:
    """Any text: the service knows more versions than it documents."""
    if value is None or isinstance(value, IfcVersion):
        return value
    if not isinstance(value, str):
        raise TypeError(f"ifc_version must be a string or IfcVersion, not {safe_repr(value)}")
    if not value.strip() or holds_secret(value):
        raise ValueError(f"ifc_version {safe_repr(value)} is no IFC version")
    return IfcVersion(value.strip())


def _model_ids(value: Iterable[str] | None) -> tuple[str, ...] | None:
    if isinstance(value, str) or not isinstance(value, Iterable | None):
        raise TypeError(f"model_ids must be a list of strings, not {safe_repr(value)}")
    return None if value is None else tuple(value)


@frozen(kw_only=True)
class InputOptions:
    """The part of the iModel that is exported, and its mapping (`inputOptions`).

    `changeset_id`: 40 hex digits; None is the latest. `mapping_file_id`: a mapping file in Storage,
    `mappingfile_blob_url`: the URL of one; None for both is the service's own mapping.
    `saved_view_id`: a saved view, which must be shared for `Service` authentication. `model_ids`:
    only these models, at least one; None is all of them.
    """

    changeset_id: str | None = field(default=None, validator=optional(not_blank))
    mapping_file_id: str | None = field(default=None, validator=optional(not_blank))
    mappingfile_blob_url: str | None = field(
        default=None, validator=optional(not_blank), repr=False
    )
    saved_view_id: str | None = field(default=None, validator=optional(not_blank))
    model_ids: tuple[str, ...] | None = field(default=None, converter=_model_ids)

    __repr__ = short_repr

    @model_ids.validator
    def _at_least_one(self, attribute: Any, value: tuple[str, ...] | None) -> None:
        if value == ():
            raise ValueError("model_ids is empty; leave it out to export all models")
        for model_id in value or ():
            not_blank(self, attribute, model_id)


@frozen(kw_only=True)
class OutputOptions:
    """The destination of the output (`outputOptions`).

    `location` None is Storage. `output_sas_url` and `logs_sas_url` are the blobs that
    `USER_BLOB_STORAGE` writes to; they must allow create and write for longer than the run lasts.
    `folder_id`: a Storage folder, None is the iTwin's root folder. `replace_older_file` replaces
    the older output of the same iModel; `save_logs` keeps the logs, and `logs_sas_url` implies it.
    None leaves it to the service.
    """

    location: OutputLocation | None = field(default=None, converter=_location)
    output_sas_url: str | None = field(default=None, validator=optional(not_blank), repr=False)
    logs_sas_url: str | None = field(default=None, validator=optional(not_blank), repr=False)
    folder_id: str | None = field(default=None, validator=optional(not_blank))
    replace_older_file: bool | None = field(default=None, validator=optional(instance_of(bool)))
    save_logs: bool | None = field(default=None, validator=optional(instance_of(bool)))

    __repr__ = short_repr

    def __attrs_post_init__(self) -> None:
        if self.save_logs is None and self.logs_sas_url is not None:
            object.__setattr__(self, "save_logs", True)
        if self.location != OutputLocation.USER_BLOB_STORAGE:
            return
        if self.output_sas_url is None:
            raise ValueError("output_sas_url is required when location is USER_BLOB_STORAGE")
        if self.save_logs and self.logs_sas_url is None:
            raise ValueError("logs_sas_url is required to save_logs to USER_BLOB_STORAGE")


@frozen(kw_only=True)
class ExportOptions:
    """The product of a run. `ifc_version` is for IFC only; None leaves it to the service."""

    export_type: ExportType = field(default=ExportType.IFC, converter=_export_type)
    ifc_version: IfcVersion | None = field(default=None, converter=_ifc_version)
    input: InputOptions = field(factory=InputOptions, validator=instance_of(InputOptions))
    output: OutputOptions = field(factory=OutputOptions, validator=instance_of(OutputOptions))

    __repr__ = short_repr

    def __attrs_post_init__(self) -> None:
        if self.ifc_version is not None and self.export_type != ExportType.IFC:
            raise ValueError(
                f"ifc_version {self.ifc_version.value!r} does not fit "
                f"export_type {self.export_type.value!r}"
            )
