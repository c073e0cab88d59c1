"""`scaling-sim show`: one entry of the catalogue."""

from __future__ import annotations

from pathlib import Path

import click

from sim.commands.complete import ENTRIES
from sim.commands.options import FORMS, printed, show


@click.command("show")
@click.argument("name", shell_complete=ENTRIES)
@printed(*FORMS)
def command(name: str, form: str, output: Path | None) -> None:
    """The GPU, model, machine, job or strategy called NAME, as its YAML would have it.

    Example: show "A100 80GB"
    """
    import sim
    from sim.report.entries import shown

    show(shown(sim.entry(name)), form, output)
