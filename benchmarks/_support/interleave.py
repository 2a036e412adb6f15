"""Measuring by turns, so that what the machine does meanwhile befalls all contenders alike."""

from collections.abc import Iterable, Iterator, Sequence
from statistics import median

from attrs import field, frozen


def rounds(names: Sequence[str], count: int) -> Iterator[str]:
    """Each name once a round; each round begins with another one."""
    for number in range(count):
        first = number % len(names)
        yield from (*names[first:], *names[:first])


@frozen
class Samples:
    """What was measured of each contender, round by round."""

    taken: dict[str, list[float]] = field(factory=dict)

    def add(self, name: str, value: float) -> None:
        """The next measurement of this contender."""
        self.taken.setdefault(name, []).append(value)

    def extend(self, later: "Samples") -> None:
        """All of the measurements that were taken elsewhere."""
        for name, values in later.taken.items():
            self.taken.setdefault(name, []).extend(values)

    def typical(self, name: str) -> float:
        """The median."""
        return median(self.taken[name])

    def ratio(self, name: str, to: str) -> float:
        """The median of the ratios to another contender in the same round."""
        pairs: Iterable[tuple[float, float]] = zip(self.taken[name], self.taken[to], strict=True)
        return median(one / other for one, other in pairs)
