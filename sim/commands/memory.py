"""`scaling-sim memory`: will it fit, and what would make it fit."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import click

from sim.choices import CHOICES, quantity_named
from sim.commands.options import Answer, answered, pair, quieted
from sim.page.asked import Asked

if TYPE_CHECKING:
    from sim.choices import BoundQuantity


class _Quantity(click.Choice[str]):
    """What is bounded, as people call it."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        return super().convert(quantity_named(str(value)), param, ctx)


@click.command("memory")
@pair
@click.option(
    "--max", "most", type=_Quantity(CHOICES["LargestOf"]), multiple=True,
    help="Also find the largest of it that fits. Repeatable.",
)  # fmt: skip
@click.option("--min", "least", type=_Quantity(CHOICES["FewestOf"]), multiple=True,
              help="Also find the fewest that fit.")  # fmt: skip
@answered(page=True)
@quieted
def command(
    topology: str, workload: str, overrides: tuple[str, ...], most: tuple[str, ...],
    least: tuple[str, ...],
) -> Answer:  # fmt: skip
    """Bytes per GPU of WORKLOAD on TOPOLOGY by category and moment, the verdict and fixes."""
    import sim

    asked = cast("tuple[BoundQuantity, ...]", (*most, *least))
    answer = sim.memory_of(topology, workload, overrides=overrides, bounds=asked)
    from sim.report.memory import view

    return view(answer), [Asked(topology, workload, overrides)]
