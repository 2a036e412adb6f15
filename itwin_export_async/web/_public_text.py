"""Texts of services and of errors, made fit for visitors."""

import re

MAX_TEXT = 500  # characters
HIDDEN = "[...]"

_INTERNALS = re.compile(
    r"""
      \b[a-z][a-z0-9+.-]*://\S+                                       # URLs
    | \b[a-z]:[\\/][^\s"'<>|]*                                        # C:\folder\file
    | \\\\[^\s"'<>|]+                                                 # \\server\share
    | (?<![\w/.-])/[\w.@%+-]+(?:/[\w.@%+-]*)*                         # /srv/folder/file
    | \b[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\b                 # ids
    | \b\d{1,3}(?:\.\d{1,3}){3}(?::\d+)?\b                            # addresses
    | \b(?:[a-z0-9-]+\.)+(?:com|net|org|io|cloud|local|internal|lan|corp)\b(?::\d+)?  # hosts
    | \b(?:bearer|sig|token|secret|password)(?:\s*[=:]\s*|\s+)\S{8,}  # named secrets
    | [\w.+/=-]{40,}                                                  # keys and tokens
    """,
    re.IGNORECASE | re.VERBOSE,
)


def public_text(text: str) -> str:
    """The text in one line, without URLs, paths, hosts, ids and secrets."""
    line = " ".join(text[: 4 * MAX_TEXT].split())
    printable = "".join(char for char in line if char.isprintable())
    return _INTERNALS.sub(HIDDEN, printable)[:MAX_TEXT]
