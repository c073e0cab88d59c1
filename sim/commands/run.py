"""`scaling-sim run`: one job on one machine."""

from __future__ import annotations

from pathlib import Path

import click

from sim.commands.options import FORMS, pair, priced, printed, reported, varied
from sim.commands.output import show, write_page
from sim.page.asked import Asked


@click.command("run")
@pair
@printed(*FORMS)
@reported
@click.option("-q", "--quiet", is_flag=True, help="Title and verdict only: no curve, no fixes.")
@click.option(
    "--engine", type=click.Choice(["auto", "reference", "python", "compiled"]), default="auto",
    help="Which engine runs the program; all give the same times.",
)  # fmt: skip
@click.option(
    "--level", type=click.Choice(["folded", "ranks", "steps"]),
    help="folded (the default): equal ranks once; ranks: every rank's own lanes, the default with "
    "--jitter or --slow; steps: every ring step of every rank too.",
)  # fmt: skip
@varied
@click.option("--replicas", default=1, show_default=True,
              help="Steps to draw: their spread, and the median one, are shown.")  # fmt: skip
@priced
@click.option("--no-scaling", is_flag=True, help="Leave out the scaling curve.")
def command(
    topology: str, workload: str, overrides: tuple[str, ...], quiet: bool, engine: str,
    level: str | None, jitter: str, slow: tuple[str, ...], seed: int, replicas: int,
    offer: str | None, prices: Path | None, no_scaling: bool, form: str, output: Path | None,
    report: Path | None,
) -> None:  # fmt: skip
    """Predict memory, step time, throughput, scaling and cost of WORKLOAD on TOPOLOGY."""
    import sim
    from sim.report.progress import progress_bar

    with progress_bar("replicas" if replicas > 1 else "ops", quiet) as progress:
        result = sim.simulate(
            topology, workload, overrides=overrides, offer=offer or "", prices=prices,
            engine=engine, level=level, jitter=jitter, slow=slow, seed=seed, replicas=replicas,
            scaling=not (no_scaling or quiet), fixes=not quiet, progress=progress,
        )  # fmt: skip
    from sim.report.run import view

    show(view(result, quiet=quiet), form, output)
    write_page(report, view(result), [Asked(topology, workload, overrides, result)])
