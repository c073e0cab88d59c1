"""`scaling-sim validate`: the model beside published measurements."""

from __future__ import annotations

from pathlib import Path

import click

from sim.commands.options import emit


@click.command("validate")
@click.argument("what", type=click.Choice(["collectives", "training"]))
@click.option("--misses", default=30, show_default=True, help="How many misses to list.")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Write to a file instead.")
def command(what: str, misses: int, output: Path | None) -> None:
    """Print the model's error table for WHAT, misses included, as Markdown."""
    if what == "collectives":
        from sim.calibration.validate_collectives import table, validate_collectives

        emit(table(validate_collectives(), misses), output)
        return
    from importlib import import_module

    try:
        training = import_module("sim.calibration.validate_training")
    except ModuleNotFoundError:
        msg = "training is not validated in this version"
        raise click.UsageError(msg) from None
    emit(training.table(training.validate_training(), misses), output)
