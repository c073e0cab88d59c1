"""`scaling-sim list`: what the catalogue has of a kind."""

from __future__ import annotations

import click

from sim.choices import ENTRY_KINDS, entry_kind
from sim.commands.options import Answer, answered


class _CatalogueKind(click.Choice[str]):
    """One of the kinds, by its name, its singular or what else it is called."""

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """The kind's own name."""
        return super().convert(entry_kind(value) or value, param, ctx)


@click.command("list")
@click.argument("kind", type=_CatalogueKind(ENTRY_KINDS))
@click.argument("word", default="")
@answered()
def command(kind: str, word: str) -> Answer:
    """What there is of KIND, with WORD in it.

    Example: list models qwen
    """
    import sim
    from sim.report.entries import listed

    return listed(sim.entries(kind, word))
