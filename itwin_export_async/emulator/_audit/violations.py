"""What a client must not do, and has done."""

from urllib.parse import urlsplit

from attrs import frozen

from itwin_export_async.emulator._http.exchange import Exchange


@frozen(kw_only=True)
class Violation:
    """Something that a client must not do: `kind` names it, `message` explains it.

    `at` is when, in seconds since the first request; `operation`, `method` and `path` are those
    of the request that did it.
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
    """The violations of one emulator's clients, each cause recorded once."""

    def __init__(self) -> None:
        self.found: list[Violation] = []
        self._causes: set[tuple[object, ...]] = set()

    def record(self, kind: str, exchange: Exchange, message: str, *cause: object) -> None:
        """Record a sin, unless one of this kind and cause is recorded already."""
        if (kind, *cause) in self._causes:
            return
        self._causes.add((kind, *cause))
        self.found.append(
            Violation(
                kind=kind,
                at=exchange.at,
                operation=exchange.operation,
                method=exchange.request.method,
                path=urlsplit(exchange.request.url).path,
                message=message,
            )
        )

    def assert_none(self) -> None:
        """Raise an `AssertionError` that names all violations, if there are any."""
        if self.found:
            lines = "".join(f"\n  {sin}" for sin in self.found)
            raise AssertionError(f"what the client must not do and did ({len(self.found)}):{lines}")
