"""Every iModel of an iTwin, and on later nights only what changed."""

import asyncio
import json
import logging
import os
import sqlite3
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from attrs import evolve

from itwin_export_async import (
    ExportClient,
    ExportOptions,
    ExportOutcome,
    ExportRequest,
    InputOptions,
    NotFound,
    NothingToExport,
    RateLimit,
)
from itwin_export_async.emulator import Emulator
from tests.support.batches import started, tasks_left
from tests.support.fakes import answer


class Itwin:
    """An iTwin of the emulator, and exports of it."""

    def __init__(self, emulator: Emulator, folder: Path) -> None:
        self.emulator = emulator
        self.folder = folder / "out"
        self.ledger = folder / "exports.db"
        self.id = emulator.itwin_id(emulator.add_imodel("seed", state="notInitialized"))

    def add(self, name: str, *, changesets: int = 1, **more: Any) -> str:
        imodel_id = self.emulator.add_imodel(name, itwin_id=self.id, **more)
        for _ in range(changesets):
            self.emulator.push_changeset(imodel_id)
        return imodel_id

    async def export(self, client: ExportClient, **more: Any) -> dict[str, ExportOutcome]:
        """The outcomes by iModel."""
        more = {"ledger": self.ledger, **more}
        outcomes = [o async for o in client.export_itwin(self.id, self.folder, **more)]
        assert not tasks_left()
        assert len({o.request.imodel_id for o in outcomes}) == len(outcomes)
        return {outcome.request.imodel_id: outcome for outcome in outcomes}

    def names(self) -> list[str]:
        return sorted(path.name for path in self.folder.iterdir())


@pytest.fixture
def itwin(emulator: Emulator, tmp_path: Path) -> Itwin:
    return Itwin(emulator, tmp_path)


def kinds(outcomes: dict[str, ExportOutcome]) -> Counter[str]:
    return Counter(
        "up to date" if o.up_to_date else type(o.error).__name__ if o.error else "exported"
        for o in outcomes.values()
    )


async def test_every_imodel_is_exported_at_its_newest_changeset(
    client: ExportClient, emulator: Emulator, itwin: Itwin
) -> None:
    ids = [itwin.add(f"Bridge {n}", changesets=n) for n in range(4)]
    outcomes = await itwin.export(client)
    assert kinds(outcomes) == {"exported": 4}
    assert itwin.names() == [f"Bridge {n}.ifc" for n in range(4)]
    for imodel_id in ids:
        latest = await client.imodels.latest_changeset(imodel_id)
        revision = None if latest is None else latest.id
        assert outcomes[imodel_id].request.revision == revision
        assert outcomes[imodel_id].request.options.input.changeset_id == revision


@pytest.mark.parametrize("size", [60, pytest.param(300, marks=pytest.mark.slow)])
async def test_community_tier_exports_an_itwin_and_then_its_changed_imodels(
    emulator: Emulator, itwin: Itwin, size: int
) -> None:
    ids = [itwin.add(f"Bridge {n}") for n in range(size)]
    token = emulator.token(lifetime=1e7)
    async with ExportClient(token, transport=emulator, rate_limit=RateLimit.COMMUNITY) as client:
        assert kinds(await itwin.export(client, concurrency=50)) == {"exported": size}
        calls = client.session.stats.calls
        await asyncio.sleep(24 * 3600)
        changed = ids[::15]
        for imodel_id in changed:
            emulator.push_changeset(imodel_id)
        before = client.session.stats.calls, asyncio.get_running_loop().time()
        outcomes = await itwin.export(client, concurrency=50)
        night_2 = client.session.stats.calls - before[0]
        seconds = asyncio.get_running_loop().time() - before[1]
    assert kinds(outcomes) == {"exported": size // 15, "up to date": size - size // 15}
    assert {id for id, o in outcomes.items() if not o.up_to_date} == set(changed)
    assert started(emulator) == size + size // 15
    assert emulator.count("create_connection") == size
    longest = max(o.run.duration or 0 for id, o in outcomes.items() if id in changed and o.run)
    print(f"night 1: {calls} calls; night 2: {night_2} calls, {seconds:.0f} s ({longest:.0f} s)")
    assert seconds < 1.1 * longest + 60
    assert not [r for r in emulator.requests if r.status == 429]


@pytest.mark.parametrize(
    ("size", "calls"), [(100, 1), pytest.param(1000, 2, marks=pytest.mark.slow)]
)
async def test_unchanged_itwin_costs_one_call_for_each_page_of_the_list(
    emulator: Emulator, itwin: Itwin, size: int, calls: int
) -> None:
    for n in range(size):
        itwin.add(f"Bridge {n}")
    emulator.run_seconds = 1.0
    async with ExportClient(emulator.token(lifetime=1e7), transport=emulator) as client:
        assert kinds(await itwin.export(client, concurrency=200)) == {"exported": size}
        before = client.session.stats.calls
        assert kinds(await itwin.export(client)) == {"up to date": size}
        assert client.session.stats.calls - before == calls


@pytest.mark.parametrize("reported", ["null", "missing"])
async def test_push_date_that_is_not_reported_costs_one_call_each(
    client: ExportClient, emulator: Emulator, itwin: Itwin, reported: Any
) -> None:
    ids = [itwin.add(f"Bridge {n}", last_changeset_push=reported) for n in range(5)]
    await itwin.export(client)
    before = client.session.stats.calls
    assert kinds(await itwin.export(client)) == {"up to date": 5}
    assert client.session.stats.calls - before == 1 + 5
    emulator.push_changeset(ids[0])
    assert kinds(await itwin.export(client)) == {"up to date": 4, "exported": 1}


async def test_push_between_list_and_changeset_costs_one_call_once(
    client: ExportClient, emulator: Emulator, itwin: Itwin
) -> None:
    imodel_id = itwin.add("Bridge")
    await itwin.export(client)
    with closing(sqlite3.connect(itwin.ledger)) as file:  # the list was read before the push
        file.execute("UPDATE exports SET pushed_at = '2020-01-01T00:00:00Z'")
        file.commit()
    for calls in (2, 1):
        before = client.session.stats.calls
        assert (await itwin.export(client))[imodel_id].up_to_date
        assert client.session.stats.calls - before == calls


async def test_named_version_is_the_last_visible_one(
    client: ExportClient, emulator: Emulator, itwin: Itwin
) -> None:
    named, hidden, none, baseline = (itwin.add(name, changesets=3) for name in "ABCD")
    changesets = {}
    for imodel_id in (named, hidden):
        latest = await client.imodels.latest_changeset(imodel_id)
        assert latest is not None
        changesets[imodel_id] = latest.id
    emulator.add_named_version(named, "1", changesets[named])
    emulator.add_named_version(hidden, "1", changesets[hidden], state="hidden")
    emulator.add_named_version(baseline, "start", None)
    emulator.push_changeset(named)
    named_files: Any = {"version": "named", "filename": "{imodel_name}_{version_name}.x"}
    outcomes = await itwin.export(client, **named_files)
    assert outcomes[named].request.revision == changesets[named]
    assert outcomes[named].paths == (itwin.folder / "A_1.x",)
    for imodel_id in (hidden, none):
        assert "has no visible named version; create one" in str(outcomes[imodel_id].error)
    assert isinstance(outcomes[baseline].error, NothingToExport)
    assert "has its last named version, 'start', on the baseline" in str(outcomes[baseline].error)
    assert started(emulator) == 1
    again = await itwin.export(client, **named_files)
    assert kinds(again) == {"up to date": 1, "NothingToExport": 3}


def history(itwin: Itwin) -> list[Any]:
    """Key, outcome and error of each line of the history."""
    with closing(sqlite3.connect(itwin.ledger)) as file:
        return file.execute("SELECT key, outcome, error FROM history ORDER BY id").fetchall()


async def test_imodel_with_nothing_to_export_is_in_the_history_and_tried_again(
    client: ExportClient, emulator: Emulator, itwin: Itwin
) -> None:
    imodel_id = itwin.add("Bridge")
    for _ in range(2):
        outcome = (await itwin.export(client, version="named"))[imodel_id]
        assert isinstance(outcome.error, NothingToExport)
    assert history(itwin) == [(outcome.request.key, "NothingToExport", str(outcome.error))] * 2
    emulator.add_named_version(imodel_id, "1", emulator.push_changeset(imodel_id))
    assert (await itwin.export(client, version="named"))[imodel_id].ok
    assert [kind for _, kind, _ in history(itwin)] == ["NothingToExport"] * 2 + ["Success"]


async def test_refused_version_keeps_the_export_that_is_in_place(
    client: ExportClient, emulator: Emulator, itwin: Itwin
) -> None:
    imodel_id = itwin.add("Bridge")
    emulator.add_named_version(imodel_id, "1", emulator.push_changeset(imodel_id))
    await itwin.export(client, version="named")
    emulator.inject("list_named_versions", answer(403, "{}"))
    assert kinds(await itwin.export(client, version="named")) == {"PermissionDenied": 1}
    assert kinds(await itwin.export(client, version="named")) == {"up to date": 1}
    assert [kind for _, kind, _ in history(itwin)] == ["Success", "PermissionDenied"]
    assert started(emulator) == 1


async def test_new_named_version_gets_a_file_of_its_own_name(
    client: ExportClient, emulator: Emulator, itwin: Itwin
) -> None:
    imodel_id = itwin.add("Bridge", changesets=0)
    for name in ("1", "2"):
        emulator.add_named_version(imodel_id, name, emulator.push_changeset(imodel_id))
        await itwin.export(client, version="named", filename="{imodel_name}_{version_name}.ifc")
    assert itwin.names() == ["Bridge_1.ifc", "Bridge_2.ifc"]


async def test_imodel_that_is_not_initialized_is_skipped(
    client: ExportClient, itwin: Itwin, caplog: pytest.LogCaptureFixture
) -> None:
    itwin.add("Bridge")
    with caplog.at_level(logging.INFO, "itwin_export_async.batch"):
        assert kinds(await itwin.export(client)) == {"exported": 1}
    assert f"iTwin {itwin.id}: 2 iModels, 1 of them initialized" in caplog.text
    assert "skipped: it is not initialized" in caplog.text


async def test_empty_list_hints_at_the_membership(
    client: ExportClient, emulator: Emulator, itwin: Itwin, caplog: pytest.LogCaptureFixture
) -> None:
    itwin.add("Bridge")
    emulator.set_permissions(itwin.id, ())
    assert await itwin.export(client) == {}
    assert "a service application has to be a member of the iTwin" in caplog.text


async def test_fewer_imodels_than_expected_start_nothing(
    client: ExportClient, emulator: Emulator, itwin: Itwin
) -> None:
    ids = [itwin.add(f"Bridge {n}") for n in range(3)]
    assert kinds(await itwin.export(client, expected=4)) == {"exported": 3}
    emulator.set_permissions(ids[1], ())
    with pytest.raises(ValueError, match="lists 3 iModels: at least 4 expected"):
        await itwin.export(client, expected=4)
    with pytest.raises(ValueError, match=f"lists 3 iModels: {ids[1]} missing"):
        await itwin.export(client, expected=ids)
    many = [f"m{n}" for n in range(9)]
    with pytest.raises(ValueError, match=r"m0, m1, m2, m3, m4 \.\.\. missing"):
        await itwin.export(client, expected=many)
    assert kinds(await itwin.export(client, expected=[ids[0]])) == {"up to date": 2}
    assert started(emulator) == 3


async def test_equal_names_get_numbers_and_keep_them(
    client: ExportClient, emulator: Emulator, itwin: Itwin
) -> None:
    ids = sorted(itwin.add(name) for name in ("Bridge", "Bridge", "Bridge"))
    first = await itwin.export(client)
    assert itwin.names() == ["Bridge-2.ifc", "Bridge-3.ifc", "Bridge.ifc"]
    emulator.push_changeset(ids[0])
    emulator.push_changeset(ids[2])
    second = await itwin.export(client)
    assert {id: o.paths for id, o in first.items()} == {id: o.paths for id, o in second.items()}
    assert itwin.names() == ["Bridge-2.ifc", "Bridge-3.ifc", "Bridge.ifc"]


async def test_names_that_differ_in_case_only_are_two_files(
    client: ExportClient, itwin: Itwin
) -> None:
    itwin.add("bridge/..\\")
    itwin.add(".bashrc")
    assert kinds(await itwin.export(client)) == {"exported": 2}
    assert all(not name.startswith(".") for name in itwin.names())


async def test_file_that_no_export_put_there_is_not_replaced(
    client: ExportClient, emulator: Emulator, itwin: Itwin
) -> None:
    imodel_id = itwin.add("Bridge")
    itwin.folder.mkdir()
    (itwin.folder / "Bridge.ifc").write_text("mine")
    for _ in range(2):
        await itwin.export(client)
        emulator.push_changeset(imodel_id)
    assert (itwin.folder / "Bridge.ifc").read_text() == "mine"
    assert itwin.names() == ["Bridge-2.ifc", "Bridge.ifc"]


class Renaming:
    """The emulator, whose iModels have new names in lists."""

    def __init__(self, emulator: Emulator) -> None:
        self._emulator = emulator

    async def send(self, request: Any, /) -> Any:
        response = await self._emulator.send(request)
        return evolve(response, body=response.body.replace(b'"Old"', b'"New"'))

    def stream(self, request: Any, /) -> Any:
        return self._emulator.stream(request)

    async def close(self) -> None:
        await self._emulator.close()


async def test_renamed_imodel_is_up_to_date_until_it_changes(
    client: ExportClient, emulator: Emulator, itwin: Itwin
) -> None:
    imodel_id = itwin.add("Old")
    await itwin.export(client)
    async with ExportClient(emulator.token(), transport=Renaming(emulator)) as later:
        assert (await itwin.export(later))[imodel_id].up_to_date
        emulator.push_changeset(imodel_id)
        emulator.plan_next_run(imodel_id, "Error")
        assert not (await itwin.export(later))[imodel_id].ok
        assert itwin.names() == ["Old.ifc"]
        outcome = (await itwin.export(later))[imodel_id]
        assert outcome.paths == (itwin.folder / "New.ifc",)
        assert itwin.names() == ["New.ifc"]
        assert (await itwin.export(later))[imodel_id].up_to_date


@pytest.fixture
async def renamed(emulator: Emulator) -> AsyncIterator[ExportClient]:
    """A client to which the iModel `Old` is `New`."""
    async with ExportClient(emulator.token(), transport=Renaming(emulator)) as client:
        yield client


@pytest.mark.parametrize("template", ["{imodel_name}_{version_name}.ifc", "{imodel_name} {date}.x"])
async def test_old_file_of_a_template_for_each_version_stays(
    client: ExportClient, renamed: ExportClient, emulator: Emulator, itwin: Itwin, template: str
) -> None:
    imodel_id = itwin.add("Old")
    for night in (client, renamed):
        assert (await itwin.export(night, filename=template))[imodel_id].ok
        emulator.push_changeset(imodel_id)
    assert [name[:3] for name in itwin.names()] == ["New", "Old"]


@pytest.mark.parametrize("change", ["written", "linked"])
async def test_old_file_that_was_changed_stays(
    client: ExportClient, renamed: ExportClient, emulator: Emulator, itwin: Itwin, change: str
) -> None:
    imodel_id = itwin.add("Old")
    (old,) = (await itwin.export(client))[imodel_id].paths
    if change == "written":
        old.write_text("mine")
    else:
        old.symlink_to(old.rename(itwin.folder / "mine"))
    emulator.push_changeset(imodel_id)
    assert (await itwin.export(renamed))[imodel_id].ok
    assert {*itwin.names()} == {"New.ifc", "Old.ifc", *(["mine"] * (change == "linked"))}


async def test_old_file_that_another_export_has_made_meanwhile_stays(
    client: ExportClient, renamed: ExportClient, emulator: Emulator, itwin: Itwin
) -> None:
    imodel_id, other_id = itwin.add("Old"), emulator.add_imodel("Odd")
    (old,) = (await itwin.export(client))[imodel_id].paths
    size = old.stat().st_size
    old.unlink()
    request = ExportRequest(imodel_id=other_id, destination=old)
    (outcome,) = [o async for o in client.export_many([request], ledger=itwin.ledger)]
    assert outcome.ok
    content = old.read_bytes()
    assert len(content) == size
    emulator.push_changeset(imodel_id)
    assert (await itwin.export(renamed))[imodel_id].ok
    assert old.read_bytes() == content


async def test_old_file_that_a_batch_of_another_ledger_has_replaced_stays(
    client: ExportClient, renamed: ExportClient, emulator: Emulator, itwin: Itwin, tmp_path: Path
) -> None:
    imodel_id = itwin.add("Old")
    (old,) = (await itwin.export(client))[imodel_id].paths
    request = ExportRequest(imodel_id=imodel_id, destination=old)
    assert [o.ok async for o in client.export_many([request], ledger=tmp_path / "b.db")] == [True]
    emulator.push_changeset(imodel_id)
    await itwin.export(renamed)
    assert itwin.names() == ["New.ifc", "Old.ifc"]


async def test_file_in_another_working_directory_stays(
    client: ExportClient,
    emulator: Emulator,
    itwin: Itwin,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    imodel_id, itwin.folder = itwin.add("Bridge"), Path("out")
    for folder in ("january", "february"):
        (tmp_path / folder).mkdir()
        monkeypatch.chdir(tmp_path / folder)
        assert (await itwin.export(client))[imodel_id].ok
        emulator.push_changeset(imodel_id)
    assert len(list(tmp_path.glob("*/out/Bridge.ifc"))) == 2


async def test_two_batches_into_one_folder_lose_no_file(
    emulator: Emulator, itwin: Itwin, tmp_path: Path
) -> None:
    imodel_id = itwin.add("Bridge")
    emulator.add_named_version(imodel_id, "1", emulator.push_changeset(imodel_id))
    emulator.push_changeset(imodel_id)

    async def export(version: Any) -> ExportOutcome:
        async with ExportClient(emulator.token(), transport=emulator) as client:
            ledger = tmp_path / f"{version}.db"
            outcomes = client.export_itwin(itwin.id, itwin.folder, version=version, ledger=ledger)
            (outcome,) = [outcome async for outcome in outcomes]
            return outcome

    outcomes = await asyncio.gather(export("latest"), export("named"))
    assert {o.paths[0].name for o in outcomes} == {"Bridge.ifc", "Bridge-2.ifc"}
    for outcome in outcomes:
        assert outcome.run is not None
        file_id = outcome.run.jobs[0].tasks[0].export_output_file_id
        assert outcome.paths[0].read_bytes() == emulator.read_file(file_id or "")


@pytest.mark.parametrize("is_listed_first", [False, True])
async def test_file_of_the_user_is_not_replaced(
    client: ExportClient, emulator: Emulator, itwin: Itwin, is_listed_first: bool
) -> None:
    imodel_id = itwin.add("Bridge", changesets=0)
    if is_listed_first:  # the ledger has an entry with this destination
        await itwin.export(client, version="named")
    emulator.add_named_version(imodel_id, "1", emulator.push_changeset(imodel_id))
    itwin.folder.mkdir(exist_ok=True)

    def write(_: object) -> None:
        (itwin.folder / "Bridge.ifc").write_text("mine")

    if is_listed_first:
        write(None)
    more: dict[str, Any] = {} if is_listed_first else {"on_start": write}
    outcomes = await itwin.export(client, version="named", **more)
    assert outcomes[imodel_id].paths == (itwin.folder / "Bridge-2.ifc",)
    assert (itwin.folder / "Bridge.ifc").read_text() == "mine"
    emulator.add_named_version(imodel_id, "2", emulator.push_changeset(imodel_id))
    await itwin.export(client, version="named")
    assert itwin.names() == ["Bridge-2.ifc", "Bridge.ifc"]


async def test_version_that_is_named_like_a_numbered_file_keeps_its_file(
    client: ExportClient, emulator: Emulator, itwin: Itwin
) -> None:
    imodel_id = itwin.add("Bridge")
    for name in ("1.0-2", "1.0"):
        emulator.add_named_version(imodel_id, name, emulator.push_changeset(imodel_id))
        await itwin.export(client, version="named", filename="{imodel_name} {version_name}.x")
    assert itwin.names() == ["Bridge 1.0-2.x", "Bridge 1.0.x"]


async def test_archived_version_stays_after_a_change_of_the_template(
    client: ExportClient, emulator: Emulator, itwin: Itwin
) -> None:
    imodel_id = itwin.add("Bridge")
    for name, template in (("1", "{imodel_name}_{version_name}.ifc"), ("2", "{imodel_name}.ifc")):
        emulator.add_named_version(imodel_id, name, emulator.push_changeset(imodel_id))
        await itwin.export(client, version="named", filename=template)
    assert itwin.names() == ["Bridge.ifc", "Bridge_1.ifc"]


async def test_file_that_was_edited_is_replaced_and_not_numbered(
    client: ExportClient, emulator: Emulator, itwin: Itwin
) -> None:
    imodel_id = itwin.add("Bridge")
    for night in range(3):
        (file,) = (await itwin.export(client))[imodel_id].paths
        assert b"edited" not in file.read_bytes()
        file.write_bytes(file.read_bytes() + b"edited")
        if night:
            emulator.push_changeset(imodel_id)
    assert itwin.names() == ["Bridge.ifc"]


@pytest.mark.parametrize("is_removed", [False, True])
async def test_crash_around_the_removal_of_the_old_file_loses_nothing(
    client: ExportClient, renamed: ExportClient, emulator: Emulator, itwin: Itwin, is_removed: bool
) -> None:
    imodel_id = itwin.add("Old")
    (old,) = (await itwin.export(client))[imodel_id].paths
    content, times = old.read_bytes(), old.stat()
    emulator.push_changeset(imodel_id)
    (new,) = (await itwin.export(renamed))[imodel_id].paths
    if not is_removed:
        old.write_bytes(content)
        os.utime(old, ns=(times.st_atime_ns, times.st_mtime_ns))
    known = {old: times.st_mtime_ns, new: new.stat().st_mtime_ns}
    files = json.dumps([[str(p), len(content), modified, False] for p, modified in known.items()])
    with closing(sqlite3.connect(itwin.ledger)) as file, file:  # as before the outcome was noted
        file.execute("UPDATE exports SET state = 'finished', files = ?", (files,))
    whole = new.read_bytes()
    assert (await itwin.export(renamed))[imodel_id].paths == (new,)
    assert itwin.names() == ["New.ifc"]
    assert new.read_bytes() == whole
    assert started(emulator) == 2
    assert (await itwin.export(renamed))[imodel_id].up_to_date


async def test_old_file_that_cannot_be_removed_is_logged(
    client: ExportClient,
    renamed: ExportClient,
    emulator: Emulator,
    itwin: Itwin,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    imodel_id = itwin.add("Old")
    (old,) = (await itwin.export(client))[imodel_id].paths
    emulator.push_changeset(imodel_id)
    unlink = Path.unlink

    def locked(path: Path, *args: Any, **more: Any) -> None:
        if path == old:
            raise PermissionError(13, "in use")
        unlink(path, *args, **more)

    monkeypatch.setattr(Path, "unlink", locked)
    assert (await itwin.export(renamed))[imodel_id].ok
    assert f"{old} of an earlier revision cannot be removed: in use" in caplog.text
    assert itwin.names() == ["New.ifc", "Old.ifc"]


async def test_other_options_are_exported_with_the_next_change_or_refused(
    client: ExportClient, emulator: Emulator, itwin: Itwin
) -> None:
    imodel_id = itwin.add("Bridge")
    await itwin.export(client)
    options = ExportOptions(ifc_version="IFC2x3")
    outcome = (await itwin.export(client, options=options))[imodel_id]
    assert "the request has changed since the last call: options" in str(outcome.error)
    emulator.push_changeset(imodel_id)
    outcome = (await itwin.export(client, options=options))[imodel_id]
    assert outcome.ok
    assert b"IFC2X3" in outcome.paths[0].read_bytes()


async def test_failure_is_tried_again_at_the_same_changeset(
    client: ExportClient, emulator: Emulator, itwin: Itwin
) -> None:
    imodel_id = itwin.add("Bridge")
    emulator.plan_next_run(imodel_id, "Error")
    assert not (await itwin.export(client))[imodel_id].ok
    assert (await itwin.export(client))[imodel_id].ok
    with closing(sqlite3.connect(itwin.ledger)) as file:
        history = file.execute("SELECT outcome, revision IS NULL FROM history").fetchall()
    assert history == [("RunFailed", 0), ("Success", 0)]


async def test_old_file_stays_until_its_successor_is_whole(
    client: ExportClient, emulator: Emulator, itwin: Itwin
) -> None:
    imodel_id = itwin.add("Bridge")
    (path,) = (await itwin.export(client))[imodel_id].paths
    old = path.read_bytes()
    emulator.push_changeset(imodel_id)
    emulator.plan_next_run(imodel_id, "Error")
    assert not (await itwin.export(client))[imodel_id].ok
    assert path.read_bytes() == old
    emulator.inject("get_blob", *[answer(410)] * 9)
    assert not (await itwin.export(client))[imodel_id].ok
    assert path.read_bytes() == old


async def test_without_a_ledger_each_night_exports_all_under_new_names(
    client: ExportClient, itwin: Itwin
) -> None:
    itwin.add("Bridge")
    for _ in range(2):
        assert kinds(await itwin.export(client, ledger=None)) == {"exported": 1}
    assert itwin.names() == ["Bridge-2.ifc", "Bridge.ifc"]


@pytest.mark.parametrize("more", [{}, {"ledger": None}])
async def test_refused_version_is_the_outcome_of_its_imodel(
    client: ExportClient, emulator: Emulator, itwin: Itwin, more: Any
) -> None:
    itwin.add("A")
    itwin.add("B")
    emulator.inject("list_changesets", answer(403, "{}"))
    assert kinds(await itwin.export(client, **more)) == {"PermissionDenied": 1, "exported": 1}


async def test_outage_of_the_list_is_waited_out(
    client: ExportClient, emulator: Emulator, itwin: Itwin
) -> None:
    itwin.add("A")
    emulator.inject("list_imodels", *[answer(503, "{}")] * 12)
    assert kinds(await itwin.export(client)) == {"exported": 1}


async def test_unknown_itwin_comes_out(client: ExportClient, itwin: Itwin) -> None:
    itwin.id = itwin.add("Bridge")
    with pytest.raises(NotFound, match="iTwinNotFound"):
        await itwin.export(client)


async def test_leaving_early_ends_the_waiting(client: ExportClient, itwin: Itwin) -> None:
    for n in range(10):
        itwin.add(f"Bridge {n}")
    async with client.export_itwin(itwin.id, itwin.folder, concurrency=2) as outcomes:
        assert (await anext(outcomes)).ok
    assert not tasks_left()


async def test_list_is_filtered(client: ExportClient, itwin: Itwin) -> None:
    for n in range(12):
        itwin.add(f"Bridge {n}")
    assert len(await itwin.export(client, name="Bridge 1")) == 1
    assert len(await itwin.export(client, search="Bridge 1")) == 3


async def test_template_names_the_files(client: ExportClient, itwin: Itwin) -> None:
    imodel_id = itwin.add("Bridge")
    template = "{imodel_name} {version_name} {date} {imodel_id}.ifc"
    await itwin.export(client, filename=template)
    (name,) = itwin.names()
    assert name.startswith("Bridge 1 20")
    assert name.endswith(f"{imodel_id}.ifc")


@pytest.mark.parametrize(
    ("wrong", "error", "message"),
    [
        ({"filename": 7}, TypeError, "filename must be a string, not int"),
        ({"filename": "{"}, ValueError, "is no template"),
        ({"filename": "{imodel_name}{x}"}, ValueError, "has the unknown field 'x'; use {imodel"),
        ({"filename": "{0}{imodel_name}"}, ValueError, "has the unknown field '0'"),
        ({"filename": "{imodel_name.__class__}"}, ValueError, "has the unknown field"),
        ({"filename": "{imodel_id!r}.x"}, ValueError, "has a format in a field"),
        ({"filename": "{imodel_id:9}.x"}, ValueError, "has a format in a field"),
        ({"filename": "{imodel_id}"}, ValueError, "has no suffix; add one, such as .ifc"),
        ({"filename": "a.{imodel_id}"}, ValueError, "has no suffix; add one, such as .ifc"),
        ({"filename": "{date}.ifc"}, ValueError, "gives all iModels one name; add {imodel_name}"),
        ({"filename": "a/{imodel_name}"}, ValueError, "has a folder in it"),
        ({"version": "newest"}, ValueError, "version must be 'latest' or 'named', not 'newest'"),
        ({"options": "IFC"}, TypeError, "options must be ExportOptions, not str"),
        (
            {"options": ExportOptions(input=InputOptions(changeset_id="0" * 40))},
            ValueError,
            "options.input.changeset_id is set by version; leave it out",
        ),
        ({"name": "a", "search": "b"}, ValueError, "exclude each other"),
        ({"concurrency": 0}, ValueError, "concurrency"),
        ({"expected": "m1"}, TypeError, "expected must be a number or a list of ids"),
        ({"expected": True}, TypeError, "expected must be a number or a list of ids"),
    ],
)
async def test_mistake_is_refused_before_anything_is_sent(
    client: ExportClient,
    emulator: Emulator,
    itwin: Itwin,
    wrong: dict[str, Any],
    error: type[Exception],
    message: str,
) -> None:
    with pytest.raises(error) as caught:
        client.export_itwin(itwin.id, itwin.folder, **wrong)
    assert message in str(caught.value)
    assert emulator.requests == []
