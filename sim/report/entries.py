"""`scaling-sim list` and `show`: the catalogue."""

from __future__ import annotations

from typing import Any

from sim.inputs.entries import Entries, Entry
from sim.report.view import Cell, Column, Lines, Table, View, left


def listed(found: Entries) -> View:
    """What `scaling-sim list` says."""
    heads = [k for k in dict.fromkeys(k for row in found.rows for k in row) if k != "source"]
    columns = [
        left(head) if _words(found, head) else Column(head.replace("_", " ")) for head in heads
    ]
    rows = [[_cell(row.get(head)) for head in heads] for row in found.rows]
    with_word = f' with "{found.word}"' if found.word else ""
    title = f"{len(found.rows)} {found.kind}{with_word}"
    return View(title, [Table(columns, rows, indent=2)], found)


def shown(found: Entry) -> View:
    """What `scaling-sim show` says."""
    lines = Lines(found.lines, indent=0, literal=True)
    return View(f"{found.kind} {found.name}", [lines], found)


def _words(found: Entries, head: str) -> bool:
    return any(isinstance(row.get(head), str) for row in found.rows)


def _cell(value: Any) -> Cell | str:
    if isinstance(value, float):
        return Cell(f"{value:.4g}", value)
    if isinstance(value, int):
        return Cell(str(value), float(value))
    return "" if value is None else str(value)
