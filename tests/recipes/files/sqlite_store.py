"""A RunStore in a SQLite file, for the processes of one machine."""

import sqlite3
from asyncio import to_thread
from contextlib import closing


class SqliteRunStore:
    def __init__(self, path: str) -> None:
        self.path = path
        self._run("CREATE TABLE IF NOT EXISTS starts (key TEXT PRIMARY KEY, value TEXT)")

    async def get(self, key: str) -> str | None:
        row = await to_thread(self._run, "SELECT value FROM starts WHERE key = ?", key)
        return row[0] if row else None

    async def set(self, key: str, value: str) -> None:
        await to_thread(self._run, "INSERT OR REPLACE INTO starts VALUES (?, ?)", key, value)

    def _run(self, statement: str, *values: str) -> tuple[str] | None:
        with closing(sqlite3.connect(self.path, timeout=60)) as db, db:
            row: tuple[str] | None = db.execute(statement, values).fetchone()
            return row
