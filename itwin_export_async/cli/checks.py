"""What the user gives is checked before anything is sent: ids, paths and IFC versions."""

import asyncio
import errno
import os
import re
from collections.abc import Iterable
from pathlib import Path

from itwin_export_async import DownloadError, IfcVersion
from itwin_export_async._files.destinations import check_destination  # no public name yet
from itwin_export_async._redaction import holds_secret, safe_repr  # no public name yet
from itwin_export_async.cli.errors import UsageError, message, user_input

STDOUT = "-"
_GUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)


def check_guid(name: str, value: str) -> str:
    """The id of an iModel or an iTwin, which is a GUID."""
    check_id(name, value)
    if not _GUID.fullmatch(value):
        raise UsageError(
            f"{name} {safe_repr(value)} is not a GUID such as 7dbd531d-6967-47b2-8945-a722a437ad7a"
        )
    return value


def check_id(name: str, value: str) -> str:
    """An id that the service made: one word, which is opaque."""
    if not value.strip():
        raise UsageError(f"{name} is empty")
    is_word = value.isprintable() and not re.search(r"[\s/\\?#]", value)
    if value in (".", "..") or not is_word or holds_secret(value):
        raise UsageError(f"{name} {safe_repr(value)} is not an id")
    return value


def check_ifc_version(value: str) -> str:
    """The IFC version in the service's spelling. A text that begins with IFC may be a newer one."""
    if not value.casefold().startswith("ifc") or holds_secret(value):
        known = ", ".join(repr(version.value) for version in IfcVersion)
        raise UsageError(f"{safe_repr(value)} is not one of {known}")
    with user_input():
        return IfcVersion.parse(value).value


def check_output(output: str, *, name: str = "output", as_json: bool = False) -> None:
    """Raise a `UsageError` for an output path that cannot be written.

    `as_json`: standard output is for JSON.
    """
    if not output:
        raise UsageError(f"--{name} is empty: give a file or a folder")
    if output == STDOUT:
        if as_json:
            raise UsageError("--json does not go with -o -: both are for standard output")
        return
    try:
        with user_input():
            check_destination(output, name=name)
    except DownloadError as error:
        raise UsageError(f"{name}: {message(error)}") from error


def check_distinct_paths(named: Iterable[tuple[str, str | os.PathLike[str] | None]]) -> None:
    """Raise a `UsageError` where two of the files are one, and would be overwritten.

    `named`: what each is, and its path; None where there is none. Several may be the same thing.
    """
    seen: dict[str, str] = {}
    for what, path in named:
        if path is None:
            continue
        other = seen.setdefault(os.path.realpath(path), what)
        if other != what:
            raise UsageError(f"{path} cannot be both {other} and {what}")


async def prepare_folder(folder: Path, *, purpose: str) -> None:
    """Make the folder. `purpose`: what it is for, which a `UsageError` says."""
    await asyncio.to_thread(_make_folder, folder, purpose)


def _make_folder(folder: Path, purpose: str) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except OSError as error:
        raise UsageError(
            f"{purpose}: the folder {folder} cannot be written: {error.strerror}"
        ) from error
