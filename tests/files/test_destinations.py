"""Destinations: which are folders, which are files, and which are refused before any request."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from itwin_export_async import DownloadError, ExportClient
from itwin_export_async._files.destinations import (
    Target,
    WrittenFiles,
    check_destination,
    identify,
)
from tests.support.fakes import Answers, answer


@pytest.mark.parametrize(
    ("destination", "folder", "name"),
    [
        ("{}", "", None),
        ("{}/", "", None),
        ("{}/new", "new", None),
        ("{}/new.d/", "new.d", None),
        ("{}/.hidden", ".hidden", None),
        ("{}/existing.d", "existing.d", None),
        ("{}/bridge.ifc", "", "bridge.ifc"),
        ("{}/deep/er/bridge.ifc", "deep/er", "bridge.ifc"),
    ],
)
def test_destination_without_a_suffix_is_a_folder(
    tmp_path: Path, destination: str, folder: str, name: str | None
) -> None:
    (tmp_path / "existing.d").mkdir()
    target = check_destination(destination.format(tmp_path))
    assert target == Target(folder=tmp_path / folder, name=name)
    assert os.listdir(tmp_path) == ["existing.d"]


def test_path_object_keeps_the_rule(tmp_path: Path) -> None:
    assert check_destination(Path(f"{tmp_path}/exports/")).name is None


def _device(path: Path) -> None:
    path.symlink_to(os.devnull)


def _chain(path: Path) -> None:
    path.with_name("second").symlink_to("/dev/stdout")
    path.symlink_to("second")


@pytest.mark.parametrize("name", ["f.ifc", "folder"])
@pytest.mark.parametrize("put", [os.mkfifo, _device, _chain])
async def test_device_and_pipe_are_refused_before_any_request(
    tmp_path: Path, put: Callable[[Path], None], name: str
) -> None:
    put(tmp_path / name)
    there = (tmp_path / name).lstat()
    transport = Answers(answer(404))
    async with ExportClient("t", transport=transport) as client:
        for download in (client.storage.download, client.storage.download_blob):
            with pytest.raises(ValueError, match=r"^destination .* is a device or pipe"):
                await download("https://blobs.example/f", tmp_path / name)
    assert transport.requests == []
    assert os.path.samestat((tmp_path / name).lstat(), there)


@pytest.mark.parametrize(
    "destination",
    [
        "s3://bucket/key.ifc",
        Path("s3://bucket/key.ifc"),
        "https://blobs.example/f.ifc?sig=planted",
        Path("https://blobs.example/f.ifc?sig=planted"),
        "memory://f",
    ],
)
def test_url_is_refused_without_showing_its_signature(destination: str | Path) -> None:
    with pytest.raises(ValueError, match=r"^output .* is a URL: .*storage\.open") as caught:
        check_destination(destination, name="output")
    assert "planted" not in str(caught.value)


@pytest.mark.parametrize("destination", ["", "  ", "a\0.ifc"])
def test_text_that_is_no_path_is_refused(destination: str) -> None:
    with pytest.raises(ValueError, match=r"destination .* is not a path"):
        check_destination(destination)


@pytest.mark.parametrize("destination", [7, None, b"out/a.ifc"])
def test_other_types_are_refused(destination: Any) -> None:
    with pytest.raises(TypeError):
        check_destination(destination)


@pytest.mark.parametrize("suffix", ["", "/"])
def test_folder_whose_path_is_a_file_is_refused(tmp_path: Path, suffix: str) -> None:
    (tmp_path / "exports").write_text("mine")
    with pytest.raises(ValueError, match="means a folder, but is a file"):
        check_destination(f"{tmp_path}/exports{suffix}")


@pytest.mark.parametrize("name", ["file/a.ifc", "file/deeper/"])
def test_folder_that_cannot_be_made_is_an_error_of_the_disk(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DownloadError, match="the folder cannot be written: Not a dir") as caught:
        check_destination(f"{tmp_path}/{name}")
    assert caught.value.reason == "disk"


def test_protected_file_is_refused_by_any_of_its_names(tmp_path: Path) -> None:
    (tmp_path / "exports.db").write_text("ledger")
    (tmp_path / "link.db").symlink_to("exports.db")
    protected = [tmp_path / "exports.db", tmp_path / "exports.db-lock"]
    for name in ("exports.db", "link.db", "exports.db-lock", "sub/../exports.db-lock"):
        (tmp_path / "sub").mkdir(exist_ok=True)
        with pytest.raises(ValueError, match="in use by this call"):
            check_destination(f"{tmp_path}/{name}", protected=protected)
    assert check_destination(f"{tmp_path}/other.db", protected=protected).name == "other.db"


def test_written_files_are_known_until_they_change(tmp_path: Path) -> None:
    written = WrittenFiles(limit=2)
    paths = [tmp_path / f"{number}.ifc" for number in range(3)]
    for path in paths:
        path.write_text("ours")
        written.add(identify(path))
    written.add(identify(tmp_path / "gone.ifc"))
    assert [path in written for path in paths] == [False, True, True]
    paths[1].write_text("mine now")
    paths[2].unlink()
    assert [path in written for path in paths] == [False, False, False]
