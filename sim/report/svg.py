"""Plots as SVG, with nothing but text: scatter, curves, values with bands, break-even."""

from __future__ import annotations

import html
import math
import textwrap
from collections.abc import Sequence

from sim.records import NamedTuple

WIDTH, HEIGHT = 720, 480
LEFT, RIGHT, TOP, BOTTOM = 70, 170, 40, 50
_LEGEND = 22  # characters that fit beside a plot
#: distinguishable for most colour-blind readers. Source: Okabe and Ito, "Color universal design"
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#8A8A00", "#000000")


def escape(text: str) -> str:
    """Text between tags."""
    return html.escape(text, quote=False)


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
    marks: Sequence[float] = ()  # where to write numbers; empty: at round ones

    def share(self, value: float) -> float:
        """Where a value lies between both ends."""
        a, b, v = self.low, self.high, min(max(value, self.low), self.high)
        if self.logarithmic:
            return math.log(v / a) / math.log(b / a)
        return (v - a) / (b - a)

    def ticks(self) -> list[float]:
        """Where to write numbers."""
        if self.marks:
            return list(self.marks)
        if self.logarithmic:
            first, last = math.ceil(math.log10(self.low)), math.floor(math.log10(self.high))
            return [10.0**k for k in range(first, last + 1)]
        span = self.high - self.low
        step = 10.0 ** math.floor(math.log10(span))
        step = next(step * f for f in (0.1, 0.2, 0.5, 1.0) if span / (step * f) <= 10)
        first = math.ceil(self.low / step)
        return [step * k for k in range(first, math.floor(self.high / step) + 1)]


class Curve(NamedTuple):
    """Dots joined by lines; where y is None nothing is drawn."""

    name: str
    x: Sequence[float]
    y: Sequence[float | None]


class Whisker(NamedTuple):
    """A value with its band, the range that somebody claims, and what was measured."""

    label: str
    value: float
    band: tuple[float, float] | None = None
    claimed: tuple[float, float] | None = None
    measured: float | None = None


class Tied(NamedTuple):
    """A ratio with its band, and values to hold it against."""

    name: str
    ratio: float
    band: tuple[float, float]
    held: Sequence[tuple[str, float]]


class _PlotFrame:
    """Axes, ticks and title, and where values lie between them."""

    def __init__(self, title: str, x: Scale, y: Scale) -> None:
        self.x, self.y = x, y
        self.right, self.bottom = WIDTH - RIGHT, HEIGHT - BOTTOM
        self.legend = 0  # lines written
        self.out = _open(title, HEIGHT)
        for value in x.ticks():
            across, _ = self.at(value, y.low)
            self.out.append(f'<path d="M{across:.1f} {TOP}V{self.bottom}" stroke="#e4e4e4"/>')
            self.out.append(
                f'<text x="{across:.1f}" y="{self.bottom + 18}" text-anchor="middle">'
                f"{_number(value)}</text>"
            )
        for value in y.ticks():
            _, down = self.at(x.low, value)
            self.out.append(f'<path d="M{LEFT} {down:.1f}H{self.right}" stroke="#e4e4e4"/>')
            self.out.append(
                f'<text x="{LEFT - 8}" y="{down + 4:.1f}" text-anchor="end">{_number(value)}</text>'
            )
        middle = (LEFT + self.right) / 2
        self.out.append(
            f'<text x="{middle}" y="{HEIGHT - 12}" text-anchor="middle">{escape(x.title)}</text>'
        )
        self.out.append(
            f'<text transform="translate(18 {(TOP + self.bottom) / 2}) rotate(-90)" '
            f'text-anchor="middle">{escape(y.title)}</text>'
        )

    def at(self, px: float, py: float) -> tuple[float, float]:
        """Where a point is drawn."""
        across = LEFT + self.x.share(px) * (WIDTH - LEFT - RIGHT)
        return across, HEIGHT - BOTTOM - self.y.share(py) * (HEIGHT - TOP - BOTTOM)

    def line(self, points: Sequence[tuple[float, float]], style: str) -> None:
        """A line through points."""
        path = "L".join("{:.1f} {:.1f}".format(*self.at(*p)) for p in points)
        self.out.append(f'<path d="M{path}" fill="none" {style}/>')

    def dot(self, px: float, py: float, label: str, style: str) -> None:
        """A dot that says what it is."""
        a, b = self.at(px, py)
        self.out.append(
            f'<circle cx="{a:.1f}" cy="{b:.1f}" r="3.5" {style}>'
            f"<title>{escape(label)}</title></circle>"
        )

    def key(self, i: int, name: str) -> None:
        """An entry of the legend, in as many lines as it takes."""
        colour = COLOURS[i % len(COLOURS)]
        for part, text in enumerate(textwrap.wrap(name, _LEGEND) or [""]):
            down = TOP + 10 + 18 * i + 15 * (self.legend - i)
            if not part:
                self.out.append(
                    f'<circle cx="{self.right + 16}" cy="{down}" r="4" fill="{colour}"/>'
                )
            self.out.append(f'<text x="{self.right + 26}" y="{down + 4}">{escape(text)}</text>')
            self.legend += 1

    def drawn(self) -> str:
        """The picture."""
        return "\n".join([*self.out, "</svg>"]) + "\n"


def _open(title: str, height: int) -> list[str]:
    return [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" '
        'font-family="sans-serif" font-size="12">',
        f'<rect width="{WIDTH}" height="{height}" fill="white"/>',
        f'<text x="{LEFT}" y="24" font-size="15">{escape(title)}</text>',
    ]


def scatter(
    title: str, x: Scale, y: Scale, series: Sequence[Series],
    lines: Sequence[tuple[float, float, float, float]] = (),
) -> str:  # fmt: skip
    """A scatter plot.

    Parameters
    ----------
    x, y : Scale
        Values beyond their ends are drawn at the edge.
    series : sequence of Series
        Dots and legend.
    lines : sequence of (x1, y1, x2, y2)
        Grey guides, in the axes' values.
    """
    frame = _PlotFrame(title, x, y)
    for x1, y1, x2, y2 in lines:
        frame.line([(x1, y1), (x2, y2)], 'stroke="#888"')
    for i, one in enumerate(series):
        colour = COLOURS[i % len(COLOURS)]
        for px, py, label in zip(one.x, one.y, one.labels, strict=True):
            frame.dot(px, py, label, f'fill="{colour}" fill-opacity="0.7"')
        frame.key(i, one.name)
    return frame.drawn()


def curves(title: str, x: Scale, y: Scale, found: Sequence[Curve]) -> str:
    """Lines through dots, a colour each."""
    frame = _PlotFrame(title, x, y)
    for i, one in enumerate(found):
        colour = COLOURS[i % len(COLOURS)]
        known = [(px, py) for px, py in zip(one.x, one.y, strict=True) if py is not None]
        frame.line(known, f'stroke="{colour}" stroke-width="2"') if len(known) > 1 else None
        for px, py in known:
            frame.dot(px, py, f"{one.name}: {_number(px)}, {py:.4g}", f'fill="{colour}"')
        frame.key(i, one.name)
    return frame.drawn()


def ties(title: str, x: Scale, y: Scale, found: Sequence[Tied], sides: tuple[str, str]) -> str:
    """Ratios against each other: a band for each of `found`, dots where it is held against.

    Parameters
    ----------
    x, y : Scale
        Of what is held against, and of the ratios; on the diagonal both are equal.
    found : sequence of Tied
        Bands, the first lowest in the legend's order.
    sides : (str, str)
        What is said above and below the diagonal.
    """
    frame = _PlotFrame(title, x, y)
    low, high = max(x.low, y.low), min(x.high, y.high)
    for i, one in enumerate(found):
        colour = COLOURS[i % len(COLOURS)]
        (_, top), (_, foot) = frame.at(x.low, one.band[1]), frame.at(x.low, one.band[0])
        frame.out.append(
            f'<rect x="{LEFT}" y="{top:.1f}" width="{frame.right - LEFT}" '
            f'height="{max(foot - top, 1.0):.1f}" fill="{colour}" fill-opacity="0.15"/>'
        )
        frame.line([(x.low, one.ratio), (x.high, one.ratio)], f'stroke="{colour}"')
        for name, value in one.held:
            frame.dot(value, one.ratio, f"{one.name}, {name}: {value:.2f}", f'fill="{colour}"')
        frame.key(i, one.name)
    frame.line([(low, low), (high, high)], 'stroke="#000" stroke-width="2"')
    for text, (px, py), anchor in (
        (sides[0], (x.low + 0.03 * (x.high - x.low), y.high - 0.06 * (y.high - y.low)), "start"),
        (sides[1], (x.high - 0.03 * (x.high - x.low), y.low + 0.04 * (y.high - y.low)), "end"),
    ):
        a, b = frame.at(px, py)
        frame.out.append(
            f'<text x="{a:.1f}" y="{b:.1f}" text-anchor="{anchor}" font-weight="bold">'
            f"{escape(text)}</text>"
        )
    return frame.drawn()


def whiskers(title: str, x: Scale, rows: Sequence[Whisker]) -> str:
    """A row a value: its band as a bar, the claimed range in grey, the measurement as a ring."""
    step, left, right = 34, 20, WIDTH - 20
    height = TOP + step * len(rows) + 62
    out = _open(title, height)
    out[-1] = out[-1].replace(f'x="{LEFT}"', f'x="{left}"')

    def across(value: float) -> float:
        return left + x.share(value) * (right - left)

    bottom = TOP + step * len(rows) + 6
    for value in x.ticks():
        out.append(f'<path d="M{across(value):.1f} {TOP}V{bottom}" stroke="#e4e4e4"/>')
        out.append(f'<text x="{across(value):.1f}" y="{bottom + 16}" text-anchor="middle">'
                   f"{_number(value)}</text>")  # fmt: skip
    for i, row in enumerate(rows):
        middle = TOP + step * i + 24
        out.append(f'<text x="{left + 4}" y="{middle - 9}">{escape(row.label)}</text>')
        for span, thick, style in (
            (row.claimed, 12, 'fill="#000" fill-opacity="0.10"'),
            (row.band, 6, f'fill="{COLOURS[0]}" fill-opacity="0.45"'),
        ):
            if span is not None:
                a, b = across(span[0]), across(span[1])
                out.append(f'<rect x="{a:.1f}" y="{middle - thick / 2}" '
                           f'width="{max(b - a, 1.5):.1f}" height="{thick}" {style}/>')  # fmt: skip
        out.append(f'<circle cx="{across(row.value):.1f}" cy="{middle}" r="3.5" '
                   f'fill="{COLOURS[0]}"><title>{row.value:.4g}</title></circle>')  # fmt: skip
        if row.measured is not None:
            out.append(f'<circle cx="{across(row.measured):.1f}" cy="{middle}" r="5.5" '
                       f'fill="none" stroke="{COLOURS[5]}" stroke-width="2">'
                       f"<title>measured {row.measured:.4g}</title></circle>")  # fmt: skip
    legend = "blue: ours and its 80 % band; grey: what is claimed; orange ring: measured"
    out.append(f'<text x="{WIDTH / 2}" y="{height - 22}" text-anchor="middle">'
               f"{escape(x.title)}</text>")  # fmt: skip
    out.append(f'<text x="{WIDTH / 2}" y="{height - 6}" text-anchor="middle" fill="#555">'
               f"{legend}</text>")  # fmt: skip
    return "\n".join([*out, "</svg>"]) + "\n"


def _number(value: float) -> str:
    if abs(value) >= 1e9:
        return f"{value / 1e9:g}B"
    if abs(value) >= 1e6:
        return f"{value / 1e6:g}M"
    return f"{value / 1e3:g}k" if abs(value) >= 1e4 else f"{value:g}"
