"""`scaling-sim import`: other tools' files of a job as a workload file."""

from __future__ import annotations

from pathlib import Path

import click

from sim.commands.options import FORMS, formed
from sim.commands.output import show, tell, written


@click.command("import")
@click.argument("files", nargs=-1, required=True, metavar="FILE...")
@formed(*FORMS)
@click.option("-o", "--output", type=click.Path(path_type=Path), metavar="FILE",
              help="Write the workload file.")  # fmt: skip
@click.option("--force", is_flag=True, help="Overwrite it if it is there.")
def command(files: tuple[str, ...], form: str, output: Path | None, force: bool) -> None:
    """Read the FILEs of one job, of any trainer and launcher, as a workload.

    Shows what became of each key; without -o the workload file alone goes to standard output.
    `run`, `memory`, `size` and `diagnose` take such files as they are.

    Example: import axolotl.yml -o job.yaml
    """
    import sim
    from sim.report.formats import rendered, scrolls
    from sim.report.imported import became, view
    from sim.report.imported import written as workload

    found = sim.import_job(*files)
    if scrolls(form) and output is None:
        tell(rendered(became(found), form) + "\n")
        show(workload(found), form, None)
    else:
        show(view(found), form, None)
    if output is not None:
        written(output, found.yaml, force)
