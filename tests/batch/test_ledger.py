"""The ledger's file: what stands in it, who may use it, and what it refuses."""

import asyncio
import os
import sqlite3
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import pytest
from attrs import evolve

from itwin_export_async import ExportOptions, ExportRequest, LedgerError, RunOrigin
from itwin_export_async._batch.entries import (
    Entry,
    OutputFile,
    State,
    new_entry,
    started,
    starting,
)
from itwin_export_async._batch.ledger import APPLICATION_ID, VERSION, Ledger, finish_uninterrupted
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
    state=State.IN_PLACE,
    connection_id="c1",
    run_id="r1",
    origin=RunOrigin.RECOVERED,
    since=NOW,
    token='{"v":1}',
    result="Success",
    began=NOW,
    ended=NOW,
    files=(OutputFile(path="/out/a.ifc", size=3), OutputFile(path="/out/b.ifc", size=2**40)),
    error="none",
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "exports.db"


def read(path: Path, question: str) -> list[tuple[object, ...]]:
    """What somebody else reads in the file."""
    with closing(sqlite3.connect(path)) as file:
        return file.execute(question).fetchall()


async def test_an_entry_comes_back_as_it_was_written(path: Path) -> None:
    async with Ledger(path) as ledger:
        assert await ledger.claim(REQUEST) == new_entry(REQUEST)
        await ledger.write(FULL)
    async with Ledger(path) as ledger:
        assert await ledger.claim(REQUEST) == FULL


async def test_it_can_be_read_while_it_is_written(path: Path) -> None:
    async with Ledger(path) as ledger:
        await ledger.claim(REQUEST)
        with closing(sqlite3.connect(path)) as reader:
            reader.execute("BEGIN")
            question = "SELECT state, error FROM exports"
            assert reader.execute(question).fetchall() == [("known", None)]
            await ledger.write(FULL)
            assert reader.execute(question).fetchall() == [("known", None)]
            reader.rollback()
            assert reader.execute(question).fetchall() == [("in place", "none")]
        assert read(path, "SELECT since FROM exports") == [("2026-11-22T12:00:00.123456+00:00",)]


async def test_a_key_has_one_request_in_a_call(path: Path) -> None:
    for _ in range(2):
        async with Ledger(path) as ledger:
            assert isinstance(await ledger.claim(REQUEST), Entry)
            error = await ledger.claim(REQUEST)
            assert isinstance(error, LedgerError)
            assert error.key == "k1"
            assert str(error) == f"ledger {path}: 'k1': the key was given twice in one call"


async def test_a_changed_request_is_refused_until_it_is_as_it_was(path: Path) -> None:
    async with Ledger(path) as ledger:
        await ledger.claim(REQUEST)
    changed = evolve(REQUEST, destination="in/", options=ExportOptions(ifc_version="IFC4.3"))
    async with Ledger(path) as ledger:
        error = await ledger.claim(changed)
        assert isinstance(error, LedgerError)
        assert "'k1': the request has changed: destination, options" in str(error)
    async with Ledger(path) as ledger:
        assert await ledger.claim(REQUEST) == new_entry(REQUEST)


async def test_what_was_left_of_a_connection_and_what_is_owned(path: Path) -> None:
    first, second, third = (evolve(REQUEST, key=key) for key in ("1", "2", "3"))
    async with Ledger(path) as ledger:
        for request in (first, second, third):
            await ledger.claim(request)
        left = starting(new_entry(first), "c1", NOW)
        begun = starting(new_entry(second), "c1", NOW)
        token = ResumeToken(service=Service.EXPORT, connection_id="c1", run_id="r2").to_string()
        own = started(begun, token, RunOrigin.STARTED)
        for entry in (left, own, starting(new_entry(third), "c2", NOW)):
            await ledger.write(entry)
        assert await ledger.left_starting("c1") == [left]
        assert await ledger.owned("c1") == {"r2"}
        assert await ledger.owned("c2") == set()


async def test_the_files_of_all_entries_have_owners(path: Path) -> None:
    async with Ledger(path) as ledger:
        await ledger.claim(REQUEST)
        await ledger.claim(evolve(REQUEST, key="k2"))
        await ledger.write(FULL)
        assert await ledger.files() == {"/out/a.ifc": "k1", "/out/b.ifc": "k1"}


async def test_a_link_to_a_ledger_is_the_ledger(path: Path, tmp_path: Path) -> None:
    (tmp_path / "s").mkdir()
    link = tmp_path / "s" / "other.db"
    link.symlink_to(path)
    for first, second in ((path, link), (link, path)):
        async with Ledger(first):
            with pytest.raises(LedgerError, match=f"ledger {second}: is in use by another call"):
                async with Ledger(second):
                    raise AssertionError
    assert list(link.parent.iterdir()) == [link]


async def test_what_is_no_text_can_be_written(path: Path) -> None:
    odd = evolve(REQUEST, key="k\udcfc", destination="br\udcfccke/", display_name="\ud800")
    file = OutputFile(path="\udcfc", size=1)
    entry = evolve(new_entry(odd), error="\ud800 is bad", files=(file,))
    async with Ledger(path) as ledger:
        assert await ledger.claim(odd) == new_entry(odd)
        await ledger.write(entry)
    async with Ledger(path) as ledger:
        assert await ledger.claim(odd) == entry
    assert read(path, "SELECT key, error FROM exports") == [("k\\udcfc", "\\ud800 is bad")]


async def test_two_calls_on_one_ledger_exclude_each_other(path: Path) -> None:
    async with Ledger(path):
        with pytest.raises(
            LedgerError, match=f"is in use by another call, of process {os.getpid()}"
        ):
            async with Ledger(path):
                raise AssertionError
        assert len(read(path, "SELECT * FROM calls")) == 1
    async with Ledger(path):
        pass
    assert [call for call, ended in read(path, "SELECT call, ended FROM calls") if ended] == [1, 2]


async def test_one_that_is_being_made_is_in_use_as_well(path: Path) -> None:
    with closing(sqlite3.connect(f"{path}-lock", isolation_level=None)) as lock:
        lock.execute("BEGIN EXCLUSIVE")
        with pytest.raises(LedgerError, match=r"is in use by another call$"):
            async with Ledger(path):
                raise AssertionError


@pytest.mark.parametrize("what", ["database", "text", "newer", "marked"])
async def test_what_is_no_ledger_stays_as_it_is(path: Path, what: str) -> None:
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
    message = {"text": "not a database", "newer": "another release: its version is 2, not 1"}
    with pytest.raises(LedgerError, match=message.get(what, "another program's database")):
        async with Ledger(path):
            raise AssertionError
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


async def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    for place in (tmp_path, tmp_path / "missing" / "exports.db"):
        with pytest.raises(LedgerError, match=f"ledger {place}: cannot be used: unable to open"):
            async with Ledger(place):
                raise AssertionError
    (tmp_path / "exports.db-lock").mkdir()
    with pytest.raises(LedgerError, match="unable to open"):
        async with Ledger(tmp_path / "exports.db"):
            raise AssertionError


async def test_a_file_that_is_spoiled_meanwhile_is_an_error(path: Path) -> None:
    async with Ledger(path) as ledger:
        await ledger.claim(REQUEST)
        with closing(sqlite3.connect(path)) as other:
            other.execute("UPDATE exports SET state = 'paused', connection_id = 'c', run_id = 'r'")
            other.commit()
        with pytest.raises(LedgerError, match="'k1': cannot be read any more: 'paused'"):
            await ledger.owned("c")
        with closing(sqlite3.connect(path)) as other:
            other.execute("DROP TABLE exports")
            other.execute("DROP TABLE calls")
            other.commit()
        with pytest.raises(LedgerError, match="cannot be used: no such table"):
            await ledger.write(FULL)


async def test_who_is_cancelled_again_and_again_is_so_once_the_work_is_done() -> None:
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
