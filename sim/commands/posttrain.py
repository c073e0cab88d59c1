"""`scaling-sim posttrain`: a step of DPO, GRPO or PPO."""

from __future__ import annotations

from pathlib import Path

import click

from sim.commands.complete import JOBS, MACHINES
from sim.commands.options import FORMS, printed, reported, sets, show, write_page


@click.command("posttrain")
@click.argument("topology", shell_complete=MACHINES)
@click.argument("workload", shell_complete=JOBS)
@sets
@printed(*FORMS)
@reported
def command(
    topology: str, workload: str, overrides: tuple[str, ...], form: str, output: Path | None,
    report: Path | None,
) -> None:  # fmt: skip
    """Predict a step of WORKLOAD's post_training on TOPOLOGY: who generates, trains and waits."""
    import sim
    from sim.report.posttrain import view

    said = view(sim.posttrain(topology, workload, overrides=overrides))
    show(said, form, output)
    write_page(report, said)
