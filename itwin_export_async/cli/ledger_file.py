"""A ledger as a file that is only read: for reports, and for how long runs take.

The tables `exports`, `history` and `sessions` are documented by the ledger. No row is changed, and
a batch may be using it. What a killed batch left in `-wal` is moved into the file.
"""

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

from attrs import frozen

from itwin_export_async import ExecutionResult, ExecutionState, Run
from itwin_export_async.cli.errors import RecordedError, UsageError
from itwin_export_async.cli.export_record import File, Record

_READABLE = 2  # version of the tables
_PARTIAL = "RunPartlyFailed"
MAX_DURATIONS = 200

_DURATIONS = """
    SELECT seconds FROM history WHERE error IS NULL AND seconds > 0 ORDER BY id DESC LIMIT ?
"""
_LATEST = """
    SELECT e.key, e.imodel_id, e.destination, e.revision, e.connection_id, e.run_id, e.resume_token,
        e.result, e.state, e.files, e.error, e.session, e.changed_at, e.started_at, e.finished_at,
        h.outcome, h.error, h.recorded_at, h.session
    FROM exports e
    LEFT JOIN history h ON h.id = (SELECT max(id) FROM history WHERE key = e.key)
    ORDER BY e.key
"""


@frozen(kw_only=True)
class LedgerContent:
    """The exports of a ledger, and when its calls began and ended."""

    records: tuple[Record, ...]
    began: datetime
    ended: datetime


def read_ledger(path: Path, *, since: datetime | None = None) -> LedgerContent:
    """The latest state of each export; `since`: only of those that a later call has tried.

    Raises a `UsageError` for a file that cannot be read.
    """
    with _opened(path) as file:
        sessions = file.execute("SELECT id, started_at, finished_at FROM sessions").fetchall()
        rows = file.execute(_LATEST).fetchall()
        try:
            return _content(sessions, rows, since)
        except (ValueError, TypeError, KeyError) as exc:
            raise UsageError(f"ledger {path} is damaged: {exc}") from exc


def read_durations(path: Path) -> tuple[float, ...]:
    """Seconds of the latest successful runs; empty for a file that has none or cannot be read."""
    if not path.exists():
        return ()
    try:
        with _opened(path) as file:
            rows = file.execute(_DURATIONS, (MAX_DURATIONS,)).fetchall()
    except UsageError:
        return ()
    return tuple(float(seconds) for (seconds,) in rows)


@contextmanager
def _opened(path: Path) -> Iterator[sqlite3.Connection]:
    if not path.is_file():
        raise UsageError(f"{path} is not a ledger: there is no such file")
    try:
        with closing(
            sqlite3.connect(f"file:{quote(str(path.absolute()))}?mode=rw", uri=True)
        ) as file:  # mode=ro would leave the files -wal and -shm behind
            file.execute("PRAGMA query_only = ON")
            (version,) = file.execute("PRAGMA user_version").fetchone()
            if version != _READABLE:
                raise UsageError(
                    f"ledger {path} has version {version}, and this release reads version "
                    f"{_READABLE}; the next batch converts an older one"
                )
            yield file
    except sqlite3.Error as exc:
        raise UsageError(f"ledger {path} cannot be read: {exc}") from exc


def _content(sessions: list[Any], rows: list[Any], since: datetime | None) -> LedgerContent:
    starts = {id: _date(started) for id, started, _ in sessions}
    chosen = {
        id for id, started in starts.items() if since is None or (started and started >= since)
    }
    now = datetime.now(UTC)
    latest = max(starts, default=0)
    records = tuple(_record(row, latest) for row in rows if row[11] in chosen)
    ends = [_date(ended) for id, _, ended in sessions if id in chosen]
    return LedgerContent(
        records=records,
        began=min((starts[id] or now for id in chosen), default=now),
        ended=max((ended for ended in ends if ended), default=now),
    )


def _record(row: Any, latest: int) -> Record:
    (key, imodel_id, destination, revision, connection_id, run_id, resume_token) = row[:7]
    (result, state, files, error, session, changed_at, started_at, finished_at) = row[7:15]
    (outcome, last_error, recorded_at, last_session) = row[15:]
    record = Record(
        name=Path(destination).name if key.startswith(f"{imodel_id} ") else key,
        imodel_id=imodel_id,
        destination=destination,
        key=key,
        revision=revision,
        connection_id=connection_id,
        run_id=run_id,
        resume_token=resume_token,
    )
    if run_id is not None:
        record.run = Run(
            id=run_id,
            connection_id=connection_id or "",
            state=ExecutionState.COMPLETED if result else ExecutionState.EXECUTING,
            result=ExecutionResult(result) if result else None,
            start_date_time=_date(started_at),
            end_date_time=_date(finished_at),
        )
    if state != "new":
        record.started_at = _date(started_at) or _date(changed_at)
    if state == "in place" and (last_error is None or last_session != session):
        record.finished_at = _date(changed_at)
        record.up_to_date = session == latest and last_session != latest
        record.files = tuple(_file(*item) for item in json.loads(files))
    elif last_error is not None and error is not None:
        record.finished_at = _date(recorded_at)
        record.error = RecordedError(last_error, outcome)
        record.is_partial = outcome == _PARTIAL
    return record


def _file(path: str, size: int, *_: object) -> File:
    return File(path=Path(path), size=size if Path(path).exists() else None)


def _date(text: str | None) -> datetime | None:
    if text is None:
        return None
    date = datetime.fromisoformat(text)
    return date if date.tzinfo else date.replace(tzinfo=UTC)
