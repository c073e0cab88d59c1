"""`scaling-sim memory`: will it fit, and what would make it fit."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, cast

import click

from sim.commands.options import FORMS, printed, sets, show

if TYPE_CHECKING:
    from sim.memory.fit import Quantity


@click.command("memory")
@click.argument("topology")
@click.argument("workload")
@sets
@click.option(
    "--max", "most", type=click.Choice(["micro_batch", "sequence_length"]),
    help="Also find the largest of it that fits.",
)  # fmt: skip
@click.option("--min", "least", type=click.Choice(["nodes"]), help="Also find the fewest that fit.")
@printed(*FORMS)
@click.option("--require", type=click.Choice(["fits"]), help="Exit 4 unless it fits.")
def command(
    topology: str, workload: str, overrides: tuple[str, ...], most: str | None, least: str | None,
    form: str, output: Path | None, require: str | None,
) -> None:  # fmt: skip
    """Bytes per GPU of WORKLOAD on TOPOLOGY by category and moment, the verdict and fixes."""
    from sim.inputs.loader import load
    from sim.memory.fit import solve
    from sim.memory.report import memory
    from sim.report.memory import view
    from sim.result.describe import title_of
    from sim.result.fixes import fixes
    from sim.result.memory import MemoryAnswer

    loaded = load(topology, workload, overrides)
    job = loaded.workload
    report = memory(loaded.topology, job)
    wanted = cast("Quantity | None", most or least)
    bound = solve(loaded.topology, job, wanted) if wanted else None
    title = title_of(loaded.topology, job)
    answer = MemoryAnswer(title, report, fixes(loaded.topology, job), bound)
    show(view(answer), form, output)
    if require and not report.fits:
        sys.exit(4)
