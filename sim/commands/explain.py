"""`scaling-sim explain`: what a fine-tuning method saves and adds, beside the full fine-tune."""

from __future__ import annotations

from pathlib import Path

import click

from sim.commands.options import FORMS, job, printed, sets, show


@click.command("explain")
@click.argument("topology")
@job
@sets
@printed(*FORMS)
def command(
    topology: str, workload: str, overrides: tuple[str, ...], form: str, output: Path | None
) -> None:
    """Why is LoRA (no) faster: the step of WORKLOAD on TOPOLOGY part by part, by method.

    Example: explain dgx-h100 llama3-8b-lora
    """
    import sim

    found = sim.explain(topology, workload, overrides=overrides)
    from sim.report.explain import view

    show(view(found), form, output)
