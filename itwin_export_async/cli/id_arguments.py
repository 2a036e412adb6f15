"""Ids on the command line: one of 64 begins with a hyphen, as options do."""

import re
from typing import Any

from typer.core import TyperCommand

_LIKE_AN_ID = re.compile(r"-[\w-]{30,}", re.ASCII)  # no option is as long


class TakesId(TyperCommand):
    """A command whose argument is an id, also where it begins with a hyphen."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Read the words; what could only be an id is none of the options."""
        glued = tuple(name for option in self.params for name in option.opts if len(name) == 2)
        ids = [word for word in args if _LIKE_AN_ID.fullmatch(word) and not word.startswith(glued)]
        if ids and "--" not in args:
            args = [*(word for word in args if word not in ids), "--", *ids]
        return super().parse_args(ctx, args)
