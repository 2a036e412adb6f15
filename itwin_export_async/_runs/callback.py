"""Calling the functions that a caller has passed."""

import asyncio
import inspect
from collections.abc import Callable
from typing import Any

from attrs import define, field


def _cancellations() -> int:
    task = asyncio.current_task()
    assert task is not None
    return task.cancelling()


@define(eq=False)
class Callback:
    """A function of the caller, sync or async. Without one, a call does nothing.

    A `CancelledError` that the function raises itself becomes a `RuntimeError`, so that it does not
    pass for a cancellation of the task.
    """

    name: str
    function: Callable[[Any], Any] | None
    _cancellations: int = field(init=False, factory=_cancellations)  # of the task, so far

    async def __call__(self, argument: object) -> None:
        """Call the function in the caller's task. Raises what the function raises."""
        if self.function is None:
            return
        try:
            result = self.function(argument)
            if inspect.isawaitable(result):
                await result
        except asyncio.CancelledError as error:
            if _cancellations() > self._cancellations:  # the caller's own, or a timeout's
                raise
            raise RuntimeError(f"{self.name} raised CancelledError") from error
