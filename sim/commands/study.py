"""`scaling-sim study`: a question answered claim by claim."""

from __future__ import annotations

from pathlib import Path

import click

from sim.commands.options import emit


@click.command("study")
@click.argument("study")
@click.option(
    "--format", "form", type=click.Choice(["table", "md", "json"]), default=None,
    help="What to print; md with -o, else table.",
)  # fmt: skip
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Write the page to a file.")
def command(study: str, form: str | None, output: Path | None) -> None:
    """Rerun STUDY, a YAML file or a shipped name (h100-vs-a100), and print its verdicts."""
    import sim
    from sim.report.progress import progress_bar
    from sim.report.study import formatted

    with progress_bar("cases") as progress:
        answers = sim.run_study(study, progress=progress)
    emit(formatted(answers, form or ("md" if output else "table")), output)
