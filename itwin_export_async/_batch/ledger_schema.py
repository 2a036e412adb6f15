"""The tables of a ledger, and how one that an earlier release wrote is converted.

Tables: `exports` has an entry for each key, `history` a line for each outcome of a key,
`connections` the ids of connections by iModel, name and authentication type, `sessions` a line for
each call that opened the ledger. The statements work with SQLite 3.7.15 and later.
"""

import json
import sqlite3

from itwin_export_async._protocol.runs import Service
from itwin_export_async._runs.resume_token import ResumeToken

APPLICATION_ID = 0x69544578
VERSION = 2
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


class ForeignFile(Exception):
    """The file is no ledger that this release can use; the text says why."""


def read_version(file: sqlite3.Connection) -> int:
    """The version of the schema, 0 for an empty file. Raises `ForeignFile` for anything else."""
    kind, version = _pragma(file, "application_id"), _pragma(file, "user_version") or 0
    (tables,) = file.execute("SELECT count(*) FROM sqlite_master").fetchone()
    if not (tables or version or kind):
        return 0
    if kind not in (APPLICATION_ID, None):  # None: SQLite before 3.7.17
        raise ForeignFile("is another program's database; choose another file")
    if version not in (1, VERSION):
        raise ForeignFile(
            f"has version {version}, written by another release; this one reads versions 1 to "
            f"{VERSION}: upgrade, or choose another file"
        )
    return version


def create_or_convert(file: sqlite3.Connection) -> None:
    """Give the file the tables of this version, in the open transaction."""
    version = read_version(file)
    for statement in {0: _SCHEMA, 1: _FROM_VERSION_1, VERSION: ()}[version]:
        file.execute(statement)
    if version == 1:
        _convert_tokens(file)
    file.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    file.execute(f"PRAGMA user_version = {VERSION}")


def _convert_tokens(file: sqlite3.Connection) -> None:
    """Rewrite the JSON tokens of version 1."""
    rows = file.execute("SELECT key, resume_token FROM exports WHERE resume_token <> ''")
    for key, text in rows.fetchall():
        try:
            old = json.loads(text)
            token = ResumeToken(
                service=Service(old["service"]),
                connection_id=old["connection"],
                run_id=old["run"],
            ).to_string()
        except (ValueError, TypeError, KeyError) as exc:
            raise ForeignFile(f"is damaged: the token of {key!r}; restore it from a copy") from exc
        file.execute("UPDATE exports SET resume_token = ? WHERE key = ?", (token, key))


def _pragma(file: sqlite3.Connection, name: str) -> int | None:
    row = file.execute(f"PRAGMA {name}").fetchone()
    return None if row is None else int(row[0])
