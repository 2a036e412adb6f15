"""Names of files: safe where a service chose them, numbered where one is taken."""

import unicodedata
from itertools import islice
from pathlib import PurePosixPath, PureWindowsPath

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from itwin_export_async._files.names import has_suffix, numbered, safe_name


@pytest.mark.parametrize(
    ("display_name", "name"),
    [
        ("bridge.ifc", "bridge.ifc"),
        ("Brücke 3 (neu).ifc", "Brücke 3 (neu).ifc"),
        ("A & B, 50%.ifc", "A & B, 50%.ifc"),
        ("../../etc/passwd", "passwd"),
        ("..\\..\\boot.ini", "boot.ini"),
        ("/abs/olute.ifc", "olute.ifc"),
        ("C:\\temp\\a.ifc", "a.ifc"),
        ("a:b*c?.ifc", "a_b_c_.ifc"),
        ("$(rm -rf ~)`id`.ifc", "_(rm -rf ~)_id_.ifc"),
        ("nul", "_nul"),
        ("CON.ifc", "_CON.ifc"),
        ("conduit.ifc", "conduit.ifc"),
        ("Desktop.ini", "_Desktop.ini"),
        ("a.ifc. .", "a.ifc"),
        ("a\x00b\n.ifc", "a_b_.ifc"),
        ("fdp\u202excfi.exe", "fdp_xcfi.exe"),
        ("a\u2028b\u200b.ifc", "a_b_.ifc"),
        (".bashrc", "_bashrc"),
        ("...hidden.ifc", "_hidden.ifc"),
        (" .ssh", "_ssh"),
        ("-rf.ifc", "_rf.ifc"),
        ("~root", "_root"),
        ("=cmd().ifc", "_cmd().ifc"),
        ("", "f1"),
        (".", "f1"),
        ("..", "f1"),
        ("folder/", "f1"),
        ("  ", "f1"),
    ],
)
def test_name_is_made_safe(display_name: str, name: str) -> None:
    assert safe_name(display_name, fallback="f1") == name


nasty = st.text() | st.lists(
    st.sampled_from(["..", "/", "\\", ".", " ", "con", "a", "\x00", ":", "-", "橋" * 90, "x" * 250])
).map("".join)


@given(nasty, nasty)
@example("", "../../x")
@example("..", "..")
@example("", "")
@example("橋" * 250 + ".ifc", "f")
@example("x" * 199 + ". y.ifc", "f")
@example("a .", "f")
@example("\ud800.ifc", "f")
@example("x" * 235 + ".part" + "y" * 21, "f")
def test_any_name_stays_in_its_folder_and_fits_any_file_system(
    display_name: str, fallback: str
) -> None:
    name = safe_name(display_name, fallback=fallback)
    assert name not in ("", ".", "..")
    assert not name.startswith((".", "-", "~"))
    assert PurePosixPath("out", name).parent == PurePosixPath("out")
    assert PureWindowsPath("out", name).parent == PureWindowsPath("out")
    assert PureWindowsPath("out", name).name == name
    assert not PureWindowsPath(name).drive
    assert not set(name) & set('\x00/\\<>:"|?*$`')
    assert not {unicodedata.category(char) for char in name} & {"Cc", "Cf", "Cs", "Zl", "Zp"}
    assert name == name.strip().rstrip(".")
    last = next(islice(numbered(name), 999, None))
    assert len(last.encode()) <= 255


@pytest.mark.parametrize("long", ["x" * 300, "橋" * 300])
def test_long_name_keeps_its_ending(long: str) -> None:
    name = safe_name(f"{long}.ifc", fallback="f1")
    assert name.startswith(long[:40])
    assert name.endswith(".ifc")


@pytest.mark.parametrize(
    ("name", "third"),
    [("a.ifc", "a-3.ifc"), ("a.b.ifc", "a.b-3.ifc"), ("a", "a-3"), (".hidden", ".hidden-3")],
)
def test_number_stands_before_the_suffix(name: str, third: str) -> None:
    assert list(islice(numbered(name), 3))[::2] == [name, third]


@pytest.mark.parametrize(
    ("path", "has"),
    [
        ("out/bridge.ifc", True),
        ("v1.2", True),
        ("exports", False),
        ("exports/", False),
        ("a.ifc/", False),
        ("a.ifc/b", False),
        (".hidden", False),
        ("..", False),
        ("name.", False),
        (".hidden.ifc", True),
    ],
)
def test_suffix_is_that_of_the_last_component(path: str, has: bool) -> None:
    assert has_suffix(path) is has
