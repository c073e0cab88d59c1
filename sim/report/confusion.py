"""Which causes can be told from which, and how often stated odds come true."""

from __future__ import annotations

from sim.calibration.confusion import Confusion
from sim.quantities import counted, percent
from sim.report.view import Cell, Column, Lines, Row, Table, View, left


def view(found: Confusion) -> View:
    """What `scaling-sim diagnose --confusion` says."""
    draws = sum(c.draws for c in found.causes)
    figures = counted(found.figures, "figure")
    heads = [left("cause"), *map(Column, ("drawn", "named first", "in three", "given")),
             left("else named")]  # fmt: skip
    rows: list[Row] = [
        [
            c.key, Cell(str(c.draws), c.draws), _share(c.first), _share(c.among_three),
            _share(c.probability), c.instead,
        ]
        for c in found.causes
    ]  # fmt: skip
    odds: list[Row] = [
        [
            f"{percent(o.low, 0)} to {percent(o.high, 0)}", Cell(str(o.statements), o.statements),
            _share(o.said), _share(o.true),
        ]
        for o in found.odds
    ]  # fmt: skip
    columns = [left("odds"), *map(Column, ("statements", "said", "came true"))]
    title = (
        f"{draws:,} runs with a cause drawn by its plausibility and the model's own error, each "
        f"diagnosed by {figures}: its cause is named first in {percent(found.first, 0)}"
    )
    return View(
        title,
        [
            Table(heads, rows, indent=0),
            Lines(["Stated odds, and how often they came true:"], indent=0),
            Table(columns, odds, indent=0, apart=False),
        ],
        found,
    )


def _share(value: float) -> Cell:
    return Cell(percent(value, 0), value)
