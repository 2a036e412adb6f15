"""One export as a whole: the request and its outcome."""

from os import PathLike, fspath
from pathlib import Path

from attrs import field, frozen
from attrs.validators import optional

from itwin_export_async._models.options import ExportOptions
from itwin_export_async._models.reprs import short_repr
from itwin_export_async._models.runs import Run
from itwin_export_async._models.validators import instance_of, not_blank

DISPLAY_NAME = "itwin-export"


def _destination(value: str | PathLike[str]) -> str:
    path = fspath(value) if isinstance(value, PathLike) else value
    if not isinstance(path, str):
        raise TypeError(f"destination must be a string or a path, not {type(path).__name__}")
    return path


def _options(value: ExportOptions | None) -> ExportOptions:
    return ExportOptions() if value is None else value


@frozen(kw_only=True)
class ExportRequest:
    """One iModel to export, and the destination of its output.

    `destination` is a folder (one that exists, or ends with a separator) or the path of the file.
    `options` None is `ExportOptions()`. `display_name` is the name of the connection that is found
    or created; None is `"itwin-export"`. `key` identifies the request in a ledger; None is its
    `identity`. `revision` is the state of the iModel that is exported, such as a changeset id: with
    a ledger, the same key and revision is not exported again. None means that it is not known.
    """

    imodel_id: str = field(validator=not_blank)
    destination: str = field(converter=_destination, validator=not_blank)
    options: ExportOptions = field(
        default=None, converter=_options, validator=instance_of(ExportOptions)
    )
    display_name: str | None = field(default=None, validator=optional(not_blank))
    key: str | None = field(default=None, validator=optional(not_blank))
    revision: str | None = field(default=None, validator=optional(not_blank))

    __repr__ = short_repr

    @property
    def identity(self) -> str:
        """The key, or else the iModel's id and the destination."""
        return f"{self.imodel_id} {self.destination}" if self.key is None else self.key

    @property
    def connection_name(self) -> str:
        """The name of the connection, the default included."""
        return DISPLAY_NAME if self.display_name is None else self.display_name


@frozen(kw_only=True)
class ExportOutcome:
    """The files of a request, or the error that it ended with.

    `connection_id` and `run` are None where the export did not get that far. `run` is the latest
    snapshot; of a request that an earlier call had finished it has ids, result and dates only.
    `paths` are the files on disk. `error` is None for a success. `up_to_date` is True where nothing
    was sent, because an earlier call had exported the same revision.
    """

    request: ExportRequest
    connection_id: str | None = None
    run: Run | None = None
    paths: tuple[Path, ...] = ()
    error: Exception | None = None
    up_to_date: bool = False

    __repr__ = short_repr

    @property
    def ok(self) -> bool:
        """Whether the export succeeded."""
        return self.error is None
