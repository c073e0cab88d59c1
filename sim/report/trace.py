"""A trace's collectives, in the order of issue."""

from __future__ import annotations

from sim.documents import plain
from sim.report.view import Cell, Column, Row, Table, View
from sim.step.chrome_trace import Trace


def view(trace: Trace) -> View:
    """What `scaling-sim trace` says where it is no timeline."""
    found = plain(list(trace.records()))
    heads = list(found[0]) if found else ["order"]
    words = {name for row in found for name, value in row.items() if isinstance(value, str)}
    rows: list[Row] = [[_cell(value) for value in row.values()] for row in found]
    columns = [Column(head, right=head not in words) for head in heads]
    return View(trace.title, [Table(columns, rows, indent=0)], trace)


def _cell(value: str | float | None) -> Cell | str:
    if value is None or isinstance(value, str):
        return value or ""
    return Cell(f"{value:.6g}", value)
