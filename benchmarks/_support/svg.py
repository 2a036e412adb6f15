"""Bars on a logarithmic axis, as SVG for light and for dark pages."""

import math
from html import escape

from attrs import field, frozen

LEFT, RIGHT, WIDTH, TOP, LINE = 270, 700, 820, 56, 22  # pixels

_STYLE = """<style>
text { font: 12px sans-serif; fill: #1f2328 }
.title { font-size: 14px } .paper { fill: #ffffff } .grid { stroke: #d8dee4 }
.ours { fill: #2a6fb0; stroke: #2a6fb0 } .other { fill: #8c9bab; stroke: #8c9bab }
.goal { stroke: #cf222e; stroke-width: 2 }
@media (prefers-color-scheme: dark) {
text { fill: #e6edf3 } .paper { fill: #0d1117 } .grid { stroke: #30363d }
.ours { fill: #58a6ff; stroke: #58a6ff } .other { fill: #6e7681; stroke: #6e7681 }
.goal { stroke: #ff7b72 }
}
</style>"""


@frozen(kw_only=True)
class Bar:
    """One bar: from the origin to `value`, a line on to `worst`, and ticks at the goals."""

    name: str
    value: float
    label: str = ""
    worst: float | None = None
    goals: tuple[float, ...] = ()
    is_ours: bool = False


@frozen(kw_only=True)
class Figure:
    """Bars between the first and the last of the `ticks`, where longer bars are cut off.

    `origin` is where bars begin.
    """

    title: str
    bars: tuple[Bar, ...]
    ticks: tuple[float, ...] = field()
    origin: float = 1.0

    @ticks.validator
    def _rise(self, _: object, ticks: tuple[float, ...]) -> None:
        if len(ticks) < 2 or ticks[0] <= 0 or list(ticks) != sorted(set(ticks)):
            raise ValueError(f"ticks must be positive and rise, not {ticks}")

    def svg(self) -> str:
        """The text of the SVG file."""
        bottom = TOP + LINE * len(self.bars)
        parts = [
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{bottom + 16}"'
            f' viewBox="0 0 {WIDTH} {bottom + 16}">{_STYLE}'
            '<rect class="paper" width="100%" height="100%"/>',
            f'<text class="title" x="12" y="20">{escape(self.title)}</text>',
            *(self._tick(tick, bottom) for tick in self.ticks),
            *(self._bar(bar, TOP + LINE * number) for number, bar in enumerate(self.bars)),
        ]
        return "\n".join([*parts, "</svg>\n"])

    def x(self, value: float) -> float:
        """The position of a value, in pixels."""
        first, last = math.log(self.ticks[0]), math.log(self.ticks[-1])
        inside = min(max(value, self.ticks[0]), self.ticks[-1])
        return round(LEFT + (math.log(inside) - first) / (last - first) * (RIGHT - LEFT), 1)

    def _tick(self, tick: float, bottom: int) -> str:
        x = self.x(tick)
        return (
            f'<path class="grid" d="M{x} {TOP - 6}V{bottom}"/>'
            f'<text x="{x}" y="{TOP - 12}" text-anchor="middle">{tick:g}</text>'
        )

    def _bar(self, bar: Bar, y: int) -> str:
        start, end = sorted((self.x(self.origin), self.x(bar.value)))
        kind = "ours" if bar.is_ours else "other"
        tip = end
        parts = [
            f'<text x="{LEFT - 8}" y="{y + 14}" text-anchor="end">{escape(bar.name)}</text>'
            f'<rect class="{kind}" x="{start}" y="{y + 4}" width="{max(1.0, end - start):.1f}"'
            ' height="12"/>'
        ]
        if bar.worst is not None:
            tip = self.x(bar.worst)
            parts.append(f'<path class="{kind}" d="M{end} {y + 10}H{tip}"/>')
        if bar.goals:
            marks = "".join(f"M{self.x(goal)} {y + 2}v16" for goal in bar.goals)
            parts.append(f'<path class="goal" d="{marks}"/>')
            tip = max(tip, *map(self.x, bar.goals))
        if bar.label:
            parts.append(f'<text x="{tip + 6}" y="{y + 14}">{escape(bar.label)}</text>')
        return "".join(parts)
