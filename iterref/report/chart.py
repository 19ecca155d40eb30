"""Chart: series along a run as one inline SVG, a line each, broken where it has no value, as the style sheet draws it.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from itertools import groupby
from math import ceil, floor, log10
from typing import NamedTuple

WIDTH, HEIGHT = 720, 210
LEFT, RIGHT, TOP, BOTTOM = 66, 14, 10, 38  # the margins around the lines, where ticks and names stand

Series = Sequence[float | None]


class Line(NamedTuple):
    """A named line of the number `run` of a page: values `y` (K,), None for none, over `x` (K,), and its looks in the
    style sheet."""

    name: str
    run: int
    x: Sequence[float]
    y: Series
    looks: str


def chart(lines: Sequence[Line], label: str, within: tuple[float, float] | None, axis: str) -> str:
    """A figure of `lines` over what `axis` names. `label` names the figure, `within` sets the ends of the y axis in
    place of the values' own. Empty where no line has a value."""
    values = [value for line in lines for value in line.y if value is not None]
    if not values:
        return ""
    across = [value for line in lines for value in line.x]
    x_low, x_high = _ends(min(across), max(across))
    y_low, y_high = within or _ends(min(values), max(values))

    def x(value: float) -> float:
        return LEFT + (value - x_low) / (x_high - x_low) * (WIDTH - LEFT - RIGHT)

    def y(value: float) -> float:
        return TOP + (y_high - value) / (y_high - y_low) * (HEIGHT - TOP - BOTTOM)

    parts, below = [], HEIGHT - BOTTOM
    for tick in ticks(y_low, y_high, 5):
        parts.append(f'<line class="rule" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y(tick):.1f}" y2="{y(tick):.1f}"/>')
        parts.append(f'<text x="{LEFT - 8}" y="{y(tick) + 4:.1f}" text-anchor="end">{tick:g}</text>')
    for tick in ticks(x_low, x_high, 8):
        parts.append(f'<line class="rule" x1="{x(tick):.1f}" x2="{x(tick):.1f}" y1="{below}" y2="{below + 4}"/>')
        parts.append(f'<text x="{x(tick):.1f}" y="{below + 17}" text-anchor="middle">{tick:g}</text>')
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts.append(f'<text x="{middle:g}" y="{HEIGHT - 4}" text-anchor="middle">{escape(axis)}</text>')
    for line in lines:
        for _, places in groupby(zip(line.x, line.y, strict=True), lambda place: place[1] is None):
            run = [(x(a), y(b)) for a, b in places if b is not None]
            points = " ".join(f"{a:.1f},{b:.1f}" for a, b in run)
            parts += [f'<polyline class="line {line.looks}" points="{points}"/>'] * bool(run)
            if len(run) == 1:  # a line of one point would not be seen
                parts.append('<circle class="dot {}" cx="{:.1f}" cy="{:.1f}" r="3"/>'.format(line.looks, *run[0]))
    for number, over in {line.run: line.x for line in lines}.items():
        start = x(over[0])
        parts.append(
            f'<line class="cursor" data-run="{number}" x1="{start:.1f}" x2="{start:.1f}" y1="{TOP}" y2="{below}"/>'
        )
    keys = "".join(
        f'<span class="key"><svg class="swatch" viewBox="0 0 28 8" aria-hidden="true"><line class="line {line.looks}" '
        f'x1="0" x2="28" y1="4" y2="4"/></svg> {escape(line.name)}</span>'
        for line in lines
    )
    said = []
    for line in lines:  # for who hears the page
        known = [value for value in line.y if value is not None]
        said.append(f"{line.name} from {known[0]:.4g} to {known[-1]:.4g}" if known else f"{line.name} without a value")
    heard = escape(f"{label} against {axis}: {'; '.join(said)}")
    ends = f'data-axis="{escape(axis)}" data-values="{x_low} {x_high}" data-places="{LEFT} {WIDTH - RIGHT}"'
    return (
        f'<figure><figcaption>{escape(label)} {keys}</figcaption><svg class="chart" role="img" {ends} '
        f'aria-label="{heard}" viewBox="0 0 {WIDTH} {HEIGHT}">{"".join(parts)}</svg></figure>'
    )


def ticks(low: float, high: float, most: int) -> list[float]:
    """Round numbers from `low` to `high`, 1, 2 or 5 times a power of ten apart, at the most `most` + 1 of them."""
    unit = 10.0 ** floor(log10((high - low) / most))
    step = next(unit * by for by in (1, 2, 5, 10) if (high - low) / (unit * by) <= most)
    # Rounded, so that 3 x 0.1 is written 0.3.
    return [round(step * k, 12) for k in range(ceil(low / step - 1e-9), floor(high / step + 1e-9) + 1)]


def _ends(low: float, high: float) -> tuple[float, float]:
    """The ends of an axis, apart even where all values are the same."""
    return (low, high) if high - low > 1e-9 * max(abs(low), abs(high)) else (low - 0.5, high + 0.5)
