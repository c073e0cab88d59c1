"""`scaling-sim export`: a job as files of the tools that will run it."""

from __future__ import annotations

from pathlib import Path

import click

from sim.commands.complete import MACHINES
from sim.commands.options import EMITTED, job, sets
from sim.commands.output import tell, tell_read


@click.command("export")
@click.argument("topology", shell_complete=MACHINES)
@job
@sets
@click.option("--emit", "emitted", multiple=True, required=True, type=click.Choice(EMITTED),
              help="For this tool. Repeatable.")  # fmt: skip
@click.option("-o", "--output", type=click.Path(path_type=Path), default=Path("plan"),
              show_default=True, help="Folder to write to.")  # fmt: skip
@click.option("--force", is_flag=True, help="Overwrite files that are there.")
def command(
    topology: str, workload: str, overrides: tuple[str, ...], emitted: tuple[str, ...],
    output: Path, force: bool,
) -> None:  # fmt: skip
    """Write WORKLOAD on TOPOLOGY as configurations, which read back as the same job.

    What a tool's file cannot say is told; a plan that it would change is refused.

    Example: export dgx-h100 llama3-8b-lora --emit trl --emit sbatch
    """
    import sim

    done = sim.export(
        topology, workload, emit=emitted, folder=output, overwrite=force, overrides=overrides
    )
    for path in done.paths:
        tell(f"wrote {path}")
    tell_read()
    for row in done.unsaid:
        runs = "" if row["read"] is None else f" (it would be {row['read']})"
        tell(f"{row['tool']} does not say {row['key']} = {row['planned']}{runs}")
