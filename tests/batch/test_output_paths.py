"""Output paths and their owners."""

from pathlib import Path

from itwin_export_async._batch.output_paths import OutputPaths, describe_files


def test_protected_path_is_claimed_by_no_export(tmp_path: Path) -> None:
    paths = OutputPaths([tmp_path / "exports.db-wal"])
    assert not paths.claim([tmp_path / "exports.db-wal"], "a")
    chosen = paths.choose(tmp_path / "exports.db-wal", str(tmp_path), "a")
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
    (file,) = describe_files([old])
    paths = OutputPaths()
    paths.load([(str(old), "a")])
    assert paths.superseded([file], [new], "a") == []
    new.unlink()
    new.write_text("whole")
    assert paths.superseded([file], [new], "a") == [old]
    assert paths.superseded([file], [new], "b") == []
    assert not paths.claim([old], "b")
    assert OutputPaths().superseded([file], [new], "a") == []


def test_file_with_two_owners_or_protected_is_not_superseded(tmp_path: Path) -> None:
    old, new = tmp_path / "old.ifc", tmp_path / "new.ifc"
    for path in (old, new):
        path.write_text("whole")
    (file,) = describe_files([old])
    for owners in ("ab", "ba"):
        paths = OutputPaths()
        paths.load([(str(old), owner) for owner in owners])
        assert paths.superseded([file], [new], "a") == []
    paths = OutputPaths([old])
    paths.load([(str(old), "a")])
    assert paths.superseded([file], [new], "a") == []


def test_second_output_of_a_run_gets_another_path(tmp_path: Path) -> None:
    paths = OutputPaths()
    first, _ = paths.choose(tmp_path / "a.ifc", str(tmp_path), "a")
    second, _ = paths.choose(tmp_path / "a.ifc", str(tmp_path), "a", {first})
    assert [first.name, second.name] == ["a.ifc", "a-2.ifc"]
    assert paths.choose(tmp_path / "a.ifc", str(tmp_path), "a") == (first, True)


def test_only_own_files_and_the_named_one_are_replaced(tmp_path: Path) -> None:
    paths, file = OutputPaths(), tmp_path / "a.ifc"
    assert paths.choose(file, str(tmp_path), "a") == (file, False)
    file.touch()
    assert paths.choose(file, str(tmp_path), "b") == (tmp_path / "a-2.ifc", False)
    assert OutputPaths().choose(file, str(file), "b") == (file, True)
