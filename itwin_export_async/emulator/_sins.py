"""What a client must not do, and has done."""

from urllib.parse import urlsplit

from attrs import frozen

from itwin_export_async.emulator._exchange import Exchange


@frozen(kw_only=True)
class Sin:
    """Something that a client must not do: `what` in a word, and `words` for people.

    `at` is when, in seconds since the first request; `operation`, `method` and `path` are those
    of the request that did it.
    """

    what: str
    at: float
    operation: str
    method: str
    path: str
    words: str

    def __str__(self) -> str:
        return f"{self.at:.3f} s, {self.method} {self.path} ({self.operation}): {self.words}"


class Sins:
    """The sins of one emulator's clients, each cause recorded once."""

    def __init__(self) -> None:
        self.found: list[Sin] = []
        self._causes: set[tuple[object, ...]] = set()

    def record(self, what: str, exchange: Exchange, words: str, *cause: object) -> None:
        """Record a sin, unless one of this kind and cause is recorded already."""
        if (what, *cause) in self._causes:
            return
        self._causes.add((what, *cause))
        self.found.append(
            Sin(
                what=what,
                at=exchange.at,
                operation=exchange.operation,
                method=exchange.request.method,
                path=urlsplit(exchange.request.url).path,
                words=words,
            )
        )

    def assert_none(self) -> None:
        """Raise an `AssertionError` that names all sins, if there are any."""
        if self.found:
            lines = "".join(f"\n  {sin}" for sin in self.found)
            raise AssertionError(f"what the client must not do and did ({len(self.found)}):{lines}")
