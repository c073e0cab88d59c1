"""`scaling-sim trace`: the simulated step as a timeline to look at."""

from __future__ import annotations

from pathlib import Path

import click

from sim.commands.options import emit, sets


@click.command("trace")
@click.argument("topology")
@click.argument("workload")
@sets
@click.option("--format", "form", type=click.Choice(["chrome", "csv"]), default="chrome",
              help="chrome: JSON for Perfetto; csv: collectives in order of issue.")  # fmt: skip
@click.option("--level", type=click.Choice(["folded", "ranks"]), default="folded",
              help="folded: equal ranks once; ranks: every rank's own lanes.")  # fmt: skip
@click.option("--all-micro-steps", is_flag=True,
              help="Every micro-step; else the first, one of the middle and the last.")  # fmt: skip
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Write to a file instead.")
def command(
    topology: str, workload: str, overrides: tuple[str, ...], form: str, level: str,
    all_micro_steps: bool, output: Path | None,
) -> None:  # fmt: skip
    """Simulate a step of WORKLOAD on TOPOLOGY and write its timeline.

    Open the JSON at https://ui.perfetto.dev or in chrome://tracing.
    """
    import sim
    from sim.report.trace import formatted

    found = sim.trace(
        topology, workload, overrides=overrides, level=level, all_micro_steps=all_micro_steps
    )
    emit(formatted(found, form), output)
    if output is not None and form == "chrome":
        click.echo(f"{output}: open it at https://ui.perfetto.dev", err=True)
