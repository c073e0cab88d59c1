"""Nodes of a cluster over time, and the jobs that held them."""

from __future__ import annotations

from collections.abc import Sequence

from sim.page.charts.axes import ChartAxis
from sim.page.charts.canvas import NARROW, Canvas
from sim.records import NamedTuple
from sim.units import DAY_S, HOUR_S

_ROW = 20.0
_LEAST = 5.0  # user units a node, where there are many
_TALL = 640.0
_UNITS = ((DAY_S, "days"), (HOUR_S, "hours"), (60.0, "minutes"), (1.0, "seconds"))


class JobBar(NamedTuple):
    """A job on some nodes, from start to end. [s]"""

    label: str
    start_s: float
    end_s: float
    nodes: tuple[int, ...]
    mark: str
    title: str


def gantt(width: int, bars: Sequence[JobBar], nodes: int, span_s: float, label: str) -> str:
    """A row a node, a bar where a job held it; neighbours of a job are drawn as one.

    Parameters
    ----------
    width : int
        User units.
    bars : sequence of JobBar
        Times from the start of the plan.
    nodes : int
        Of the cluster.
    span_s : float
        Length of the axis. [s]
    label : str
        For a screen reader.
    """
    row = max(_LEAST, min(_ROW, _TALL / nodes))
    left = 8.0 if width <= NARROW else 64.0
    room = width - left - 8
    c = Canvas(width, row * nodes + 46, label)
    if width > NARROW:
        every = max(1, round(16 / row))
        for node in range(0, nodes, every):
            c.text(left - 8, row * node + min(row, 14), f"node {node}", "m", "end")
    c.rect(left, 0, room, row * nodes, "track")
    for bar in bars:
        x = left + room * bar.start_s / span_s
        wide = max(room * (bar.end_s - bar.start_s) / span_s, 0.8)
        for first, last in _runs(bar.nodes):
            high = row * (last - first + 1)
            c.rect(x, row * first + 0.5, wide, high - 1, bar.mark, bar.title, 2)
            said = 7.0 * len(bar.label) + 8
            if wide > said + 4 and high > 18:
                middle = row * first + high / 2
                c.rect(x + 3, middle - 9, said, 18, "device", "", 3)  # words are read on no colour
                c.text(x + 7, middle + 4, bar.label, "t")
    unit, name = next((u for u in _UNITS if span_s >= 2.0 * u[0]), _UNITS[-1])
    axis = ChartAxis(name, 0.0, span_s, "{:g}".format, unit=unit)
    base = row * nodes
    for value in axis.ticks(4 if width <= NARROW else 9):
        x = left + room * value / span_s
        c.line(x, base, x, base + 6, "axis")
        c.text(x, base + 21, axis.show(value / unit), "m", "middle")
    c.text(left + room, base + 38, name, "m", "end")
    c.line(left, base, left + room, base, "axis")
    return c.svg()


def _runs(nodes: Sequence[int]) -> list[tuple[int, int]]:
    """Neighbouring nodes as first and last."""
    runs: list[tuple[int, int]] = []
    for node in nodes:
        if runs and runs[-1][1] == node - 1:
            runs[-1] = (runs[-1][0], node)
        else:
            runs.append((node, node))
    return runs
