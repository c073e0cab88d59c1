"""`scaling-sim diff`: figures of two results that moved."""

from __future__ import annotations

from typing import Any

from sim.quantities import percent
from sim.report.view import Cell, Column, Table, View, left
from sim.study.difference import Difference


def view(found: Difference) -> View:
    """What `scaling-sim diff` says."""
    columns = [left("figure"), Column("before"), Column("after"), Column("change")]
    rows = [
        [row["key"], _value(row["before"]), _value(row["after"]), _change(row["change"])]
        for row in found.rows
    ]
    moved = f"{len(rows)} figures moved" if len(rows) != 1 else "1 figure moved"
    title = f"{found.before} -> {found.after}: {moved}, {found.same} did not"
    return View(title, [Table(columns, rows, indent=2)], found)


def _value(value: Any) -> Cell | str:
    if isinstance(value, float):
        return Cell(f"{value:.6g}", value)
    if value is None:
        return "-"
    text = str(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _change(change: float | None) -> Cell | str:
    return "" if change is None else Cell(percent(change, 2, "+"), change)
