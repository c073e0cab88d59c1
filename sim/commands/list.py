"""`scaling-sim list`: what the catalogue has of a kind."""

from __future__ import annotations

import click

from sim.commands.options import Answer, answered

_KINDS = ("models", "gpus", "machines", "jobs", "strategies", "offers", "formats", "codes")


#: what else they are called, as the arguments of other verbs are
_ALIASES = {"topologies": "machines", "workloads": "jobs", "prices": "offers"}


class _CatalogueKind(click.Choice[str]):
    """One of the kinds, by its name, its singular or what else it is called."""

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """The kind's own name."""
        said = value.lower()
        plural = {"topology": "topologies", "strategy": "strategies"}.get(said, f"{said}s")
        for name in (said, plural):
            named = _ALIASES.get(name, name)
            if named in _KINDS:
                return named
        return super().convert(value, param, ctx)


@click.command("list")
@click.argument("kind", type=_CatalogueKind(_KINDS))
@click.argument("word", default="")
@answered()
def command(kind: str, word: str) -> Answer:
    """What there is of KIND, with WORD in it.

    Example: list models qwen
    """
    import sim
    from sim.report.entries import listed

    return listed(sim.entries(kind, word))
