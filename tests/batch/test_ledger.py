"""The ledger's file: contents, locking, and damage."""

import asyncio
import os
import shutil
import sqlite3
import sys
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import pytest
from attrs import evolve

from itwin_export_async import (
    AuthenticationType,
    Connection,
    ExportOptions,
    ExportRequest,
    LedgerError,
    RunOrigin,
)
from itwin_export_async._batch.entries import (
    Entry,
    EntryState,
    OutputFile,
    in_place,
    new_entry,
    started,
    starting,
)
from itwin_export_async._batch.ledger import Ledger, finish_uninterrupted
from itwin_export_async._batch.ledger_lock import lock_ledger
from itwin_export_async._batch.ledger_rows import HistoryLine
from itwin_export_async._batch.ledger_schema import APPLICATION_ID, VERSION
from itwin_export_async._protocol.runs import Service
from itwin_export_async._runs.resume_token import ResumeToken

REQUEST = ExportRequest(imodel_id="m1", destination="out/", key="k1")
NOW = datetime(2026, 11, 22, 12, 0, 0, 123456, tzinfo=UTC)
FULL = Entry(
    key="k1",
    imodel_id="m1",
    destination="out/",
    display_name="itwin-export",
    options=new_entry(REQUEST).options,
    state=EntryState.IN_PLACE,
    connection_id="c1",
    run_id="r1",
    origin=RunOrigin.RECOVERED,
    since=NOW,
    until=NOW,
    resume_token="1.x.y",
    result="Success",
    started_at=NOW,
    finished_at=NOW,
    files=(OutputFile(path="/out/a.ifc", size=3), OutputFile(path="/out/b.ifc", size=2**40)),
    error="none",
)
LINE = HistoryLine(
    key="k1", outcome="Success", revision="a", connection_id="c1", run_id="r0", seconds=7.5
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "exports.db"


def read(path: Path, question: str) -> list[tuple[object, ...]]:
    """What another program reads in the file."""
    with closing(sqlite3.connect(path)) as file:
        return file.execute(question).fetchall()


def execute(path: Path, *statements: str) -> None:
    """What another program writes into the file."""
    with closing(sqlite3.connect(path, isolation_level=None)) as file:
        for statement in statements:
            file.execute(statement)


async def open_and_close(path: Path) -> None:
    async with Ledger(path):
        pass


async def test_entry_is_read_as_it_was_written(path: Path) -> None:
    async with Ledger(path) as ledger:
        assert await ledger.claim(REQUEST) == new_entry(REQUEST)
        await ledger.write(FULL)
    async with Ledger(path) as ledger:
        assert await ledger.claim(REQUEST) == FULL


async def test_ledger_can_be_read_while_it_is_written(path: Path) -> None:
    async with Ledger(path) as ledger:
        await ledger.claim(REQUEST)
        with closing(sqlite3.connect(path)) as reader:
            reader.execute("BEGIN")
            question = "SELECT state, error FROM exports"
            assert reader.execute(question).fetchall() == [("new", None)]
            await ledger.write(FULL)
            assert reader.execute(question).fetchall() == [("new", None)]
            reader.rollback()
            assert reader.execute(question).fetchall() == [("in place", "none")]
        assert read(path, "SELECT since FROM exports") == [("2026-11-22T12:00:00.123456+00:00",)]


async def test_key_has_one_request_in_a_call(path: Path) -> None:
    for _ in range(2):
        async with Ledger(path) as ledger:
            assert isinstance(await ledger.claim(REQUEST), Entry)
            with pytest.raises(LedgerError, match="two requests of this call have this key") as e:
                await ledger.claim(REQUEST)
            assert (e.value.path, e.value.key) == (str(path), "k1")


async def test_changed_request_is_refused_until_it_is_as_before(path: Path) -> None:
    async with Ledger(path) as ledger:
        await ledger.claim(REQUEST)
    changed = evolve(REQUEST, destination="in/", options=ExportOptions(ifc_version="IFC4.3"))
    async with Ledger(path) as ledger:
        message = "'k1': the request has changed since the last call: destination, options; give"
        with pytest.raises(LedgerError, match=message):
            await ledger.claim(changed)
    async with Ledger(path) as ledger:
        assert await ledger.claim(REQUEST) == new_entry(REQUEST)


async def test_interrupted_starts_and_known_runs_are_those_of_the_connection(path: Path) -> None:
    first, second, third = (evolve(REQUEST, key=key) for key in ("1", "2", "3"))
    async with Ledger(path) as ledger:
        for request in (first, second, third):
            await ledger.claim(request)
        left = starting(new_entry(first), "c1", NOW, None)
        begun = starting(new_entry(second), "c1", NOW, None)
        token = ResumeToken(service=Service.EXPORT, connection_id="c1", run_id="r2").to_string()
        own = started(begun, token, RunOrigin.STARTED)
        for entry in (left, own, starting(new_entry(third), "c2", NOW, None)):
            await ledger.write(entry)
        await ledger.write(own, LINE)
        assert await ledger.interrupted_starts("c1") == [left]
        assert await ledger.known_run_ids("c1") == {"r0", "r2"}
        assert await ledger.known_run_ids("c2") == set()


async def test_output_files_have_owners(path: Path) -> None:
    async with Ledger(path) as ledger:
        await ledger.claim(REQUEST)
        await ledger.claim(evolve(REQUEST, key="k2"))
        await ledger.write(FULL)
        assert await ledger.output_files() == [(file, "k1") for file in FULL.files]


async def test_link_to_a_ledger_is_the_ledger(path: Path, tmp_path: Path) -> None:
    (tmp_path / "s").mkdir()
    link = tmp_path / "s" / "other.db"
    link.symlink_to(path)
    for first, second in ((path, link), (link, path)):
        async with Ledger(first):
            with pytest.raises(LedgerError, match=f"ledger {second}: is in use by another call"):
                async with Ledger(second):
                    raise AssertionError
    assert list(link.parent.iterdir()) == [link]


async def test_text_that_is_not_utf8_can_be_written(path: Path) -> None:
    odd = evolve(REQUEST, key="k\udcfc", destination="br\udcfccke/", display_name="\ud800")
    file = OutputFile(path="\udcfc", size=1)
    entry = evolve(new_entry(odd), error="\ud800 is bad", files=(file,))
    async with Ledger(path) as ledger:
        assert await ledger.claim(odd) == new_entry(odd)
        await ledger.write(entry)
    async with Ledger(path) as ledger:
        assert await ledger.claim(odd) == entry
    assert read(path, "SELECT key, error FROM exports") == [("k\\udcfc", "\\ud800 is bad")]


async def test_calls_on_one_ledger_exclude_each_other(path: Path) -> None:
    async with Ledger(path):
        with pytest.raises(
            LedgerError, match=f"is in use by another call, of process {os.getpid()}"
        ):
            async with Ledger(path):
                raise AssertionError
        assert len(read(path, "SELECT * FROM sessions")) == 1
    async with Ledger(path):
        pass
    assert [
        id for id, finished in read(path, "SELECT id, finished_at FROM sessions") if finished
    ] == [1, 2]


@pytest.mark.parametrize("what", ["database", "text", "newer", "marked"])
async def test_other_file_stays_as_it_is(path: Path, what: str) -> None:
    if what == "text":
        path.write_text("request,destination\n" * 100)
    else:
        statement = {
            "database": "CREATE TABLE mine (x)",
            "newer": f"PRAGMA user_version = {VERSION + 1}",
            "marked": "PRAGMA user_version = 7",
        }[what]
        with closing(sqlite3.connect(path)) as file:
            if what == "newer":
                file.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            file.execute(statement)
            file.commit()
    before = path.read_bytes()
    message = {"text": "not a database; choose", "newer": "has version 3, written by another"}
    with pytest.raises(LedgerError, match=message.get(what, "another program's database")):
        async with Ledger(path):
            raise AssertionError
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


async def test_ledger_that_cannot_be_opened_is_an_error_with_a_remedy(tmp_path: Path) -> None:
    for place in (tmp_path, tmp_path / "missing" / "exports.db"):
        with pytest.raises(LedgerError, match="unable to open database file; check that its fold"):
            await open_and_close(place)
    (tmp_path / "exports.db-lock").mkdir()
    with pytest.raises(LedgerError, match="cannot be opened: Is a directory"):
        await open_and_close(tmp_path / "exports.db")


async def test_ledger_damaged_meanwhile_is_an_error(path: Path) -> None:
    async with Ledger(path) as ledger:
        await ledger.claim(REQUEST)
        execute(path, "UPDATE exports SET state = 'starting', connection_id = 'c', since = 'noon'")
        with pytest.raises(LedgerError, match="'k1': is damaged: Invalid isoformat string: 'noon'"):
            await ledger.interrupted_starts("c")
        execute(path, "DROP TABLE exports", "DROP TABLE sessions")
        with pytest.raises(LedgerError, match="cannot be used: no such table: exports; restore"):
            await ledger.write(FULL)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("state = 'paused'", "'paused' is not a valid EntryState"),
        ("since = '2026-11-22T12:00:00'", "is no date of a run"),
        ("since = '0001-01-01T00:00:00+00:00'", "is no date of a run"),
        ("error = x'ff'", "error is no text"),
        ("error = CAST(x'ff' AS TEXT)", "Could not decode to UTF-8"),
        ("files = 'x'", "Expecting value"),
        ("files = '7'", "not iterable"),
        ("files = '[[7, 7]]'", "files is no list of paths and sizes"),
        ("files = '[[[[[[]]]]]]'", "argument"),
        ("origin = 'guessed'", "'guessed' is not a valid RunOrigin"),
    ],
)
async def test_damaged_row_is_an_error(path: Path, change: str, message: str) -> None:
    async with Ledger(path) as ledger:
        await ledger.claim(REQUEST)
    execute(path, f"UPDATE exports SET {change}")
    async with Ledger(path) as ledger:
        with pytest.raises(LedgerError, match=message):
            await ledger.claim(REQUEST)


@pytest.mark.parametrize("size", [0, 100, 5000, 9000])
async def test_truncated_ledger_is_an_error_or_new(path: Path, size: int) -> None:
    async with Ledger(path) as ledger:
        await ledger.claim(REQUEST)
    with path.open("r+b") as file:
        file.truncate(size)
    if size == 0:
        async with Ledger(path) as ledger:
            assert await ledger.claim(REQUEST) == new_entry(REQUEST)
        return
    with pytest.raises(LedgerError, match=r"malformed|not a database"):
        async with Ledger(path) as ledger:
            await ledger.claim(REQUEST)


async def test_copied_ledger_continues(path: Path, tmp_path: Path) -> None:
    async with Ledger(path) as ledger:
        await ledger.claim(REQUEST)
        await ledger.write(FULL)
    copy = tmp_path / "copy.db"
    shutil.copy(path, copy)
    async with Ledger(path), Ledger(copy) as ledger:
        assert await ledger.claim(REQUEST) == FULL


async def test_ledger_stays_locked_without_its_lock_file(path: Path) -> None:
    async with Ledger(path):
        path.with_name("exports.db-lock").unlink()
        if sys.platform == "linux":
            with pytest.raises(LedgerError, match="is in use by another call, of process"):
                await open_and_close(path)
    await open_and_close(path)


async def test_lock_file_that_cannot_be_written_is_locked_all_the_same(path: Path) -> None:
    await open_and_close(path)
    path.with_name("exports.db-lock").chmod(0o444)
    async with Ledger(path):
        with pytest.raises(LedgerError, match="is in use by another call"):
            await open_and_close(path)


async def test_ledger_that_is_being_created_is_in_use(path: Path) -> None:
    path.touch()
    with lock_ledger(path):
        with pytest.raises(LedgerError, match=r"is in use by another call$"):
            await open_and_close(path)
    await open_and_close(path)


async def test_reader_that_closes_the_file_does_not_unlock_it(path: Path) -> None:
    async with Ledger(path):
        read(path, "SELECT * FROM exports")
        path.read_bytes()
        with pytest.raises(LedgerError, match="is in use by another call"):
            await open_and_close(path)


async def test_outcome_is_written_with_its_history(path: Path) -> None:
    async with Ledger(path) as ledger:
        await ledger.claim(REQUEST)
        await ledger.write(FULL, LINE)
        await ledger.write(FULL, evolve(LINE, seconds=9.0))
        await ledger.write(FULL, evolve(LINE, seconds=1.0, error="failed"))
        assert await ledger.run_seconds() == (7.5, 9.0)
        assert await ledger.run_seconds(limit=1) == (9.0,)
    rows = read(path, "SELECT key, outcome, revision, run_id, seconds, error FROM history")
    assert rows[0] == ("k1", "Success", "a", "r0", 7.5, None)
    assert len(rows) == 3


async def test_entry_can_be_read_without_a_claim(path: Path) -> None:
    async with Ledger(path) as ledger:
        assert await ledger.entry("k1") is None
        await ledger.claim(REQUEST)
        assert await ledger.entry("k1") == new_entry(REQUEST)


async def test_connections_are_remembered_by_name_and_type(path: Path) -> None:
    service = AuthenticationType.SERVICE
    one = Connection(id="c1", imodel_id="m1")
    other = Connection(id="c2", imodel_id="m1", authentication_type=service)
    async with Ledger(path) as ledger:
        assert await ledger.connection("m1", "nightly", None) is None
        await ledger.write_connection("m1", "nightly", None, one)
        await ledger.write_connection("m1", "nightly", service, other)
    async with Ledger(path) as ledger:
        assert await ledger.connection("m1", "nightly", None) == one
        assert await ledger.connection("m1", "nightly", service) == other
        assert await ledger.connection("m1", "other", None) is None
        await ledger.write_connection("m1", "nightly", None, None)
        assert await ledger.connection("m1", "nightly", None) is None


async def test_new_revision_is_not_written_before_its_first_step(path: Path) -> None:
    first, second = evolve(REQUEST, revision="a"), evolve(REQUEST, revision="b")
    async with Ledger(path) as ledger:
        entry = in_place(await ledger.claim(first), [OutputFile(path="/out/a.ifc", size=3)])
        await ledger.write(entry)
    async with Ledger(path) as ledger:
        claimed = await ledger.claim(second)
        assert (claimed.state, claimed.files) == (EntryState.NEW, entry.files)
        assert await ledger.entry("k1") == entry
    assert read(path, "SELECT revision, state FROM exports") == [("a", "in place")]


async def test_write_whose_caller_is_cancelled_in_the_queue_still_happens(path: Path) -> None:
    async with Ledger(path) as ledger:
        await ledger.claim(REQUEST)
        before = [asyncio.create_task(ledger.entry("k1")) for _ in range(50)]
        write = asyncio.create_task(ledger.write(FULL))
        await asyncio.sleep(0)
        write.cancel()
        with pytest.raises(asyncio.CancelledError):
            await write
        assert await ledger.entry("k1") == FULL
        await asyncio.gather(*before)


OLD_TABLES = """
    CREATE TABLE exports (
        key TEXT PRIMARY KEY, imodel_id TEXT NOT NULL, destination TEXT NOT NULL,
        display_name TEXT NOT NULL, options TEXT NOT NULL, state TEXT NOT NULL, connection_id TEXT,
        run_id TEXT, origin TEXT, since TEXT, token TEXT, result TEXT, began TEXT, ended TEXT,
        files TEXT NOT NULL, error TEXT, changed TEXT NOT NULL, call INTEGER NOT NULL
    );
    CREATE INDEX exports_of_connection ON exports (connection_id);
    CREATE TABLE calls (
        call INTEGER PRIMARY KEY, pid INTEGER NOT NULL, host TEXT NOT NULL, began TEXT NOT NULL,
        ended TEXT
    );
    INSERT INTO calls VALUES (1, 7, 'host', '2026-01-01', NULL);
"""
OLD_TOKEN = '{"v":1,"service":"export","connection":"c1","run":"r1","deadline":null,"fresh":false}'


def write_version_1(path: Path, state: str, token: str | None) -> None:
    old = new_entry(REQUEST)
    with closing(sqlite3.connect(path)) as file:
        file.executescript(OLD_TABLES)
        file.execute(
            "INSERT INTO exports VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)",
            (
                *(old.key, old.imodel_id, old.destination, old.display_name, old.options, state),
                *("c1", token and "r1", token and "started", NOW.isoformat(), token),
                *(None, None, None, '[["/out/a.ifc", 3]]', None, "2026-01-01", 1),
            ),
        )
        file.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        file.execute("PRAGMA user_version = 1")
        file.commit()


async def test_ledger_of_version_1_continues(path: Path) -> None:
    write_version_1(path, "started", OLD_TOKEN)
    async with Ledger(path) as ledger:
        entry = await ledger.claim(REQUEST)
        assert (entry.state, entry.run_id) == (EntryState.STARTED, "r1")
        token = ResumeToken.from_string(entry.resume_token or "")
        assert (token.service, token.connection_id, token.run_id) == (Service.EXPORT, "c1", "r1")
        assert entry.files == (OutputFile(path="/out/a.ifc", size=3),)
        await ledger.write(FULL, LINE)
    async with Ledger(path) as ledger:
        assert await ledger.claim(REQUEST) == FULL
    assert read(path, "SELECT id, pid FROM sessions")[0] == (1, 7)


@pytest.mark.parametrize(("old", "new"), [("known", "new"), ("starting", "starting")])
async def test_entry_of_version_1_without_a_run_continues(path: Path, old: str, new: str) -> None:
    write_version_1(path, old, None)
    async with Ledger(path) as ledger:
        entry = await ledger.claim(REQUEST)
    assert (entry.state, entry.since, entry.until) == (EntryState(new), NOW, None)


async def test_damaged_ledger_of_version_1_stays_as_it_is(path: Path) -> None:
    write_version_1(path, "started", "[]")
    with pytest.raises(LedgerError, match="is damaged: the token of 'k1'; restore it"):
        await open_and_close(path)
    assert read(path, "PRAGMA user_version") == [(1,)]
    assert read(path, "SELECT state FROM exports") == [("started",)]


async def test_cancellation_is_raised_once_the_work_is_done() -> None:
    work = asyncio.get_running_loop().create_future()
    waiting = asyncio.create_task(finish_uninterrupted(work))
    for _ in range(3):
        await asyncio.sleep(1)
        waiting.cancel()
    await asyncio.sleep(1)
    assert not waiting.done()
    work.set_result(7)
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert await finish_uninterrupted(work) == 7
