"""The examples of the README, which tests run as they stand."""

import ast
import inspect
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from attrs import frozen

import itwin_export_async

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")

_PART = re.compile(
    r"^## (?P<heading>[^\n]+)$|^```(?P<language>\w*)\n(?P<code>.*?)^```$", re.S | re.M
)
_FILE = re.compile(r"(?:# |<!-- )(\w+\.(?:py|html))\b")


@frozen(kw_only=True)
class Example:
    """A code block: its section, its language, and its file's name, None for a fragment.

    A fragment stands inside a coroutine that has the names of the package, and those that the text
    around it introduces, such as `client`.
    """

    heading: str
    language: str
    code: str
    file: str | None

    def __str__(self) -> str:
        return self.file or f"{self.heading}: {self.code.partition(chr(10))[0]}"

    async def run(self, **names: Any) -> dict[str, Any]:
        """Run a fragment with these names, and return all names it knows afterwards."""
        names |= {name: getattr(itwin_export_async, name) for name in itwin_export_async.__all__}
        flags = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
        work = eval(compile(self.code, "README.md", "exec", flags=flags), names)
        if inspect.isawaitable(work):
            await work
        return names


def _examples() -> tuple[Example, ...]:
    found, heading = [], ""
    for part in _PART.finditer(README):
        heading = part["heading"] or heading
        if part["code"] is not None:
            named = _FILE.match(part["code"])
            file = named and named[1]
            found.append(
                Example(heading=heading, language=part["language"], code=part["code"], file=file)
            )
    return tuple(found)


EXAMPLES = _examples()
FRAGMENTS = tuple(e for e in EXAMPLES if e.language == "python" and e.file is None)


def examples_of(heading: str, language: str = "python") -> tuple[Example, ...]:
    """The code blocks of a section, in order."""
    found = tuple(e for e in EXAMPLES if (e.heading, e.language) == (heading, language))
    assert found, f"the README has no {language} below {heading!r}"
    return found


def example_files() -> Mapping[str, str]:
    """The code blocks that name their file in the first line, by that name."""
    return {example.file: example.code for example in EXAMPLES if example.file is not None}


def command_lines() -> tuple[str, ...]:
    """The command lines of `itwin-export`, without their comments."""
    blocks = (example.code for example in EXAMPLES if example.language == "sh")
    lines = (line.partition("#")[0].strip() for block in blocks for line in block.splitlines())
    return tuple(line for line in lines if line.startswith("itwin-export "))
