"""The ledger: a SQLite file in which every step of a batch is on disk before the next begins.

One thread of its own talks to SQLite, so that the loop never waits for a disk. The file itself may
be read at any time; that only one call at a time writes it is seen to by a second file beside it,
in which an exclusive transaction is held: the system ends it with the process, however that ends.
"""

import asyncio
import json
import os
import socket
import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime
from os import PathLike
from pathlib import Path
from typing import Any, Self, TypeVar

from attrs import fields

from itwin_export_async._batch.entries import Entry, OutputFile, State, differences, new_entry
from itwin_export_async._errors import LedgerError
from itwin_export_async._models import ExportRequest, RunOrigin

T = TypeVar("T")

APPLICATION_ID = 0x69544578
VERSION = 1
_PATIENCE = 30.0  # seconds that a reader may keep a write waiting
_COLUMNS = tuple(field.name for field in fields(Entry))
_MOMENTS = ("since", "began", "ended")
_WHAT_IT_IS = """
    SELECT application_id, user_version, (SELECT count(*) FROM sqlite_master)
    FROM pragma_application_id, pragma_user_version
"""  # one statement, so that it never sees a ledger half made
_SCHEMA = (
    """
    CREATE TABLE exports (
        key TEXT PRIMARY KEY, imodel_id TEXT NOT NULL, destination TEXT NOT NULL,
        display_name TEXT NOT NULL, options TEXT NOT NULL, state TEXT NOT NULL,
        connection_id TEXT, run_id TEXT, origin TEXT, since TEXT, token TEXT,
        result TEXT, began TEXT, ended TEXT, files TEXT NOT NULL, error TEXT,
        changed TEXT NOT NULL, call INTEGER NOT NULL
    )
    """,
    "CREATE INDEX exports_of_connection ON exports (connection_id)",
    """
    CREATE TABLE calls (
        call INTEGER PRIMARY KEY, pid INTEGER NOT NULL, host TEXT NOT NULL,
        began TEXT NOT NULL, ended TEXT
    )
    """,
    f"PRAGMA application_id = {APPLICATION_ID}",
    f"PRAGMA user_version = {VERSION}",
)


async def finish_uninterrupted(work: "asyncio.Future[T]") -> T:
    """What the work brings. Who is cancelled meanwhile is so once it is done."""
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
    """What was done of a batch, in the file `path`. Open it with `async with`.

    Everything raises a `LedgerError` when the file cannot be used.
    """

    def __init__(self, path: str | PathLike[str]) -> None:
        self.path = Path(path)
        self.place = Path(os.path.realpath(path))  # all names of one file have one lock
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="itwin-export-ledger")
        self._open: list[sqlite3.Connection] = []
        self._call = 0

    async def __aenter__(self) -> Self:
        try:
            await self._in_thread(self._begin)
        except BaseException:
            await self._close()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._close()

    async def claim(self, request: ExportRequest) -> Entry | LedgerError:
        """The entry of a request, which no other request of this call can have any more.

        An error, which is returned and not raised, if one has it already, or if the request was
        another one when it was written down.
        """
        return await self._in_thread(lambda: self._claim(request))

    async def write(self, entry: Entry) -> None:
        """Put the entry on disk."""
        await self._in_thread(lambda: self._write(entry))

    async def left_starting(self, connection_id: str) -> list[Entry]:
        """The entries of a connection for which a run may have been started."""
        return await self._in_thread(
            lambda: self._entries("connection_id = ? AND state = ?", connection_id, State.STARTING)
        )

    async def files(self) -> dict[str, str]:
        """The paths of all files that were put in place, and the key of each one's entry."""

        def ask() -> dict[str, str]:
            entries = self._entries("state = ?", State.IN_PLACE)
            return {file.path: entry.key for entry in entries for file in entry.files}

        return await self._in_thread(ask)

    async def owned(self, connection_id: str) -> set[str]:
        """The ids of a connection's runs that belong to entries."""

        def ask() -> set[str]:
            entries = self._entries("connection_id = ? AND run_id IS NOT NULL", connection_id)
            return {entry.run_id for entry in entries if entry.run_id is not None}

        return await self._in_thread(ask)

    async def _in_thread(self, work: Callable[[], T]) -> T:
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self._thread, work)
        except sqlite3.Error as exc:
            raise self._error(f"cannot be used: {exc}") from exc

    async def _close(self) -> None:
        ending = asyncio.get_running_loop().run_in_executor(self._thread, self._end)
        self._thread.shutdown(wait=False)  # once it has done what it was given
        await finish_uninterrupted(ending)

    def _error(self, message: str, key: str | None = None) -> LedgerError:
        return LedgerError(message=message, path=str(self.path), key=key)

    def _connect(self, path: Path, timeout: float) -> sqlite3.Connection:
        connection = sqlite3.connect(path, timeout=timeout, isolation_level=None)
        self._open.append(connection)
        return connection

    def _begin(self) -> None:
        self._file = self._connect(self.place, _PATIENCE)
        self._is_new()
        self._lock()
        self._file.execute("PRAGMA journal_mode = WAL").fetchall()
        self._file.execute("PRAGMA synchronous = FULL")
        with self._file:
            self._file.execute("BEGIN IMMEDIATE")
            if self._is_new():
                for statement in _SCHEMA:
                    self._file.execute(statement)
            (self._call,) = self._file.execute(
                "INSERT INTO calls (pid, host, began) VALUES (?, ?, ?) RETURNING call",
                (os.getpid(), socket.gethostname(), _now()),
            ).fetchone()

    def _is_new(self) -> bool:
        """Whether the file is empty; an error if it is neither that nor a ledger."""
        kind, version, things = self._file.execute(_WHAT_IT_IS).fetchone()
        if kind == APPLICATION_ID and version == VERSION:
            return False
        if kind == APPLICATION_ID:
            raise self._error(
                f"is a ledger of another release: its version is {version}, not {VERSION}"
            )
        if things or kind or version:
            raise self._error("is another program's database, and stays as it is")
        return True

    def _lock(self) -> None:
        place = self.place.with_name(f"{self.place.name}-lock")
        try:
            self._connect(place, 0.0).execute("BEGIN EXCLUSIVE")
        except sqlite3.OperationalError as exc:
            if exc.sqlite_errorcode != sqlite3.SQLITE_BUSY:
                raise
            raise self._error(f"is in use by another call{self._holder()}") from exc

    def _holder(self) -> str:
        if self._is_new():
            return ""
        latest = self._file.execute("SELECT pid, host FROM calls ORDER BY call DESC LIMIT 1")
        return "".join(f", of process {pid} on {host}" for pid, host in latest)

    def _end(self) -> None:
        if self._call:
            with suppress(sqlite3.Error):  # a full disk; the next call does not depend on it
                self._file.execute(
                    "UPDATE calls SET ended = ? WHERE call = ?", (_now(), self._call)
                )
        for connection in self._open:
            connection.close()

    def _claim(self, request: ExportRequest) -> Entry | LedgerError:
        new = new_entry(request)
        key = new.key
        with self._file:
            self._file.execute("BEGIN IMMEDIATE")
            call = self._file.execute("SELECT call FROM exports WHERE key = ?", (key,)).fetchone()
            if call is None:
                self._insert(new)
                return new
            if call[0] == self._call:
                return self._error("the key was given twice in one call", key)
            self._file.execute("UPDATE exports SET call = ? WHERE key = ?", (self._call, key))
            (entry,) = self._entries("key = ?", key)
        changed = differences(entry, request)
        if changed:
            return self._error(f"the request has changed: {', '.join(changed)}", key)
        return entry

    def _insert(self, entry: Entry) -> None:
        row = {**_row(entry), "changed": _now(), "call": self._call}
        marks = ", ".join(f":{name}" for name in row)
        self._file.execute(
            f"INSERT INTO exports ({', '.join(row)}) VALUES ({marks})",  # noqa: S608 - our names
            row,
        )

    def _write(self, entry: Entry) -> None:
        row = {**_row(entry), "changed": _now()}
        settings = ", ".join(f"{name} = :{name}" for name in row)
        self._file.execute(
            f"UPDATE exports SET {settings} WHERE key = :key",  # noqa: S608 - our names
            row,
        )

    def _entries(self, condition: str, *values: str) -> list[Entry]:
        rows = self._file.execute(
            f"SELECT {', '.join(_COLUMNS)} FROM exports WHERE {condition}",  # noqa: S608 - ours
            values,
        )
        return [self._entry(dict(zip(_COLUMNS, row, strict=True))) for row in rows]

    def _entry(self, row: dict[str, Any]) -> Entry:
        try:
            moments = {name: row[name] and datetime.fromisoformat(row[name]) for name in _MOMENTS}
            files = tuple(
                OutputFile(path=path, size=size) for path, size in json.loads(row["files"])
            )
            origin = row["origin"] and RunOrigin(row["origin"])
            state = State(row["state"])
            return Entry(**{**row, **moments, "files": files, "origin": origin, "state": state})
        except (ValueError, TypeError) as exc:
            raise self._error(f"cannot be read any more: {exc}", row["key"]) from exc


def _row(entry: Entry) -> dict[str, Any]:
    """The entry in columns that people can read."""
    told: dict[str, Any] = {name: getattr(entry, name) for name in _COLUMNS}
    for name in _MOMENTS:
        told[name] = told[name] and told[name].isoformat()
    told["files"] = json.dumps([[file.path, file.size] for file in entry.files])
    return told


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
