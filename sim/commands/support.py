"""`scaling-sim support`: what of a job is measured, modelled or neither."""

from __future__ import annotations

from pathlib import Path

import click

from sim.commands.complete import MACHINES
from sim.commands.options import FORMS, job, printed, sets, show


@click.command("support")
@click.argument("topology", shell_complete=MACHINES)
@job
@sets
@printed(*FORMS)
def command(
    topology: str, workload: str, overrides: tuple[str, ...], form: str, output: Path | None
) -> None:
    """What of WORKLOAD on TOPOLOGY is measured, what is modelled, what is not, and the evidence.

    Example: support dgx-h100 llama3-8b-lora
    """
    import sim

    found = sim.support(topology, workload, overrides=overrides)
    from sim.report.support import view

    show(view(found), form, output)
