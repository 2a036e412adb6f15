"""The files that a command reads and writes."""

import os
from collections.abc import Iterable


def check_apart(named: Iterable[tuple[str, str | os.PathLike[str] | None]]) -> None:
    """Raise a `ValueError` where two of them are one, which would be overwritten.

    `named`: what each is, and its path; None where there is none. Several may be the same thing.
    """
    taken: dict[str, str] = {}
    for what, path in named:
        if path is None:
            continue
        other = taken.setdefault(os.path.realpath(path), what)
        if other != what:
            raise ValueError(f"{path} cannot be {other} and {what} in one")
