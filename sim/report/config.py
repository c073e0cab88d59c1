"""`scaling-sim config`: keys, values and where they came from."""

from __future__ import annotations

from sim.inputs.config import Configuration, KeyLine
from sim.report.view import Row, Table, View, left


def view(found: Configuration) -> View:
    """What `scaling-sim config` says: keys as ``--set`` takes them, a side at a time."""
    columns = [left("key"), left("from"), left("value", pad=False)]
    tables = [
        Table(columns, [_row(k, side) for k in found.keys if k.path.startswith(side)], name, 0)
        for side, name in (("topology.", found.topology), ("workload.", found.workload))
    ]
    return View(f"{found.topology} and {found.workload}: {len(found.keys)} keys", tables, found)


def _row(key: KeyLine, side: str) -> Row:
    """Of a file its name is shown, of an entry of the catalogue the line that names it."""
    kind, place = key.origin
    name = place.rpartition("/")[2]
    return [
        key.path.removeprefix(side),
        name if kind in ("user", "override") else f"{kind} {name.rpartition(':')[0]}".rstrip(),
        key.value,
    ]
