"""`scaling-sim support`: what of a job is measured, modelled or neither."""

from __future__ import annotations

import click

from sim.commands.options import Answer, answered, pair


@click.command("support")
@pair
@answered()
def command(topology: str, workload: str, overrides: tuple[str, ...]) -> Answer:
    """What of WORKLOAD on TOPOLOGY is measured, what is modelled, what is not, and the evidence.

    Example: support dgx-h100 llama3-8b-lora
    """
    import sim

    found = sim.support(topology, workload, overrides=overrides)
    from sim.report.support import view

    return view(found)
