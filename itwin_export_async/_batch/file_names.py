"""The names of the outputs of an iTwin's iModels, by a template."""

import os
import re
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from string import Formatter

from itwin_export_async._batch.entries import Entry
from itwin_export_async._files.names import numbered, safe_name
from itwin_export_async._models.imodels import IModel

TEMPLATE_FIELDS = ("imodel_name", "imodel_id", "version_name", "date")
_UNIQUE_FIELDS = {"imodel_name", "imodel_id"}
_FIELDS_OF_REVISION = {"version_name", "date"}  # with one of them each revision has its own file


def validate_template(filename: str) -> str:
    """Return the template of file names. Raise a `ValueError` if it cannot name the outputs."""
    if not isinstance(filename, str):
        raise TypeError(f"filename must be a string, not {type(filename).__name__}")
    try:
        parts = [part for part in Formatter().parse(filename) if part[1] is not None]
    except ValueError as exc:
        raise ValueError(f"filename {filename!r} is no template: {exc}") from None
    if any(spec or conversion for _, _, spec, conversion in parts):
        raise ValueError(f"filename {filename!r} has a format in a field; use the field alone")
    used = _template_fields(filename)
    unknown = sorted(used - {*TEMPLATE_FIELDS})
    if unknown:
        known = ", ".join(f"{{{name}}}" for name in TEMPLATE_FIELDS)
        raise ValueError(f"filename {filename!r} has the unknown field {unknown[0]!r}; use {known}")
    if not used & _UNIQUE_FIELDS:
        raise ValueError(
            f"filename {filename!r} gives all iModels one name; "
            "add {imodel_name} or {imodel_id}"
        )
    if any(separator in filename for separator in ("/", "\\")):
        raise ValueError(f"filename {filename!r} has a folder in it; give that as destination")
    if not re.search(r"\.[^.{}\s]+$", filename):
        raise ValueError(f"filename {filename!r} has no suffix; add one, such as .ifc")
    return filename


def _template_fields(filename: str) -> set[str]:
    return {name for _, name, _, _ in Formatter().parse(filename) if name is not None}


def has_revision(filename: str) -> bool:
    """Whether each revision of an iModel has a file of its own."""
    return bool(_template_fields(filename) & _FIELDS_OF_REVISION)


class FileNames:
    """The paths of the outputs. A name that is taken gets `-2`, `-3`, ... in the order of the ids.

    Taken are the names of other iModels' outputs, and `existing` files that no export put there.
    """

    def __init__(self, folder: Path, template: str, existing: Iterable[str]) -> None:
        self._folder = folder
        self._template = template
        self._owners: dict[str, str | None] = {
            os.path.normcase(str(folder / name)): None for name in existing
        }
        self._date = datetime.now(UTC).date().isoformat()

    def reserve(self, entry: Entry, imodel_id: str) -> None:
        """Keep the paths that an earlier call gave to an iModel."""
        for path in (entry.destination, *(file.path for file in entry.files)):
            self._owners[os.path.normcase(path)] = imodel_id

    def path(self, imodel: IModel, version_name: str) -> str:
        """The path of the iModel's output."""
        text = self._template.format(
            imodel_name=imodel.display_name or imodel.id,
            imodel_id=imodel.id,
            version_name=version_name,
            date=self._date,
        )
        names = numbered(safe_name(text, fallback=imodel.id))
        paths = (str(self._folder / name) for name in names)
        return next(path for path in paths if self._claim(path, imodel.id))

    def _claim(self, path: str, imodel_id: str) -> bool:
        return self._owners.setdefault(os.path.normcase(path), imodel_id) == imodel_id
