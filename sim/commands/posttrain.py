"""`scaling-sim posttrain`: a step of DPO, GRPO or PPO."""

from __future__ import annotations

import click

from sim.commands.options import Answer, answered, pair_of_files


@click.command("posttrain")
@pair_of_files
@answered(page=True)
def command(topology: str, workload: str, overrides: tuple[str, ...]) -> Answer:
    """Predict a step of WORKLOAD's post_training on TOPOLOGY: who generates, trains and waits."""
    import sim
    from sim.report.posttrain import view

    return view(sim.posttrain(topology, workload, overrides=overrides))
