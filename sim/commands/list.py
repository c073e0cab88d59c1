"""`scaling-sim list`: what the catalogue has of a kind."""

from __future__ import annotations

import click

from sim.commands.options import Answer, answered

_KINDS = ("models", "gpus", "machines", "jobs", "strategies", "offers", "formats", "codes")


@click.command("list")
@click.argument("kind", type=click.Choice(_KINDS))
@click.argument("word", default="")
@answered()
def command(kind: str, word: str) -> Answer:
    """What there is of KIND, with WORD in it.

    Example: list models qwen
    """
    import sim
    from sim.report.entries import listed

    return listed(sim.entries(kind, word))
