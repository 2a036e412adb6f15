"""The figure of what schedules cost."""

import math
from collections.abc import Iterable

from attrs import frozen

LEFT, RIGHT, TOP, LINE, MOST = 190, 700, 56, 22, 16.0  # pixels; the ratio at the right edge


@frozen
class Bar:
    """What a schedule costs on average and at worst, relative to the optimum, and its goals."""

    name: str
    mean: float
    worst: float
    goal: tuple[float, float] | None
    color: str


def figure(bars: Iterable[Bar]) -> str:
    """A bar from 1 to the mean, a line on to the worst, and ticks at the goals."""
    bars = list(bars)
    bottom = TOP + LINE * len(bars)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{RIGHT + 40}" height="{bottom + 40}"'
        ' font-family="sans-serif" font-size="12"><rect width="100%" height="100%" fill="white"/>',
        f'<text x="{LEFT}" y="20" font-size="14">Cost of polls and lag, relative to the optimum'
        " (bar: mean, line: worst, red: goals)</text>",
    ]
    for tick in (1, 1.5, 2, 3, 4, 6, 8, 12, 16):
        x = _x(tick)
        parts.append(
            f'<path d="M{x} {TOP - 6}V{bottom}" stroke="#ddd"/>'
            f'<text x="{x}" y="{TOP - 12}" text-anchor="middle">{tick:g}</text>'
        )
    for number, bar in enumerate(bars):
        y = TOP + LINE * number
        mean, worst = _x(bar.mean), _x(bar.worst)
        parts.append(
            f'<text x="{LEFT - 8}" y="{y + 14}" text-anchor="end">{bar.name}</text>'
            f'<rect x="{LEFT}" y="{y + 4}" width="{max(1.0, mean - LEFT):.1f}" height="12"'
            f' fill="{bar.color}"/><path d="M{mean} {y + 10}H{worst}" stroke="{bar.color}"/>'
        )
        marks = (f"M{_x(goal)} {y + 2}v16" for goal in bar.goal or ())
        parts.append(f'<path d="{"".join(marks)}" stroke="#c22" stroke-width="2"/>')
    return "\n".join([*parts, "</svg>\n"])


def _x(ratio: float) -> float:
    """Where a ratio stands, on a logarithmic axis."""
    part = math.log(max(1.0, min(ratio, MOST))) / math.log(MOST)
    return round(LEFT + part * (RIGHT - LEFT), 1)
