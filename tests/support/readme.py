"""The code blocks of the README, which tests run as they stand."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")

_BLOCK = re.compile(r"```(\w+)\n(.*?)```", re.DOTALL)
_FILE = re.compile(r"(?:# |<!-- )(\w+\.(?:py|html))\b")


def code_blocks(language: str) -> list[str]:
    """The code blocks of a language, in order."""
    return [text for name, text in _BLOCK.findall(README) if name == language]


def code_block(language: str, part: str) -> str:
    """The only code block of a language that has this part."""
    (found,) = [text for text in code_blocks(language) if part in text]
    return found


def example_files() -> dict[str, str]:
    """The code blocks that name their file in the first line, by that name."""
    blocks = (text for _, text in _BLOCK.findall(README))
    return {named[1]: text for text in blocks if (named := _FILE.match(text))}
