"""`scaling-sim validate`: the model beside published measurements."""

from __future__ import annotations

import os
from pathlib import Path

import click

from sim.commands.options import emit


@click.command("validate")
@click.argument(
    "what", type=click.Choice(["all", "training", "memory", "collectives"]), default="all"
)
@click.option(
    "--format", "fmt", type=click.Choice(["table", "json", "csv", "md"]), default="table",
    show_default=True, help="csv lists single rows.",
)  # fmt: skip
@click.option(
    "--cross-validate", "cross", is_flag=True,
    help="Also the error on models, GPU counts and sources left out of the fits.",
)  # fmt: skip
@click.option("--misses", default=20, show_default=True, help="How many misses to list.")
@click.option("--plots", type=click.Path(path_type=Path), metavar="FOLDER",
              help="Write plots there, and link them from Markdown.")  # fmt: skip
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Write to a file instead.")
def command(
    what: str, fmt: str, cross: bool, misses: int, plots: Path | None, output: Path | None
) -> None:
    """Print the model's error table for WHAT (all of it if left out), misses included."""
    import sim
    from sim.report.validation import render, write_plots

    link = ""
    if plots is not None:
        write_plots(plots)
        link = os.path.relpath(plots, output.parent if output else ".")
    found = sim.validate(what, cross_validate=cross)
    emit(render(found, fmt, misses, link), output)
