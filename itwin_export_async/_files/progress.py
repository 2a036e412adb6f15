"""How far a transfer has come, told to whoever wants to know."""

import inspect
from collections.abc import Callable
from typing import Any

Progress = Callable[[int, int | None], Any]
"""Called with the bytes done and the bytes in total (None when not told); sync or async."""


async def report(on_progress: Progress | None, done: int, total: int | None) -> None:
    """Call it, if there is one, and wait for it where it is asynchronous."""
    if on_progress is not None:
        told = on_progress(done, total)
        if inspect.isawaitable(told):
            await told
