"""Faults: what happens to a request on its way, and the faults that a test has injected."""

from collections import defaultdict, deque
from collections.abc import Callable
from typing import TypeAlias

from attrs import evolve, frozen

from itwin_export_async._protocol.messages import Response

Outcome: TypeAlias = Response | ConnectionError | TimeoutError

INJECTED = "injected"


@frozen(kw_only=True)
class Fault:
    """What happens to one request.

    - `instead` replaces the answer; None leaves it.
    - `has_effect` says whether the handler is called all the same.
    - `truncate_at` returns after how many bytes of a body of some length the connection breaks.
    - The answer, or the break, is delayed by `delay` seconds.
    """

    name: str
    instead: Outcome | None = None
    has_effect: bool = True
    truncate_at: Callable[[int], int] | None = None
    delay: float = 0.0


def parse_outcome(given: object) -> Outcome | None:
    """Return a fault as a response or an exception; None stands for the real answer.

    An integer is a response of that status.
    """
    match given:
        case None:
            return None
        case bool():
            pass
        case int():
            return Response(status=_status(given))
        case Response():
            headers = {name: str(value) for name, value in given.headers.items()}
            return evolve(given, status=_status(given.status), headers=headers)
        case ConnectionError() | TimeoutError():
            return given
        case type() if issubclass(given, Exception):
            raise TypeError(f"a fault must be an instance: write {given.__name__}()")
        case _:
            pass
    raise TypeError(
        f"a fault must be a Response, a status, a ConnectionError, a TimeoutError or None, "
        f"got {given!r}"
    )


def _status(status: object) -> int:
    if not isinstance(status, int) or not 200 <= status <= 599:
        raise ValueError(f"the status of a fault must be from 200 to 599, got {status!r}")
    return status


class FaultQueue:
    """The injected faults that wait for a request, by operation."""

    def __init__(self) -> None:
        self._waiting: defaultdict[str, deque[Fault]] = defaultdict(deque)

    def add(
        self,
        operation: str,
        outcome: Outcome | None,
        *,
        apply_effect: bool,
        truncate_after: int | None,
        delay: float,
    ) -> None:
        """Add a fault; with `apply_effect` the request is processed all the same."""
        self._waiting[operation].append(
            Fault(
                name=INJECTED,
                instead=outcome,
                has_effect=apply_effect or outcome is None,
                truncate_at=None if truncate_after is None else lambda _length: truncate_after,
                delay=delay,
            )
        )

    def next(self, operation: str) -> Fault | None:
        """Take the next fault of an operation, None if there is none."""
        waiting = self._waiting.get(operation)
        return waiting.popleft() if waiting else None

    def unmet(self) -> list[str]:
        """Return a description of each fault that has met no request."""
        return [
            f"{operation}: {_describe(fault)}"
            for operation, waiting in self._waiting.items()
            for fault in waiting
        ]


def _describe(fault: Fault) -> str:
    match fault.instead:
        case Response(status=status):
            return str(status)
        case None if fault.truncate_at is not None:
            return "a truncated answer"
        case None:
            return "a delayed answer" if fault.delay else "the real answer"
        case failure:
            return type(failure).__name__
