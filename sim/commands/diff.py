"""`scaling-sim diff`: which figures of two results moved."""

from __future__ import annotations

from pathlib import Path

import click

from sim.commands.options import Answer, answered


@click.command("diff")
@click.argument("before", type=click.Path(path_type=Path))
@click.argument("after", type=click.Path(path_type=Path))
@click.option("--tolerance", default="0.1%", show_default=True, metavar="SHARE",
              help="Relative changes up to it are none.")  # fmt: skip
@answered()
def command(before: Path, after: Path, tolerance: str) -> Answer:
    """Figures of two results (`--json`) that differ; --format md for a pull request.

    Example: diff main.json branch.json --format md
    """
    import sim
    from sim.report.difference import view

    return view(sim.diff(before, after, tolerance=tolerance))
