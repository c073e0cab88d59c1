"""`scaling-sim show`: one entry of the catalogue."""

from __future__ import annotations

import click

from sim.commands.complete import ENTRIES
from sim.commands.options import Answer, answered


@click.command("show")
@click.argument("name", shell_complete=ENTRIES)
@answered()
def command(name: str) -> Answer:
    """The GPU, model, machine, job or strategy called NAME, as its YAML would have it.

    Example: show "A100 80GB"
    """
    import sim
    from sim.report.entries import shown

    return shown(sim.entry(name))
