"""The rows of a ledger: entries and lines of their history, in values that people can read."""

import json
from datetime import datetime
from typing import Any

from attrs import astuple, fields, frozen

from itwin_export_async._batch.entries import Entry, EntryState, OutputFile
from itwin_export_async._models import RunOrigin

DATE_COLUMNS = ("since", "until", "started_at", "finished_at")
COLUMNS = tuple(field.name for field in fields(Entry))


class DamagedRow(Exception):
    """The row holds what no entry can hold; the text says what."""


@frozen(kw_only=True)
class HistoryLine:
    """One outcome of a key.

    `outcome`: the run's, the name of the error's class, or `Outdated` for the run of an interrupted
    start whose revision is wanted no more.
    """

    key: str
    outcome: str
    revision: str | None = None
    connection_id: str | None = None
    run_id: str | None = None
    started_at: str | None = None
    finished_at: str | None = None
    seconds: float | None = None
    error: str | None = None

    @classmethod
    def of(cls, entry: Entry, outcome: str, seconds: float | None = None) -> "HistoryLine":
        """The line for the present entry of the key. `seconds`: how long the run took."""
        row = to_row(entry)
        names = ("key", "revision", "connection_id", "run_id", "started_at", "finished_at", "error")
        return cls(outcome=outcome, seconds=seconds, **{name: row[name] for name in names})

    def to_row(self) -> dict[str, Any]:
        """The line by columns."""
        return {field.name: getattr(self, field.name) for field in fields(HistoryLine)}


def to_row(entry: Entry) -> dict[str, Any]:
    """The entry by columns."""
    row: dict[str, Any] = {name: getattr(entry, name) for name in COLUMNS}
    for name in DATE_COLUMNS:
        row[name] = row[name] and row[name].isoformat()
    row["files"] = json.dumps(list(map(astuple, entry.files)))
    return row


def to_entry(row: dict[str, Any]) -> Entry:
    """The entry of a row. Raises `DamagedRow`."""
    try:
        for name in COLUMNS:
            if not isinstance(row[name], str | None):
                raise TypeError(f"{name} is no text")
        dates = {name: _to_date(row[name]) for name in DATE_COLUMNS}
        files = tuple(_to_file(*item) for item in json.loads(row["files"]))
        origin = row["origin"] and RunOrigin(row["origin"])
        state = EntryState(row["state"])
        return Entry(**{**row, **dates, "files": files, "origin": origin, "state": state})
    except (ValueError, TypeError, AttributeError, OverflowError, RecursionError) as exc:
        raise DamagedRow(str(exc)) from exc


def _to_date(text: str | None) -> datetime | None:
    if text is None:
        return None
    date = datetime.fromisoformat(text)
    if date.tzinfo is None or not 1970 < date.year < 9999:
        raise ValueError(f"{text} is no date of a run")
    return date


def _to_file(
    path: object,
    size: object,
    modified: object = None,
    is_kept: object = True,
    is_placed: object = True,
) -> OutputFile:
    if not (
        isinstance(path, str)
        and isinstance(size, int)
        and isinstance(modified, int | None)
        and isinstance(is_kept, bool)
        and isinstance(is_placed, bool)
    ):
        raise TypeError("files is no list of paths and sizes")
    is_placed = is_placed and size >= 0  # a size of -1 was an older ledger's note of a claim
    return OutputFile(path=path, size=size, modified=modified, is_kept=is_kept, is_placed=is_placed)
