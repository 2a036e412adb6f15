"""Names of files: made safe where a service chose them, numbered where one is taken."""

import re
from collections.abc import Iterator

_UNFIT = re.compile(r'[<>:"|?*$`]')
_LEADING = re.compile(r"^[-.~=+@]+")  # a hidden file, an option, a home folder, a formula
_RESERVED = re.compile(
    r"((con|prn|aux|nul|com\d|lpt\d)\s*(\.|$)|(desktop\.ini|autorun\.inf|thumbs\.db)$)",
    re.IGNORECASE,
)
_MAX_BYTES = 240  # file systems take 255, and a number needs some
_MAX_SUFFIX_BYTES = 20


def has_suffix(path: str) -> bool:
    """Whether the last component has a suffix, such as `.ifc`. A hidden name has none."""
    stem, _, suffix = re.split(r"[/\\]", path)[-1].rpartition(".")
    return bool(stem.strip(".")) and bool(suffix)


def safe_name(display_name: str, *, fallback: str) -> str:
    """A file name from a name that a service chose.

    Only the last component counts, so that the file stays in its folder. The name does not begin
    with a dot, contains no control or formatting character and nothing that a shell or a file
    system would act on, and every file system takes it.
    """
    return _sanitize(display_name) or _sanitize(fallback) or "output"


def _sanitize(text: str) -> str:
    name = re.split(r"[/\\]", text)[-1].encode(errors="replace").decode()
    name = "".join(char if char.isprintable() else "_" for char in name)
    name = _UNFIT.sub("_", name).strip().rstrip(". ")
    name = _LEADING.sub("_", name)
    if _RESERVED.match(name):
        name = f"_{name}"
    stem, dot, suffix = name.rpartition(".")
    if not stem or len(suffix.encode()) > _MAX_SUFFIX_BYTES:
        stem, dot, suffix = name, "", ""
    room = _MAX_BYTES - len((dot + suffix).encode())
    return stem.encode()[:room].decode(errors="ignore").rstrip(". ") + dot + suffix


def numbered(name: str) -> Iterator[str]:
    """The name, then with `-2`, `-3`, ... before its suffix."""
    yield name
    stem, dot, suffix = name.rpartition(".")
    if not stem.strip("."):
        stem, dot, suffix = name, "", ""
    number = 1
    while True:
        number += 1
        yield f"{stem}-{number}{dot}{suffix}"
