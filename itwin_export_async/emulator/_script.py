"""Answers laid down beforehand."""

from collections import defaultdict, deque
from collections.abc import Callable

from attrs import frozen

from itwin_export_async._protocol.http import Response

Outcome = Response | ConnectionError | TimeoutError


@frozen(kw_only=True)
class _Scripted:
    outcome: Outcome
    after: bool


class Script:
    """What the next requests of each operation get instead of the truth."""

    def __init__(self) -> None:
        self._waiting: defaultdict[str, deque[_Scripted]] = defaultdict(deque)

    def add(self, operation: str, *outcomes: Outcome, after: bool) -> None:
        """Lay down outcomes; `after` means that the request has its effect all the same."""
        self._waiting[operation] += [_Scripted(outcome=o, after=after) for o in outcomes]

    def play(self, operation: str, truth: Callable[[], Response]) -> Response:
        """The next outcome laid down, a broken connection raised; else the truth."""
        if not self._waiting[operation]:
            return truth()
        scripted = self._waiting[operation].popleft()
        if scripted.after:
            truth()
        if isinstance(scripted.outcome, Response):
            return scripted.outcome
        raise scripted.outcome
