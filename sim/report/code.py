"""`scaling-sim explain CODE`: what a fault or a warning is about."""

from __future__ import annotations

from sim.inputs.codes import Code
from sim.report.view import Lines, View


def view(found: Code) -> View:
    """What `scaling-sim explain CODE` says."""
    return View(f"{found.code}: {found.title}", [Lines((found.why,))], found)
