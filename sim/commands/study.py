"""`scaling-sim study`: a question answered claim by claim."""

from __future__ import annotations

from pathlib import Path

import click

from sim.commands.options import FORMS, printed, refuse, reported
from sim.commands.output import end_as_asked, plots_written, show, stopped_softly, write_page


@click.command("study")
@click.argument("study", required=False)
@click.option("--list", "listing", is_flag=True, help="Print the studies that are shipped.")
@click.option("--plots", type=click.Path(path_type=Path), metavar="FOLDER",
              help="Write its pictures there, and show them on the page.")  # fmt: skip
@printed(*FORMS)
@reported
def command(
    study: str | None, listing: bool, plots: Path | None, form: str, output: Path | None,
    report: Path | None,
) -> None:  # fmt: skip
    """Rerun STUDY, a YAML file or a shipped name (h100-vs-a100), and print its answers.

    Ctrl-C and SIGTERM show the claims that can be judged (exit 130, 143); again, they end at once.
    """
    import sim
    from sim.report.progress import progress_bar
    from sim.report.study import listed, view
    from sim.report.study_plots import plots_of

    if listing:
        refuse(["study", "plots"], "of a study that is run; --list runs none")
        show(listed(sim.studies()), form, output)
        return
    if study is None:
        message = "name a study, or --list them"
        raise click.UsageError(message)
    with progress_bar("cases") as progress, stopped_softly() as stop:
        answers = sim.run_study(study, progress=progress, stop=stop)
    drawn = plots_of(answers)
    said = view(answers, drawn, plots_written(drawn, plots, output))
    show(said, form, output)
    write_page(report, said)
    end_as_asked(answers)
