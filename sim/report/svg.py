"""Scatter plots as SVG, with nothing but text."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple
from xml.sax.saxutils import escape

WIDTH, HEIGHT = 720, 480
LEFT, RIGHT, TOP, BOTTOM = 70, 170, 40, 50
#: distinguishable for most colour-blind readers. Source: Okabe and Ito, "Color universal design"
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#8A8A00", "#000000")


class Series(NamedTuple):
    """Dots of one colour."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    labels: Sequence[str]  # shown when the mouse rests on a dot


class Scale(NamedTuple):
    """One axis."""

    title: str
    low: float
    high: float
    logarithmic: bool = False

    def share(self, value: float) -> float:
        """Where a value lies between both ends."""
        a, b, v = self.low, self.high, min(max(value, self.low), self.high)
        if self.logarithmic:
            return math.log(v / a) / math.log(b / a)
        return (v - a) / (b - a)

    def ticks(self) -> list[float]:
        """Where to write numbers."""
        if self.logarithmic:
            first, last = math.ceil(math.log10(self.low)), math.floor(math.log10(self.high))
            return [10.0**k for k in range(first, last + 1)]
        span = self.high - self.low
        step = 10.0 ** math.floor(math.log10(span))
        step = next(step * f for f in (0.1, 0.2, 0.5, 1.0) if span / (step * f) <= 10)
        first = math.ceil(self.low / step)
        return [step * k for k in range(first, math.floor(self.high / step) + 1)]


def scatter(
    title: str, x: Scale, y: Scale, series: Sequence[Series],
    lines: Sequence[tuple[float, float, float, float]] = (),
) -> str:  # fmt: skip
    """A scatter plot.

    Parameters
    ----------
    title : str
        Above it.
    x, y : Scale
        Values beyond their ends are drawn at the edge.
    series : sequence of Series
        Dots and legend.
    lines : sequence of (x1, y1, x2, y2)
        Grey guides, in the axes' values.
    """

    def at(px: float, py: float) -> tuple[float, float]:
        across = LEFT + x.share(px) * (WIDTH - LEFT - RIGHT)
        return across, HEIGHT - BOTTOM - y.share(py) * (HEIGHT - TOP - BOTTOM)

    right, bottom = WIDTH - RIGHT, HEIGHT - BOTTOM
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
        'font-family="sans-serif" font-size="12">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        f'<text x="{LEFT}" y="24" font-size="15">{escape(title)}</text>',
    ]
    for value in x.ticks():
        across, _ = at(value, y.low)
        out.append(f'<path d="M{across:.1f} {TOP}V{bottom}" stroke="#e4e4e4"/>')
        out.append(
            f'<text x="{across:.1f}" y="{bottom + 18}" text-anchor="middle">{_number(value)}</text>'
        )
    for value in y.ticks():
        _, down = at(x.low, value)
        out.append(f'<path d="M{LEFT} {down:.1f}H{right}" stroke="#e4e4e4"/>')
        out.append(
            f'<text x="{LEFT - 8}" y="{down + 4:.1f}" text-anchor="end">{_number(value)}</text>'
        )
    middle = (LEFT + right) / 2
    out.append(
        f'<text x="{middle}" y="{HEIGHT - 12}" text-anchor="middle">{escape(x.title)}</text>'
    )
    out.append(
        f'<text transform="translate(18 {(TOP + bottom) / 2}) rotate(-90)" '
        f'text-anchor="middle">{escape(y.title)}</text>'
    )
    for x1, y1, x2, y2 in lines:
        (a, b), (c, d) = at(x1, y1), at(x2, y2)
        out.append(f'<path d="M{a:.1f} {b:.1f}L{c:.1f} {d:.1f}" stroke="#888" fill="none"/>')
    for i, one in enumerate(series):
        colour = COLOURS[i % len(COLOURS)]
        for px, py, label in zip(one.x, one.y, one.labels, strict=True):
            a, b = at(px, py)
            out.append(
                f'<circle cx="{a:.1f}" cy="{b:.1f}" r="3.5" fill="{colour}" fill-opacity="0.7">'
                f"<title>{escape(label)}</title></circle>"
            )
        down = TOP + 10 + 18 * i
        out.append(f'<circle cx="{right + 16}" cy="{down}" r="4" fill="{colour}"/>')
        out.append(f'<text x="{right + 26}" y="{down + 4}">{escape(one.name)}</text>')
    return "\n".join([*out, "</svg>"]) + "\n"


def _number(value: float) -> str:
    if abs(value) >= 1e9:
        return f"{value / 1e9:g}B"
    if abs(value) >= 1e6:
        return f"{value / 1e6:g}M"
    return f"{value / 1e3:g}k" if abs(value) >= 1e4 else f"{value:g}"
