"""`scaling-sim init`: a machine and a job of your own to edit."""

from __future__ import annotations

from pathlib import Path

import click

from sim.commands.complete import JOBS, MACHINES
from sim.commands.output import written


@click.command("init")
@click.argument("folder", type=click.Path(path_type=Path), default=Path())
@click.option("--machine", default="dgx-h100", show_default=True, shell_complete=MACHINES,
              help="Shipped machine to copy.")  # fmt: skip
@click.option("--job", default="llama3-8b-sft", show_default=True, shell_complete=JOBS,
              help="Shipped job to copy.")  # fmt: skip
@click.option("--force", is_flag=True, help="Overwrite files that are there.")
def command(folder: Path, machine: str, job: str, force: bool) -> None:
    """Write topology.yaml, workload.yaml and their JSON Schemas into FOLDER.

    Editors with a YAML language server complete and check keys by the first line.

    Example: init mine --machine aws-p5 --job llama3-8b-lora
    """
    import sim

    files = sim.init(machine, job)
    for name, text in files.texts.items():
        written(folder / name, text, force)
