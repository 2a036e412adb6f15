"""The ledger: a SQLite file in which each step of a batch is on disk before the next begins.

A thread of its own talks to SQLite, so that the event loop never waits for a disk. The file can be
read at any time, for example with `sqlite3`; one call at a time writes it (`ledger_lock`). The
statements work with SQLite 3.7.15 and later.

Tables: `exports` has an entry for each key, `history` a line for each outcome of a key,
`connections` the ids of connections by iModel, name and authentication type, `sessions` a line for
each call that opened the ledger.
"""

import asyncio
import json
import os
import socket
import sqlite3
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, suppress
from datetime import UTC, datetime
from os import PathLike
from pathlib import Path
from typing import Any, Self, TypeVar

from attrs import fields, frozen

from itwin_export_async._batch.entries import (
    Entry,
    EntryState,
    OutputFile,
    changed_fields,
    new_entry,
    with_revision,
)
from itwin_export_async._batch.ledger_lock import LedgerInUse, lock_ledger
from itwin_export_async._errors import LedgerError
from itwin_export_async._models import AuthenticationType, Connection, ExportRequest, RunOrigin
from itwin_export_async._protocol.runs import Service
from itwin_export_async._runs.resume_token import ResumeToken

T = TypeVar("T")

APPLICATION_ID = 0x69544578
VERSION = 2
BUSY_TIMEOUT = 30.0  # seconds that a reader may delay a write
DATE_COLUMNS = ("since", "until", "started_at", "finished_at")
_COLUMNS = tuple(field.name for field in fields(Entry))
_EXPORTS = """
    CREATE TABLE exports (
        key TEXT PRIMARY KEY, imodel_id TEXT NOT NULL, destination TEXT NOT NULL,
        display_name TEXT NOT NULL, options TEXT NOT NULL, revision TEXT, pushed_at TEXT,
        state TEXT NOT NULL, connection_id TEXT, run_id TEXT, origin TEXT, since TEXT, until TEXT,
        resume_token TEXT, result TEXT, started_at TEXT, finished_at TEXT, files TEXT NOT NULL,
        error TEXT, changed_at TEXT NOT NULL, session INTEGER NOT NULL
    )
"""
_SESSIONS = """
    CREATE TABLE sessions (
        id INTEGER PRIMARY KEY, pid INTEGER NOT NULL, host TEXT NOT NULL,
        started_at TEXT NOT NULL, finished_at TEXT
    )
"""
_NEW_TABLES = (
    """
    CREATE TABLE history (
        id INTEGER PRIMARY KEY, key TEXT NOT NULL, revision TEXT, connection_id TEXT, run_id TEXT,
        outcome TEXT NOT NULL, started_at TEXT, finished_at TEXT, seconds REAL, error TEXT,
        recorded_at TEXT NOT NULL, session INTEGER NOT NULL
    )
    """,
    """
    CREATE TABLE connections (
        imodel_id TEXT NOT NULL, display_name TEXT NOT NULL, requested_type TEXT NOT NULL,
        connection_id TEXT NOT NULL, authentication_type TEXT,
        PRIMARY KEY (imodel_id, display_name, requested_type)
    )
    """,
    "CREATE INDEX exports_by_connection ON exports (connection_id)",
    "CREATE INDEX history_by_key ON history (key)",
)
_SCHEMA = (_EXPORTS, _SESSIONS, *_NEW_TABLES)
_FROM_VERSION_1 = (
    "DROP INDEX exports_of_connection",
    "ALTER TABLE exports RENAME TO exports_1",
    _EXPORTS,
    """
    INSERT INTO exports SELECT
        key, imodel_id, destination, display_name, options, NULL, NULL,
        CASE state WHEN 'known' THEN 'new' ELSE state END, connection_id, run_id, origin, since,
        NULL, token, result, began, ended, files, error, changed, call
    FROM exports_1
    """,
    "DROP TABLE exports_1",
    _SESSIONS,
    "INSERT INTO sessions SELECT call, pid, host, began, ended FROM calls",
    "DROP TABLE calls",
    *_NEW_TABLES,
)


@frozen(kw_only=True)
class HistoryLine:
    """One outcome of a key: `outcome` is the run's, or the name of the error's class."""

    key: str
    outcome: str
    revision: str | None = None
    connection_id: str | None = None
    run_id: str | None = None
    started_at: str | None = None
    finished_at: str | None = None
    seconds: float | None = None
    error: str | None = None


async def finish_uninterrupted(work: "asyncio.Future[T]") -> T:
    """Await `work` to completion even if cancelled; then raise the cancellation."""
    cancelled: asyncio.CancelledError | None = None
    while not work.done():
        try:
            await asyncio.wait([work])
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        raise cancelled
    return work.result()


class Ledger:
    """The state of a batch in the file `path`. Open it with `async with`.

    Each method raises a `LedgerError` if the file cannot be used. A write that was begun is
    completed even if its caller is cancelled.
    """

    def __init__(self, path: str | PathLike[str]) -> None:
        self.path = Path(path)
        self.real_path = Path(os.path.realpath(path))  # one lock for all names of one file
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="itwin-export-ledger")
        self._open = ExitStack()
        self._session = 0

    @property
    def companions(self) -> tuple[Path, ...]:
        """The ledger and the files that may exist beside it."""
        suffixes = ("", "-lock", "-wal", "-shm", "-journal")
        return tuple(
            path.with_name(path.name + suffix)
            for path in dict.fromkeys((self.path.absolute(), self.real_path))
            for suffix in suffixes
        )

    async def __aenter__(self) -> Self:
        try:
            await self._in_thread(self._begin)
        except BaseException:
            await self._close()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._close()

    async def claim(self, request: ExportRequest) -> Entry:
        """The entry of a request, which no other request of this call can claim.

        Raises a `LedgerError` with the key if another request has claimed it, or if the request
        differs from the one that was noted.
        """
        return await self._in_thread(lambda: self._claim(request))

    async def write(self, entry: Entry) -> None:
        """Put the entry on disk."""
        await self._in_thread(lambda: self._write(entry))

    async def write_outcome(self, entry: Entry, line: HistoryLine) -> None:
        """Put the entry and a line of its history on disk, both or neither."""
        await self._in_thread(lambda: self._write(entry, line))

    async def interrupted_starts(self, connection_id: str) -> list[Entry]:
        """The entries of a connection for which a run may have been started."""
        state = EntryState.STARTING
        return await self._in_thread(
            lambda: self._entries("connection_id = ? AND state = ?", connection_id, state)
        )

    async def output_files(self) -> dict[str, str]:
        """The paths of all downloaded files, each with the key of its entry."""

        def read() -> dict[str, str]:
            entries = self._entries("files <> '[]'")
            return {file.path: entry.key for entry in entries for file in entry.files}

        return await self._in_thread(read)

    async def known_run_ids(self, connection_id: str) -> set[str]:
        """The ids of a connection's runs that belong to entries or to their history."""

        def read() -> set[str]:
            rows = self._file.execute(
                "SELECT run_id FROM exports WHERE connection_id = ?1 AND run_id IS NOT NULL "
                "UNION SELECT run_id FROM history WHERE connection_id = ?1 AND run_id IS NOT NULL",
                (connection_id,),
            )
            return {run_id for (run_id,) in rows}

        return await self._in_thread(read)

    async def entry(self, key: str) -> Entry | None:
        """The entry of a key, None if it has none. Does not claim it."""

        def read() -> Entry | None:
            return next(iter(self._entries("key = ?", key)), None)

        return await self._in_thread(read)

    async def run_seconds(self, limit: int = 200) -> tuple[float, ...]:
        """How long the latest successful runs took, in seconds, oldest first."""

        def read() -> tuple[float, ...]:
            rows = self._file.execute(
                "SELECT seconds FROM history WHERE seconds IS NOT NULL AND error IS NULL "
                "ORDER BY id DESC LIMIT ?",
                (limit,),
            )
            return tuple(seconds for (seconds,) in reversed(rows.fetchall()))

        return await self._in_thread(read)

    async def connection(
        self, imodel_id: str, display_name: str, kind: AuthenticationType | None
    ) -> Connection | None:
        """The connection that an earlier call used, None if none is noted.

        `kind`: the authentication type that was requested, None for any.
        """

        def read() -> Connection | None:
            row = self._file.execute(
                "SELECT connection_id, authentication_type FROM connections "
                "WHERE imodel_id = ? AND display_name = ? AND requested_type = ?",
                (imodel_id, display_name, kind.value if kind else ""),
            ).fetchone()
            if row is None:
                return None
            found = AuthenticationType(row[1]) if row[1] else None
            return Connection(id=row[0], imodel_id=imodel_id, authentication_type=found)

        return await self._in_thread(read)

    async def write_connection(
        self,
        imodel_id: str,
        display_name: str,
        kind: AuthenticationType | None,
        connection: Connection | None,
    ) -> None:
        """Note a connection; None removes what is noted."""
        key = (imodel_id, display_name, kind.value if kind else "")

        def write() -> None:
            with self._file:
                self._file.execute("BEGIN IMMEDIATE")
                self._file.execute(
                    "DELETE FROM connections "
                    "WHERE imodel_id = ? AND display_name = ? AND requested_type = ?",
                    key,
                )
                if connection is not None:
                    found = connection.authentication_type
                    values = (*key, connection.id, found and found.value)
                    self._file.execute("INSERT INTO connections VALUES (?, ?, ?, ?, ?)", values)

        await self._in_thread(write)

    async def _in_thread(self, work: Callable[[], T]) -> T:
        loop = asyncio.get_running_loop()
        try:
            return await finish_uninterrupted(loop.run_in_executor(self._thread, work))
        except (sqlite3.Error, sqlite3.Warning, UnicodeError, OverflowError) as exc:
            raise self._error(f"cannot be used: {exc}; restore it from a copy") from exc
        except OSError as exc:
            raise self._error(f"cannot be opened: {exc.strerror or exc}") from exc

    async def _close(self) -> None:
        ending = asyncio.get_running_loop().run_in_executor(self._thread, self._end)
        self._thread.shutdown(wait=False)
        await finish_uninterrupted(ending)

    def _error(self, message: str, key: str | None = None) -> LedgerError:
        return LedgerError(message=message, path=str(self.path), key=key)

    def _begin(self) -> None:
        with closing(self._connect()) as file:
            self._version(file)  # before anything is written: it may be another program's
        try:
            self._open.push(lock_ledger(self.real_path))
        except LedgerInUse:
            raise self._error(f"is in use by another call{self._locked_by()}") from None
        self._file = file = self._connect()
        self._open.callback(file.close)
        file.execute("PRAGMA journal_mode = WAL").fetchall()
        file.execute("PRAGMA synchronous = FULL")
        with file:
            file.execute("BEGIN IMMEDIATE")
            version = self._version(file)
            for statement in {0: _SCHEMA, 1: _FROM_VERSION_1, VERSION: ()}[version]:
                file.execute(statement)
            if version == 1:
                self._convert_tokens()
            file.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            file.execute(f"PRAGMA user_version = {VERSION}")
            inserted = file.execute(
                "INSERT INTO sessions (pid, host, started_at) VALUES (?, ?, ?)",
                (os.getpid(), socket.gethostname(), _now()),
            )
            self._session = inserted.lastrowid or 0

    def _connect(self) -> sqlite3.Connection:
        return sqlite3.connect(self.real_path, timeout=BUSY_TIMEOUT, isolation_level=None)

    def _version(self, file: sqlite3.Connection) -> int:
        """The version of the schema, 0 for an empty file. Raises for anything else."""
        kind, version = _pragma(file, "application_id"), _pragma(file, "user_version") or 0
        (tables,) = file.execute("SELECT count(*) FROM sqlite_master").fetchone()
        if not (tables or version or kind):
            return 0
        if kind not in (APPLICATION_ID, None) or not tables:  # None: SQLite before 3.7.17
            raise self._error("is another program's database; choose another file")
        if version not in (1, VERSION):
            raise self._error(
                f"has version {version}, written by another release; this one reads versions 1 to "
                f"{VERSION}: upgrade, or choose another file"
            )
        return version

    def _convert_tokens(self) -> None:
        """Rewrite the JSON tokens of version 1."""
        rows = self._file.execute("SELECT key, resume_token FROM exports").fetchall()
        for key, text in rows:
            if text:
                old = json.loads(text)
                token = ResumeToken(
                    service=Service(old["service"]),
                    connection_id=old["connection"],
                    run_id=old["run"],
                )
                self._file.execute(
                    "UPDATE exports SET resume_token = ? WHERE key = ?", (token.to_string(), key)
                )

    def _locked_by(self) -> str:
        with closing(self._connect()) as file:
            if self._version(file) != VERSION:
                return ""
            latest = file.execute("SELECT pid, host FROM sessions ORDER BY id DESC LIMIT 1")
            return "".join(f", of process {pid} on {host}" for pid, host in latest)

    def _end(self) -> None:
        if self._session:
            with suppress(sqlite3.Error):  # a full disk; the next call does not depend on it
                self._file.execute(
                    "UPDATE sessions SET finished_at = ? WHERE id = ?", (_now(), self._session)
                )
        self._open.close()

    def _claim(self, request: ExportRequest) -> Entry:
        new = new_entry(request)
        with self._file:
            self._file.execute("BEGIN IMMEDIATE")
            row = self._file.execute(
                "SELECT session FROM exports WHERE key = ?", (new.key,)
            ).fetchone()
            if row is None:
                self._insert(new)
                return new
            if row[0] == self._session:
                raise self._error("two requests of this call have this key", new.key)
            (entry,) = self._entries("key = ?", new.key)
            changed = changed_fields(entry, new)
            if changed:
                raise self._error(
                    f"the request has changed since the last call: {', '.join(changed)}; give it "
                    "another key, or another revision if the model has changed",
                    new.key,
                )
            self._file.execute(
                "UPDATE exports SET session = ? WHERE key = ?", (self._session, new.key)
            )
            return with_revision(entry, new)

    def _insert(self, entry: Entry) -> None:
        row = {**_row(entry), "changed_at": _now(), "session": self._session}
        self._file.execute(
            f"INSERT INTO exports ({', '.join(row)}) VALUES ({', '.join(f':{n}' for n in row)})",  # noqa: S608 - names of columns
            row,
        )

    def _write(self, entry: Entry, line: HistoryLine | None = None) -> None:
        row = {**_row(entry), "changed_at": _now()}
        assignments = ", ".join(f"{name} = :{name}" for name in row)
        with self._file:
            self._file.execute("BEGIN IMMEDIATE")
            self._file.execute(
                f"UPDATE exports SET {assignments} WHERE key = :key",  # noqa: S608 - names of columns
                row,
            )
            if line is not None:
                names = [*(field.name for field in fields(HistoryLine)), "recorded_at", "session"]
                values = [getattr(line, field.name) for field in fields(HistoryLine)]
                self._file.execute(
                    f"INSERT INTO history ({', '.join(names)}) "  # noqa: S608 - names of columns
                    f"VALUES ({', '.join('?' for _ in names)})",
                    [*values, _now(), self._session],
                )

    def _entries(self, condition: str, *values: str) -> list[Entry]:
        rows: Iterable[Any] = self._file.execute(
            f"SELECT {', '.join(_COLUMNS)} FROM exports WHERE {condition}",  # noqa: S608 - ours
            values,
        )
        return [self._entry(dict(zip(_COLUMNS, row, strict=True))) for row in rows]

    def _entry(self, row: dict[str, Any]) -> Entry:
        try:
            for name in _COLUMNS:
                if not isinstance(row[name], str | None):
                    raise TypeError(f"{name} is no text")
            dates = {name: _read_date(row[name]) for name in DATE_COLUMNS}
            files = tuple(_read_file(*item) for item in json.loads(row["files"]))
            origin = row["origin"] and RunOrigin(row["origin"])
            state = EntryState(row["state"])
            return Entry(**{**row, **dates, "files": files, "origin": origin, "state": state})
        except (ValueError, TypeError, AttributeError, OverflowError) as exc:
            raise self._error(
                f"is damaged: {exc}; restore it from a copy", str(row["key"])
            ) from exc


def _pragma(file: sqlite3.Connection, name: str) -> int | None:
    row = file.execute(f"PRAGMA {name}").fetchone()
    return None if row is None else int(row[0])


def _read_date(text: str | None) -> datetime | None:
    if text is None:
        return None
    date = datetime.fromisoformat(text)
    if date.tzinfo is None or not 1970 < date.year < 9999:
        raise ValueError(f"{text} is no date of a run")
    return date


def _read_file(path: object, size: object) -> OutputFile:
    if not isinstance(path, str) or not isinstance(size, int):
        raise TypeError("files is no list of paths and sizes")
    return OutputFile(path=path, size=size)


def _row(entry: Entry) -> dict[str, Any]:
    """The entry in columns that people can read."""
    row: dict[str, Any] = {name: getattr(entry, name) for name in _COLUMNS}
    for name in DATE_COLUMNS:
        row[name] = row[name] and row[name].isoformat()
    row["files"] = json.dumps([[file.path, file.size] for file in entry.files])
    return row


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
