"""`scaling-sim memory`: will it fit, and what would make it fit."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import click

from sim.choices import CHOICES
from sim.commands.options import Answer, answered, pair, quieted
from sim.page.asked import Asked

if TYPE_CHECKING:
    from sim.choices import BoundQuantity


@click.command("memory")
@pair
@click.option(
    "--max", "most", type=click.Choice(CHOICES["LargestOf"]), multiple=True,
    help="Also find the largest of it that fits. Repeatable.",
)  # fmt: skip
@click.option("--min", "least", type=click.Choice(CHOICES["FewestOf"]), multiple=True,
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
