"""`scaling-sim study`: a question answered claim by claim."""

from __future__ import annotations

from pathlib import Path

import click

from sim.commands.options import FORMS, printed, reported, show, write_page


@click.command("study")
@click.argument("study")
@printed(*FORMS)
@reported
def command(study: str, form: str, output: Path | None, report: Path | None) -> None:
    """Rerun STUDY, a YAML file or a shipped name (h100-vs-a100), and print its verdicts."""
    import sim
    from sim.report.progress import progress_bar
    from sim.report.study import view

    with progress_bar("cases") as progress:
        answers = sim.run_study(study, progress=progress)
    show(view(answers), form, output)
    write_page(report, view(answers))
