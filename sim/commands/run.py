"""`scaling-sim run`: one job on one machine."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

import sim
from sim.api.jobs import simulate
from sim.commands.asked import asks
from sim.commands.options import FORMS, pair, priced, printed, reported, varied
from sim.commands.output import show, write_page
from sim.page.asked import Asked

if TYPE_CHECKING:
    from sim.choices import EngineName, StepLevel


_asks = asks(simulate)


@click.command("run")
@pair
@printed(*FORMS)
@reported
@click.option("-q", "--quiet", is_flag=True, help="Title and verdict only: no curve, no fixes.")
@_asks("engine", help="Which engine runs the program; all give the same times.")
@_asks(
    "level",
    help="folded (the default): equal ranks once; ranks: every rank's own lanes, the default with "
    "--jitter or --slow; steps: every ring step of every rank too.",
)
@varied
@_asks("replicas", help="Steps to draw: their spread, and the median one, are shown.")
@priced
@click.option("--no-scaling", is_flag=True, help="Leave out the scaling curve.")
def command(
    topology: str, workload: str, overrides: tuple[str, ...], quiet: bool, engine: EngineName,
    level: StepLevel | None, jitter: str, slow: tuple[str, ...], seed: int, replicas: int,
    offer: str | None, prices: Path | None, no_scaling: bool, form: str, output: Path | None,
    report: Path | None,
) -> None:  # fmt: skip
    """Predict memory, step time, throughput, scaling and cost of WORKLOAD on TOPOLOGY."""
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
