"""`scaling-sim schema`: top-level keys of a kind of file."""

from __future__ import annotations

from sim.inputs.schema import FileSchema
from sim.report.view import Lines, Table, View, left


def view(found: FileSchema) -> View:
    """What `scaling-sim schema --format table` says."""
    columns = [left("key"), left("is"), left("default")]
    rows = [
        [row["key"], row["type"], "" if row["default"] is None else str(row["default"]).lower()]
        for row in found.records()
    ]
    note = Lines(["--format json has all of it, for editors"], indent=0)
    return View(f"keys of a {found.side} file", [Table(columns, rows, indent=0), note], found)
