"""`scaling-sim improve`: the combination of changes that helps a job most."""

from __future__ import annotations

from pathlib import Path

import click

import sim
from sim.api.jobs import improve
from sim.commands.asked import asks
from sim.commands.options import FORMS, pair, printed
from sim.commands.output import emit, end_as_asked, show, stopped_softly, tell


@click.command("improve")
@pair
@asks(improve)("same_numerics",
               help="No FP8, no gradients reduced in bf16, no 8-bit optimizer.")  # fmt: skip
@click.option("--apply", "applied", type=click.Path(path_type=Path), metavar="FILE",
              help="Write the improved workload as YAML.")  # fmt: skip
@printed(*FORMS)
def command(
    topology: str, workload: str, overrides: tuple[str, ...], same_numerics: bool,
    applied: Path | None, form: str, output: Path | None,
) -> None:  # fmt: skip
    """Find the changes of WORKLOAD that help most together on TOPOLOGY, each step simulated.

    Ctrl-C and SIGTERM show the best so far (exit 130, 143); again, they end at once.
    """
    from sim.report.improve import view
    from sim.report.progress import progress_bar

    with progress_bar("changes") as progress, stopped_softly() as stop:
        found = sim.improve(
            topology, workload, overrides=overrides, same_numerics=same_numerics,
            progress=progress, stop=stop,
        )  # fmt: skip
    show(view(found), form, output)
    if applied is not None:
        from sim.interop.emit_yaml import workload_yaml

        emit(workload_yaml(found.after.workload).rstrip("\n"), applied)
        tell(f"wrote {applied}")
    end_as_asked(found)
