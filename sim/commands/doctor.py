"""`scaling-sim doctor`: what is installed, and what that lets one do."""

from __future__ import annotations

from pathlib import Path

import click

from sim.commands.options import FORMS, printed, show


@click.command("doctor")
@printed(*FORMS)
def command(form: str, output: Path | None) -> None:
    """Versions, optional parts, the catalogue, and a small run.

    Example: doctor
    """
    import sim
    from sim.report.doctor import view

    show(view(sim.doctor()), form, output)
