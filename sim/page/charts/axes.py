"""Two axes, and what is drawn between them: lines, bands, stacked areas, points, limits."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

from sim.page.charts.canvas import NARROW, Canvas, area_of, line_of, stairs_of
from sim.records import NamedTuple
from sim.report.svg import Scale

Points = Sequence[tuple[float, float]]
_TEXT = 6.6  # width of a character of a label


class ChartAxis(NamedTuple):
    """An axis.

    Attributes
    ----------
    title : str
        With its unit.
    low, high : float
        Its ends, in the unit of the values.
    show : callable
        A value as its label.
    logarithmic : bool
        Powers of two are marked.
    unit : float
        Whose round numbers are marked.
    """

    title: str
    low: float
    high: float
    show: Callable[[float], str]
    logarithmic: bool = False
    unit: float = 1.0

    @property
    def scale(self) -> Scale:
        """Where a value lies between both ends."""
        return Scale(self.title, self.low, self.high, self.logarithmic)

    def ticks(self, most: int) -> list[float]:
        """Where it is marked, at no more than `most` places."""
        if self.logarithmic:
            first, last = math.floor(math.log2(self.low)), math.ceil(math.log2(self.high))
            found = [2.0**k for k in range(first, last + 1) if self.low <= 2.0**k <= self.high]
        else:
            marks = Scale(self.title, self.low / self.unit, self.high / self.unit).ticks()
            found = [mark * self.unit for mark in marks]
        return found[:: max(1, math.ceil(len(found) / most))]


class ChartLine(NamedTuple):
    """A line through points, dotted or not as its class says."""

    points: Points
    mark: str
    dots: bool = False
    labels: Sequence[str] = ()  # of the dots


class ChartBand(NamedTuple):
    """What lies between two lines."""

    upper: Points
    lower: Points
    mark: str


class Level(NamedTuple):
    """All below a value that stays until the next point; drawn over, a lower one hides its part."""

    points: Points
    mark: str


class Limit(NamedTuple):
    """A level that matters, with its name."""

    value: float
    label: str
    mark: str = "limit"


class Dots(NamedTuple):
    """Points with what is said when one is pointed at, and the words beside it."""

    points: Points
    mark: str
    titles: Sequence[str]
    words: Sequence[str] = ()
    radius: float = 5.0


class Cursor(NamedTuple):
    """What stands at places along the first axis, said where one is pointed at."""

    points: Sequence[tuple[float, str]]


Drawn = ChartLine | ChartBand | Level | Limit | Dots | Cursor
_COLUMNS = 120  # of a cursor: a page stays small


def axes(
    width: int, x: ChartAxis, y: ChartAxis, layers: Sequence[Drawn], label: str, ratio: float = 0.4
) -> str:
    """Layers between two axes, the first at the back.

    Parameters
    ----------
    width : int
        User units.
    x, y : ChartAxis
        What lies outside is drawn at the edge.
    layers : sequence of Drawn
        In the units of the axes.
    label : str
        For a screen reader.
    ratio : float
        Height over width; a narrow drawing is higher.
    """
    narrow = width <= NARROW
    height = width * (max(ratio, 0.7) if narrow else ratio)
    marks = y.ticks(5 if narrow else 7)
    left = 12 + _TEXT * max((len(y.show(v)) for v in marks), default=3)
    right, top, bottom = 16.0, 26.0, 44.0
    across, down = width - left - right, height - top - bottom

    def at(px: float, py: float) -> tuple[float, float]:
        return left + across * x.scale.share(px), top + down * (1 - y.scale.share(py))

    def each(points: Points) -> list[tuple[float, float]]:
        return [at(*point) for point in points]

    c = Canvas(width, height, label)
    for value in marks:
        _, h = at(x.low, value)
        c.line(left, h, left + across, h, "grid")
        c.text(left - 8, h + 4, y.show(value), "m", "end")
    for value in x.ticks(4 if narrow else 9):
        w, _ = at(value, y.low)
        c.line(w, top + down, w, top + down + 5, "axis")
        c.text(w, top + down + 19, x.show(value), "m", "middle")
    c.line(left, top + down, left + across, top + down, "axis")
    c.text(left + across, height - 6, x.title, "m", "end")
    c.text(4, 14, y.title, "m")
    for layer in layers:
        if isinstance(layer, ChartBand):
            c.path(area_of(each(layer.upper), each(layer.lower)), layer.mark)
        elif isinstance(layer, Level):
            c.path(f"{stairs_of(each(layer.points))}V{top + down:.1f}H{left:.1f}Z", layer.mark)
        elif isinstance(layer, Limit):
            _, h = at(x.low, layer.value)
            c.line(left, h, left + across, h, layer.mark)
            c.text(left + across - 4, h - 6, layer.label, f"{layer.mark}-t", "end")
        elif isinstance(layer, ChartLine):
            c.path(line_of(each(layer.points)), layer.mark)
            if layer.dots:
                labels = layer.labels or [""] * len(layer.points)
                for (px, py), text in zip(each(layer.points), labels, strict=True):
                    c.dot(px, py, 4, f"{layer.mark}-dot", text)
        elif isinstance(layer, Dots):
            _dots(c, each(layer.points), layer, left + across)
        elif not narrow:  # a finger points at nothing
            every = math.ceil(len(layer.points) / _COLUMNS)
            places = [(at(px, y.low)[0], text) for px, text in layer.points[::every]]
            edges = [left, *((a + b) / 2 for (a, _), (b, _) in pairwise(places)), left + across]
            for (start, end), (_, text) in zip(pairwise(edges), places, strict=True):
                c.rect(start, top, end - start, down, "cursor", text)
    return c.svg()


def _dots(c: Canvas, places: list[tuple[float, float]], layer: Dots, edge: float) -> None:
    for i, (px, py) in enumerate(places):
        c.dot(px, py, layer.radius, layer.mark, layer.titles[i])
        word = layer.words[i] if i < len(layer.words) else ""
        if word:
            long = _TEXT * len(word)
            over = px + 9 + long > edge
            if not over or long < px - 9:  # else on neither side: its title says it
                c.text(px - 9 if over else px + 9, py - 7, word, "t", "end" if over else "start")


def ceiling(value: float) -> float:
    """A round number at or a little above a value, for the end of an axis."""
    if value <= 0.0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(value))
    return next(power * f for f in (1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 8, 10) if power * f >= value)
