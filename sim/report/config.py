"""`scaling-sim config`: keys, values and where they came from."""

from __future__ import annotations

from sim.inputs.config import Configuration, KeyLine
from sim.report.view import Row, Table, View, left


def view(found: Configuration) -> View:
    """What `scaling-sim config` says."""
    columns = [left("key"), left("from"), left("value", pad=False)]
    table = Table(columns, [_row(key) for key in found.keys], indent=0)
    return View(f"{found.topology} and {found.workload}: {len(found.keys)} keys", [table], found)


def _row(key: KeyLine) -> Row:
    """Of a file only its name is shown; the document has the whole path."""
    kind, place = key.origin
    name = place.rpartition("/")[2]
    return [
        key.path,
        name if kind in ("user", "override") else f"{kind} {name}".rstrip(),
        key.value,
    ]
