"""The ledger: a SQLite file in which each step of a batch is on disk before the next begins.

A thread of its own talks to SQLite, so that the event loop never waits for a disk. The file can be
read at any time, for example with `sqlite3`; one call at a time writes it (`ledger_lock`).
`ledger_schema` has its tables, `ledger_rows` their rows.
"""

import asyncio
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

from itwin_export_async._batch.entries import (
    Entry,
    EntryState,
    OutputFile,
    changed_fields,
    new_entry,
    with_revision,
)
from itwin_export_async._batch.ledger_lock import LedgerInUse, lock_ledger
from itwin_export_async._batch.ledger_rows import (
    COLUMNS,
    DamagedRow,
    HistoryLine,
    to_entry,
    to_row,
)
from itwin_export_async._batch.ledger_schema import (
    VERSION,
    ForeignFile,
    create_or_convert,
    read_version,
)
from itwin_export_async._errors import LedgerError
from itwin_export_async._models import AuthenticationType, Connection, ExportRequest

T = TypeVar("T")

BUSY_TIMEOUT = 30.0  # seconds that a reader may delay a write
_REMEDIES = {
    sqlite3.SQLITE_FULL: "free some space, then call again",
    sqlite3.SQLITE_READONLY: "make the file and its folder writable, then call again",
    sqlite3.SQLITE_CANTOPEN: "check that its folder exists and is writable",
    sqlite3.SQLITE_BUSY: "end the program that locks it, then call again",
    sqlite3.SQLITE_NOTADB: "choose another file, or restore it from a copy",
}


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

    async def write(self, entry: Entry, line: HistoryLine | None = None) -> None:
        """Put the entry on disk, and with it a line of its history: both or neither."""
        await self._in_thread(lambda: self._write(entry, line))

    async def write_unclaimed(self, entry: Entry, line: HistoryLine) -> None:
        """Note an error that came before the request could be claimed.

        An entry that the key has already keeps its state, and gets the error of `entry`.
        """
        await self._in_thread(lambda: self._write_unclaimed(entry, line))

    async def interrupted_starts(self, connection_id: str) -> list[Entry]:
        """The entries of a connection for which a run may have been started."""
        state = EntryState.STARTING
        return await self._in_thread(
            lambda: self._entries("connection_id = ? AND state = ?", connection_id, state)
        )

    async def output_files(self) -> list[tuple[OutputFile, str]]:
        """All downloaded files, each with the key of its entry."""

        def read() -> list[tuple[OutputFile, str]]:
            entries = self._entries("files <> '[]'")
            return [(file, entry.key) for entry in entries for file in entry.files]

        return await self._in_thread(read)

    async def known_run_ids(self, connection_id: str) -> set[str]:
        """The ids of a connection's runs that belong to entries or to their history."""

        def read() -> set[str]:
            rows = self._file.execute(
                "SELECT run_id FROM exports WHERE connection_id = ? AND run_id IS NOT NULL "
                "UNION SELECT run_id FROM history WHERE connection_id = ? AND run_id IS NOT NULL",
                (connection_id, connection_id),  # Python 3.12 takes `?1` for a name
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
        except sqlite3.Error as exc:
            code = (getattr(exc, "sqlite_errorcode", None) or 0) & 0xFF  # the primary one
            remedy = _REMEDIES.get(code, "restore it from a copy")
            raise self._error(f"cannot be used: {exc}; {remedy}") from exc
        except (UnicodeError, OverflowError) as exc:  # pragma: no cover - of the driver itself
            raise self._error(f"is damaged: {exc}; restore it from a copy") from exc
        except ForeignFile as exc:
            raise self._error(str(exc)) from None
        except OSError as exc:
            raise self._error(f"cannot be opened: {exc.strerror or exc}") from exc

    async def _close(self) -> None:
        ending = asyncio.get_running_loop().run_in_executor(self._thread, self._end)
        self._thread.shutdown(wait=False)
        await finish_uninterrupted(ending)

    def _error(self, message: str, key: str | None = None) -> LedgerError:
        return LedgerError(message=message, path=str(self.path), key=key)

    def _begin(self) -> None:
        try:
            with closing(self._connect()) as file:
                read_version(file)  # before anything is written: it may be another program's
            self._open.push(lock_ledger(self.real_path))
        except LedgerInUse:
            raise self._error(f"is in use by another call{self._locked_by()}") from None
        self._file = file = self._connect()
        self._open.callback(file.close)
        file.execute("PRAGMA journal_mode = WAL").fetchall()
        file.execute("PRAGMA synchronous = FULL")
        with file:
            file.execute("BEGIN IMMEDIATE")
            create_or_convert(file)
            inserted = file.execute(
                "INSERT INTO sessions (pid, host, started_at) VALUES (?, ?, ?)",
                (os.getpid(), socket.gethostname(), _now()),
            )
            self._session = inserted.lastrowid or 0

    def _connect(self) -> sqlite3.Connection:
        return sqlite3.connect(self.real_path, timeout=BUSY_TIMEOUT, isolation_level=None)

    def _locked_by(self) -> str:
        with closing(self._connect()) as file:
            if read_version(file) != VERSION:
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
                self._insert("exports", {**to_row(new), "changed_at": _now()})
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
            continued = with_revision(entry, new)
            is_same = continued.revision == entry.revision
            self._file.execute(
                "UPDATE exports SET session = ?, pushed_at = ? WHERE key = ?",
                (self._session, (continued if is_same else entry).pushed_at, new.key),
            )
            return continued

    def _insert(self, table: str, row: dict[str, Any]) -> None:
        row = {**row, "session": self._session}
        self._file.execute(
            f"INSERT INTO {table} ({', '.join(row)}) VALUES ({', '.join(f':{n}' for n in row)})",  # noqa: S608 - names of columns
            row,
        )

    def _write(self, entry: Entry, line: HistoryLine | None) -> None:
        row = {**to_row(entry), "changed_at": _now()}
        assignments = ", ".join(f"{name} = :{name}" for name in row)
        with self._file:
            self._file.execute("BEGIN IMMEDIATE")
            self._file.execute(
                f"UPDATE exports SET {assignments} WHERE key = :key",  # noqa: S608 - names of columns
                row,
            )
            if line is not None:
                self._insert("history", {**line.to_row(), "recorded_at": _now()})

    def _write_unclaimed(self, entry: Entry, line: HistoryLine) -> None:
        with self._file:
            self._file.execute("BEGIN IMMEDIATE")
            updated = self._file.execute(
                "UPDATE exports SET session = ?, error = ? WHERE key = ?",
                (self._session, entry.error, entry.key),
            )
            if not updated.rowcount:
                self._insert("exports", {**to_row(entry), "changed_at": _now()})
            self._insert("history", {**line.to_row(), "recorded_at": _now()})

    def _entries(self, condition: str, *values: str) -> list[Entry]:
        rows: Iterable[Any] = self._file.execute(
            f"SELECT {', '.join(COLUMNS)} FROM exports WHERE {condition}",  # noqa: S608 - ours
            values,
        )
        return [self._entry(dict(zip(COLUMNS, row, strict=True))) for row in rows]

    def _entry(self, row: dict[str, Any]) -> Entry:
        try:
            return to_entry(row)
        except DamagedRow as exc:
            raise self._error(
                f"is damaged: {exc}; restore it from a copy", str(row["key"])
            ) from exc


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
