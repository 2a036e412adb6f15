"""Answers laid down beforehand."""

from collections import defaultdict, deque
from collections.abc import Callable

from itwin_export_async.emulator._faults import Fault, Outcome

_NAME = "scripted"


class Script:
    """What the next requests of each operation meet."""

    def __init__(self) -> None:
        self._waiting: defaultdict[str, deque[Fault]] = defaultdict(deque)

    def add(
        self,
        operation: str,
        *outcomes: Outcome | None,
        after: bool,
        after_bytes: int | None,
        late: float,
    ) -> None:
        """Lay down outcomes; `after` means that the request has its effect all the same."""
        for outcome in outcomes:
            fault = Fault(
                name=_NAME,
                instead=outcome,
                has_effect=after or outcome is None,
                breaks_at=None if after_bytes is None else _at(after_bytes),
                late=late,
            )
            self._waiting[operation].append(fault)

    def next(self, operation: str) -> Fault | None:
        """The next fault laid down, or None."""
        waiting = self._waiting.get(operation)
        return waiting.popleft() if waiting else None


def _at(after_bytes: int) -> Callable[[int], int]:
    return lambda _length: after_bytes
