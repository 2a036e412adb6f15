"""The words of docstrings, comments, messages and the README are those of technical English."""

import ast
import re
import tokenize
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import pytest

from tests.support.readme import README, ROOT

PACKAGE = ROOT / "itwin_export_async"
BANNED = re.compile(
    r"\b(who|whoever|whom|told|tells|heard|anew|amiss|nobody|somebody|goes on|come by|dear"
    r"|mend(ed|s)?|lay down|befalls?|foretell\w*|asked|sighting|patience)\b",
    re.IGNORECASE,
)

# words that the services use in their own texts, by module
QUOTATIONS: dict[str, set[str]] = {}


def prose_of(source: str) -> Iterator[tuple[int, str]]:
    """The docstrings, comments and other texts of a module, with the lines they begin in."""
    for token in tokenize.tokenize(BytesIO(source.encode()).readline):
        if token.type == tokenize.COMMENT:
            yield token.start[0], token.string
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.lineno, node.value


def banned_words(source: str) -> list[tuple[int, str]]:
    """The banned words of a module, each with the number of its line."""
    return sorted(
        (line + text.count("\n", 0, found.start()), found[0])
        for line, text in prose_of(source)
        for found in BANNED.finditer(text)
    )


MODULES = sorted(PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_module_uses_no_banned_word(path: Path) -> None:
    quoted = QUOTATIONS.get(path.relative_to(PACKAGE).as_posix(), set())
    found = banned_words(path.read_text(encoding="utf-8"))
    assert [(line, word) for line, word in found if word not in quoted] == []


def test_readme_uses_no_banned_word() -> None:
    assert [found[0] for found in BANNED.finditer(README)] == []


def test_banned_words_are_found_in_docstrings_comments_and_messages() -> None:
    source = '"""Two lines,\nfor whoever."""\nx = f"nobody {1}"  # asked for\n'
    assert banned_words(source) == [(2, "whoever"), (3, "asked"), (3, "nobody")]
