"""`scaling-sim doctor`: what is installed, and what that lets one do."""

from __future__ import annotations

import click

from sim.commands.options import Answer, answered


@click.command("doctor")
@answered()
def command() -> Answer:
    """Versions, optional parts, the catalogue, and a small run.

    Example: doctor
    """
    import sim
    from sim.report.doctor import view

    return view(sim.doctor())
