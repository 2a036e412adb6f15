"""Output paths and their owners."""

import os
from pathlib import Path

from attrs import evolve

from itwin_export_async._batch.entries import OutputFile
from itwin_export_async._batch.output_paths import OutputPaths, claimed_file


def described(path: Path, *, is_kept: bool = False) -> OutputFile:
    """A file that is about to get the path where it is already."""
    return claimed_file(path, path.stat(), is_kept=is_kept)


def test_protected_path_is_claimed_by_no_export(tmp_path: Path) -> None:
    paths = OutputPaths([tmp_path / "exports.db-wal"])
    assert not paths.claim([tmp_path / "exports.db-wal"], "a")
    chosen = paths.choose(tmp_path / "exports.db-wal", "a")
    assert chosen == (tmp_path / "exports-2.db-wal", False)


def test_path_has_one_owner_also_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path)
    paths = OutputPaths()
    assert paths.claim([tmp_path / "a.ifc"], "a")
    assert not paths.claim([tmp_path / "link" / "a.ifc"], "b")
    assert paths.claim([tmp_path / "link" / "a.ifc"], "a")


def test_new_file_is_not_superseded_by_itself_under_its_old_name(tmp_path: Path) -> None:
    old, new = tmp_path / "bridge.ifc", tmp_path / "Bridge.ifc"
    old.write_text("whole")
    new.hardlink_to(old)  # as on a disk that ignores case
    file = described(old)
    paths = OutputPaths()
    paths.load([(file, "a")])
    assert paths.superseded([file], [new], "a") == []
    new.unlink()
    new.write_text("whole")
    assert paths.superseded([file], [new], "a") == [old]
    assert paths.superseded([file], [new], "b") == []
    assert not paths.claim([old], "b")


def test_file_with_two_owners_or_protected_is_not_superseded(tmp_path: Path) -> None:
    old, new = tmp_path / "old.ifc", tmp_path / "new.ifc"
    for path in (old, new):
        path.write_text("whole")
    file = described(old)
    for owners in ("ab", "ba"):
        paths = OutputPaths()
        paths.load([(file, owner) for owner in owners])
        assert paths.superseded([file], [new], "a") == []
    paths = OutputPaths([old])
    paths.load([(file, "a")])
    assert paths.superseded([file], [new], "a") == []


def test_file_that_is_kept_changed_or_elsewhere_is_not_superseded(tmp_path: Path) -> None:
    old, new = tmp_path / "old.ifc", tmp_path / "new.ifc"
    for path in (old, new):
        path.write_text("whole")
    paths, file = OutputPaths(), described(old)
    assert paths.superseded([file], [new], "a") == [old]
    assert paths.superseded([described(old, is_kept=True)], [new], "a") == []
    (tmp_path / "out").mkdir()
    elsewhere = new.rename(tmp_path / "out" / "new.ifc")
    assert paths.superseded([file], [elsewhere], "a") == []
    elsewhere.rename(new)
    os.utime(old, ns=(0, old.stat().st_mtime_ns + 1))
    assert paths.superseded([file], [new], "a") == []


def test_second_output_of_a_run_gets_another_path(tmp_path: Path) -> None:
    paths = OutputPaths()
    first, _ = paths.choose(tmp_path / "a.ifc", "a")
    second, _ = paths.choose(tmp_path / "a.ifc", "a", taken={first})
    assert [first.name, second.name] == ["a.ifc", "a-2.ifc"]


def test_only_own_files_and_the_named_one_are_replaced(tmp_path: Path) -> None:
    paths, path = OutputPaths(), tmp_path / "a.ifc"
    assert paths.choose(path, "a") == (path, False)
    path.write_text("of another process")  # the claim alone makes it nobody's
    assert paths.choose(path, "a") == (tmp_path / "a-2.ifc", False)
    own = described(path)
    assert paths.choose(path, "a", files=[own]) == (path, True)
    assert OutputPaths().choose(path, "b", named=str(path)) == (path, True)
    os.utime(path, ns=(0, 0))
    assert OutputPaths().choose(path, "a", files=[own]) == (tmp_path / "a-2.ifc", False)
    placed = evolve(own, is_placed=True)
    assert OutputPaths().choose(path, "a", files=[placed]) == (path, True)


def test_file_belongs_to_the_export_that_wrote_it_last(tmp_path: Path) -> None:
    path = tmp_path / "a.ifc"
    path.write_text("whole")
    last = evolve(described(path), is_placed=True)
    earlier = evolve(last, size=4)  # was deleted, and the path was free
    for files in ([(earlier, "a"), (last, "b")], [(last, "b"), (earlier, "a")]):
        paths = OutputPaths()
        paths.load(files)
        assert not paths.claim([path], "a")
        assert paths.claim([path], "b")


def test_folder_at_the_path_of_an_earlier_file_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "a.ifc"
    path.write_text("whole")
    placed = evolve(described(path), is_placed=True)
    path.unlink()
    path.mkdir()
    chosen = OutputPaths().choose(path, "a", files=[placed])
    assert chosen == (tmp_path / "a-2.ifc", False)
