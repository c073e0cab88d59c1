"""`scaling-sim doctor`: what is installed."""

from __future__ import annotations

from sim.inputs.doctor import Checkup
from sim.report.view import Fact, Facts, View


def view(found: Checkup) -> View:
    """What `scaling-sim doctor` says."""
    rows = []
    for row in found.parts:
        why = f"  ({row['needed_for']})" if row["needed_for"] else ""
        rows.append(Fact(row["name"], f"{row['found'] or 'not there'}{why}"))
    title = f"scaling-sim {found.version} on Python {found.python}"
    return View(title, [Facts(rows)], found)
