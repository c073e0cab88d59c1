"""`scaling-sim doctor`: what is installed."""

from __future__ import annotations

from sim.inputs.doctor import Checkup
from sim.report.view import Fact, Facts, View


def view(found: Checkup) -> View:
    """What `scaling-sim doctor` says."""
    rows = [Fact(row["name"], f"{row['found'] or 'not there'}{_for(row['needed_for'])}")
            for row in found.parts]  # fmt: skip
    title = f"scaling-sim {found.version} on Python {found.python}"
    return View(title, [Facts(rows)], found)


def _for(reason: str) -> str:
    return f"  ({reason})" if reason else ""
