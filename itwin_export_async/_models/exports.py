"""One export as a whole: what is asked for, and what came of it."""

from os import PathLike, fspath
from pathlib import Path
from typing import Any

from attrs import field, frozen
from attrs.validators import optional

from itwin_export_async._models.options import ExportOptions
from itwin_export_async._models.runs import Run
from itwin_export_async._models.validators import instance_of

DISPLAY_NAME = "itwin-export"


def _named(_: object, attribute: Any, value: Any) -> None:
    if not isinstance(value, str):
        raise TypeError(f"{attribute.name} must be a string, not {type(value).__name__}")
    if not value.strip():
        raise ValueError(f"{attribute.name} is empty")
    if "\0" in value:
        raise ValueError(f"{attribute.name} {value!r} has a NUL in it")


def _destination(value: str | PathLike[str]) -> str:
    path = fspath(value) if isinstance(value, PathLike) else value
    if not isinstance(path, str):
        kind = type(path).__name__
        raise TypeError(f"destination must be a string or a path, not {kind}")
    return path


def _options(value: ExportOptions | None) -> ExportOptions:
    return ExportOptions() if value is None else value


@frozen(kw_only=True)
class ExportRequest:
    """One iModel to export, and where its output goes.

    `destination` is a folder (one that exists, or ends with a separator) or the path of the file.
    `options` None is `ExportOptions()`. `display_name` is the name of the connection that is used,
    or made when there is none; None for `"itwin-export"`. `key` is what a ledger knows the request
    by, None for its `identity`.
    """

    imodel_id: str = field(validator=_named)
    destination: str = field(converter=_destination, validator=_named)
    options: ExportOptions = field(
        default=None, converter=_options, validator=instance_of(ExportOptions)
    )
    display_name: str | None = field(default=None, validator=optional(_named))
    key: str | None = field(default=None, validator=optional(_named))

    @property
    def identity(self) -> str:
        """The key, or else the iModel's id and the destination."""
        return f"{self.imodel_id} {self.destination}" if self.key is None else self.key

    @property
    def connection_name(self) -> str:
        """The name of the connection that is used, whether it was given or not."""
        return DISPLAY_NAME if self.display_name is None else self.display_name


@frozen(kw_only=True)
class ExportOutcome:
    """What came of a request: its files, or the error that it ended with.

    `connection_id` and `run` are None where it did not come to them. `run` is as last seen; of a
    request that an earlier call had finished it has its ids, result and dates only. `paths` are
    the files on disk. `error` is None when all went well.
    """

    request: ExportRequest
    connection_id: str | None = None
    run: Run | None = None
    paths: tuple[Path, ...] = ()
    error: Exception | None = None

    @property
    def ok(self) -> bool:
        """Whether all went well."""
        return self.error is None
