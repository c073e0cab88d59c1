"""An SVG being drawn, whose colours are classes of the page's style sheet."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from html import escape
from types import MappingProxyType
from typing import Any

from sim.records import NamedTuple

_NO_DATA: Mapping[str, str] = MappingProxyType({})
WIDE, NARROW = 920, 400  # user units: one is a pixel where there is room


class LegendKey(NamedTuple):
    """An entry of a legend."""

    mark: str  # class of its colour
    label: str
    value: str = ""


class Chart(NamedTuple):
    """A drawing and what it is of.

    Attributes
    ----------
    name : str
        Of the files that are downloaded: a slug.
    title : str
        Above it.
    summary : str
        What it shows, in a sentence, for those who do not see it.
    draw : callable
        SVG of a given width.
    rows : sequence of mapping
        The numbers behind it, in SI units.
    legend : sequence of LegendKey
        What the colours mean.
    note : str
        Below it.
    """

    name: str
    title: str
    summary: str
    draw: Callable[[int], str]
    rows: Sequence[Mapping[str, Any]]
    legend: Sequence[LegendKey] = ()
    note: str = ""


class Canvas:
    """Collects shapes; coordinates in user units from the upper left.

    Parameters
    ----------
    width, height : float
        Of the drawing.
    label : str
        What a screen reader says of it.
    role : str
        ``img``, or ``group`` where its parts are spoken of too.
    """

    def __init__(self, width: float, height: float, label: str, role: str = "img") -> None:
        self.width, self.height, self._label, self._role = width, height, label, role
        self._parts: list[str] = []

    def rect(
        self, x: float, y: float, width: float, height: float, mark: str, title: str = "",
        round_: float = 0.0, data: Mapping[str, str] = _NO_DATA,
    ) -> None:  # fmt: skip
        """A filled rectangle; `data` is for scripts."""
        corner = f' rx="{n(round_)}"' if round_ else ""
        self._shape(
            f'rect x="{n(x)}" y="{n(y)}" width="{n(max(width, 0.0))}" '
            f'height="{n(max(height, 0.0))}"{corner}', "rect", mark, title, data,
        )  # fmt: skip

    def path(self, d: str, mark: str, title: str = "", data: Mapping[str, str] = _NO_DATA) -> None:
        """A path; the class says whether it is filled or stroked."""
        self._shape(f'path d="{d}"', "path", mark, title, data)

    def line(self, x1: float, y1: float, x2: float, y2: float, mark: str) -> None:
        """A straight line."""
        self.path(f"M{n(x1)} {n(y1)}L{n(x2)} {n(y2)}", mark)

    def dot(self, x: float, y: float, radius: float, mark: str, title: str = "") -> None:
        """A disc."""
        self._shape(f'circle cx="{n(x)}" cy="{n(y)}" r="{n(radius)}"', "circle", mark, title)

    def text(
        self, x: float, y: float, text: str, mark: str = "t", anchor: str = "start",
        turned: bool = False,
    ) -> None:  # fmt: skip
        """A line of text; `turned` reads upwards."""
        side = f' text-anchor="{anchor}"' if anchor != "start" else ""
        turn = f' transform="rotate(-90 {n(x)} {n(y)})"' if turned else ""
        self._parts.append(
            f'<text x="{n(x)}" y="{n(y)}" class="{mark}"{side}{turn}>{escape(text)}</text>'
        )

    def _shape(
        self, head: str, tag: str, mark: str, title: str, data: Mapping[str, str] = _NO_DATA
    ) -> None:
        head += "".join(f' data-{key}="{escape(value)}"' for key, value in data.items())
        inside = f"<title>{escape(title)}</title></{tag}>" if title else ""
        self._parts.append(f'<{head} class="{mark}"' + (f">{inside}" if title else "/>"))

    def svg(self) -> str:
        """The drawing."""
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {n(self.width)} '
            f'{n(self.height)}" role="{self._role}" aria-label="{escape(self._label)}">'
            + "".join(self._parts) + "</svg>"
        )  # fmt: skip


def n(value: float) -> str:
    """A coordinate: a tenth of a pixel is enough."""
    text = f"{value:.1f}"
    return text.removesuffix(".0")


def line_of(points: Sequence[tuple[float, float]]) -> str:
    """A polyline as a path."""
    return "M" + "L".join(f"{n(x)} {n(y)}" for x, y in points)


def stairs_of(points: Sequence[tuple[float, float]]) -> str:
    """A value that stays until the next point, as a path: told only where it changes."""
    (x, y), *rest = points
    d, known = f"M{n(x)} {n(y)}", n(y)
    for x, y in rest:
        if n(y) != known:
            known = n(y)
            d += f"H{n(x)}V{known}"
    return f"{d}H{n(points[-1][0])}"


def area_of(upper: Sequence[tuple[float, float]], lower: Sequence[tuple[float, float]]) -> str:
    """What lies between two polylines."""
    return line_of([*upper, *reversed(lower)]) + "Z"
