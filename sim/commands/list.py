"""`scaling-sim list`: what the catalogue has of a kind."""

from __future__ import annotations

from pathlib import Path

import click

from sim.commands.options import FORMS, printed, show

_KINDS = ("models", "gpus", "machines", "jobs", "strategies", "offers", "formats", "codes")


@click.command("list")
@click.argument("kind", type=click.Choice(_KINDS))
@click.argument("word", default="")
@printed(*FORMS)
def command(kind: str, word: str, form: str, output: Path | None) -> None:
    """What there is of KIND, with WORD in it.

    Example: list models qwen
    """
    import sim
    from sim.report.entries import listed

    show(listed(sim.entries(kind, word)), form, output)
