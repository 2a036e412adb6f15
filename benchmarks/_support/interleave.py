"""Interleaved measurements: load of the machine in the background affects all contenders alike."""

from collections.abc import Iterable, Iterator, Sequence
from statistics import median, quantiles

from attrs import field, frozen


def rounds(names: Sequence[str], count: int) -> Iterator[str]:
    """Each name once a round; each round begins with another name."""
    for number in range(count):
        first = number % len(names)
        yield from (*names[first:], *names[:first])


@frozen
class Quartiles:
    """The median of some measurements, and the quartiles below and above it."""

    low: float
    median: float
    high: float

    @classmethod
    def of(cls, values: Iterable[float]) -> "Quartiles":
        """Of one value all three are that value."""
        found = [*values]
        if len(found) == 1:
            return cls(found[0], found[0], found[0])
        return cls(*quantiles(found, n=4, method="inclusive"))

    def __str__(self) -> str:
        return f"{self.median:.2f} ({self.low:.2f} to {self.high:.2f})"


@frozen
class Samples:
    """The measurements of each contender, round by round."""

    values: dict[str, list[float]] = field(factory=dict)

    def add(self, name: str, value: float) -> None:
        """Add the next measurement of a contender."""
        self.values.setdefault(name, []).append(value)

    def extend(self, later: "Samples") -> None:
        """Add the measurements of other rounds."""
        for name, values in later.values.items():
            self.values.setdefault(name, []).extend(values)

    def median(self, name: str) -> float:
        """The median of a contender."""
        return median(self.values[name])

    def ratio(self, name: str, to: str) -> Quartiles:
        """The ratios to another contender in the same round."""
        pairs = zip(self.values[name], self.values[to], strict=True)
        return Quartiles.of(one / other for one, other in pairs)
