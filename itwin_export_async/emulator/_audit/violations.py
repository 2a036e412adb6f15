"""Violations: what a client must not do, and did."""

from collections import Counter
from collections.abc import Sequence

from attrs import frozen

from itwin_export_async.emulator._http.exchange import Exchange

_MAX_VIOLATIONS = 10_000


@frozen(kw_only=True)
class Violation:
    """Something that a client must not do: `kind` names it, `message` explains it.

    `at` is when, in seconds since the first request. `operation`, `method` and `path` are those of
    the request.
    """

    kind: str
    at: float
    operation: str
    method: str
    path: str
    message: str

    def __str__(self) -> str:
        return f"{self.at:.3f} s, {self.method} {self.path} ({self.operation}): {self.message}"


class ViolationLog:
    """The violations of one emulator's clients. Each cause is recorded once."""

    def __init__(self) -> None:
        self.violations: list[Violation] = []
        self._causes: set[tuple[object, ...]] = set()

    def record(self, kind: str, exchange: Exchange, message: str, *cause: object) -> None:
        """Record a violation, unless there is one of this kind and cause already."""
        if (kind, *cause) in self._causes or len(self.violations) >= _MAX_VIOLATIONS:
            return
        self._causes.add((kind, *cause))
        self.violations.append(
            Violation(
                kind=kind,
                at=exchange.at,
                operation=exchange.operation,
                method=exchange.request.method,
                path=exchange.path,
                message=message,
            )
        )

    def assert_none(self, unmet_faults: Sequence[str]) -> None:
        """Raise an `AssertionError` that names all violations and all faults without a request."""
        problems = []
        if self.violations:
            lines = "".join(f"\n  {violation}" for violation in self.violations)
            problems.append(f"{_count(len(self.violations), 'violation')} of the client:{lines}")
        if unmet_faults:
            counts = Counter(unmet_faults)
            lines = "".join(f"\n  {fault} ({times} times)" for fault, times in counts.items())
            lines = lines.replace(" (1 times)", "")
            count = _count(len(unmet_faults), "injected fault")
            problems.append(f"{count} met no request of its operation:{lines}")
        if problems:
            raise AssertionError("\n".join(problems))


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
