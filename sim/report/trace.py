"""A trace's collectives, in the order of issue."""

from __future__ import annotations

from sim.documents import OneByOne, plain
from sim.report.view import Cell, Column, Row, Table, View
from sim.step.chrome_trace import Trace


def view(trace: Trace) -> View:
    """What `scaling-sim trace` says where it is no timeline."""
    found = trace.records()
    first = found[0] if found else {"order": 0}
    columns = [Column(head, right=not isinstance(said, str)) for head, said in first.items()]

    def row(at: int) -> Row:
        return [_cell(value) for value in plain(found[at]).values()]

    rows = OneByOne(len(found), row)
    return View(trace.title, [Table(columns, rows, indent=0)], trace)


def _cell(value: str | float | None) -> Cell | str:
    if value is None or isinstance(value, str):
        return value or ""
    return Cell(f"{value:.6g}", value)
