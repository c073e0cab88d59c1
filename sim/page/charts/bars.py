"""Bars: parts of a whole on one, and a row of them with bands."""

from __future__ import annotations

from collections.abc import Sequence

from sim.page.charts.canvas import NARROW, Canvas
from sim.records import NamedTuple

_ROW = 30.0
_TEXT = 6.9


class Slice(NamedTuple):
    """Part of a whole."""

    label: str
    value: float
    mark: str  # class of its colour
    title: str  # said when it is pointed at


class BarRow(NamedTuple):
    """A bar from `start` to `end`, with its name and what is written behind it."""

    label: str
    start: float
    end: float
    text: str
    mark: str = "s0"
    chosen: bool = False


def stacked(width: int, rows: Sequence[tuple[str, Sequence[Slice]]], label: str) -> str:
    """Bars of parts, one below the other, all to one scale.

    Parameters
    ----------
    width : int
        User units.
    rows : sequence of (name, pieces)
        A name stands above its bar; one alone needs none.
    label : str
        For a screen reader.
    """
    total = max(sum(max(p.value, 0.0) for p in pieces) for _, pieces in rows) or 1.0
    named = any(name for name, _ in rows)
    each = 62.0 if named else 40.0
    c = Canvas(width, each * len(rows), label)
    for i, (name, pieces) in enumerate(rows):
        top = each * i + (22 if named else 0)
        if name:
            c.text(0, top - 7, name, "t")
        x = 0.0
        for piece in pieces:
            wide = width * max(piece.value, 0.0) / total
            if wide > 0.05:
                gap = 1.0 if wide > 3 else 0.0
                c.rect(x, top, wide - gap, 34, piece.mark, piece.title, 2 if wide > 8 else 0)
            x += wide
    return c.svg()


def ranked(width: int, rows: Sequence[BarRow], label: str, low: float, high: float) -> str:
    """Bars below each other, with their names before and their figures behind them.

    Parameters
    ----------
    width : int
        User units.
    rows : sequence of BarRow
        From top to bottom.
    label : str
        For a screen reader.
    low, high : float
        Ends of the scale.
    """
    narrow = width <= NARROW
    names = 0.0 if narrow else min(0.45 * width, _TEXT * max(len(r.label) for r in rows) + 14)
    behind = _TEXT * max(len(r.text) for r in rows) + 14
    each = _ROW + (18 if narrow else 0)
    c = Canvas(width, each * len(rows) + 6, label)
    room = max(width - names - behind, 40.0)
    span = (high - low) or 1.0
    for i, row in enumerate(rows):
        top = each * i + (20 if narrow else 4)
        heavy = "t b" if row.chosen else "t"
        if narrow:
            c.text(0, top - 5, row.label, heavy)
        else:
            c.text(names - 10, top + 15, row.label, heavy, "end")
        start = names + room * (min(row.start, row.end) - low) / span
        end = names + room * (max(row.start, row.end) - low) / span
        c.rect(start, top, max(end - start, 2.0), 21, row.mark, f"{row.label}: {row.text}", 3)
        c.text(end + 8, top + 15, row.text, heavy)
    if low < 0.0 < high:
        zero = names - room * low / span
        c.line(zero, 0, zero, each * len(rows) + 4, "axis")
    return c.svg()
