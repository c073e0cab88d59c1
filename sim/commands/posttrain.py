"""`scaling-sim posttrain`: a step of DPO, GRPO or PPO."""

from __future__ import annotations

import click

from sim.commands.complete import JOBS, MACHINES
from sim.commands.options import Answer, answered, sets


@click.command("posttrain")
@click.argument("topology", shell_complete=MACHINES)
@click.argument("workload", shell_complete=JOBS)
@sets
@answered(page=True)
def command(topology: str, workload: str, overrides: tuple[str, ...]) -> Answer:
    """Predict a step of WORKLOAD's post_training on TOPOLOGY: who generates, trains and waits."""
    import sim
    from sim.report.posttrain import view

    return view(sim.posttrain(topology, workload, overrides=overrides))
