"""`scaling-sim memory`: will it fit, and what would make it fit."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from sim.commands.options import FORMS, emit, printed, sets


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
    from sim.blocks.tree import count_parameters
    from sim.inputs.loader import load
    from sim.memory.fit import solve
    from sim.memory.report import machine, memory
    from sim.report.memory import formatted
    from sim.result.describe import describe_topology, describe_workload
    from sim.result.fixes import fixes

    loaded = load(topology, workload, overrides)
    report = memory(loaded.topology, loaded.workload)
    bound = None
    if most == "micro_batch":
        bound = solve(loaded.topology, loaded.workload, "micro_batch")
    elif most == "sequence_length":
        bound = solve(loaded.topology, loaded.workload, "sequence_length")
    elif least:
        bound = solve(loaded.topology, loaded.workload, "nodes")
    job = loaded.workload
    world = machine(loaded.topology)[1]
    total = count_parameters(job.model, job.method).total
    machine_title = describe_topology(loaded.topology)["title"]
    title = f"{describe_workload(job, world, total)['title']} · {machine_title}"
    found = fixes(loaded.topology, loaded.workload) if form in ("table", "json") else ()
    emit(formatted(title, report, found, bound, form), output)
    if require and not report.fits:
        sys.exit(4)
