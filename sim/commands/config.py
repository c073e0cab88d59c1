"""`scaling-sim config`: every key of both files, its value, and where that came from."""

from __future__ import annotations

from pathlib import Path

import click

from sim.commands.complete import MACHINES
from sim.commands.options import FORMS, job, printed, sets, show


@click.command("config")
@click.argument("topology", shell_complete=MACHINES)
@job
@sets
@printed(*FORMS)
def command(
    topology: str, workload: str, overrides: tuple[str, ...], form: str, output: Path | None
) -> None:
    """Every key of TOPOLOGY and WORKLOAD: its value, and where that came from.

    Example: config dgx-h100 llama3-8b-lora --set nodes=2
    """
    import sim

    found = sim.config(topology, workload, overrides=overrides)
    from sim.report.config import view

    show(view(found), form, output)
