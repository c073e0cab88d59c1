"""`scaling-sim validate`: the model beside published measurements."""

from __future__ import annotations

from pathlib import Path

import click

from sim.choices import CHOICES, PublishedPart
from sim.commands.options import FORMS, printed, refuse, reported
from sim.commands.output import plots_written, show, write_page


@click.command("validate")
@click.argument(
    "what",
    type=click.Choice(CHOICES["PublishedPart"]),
    default="all",
)
@click.option(
    "--cross-validate", "cross", is_flag=True,
    help="Also the error on models, GPUs and sources left out of the fits, and simple methods.",
)  # fmt: skip
@click.option("--misses", default=20, show_default=True, help="How many misses to list.")
@click.option("--plots", type=click.Path(path_type=Path), metavar="FOLDER",
              help="Write plots there, and show them in the report.")  # fmt: skip
@printed(*FORMS)
@reported
def command(
    what: PublishedPart,
    cross: bool,
    misses: int,
    plots: Path | None,
    form: str,
    output: Path | None,
    report: Path | None,
) -> None:
    """Print the model's error table for WHAT, misses included.

    WHAT left out is all of it, but for `mesh`, whose layouts take minutes.
    """
    import sim
    from sim.report.progress import progress_bar
    from sim.report.validation import view
    from sim.report.validation_plots import plots_of

    if what == "memory":
        refuse(["misses"], "of single rows; the table of memory has every one")
    if what not in ("all", "training"):
        refuse(["plots"], "of training runs; validate training, or all")
    with progress_bar("rows") as progress:
        found = sim.validate(what, cross_validate=cross, progress=progress)
    drawn: dict[str, str] = {}
    if (plots or report) and found.training is not None:
        drawn = plots_of(found.training.complete)
    link = plots_written(drawn, plots, output)
    show(view(found, misses, drawn if plots else {}, link), form, output)
    write_page(report, view(found, misses, drawn, link))
