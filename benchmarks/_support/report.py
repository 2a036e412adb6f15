"""The report of a benchmark: a table, the figures behind it, and how they stand to the goals."""

from collections.abc import Iterable, Mapping, Sequence

from attrs import field, frozen

from benchmarks._support.interleave import Quartiles
from benchmarks._support.svg import Figure


@frozen(kw_only=True)
class Goal:
    """A limit for one figure, and the figure.

    `unit` follows the number, with its space. `quartiles`: of the measurements, where there are
    several. `possible`: the best that anything can reach, where that is known. `reason`: a sentence
    that says why a goal that is missed cannot be met. `in_readme`: a row of the README.
    """

    what: str
    limit: float
    measured: float
    unit: str = ""
    at_least: bool = False
    quartiles: Quartiles | None = None
    possible: float | None = None
    reason: str = ""
    in_readme: bool = False

    @property
    def is_met(self) -> bool:
        """Whether the figure is within its limit."""
        if self.at_least:
            return self.measured >= self.limit
        return self.measured <= self.limit

    @property
    def is_possible(self) -> bool:
        """Whether the figure could be within its limit, as far as that is known."""
        if self.possible is None:
            return True
        return self.possible >= self.limit if self.at_least else self.possible <= self.limit

    @property
    def verdict(self) -> str:
        """In a few words."""
        if self.is_met:
            return "met"
        return "missed" if self.is_possible else "missed; not possible"

    @property
    def limit_text(self) -> str:
        """The goal in words."""
        return f"at {'least' if self.at_least else 'most'} {self.limit:,g}{self.unit}"

    @property
    def measured_text(self) -> str:
        """The figure, with its quartiles."""
        if self.quartiles is None:
            return format_number(self.measured)
        low, high = format_number(self.quartiles.low), format_number(self.quartiles.high)
        return f"{format_number(self.measured)} ({low} to {high})"

    def row(self) -> tuple[str, ...]:
        """Its line in the table of goals."""
        possible = "" if self.possible is None else format_number(self.possible)
        return (self.what, self.limit_text, self.measured_text, possible, self.verdict)

    def readme_row(self) -> tuple[str, ...]:
        """Its line in the README."""
        return (self.what, self.limit_text, format_number(self.measured), self.verdict)


GOALS_HEAD = ("what", "goal", "measured", "possible", "verdict")
README_HEAD = ("what", "goal", "measured", "verdict")


@frozen(kw_only=True)
class Report:
    """What one benchmark found.

    `method` says what is measured, and how. `bounds` says what bounds it from below. `values` has
    the figures unrounded, by what they are of. `caption` says what the figure shows.
    """

    name: str
    title: str
    method: str
    bounds: tuple[str, ...]
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    goals: tuple[Goal, ...] = ()
    values: Mapping[str, float] = field(factory=dict)
    figure: Figure | None = None
    caption: str = ""

    def __str__(self) -> str:
        lines = [self.title, "", table(self.head, self.rows), "", *self.bounds]
        return "\n".join(lines) + "\n"


def format_number(value: float) -> str:
    """A number as tables show it."""
    size = abs(value)
    if size < 10:
        return f"{value:.3f}".rstrip("0").rstrip(".")
    return f"{value:.1f}" if size < 100 else f"{value:,.0f}"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """The rows in columns, the first to the left and the others to the right."""
    lines = [head, *rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(
            word.rjust(width) if number else word.ljust(width)
            for number, (word, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def markdown(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """The rows as a table of Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
