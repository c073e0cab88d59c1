"""`scaling-sim trace`: the simulated step as a timeline to look at."""

from __future__ import annotations

from pathlib import Path

import click

from sim.commands.options import FORMS, job, printed, sets, show, tell

_CHROME = ("chrome", "json")  # the same: a Chrome trace is JSON


@click.command("trace")
@click.argument("topology")
@job
@sets
@printed(*dict.fromkeys((*_CHROME, *FORMS)))
@click.option("--level", type=click.Choice(["folded", "ranks"]), default="folded",
              help="folded: equal ranks once; ranks: every rank's own lanes.")  # fmt: skip
@click.option("--all-micro-steps", is_flag=True,
              help="Every micro-step; else the first, one of the middle and the last.")  # fmt: skip
def command(
    topology: str, workload: str, overrides: tuple[str, ...], form: str, level: str,
    all_micro_steps: bool, output: Path | None,
) -> None:  # fmt: skip
    """Simulate a step of WORKLOAD on TOPOLOGY and write its timeline.

    Open the JSON at https://ui.perfetto.dev or in chrome://tracing. Other formats list the
    collectives in order of issue.
    """
    import sim

    found = sim.trace(
        topology, workload, overrides=overrides, level=level, all_micro_steps=all_micro_steps
    )
    from sim.report.trace import view

    timeline = form in _CHROME
    show(view(found), "json" if timeline else form, output)
    if output is not None and timeline:
        tell(f"{output}: open it at https://ui.perfetto.dev")
