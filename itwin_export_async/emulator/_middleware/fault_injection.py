"""Answers laid down beforehand."""

from collections import defaultdict, deque
from collections.abc import Callable

from itwin_export_async.emulator._middleware.faults import Fault, Outcome

_NAME = "scripted"


class Script:
    """What the next requests of each operation meet."""

    def __init__(self) -> None:
        self._waiting: defaultdict[str, deque[Fault]] = defaultdict(deque)

    def add(
        self,
        operation: str,
        *outcomes: Outcome | None,
        apply_effect: bool,
        truncate_after: int | None,
        delay: float,
    ) -> None:
        """Lay down outcomes; `apply_effect` means that the request has its effect all the same."""
        for outcome in outcomes:
            fault = Fault(
                name=_NAME,
                instead=outcome,
                has_effect=apply_effect or outcome is None,
                breaks_at=None if truncate_after is None else _at(truncate_after),
                late=delay,
            )
            self._waiting[operation].append(fault)

    def next(self, operation: str) -> Fault | None:
        """The next fault laid down, or None."""
        waiting = self._waiting.get(operation)
        return waiting.popleft() if waiting else None


def _at(truncate_after: int) -> Callable[[int], int]:
    return lambda _length: truncate_after
