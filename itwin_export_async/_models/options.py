"""What to export and where to: the options of a run, checked before anything is sent.

An option left out is left out of the request, and the service's own default holds. A plain string
stands for a value this release knows; `IfcVersion("...")` and its like pass a newer one through.
"""

from collections.abc import Iterable
from typing import Any, TypeVar

from attrs import Attribute, field, frozen
from attrs.validators import optional

from itwin_export_async._models.enums import (
    ExportType,
    IfcVersion,
    OpenEnum,
    OutputLocation,
)
from itwin_export_async._models.validators import instance_of

E = TypeVar("E", bound=OpenEnum)


def parse_enum(enum: type[E], name: str, value: Any) -> E:
    """The member that `value` is or names; anything else is an error that says `name`."""
    if isinstance(value, enum):
        return value
    if not isinstance(value, str):
        raise TypeError(f"{name} must be a string or {enum.__name__}, not {value!r}")
    for member in enum:
        if member.value.casefold() == value.casefold():
            return member
    known = ", ".join(repr(member.value) for member in enum)
    raise ValueError(
        f"{name} {value!r} is not one of {known} (a newer one passes as {enum.__name__}({value!r}))"
    )


def _export_type(value: Any) -> ExportType:
    return parse_enum(ExportType, "export_type", value)


def _ifc_version(value: Any) -> IfcVersion | None:
    return None if value is None else parse_enum(IfcVersion, "ifc_version", value)


def _location(value: Any) -> OutputLocation | None:
    return None if value is None else parse_enum(OutputLocation, "location", value)


def _text(_: object, attribute: "Attribute[Any]", value: Any) -> None:
    if value is None:
        return
    if not isinstance(value, str):
        raise TypeError(f"{attribute.name} must be a string, not {type(value).__name__}")
    if not value.strip():
        raise ValueError(f"{attribute.name} is empty; leave it out instead")


def _ids(value: Iterable[str] | None) -> tuple[str, ...] | None:
    if isinstance(value, str) or not isinstance(value, Iterable | None):
        raise TypeError(f"model_ids must be a list of strings, not {value!r}")
    return None if value is None else tuple(value)


@frozen(kw_only=True)
class InputOptions:
    """Which part of the iModel is exported, and by which mapping (`inputOptions`).

    `changeset_id`: 40 hex digits; None is the latest. `mapping_file_id`: a mapping file in Storage,
    `mappingfile_blob_url`: the address of one; None for both is the service's own mapping.
    `saved_view_id`: a saved view, which must be shared for `Service` authentication. `model_ids`:
    only these models, at least one; None is all of them.
    """

    changeset_id: str | None = field(default=None, validator=_text)
    mapping_file_id: str | None = field(default=None, validator=_text)
    mappingfile_blob_url: str | None = field(default=None, validator=_text, repr=False)
    saved_view_id: str | None = field(default=None, validator=_text)
    model_ids: tuple[str, ...] | None = field(default=None, converter=_ids)

    @model_ids.validator
    def _named(self, _: object, value: tuple[str, ...] | None) -> None:
        if value is None:
            return
        if not value:
            raise ValueError("model_ids is empty; leave it out to export all models")
        if not all(isinstance(model, str) and model for model in value):
            raise ValueError(f"model_ids must be strings that are not empty, not {value!r}")


@frozen(kw_only=True)
class OutputOptions:
    """Where the output goes (`outputOptions`).

    `location` None is Storage. `output_sas_url` and `logs_sas_url` are the blobs that
    `USER_BLOB_STORAGE` writes to; they must allow create and write for longer than the run lasts.
    `folder_id`: a Storage folder, None is the iTwin's root folder. `replace_older_file` replaces
    the older output of the same iModel; `save_logs` keeps the logs. None leaves it to the service.
    """

    location: OutputLocation | None = field(default=None, converter=_location)
    output_sas_url: str | None = field(default=None, validator=_text, repr=False)
    logs_sas_url: str | None = field(default=None, validator=_text, repr=False)
    folder_id: str | None = field(default=None, validator=_text)
    replace_older_file: bool | None = field(default=None, validator=optional(instance_of(bool)))
    save_logs: bool | None = field(default=None, validator=optional(instance_of(bool)))

    def __attrs_post_init__(self) -> None:
        if self.location != OutputLocation.USER_BLOB_STORAGE:
            return
        if self.output_sas_url is None:
            raise ValueError("output_sas_url is needed when location is USER_BLOB_STORAGE")
        if self.save_logs and self.logs_sas_url is None:
            raise ValueError("logs_sas_url is needed to save_logs to USER_BLOB_STORAGE")


@frozen(kw_only=True)
class ExportOptions:
    """What a run makes. `ifc_version` goes with IFC only; None leaves it to the service."""

    export_type: ExportType = field(default=ExportType.IFC, converter=_export_type)
    ifc_version: IfcVersion | None = field(default=None, converter=_ifc_version)
    input: InputOptions = field(factory=InputOptions, validator=instance_of(InputOptions))
    output: OutputOptions = field(factory=OutputOptions, validator=instance_of(OutputOptions))

    def __attrs_post_init__(self) -> None:
        if self.ifc_version is not None and self.export_type != ExportType.IFC:
            raise ValueError(
                f"ifc_version {self.ifc_version.value!r} does not go with "
                f"export_type {self.export_type.value!r}"
            )
