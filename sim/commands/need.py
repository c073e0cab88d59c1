"""`scaling-sim need`: inverse questions."""

from __future__ import annotations

import click

from sim.commands.options import sets

_JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@click.group("need")
def command() -> None:
    """What must be true for an answer: bandwidth, GPUs, context, price."""


@command.command("bandwidth")
@click.argument("topology")
@click.argument("workload")
@sets
@click.option("--efficiency", type=click.FloatRange(0.0, 1.5, min_open=True), default=0.9,
              show_default=True, help="Scaling efficiency wanted.")  # fmt: skip
@_JSON
def bandwidth(
    topology: str, workload: str, overrides: tuple[str, ...], efficiency: float, as_json: bool
) -> None:
    """Print the NIC rate at which WORKLOAD scales on TOPOLOGY with a given efficiency."""
    import sim
    from sim.report.need import bandwidth_text

    found = sim.need_bandwidth(topology, workload, efficiency=efficiency, overrides=overrides)
    click.echo(found.to_json() if as_json else bandwidth_text(found))


@command.command("gpus")
@click.argument("topology")
@click.argument("workload")
@sets
@click.option("--deadline", required=True, metavar="48h", help="Wall-clock of the whole job.")
@_JSON
def gpus(
    topology: str, workload: str, overrides: tuple[str, ...], deadline: str, as_json: bool
) -> None:
    """Print the fewest nodes of TOPOLOGY on which WORKLOAD ends in time."""
    import sim
    from sim.report.need import gpus_text

    found = sim.need_gpus(topology, workload, deadline=deadline, overrides=overrides)
    click.echo(found.to_json() if as_json else gpus_text(found))


@command.command("context")
@click.argument("topology")
@click.argument("workload")
@sets
@_JSON
def context(topology: str, workload: str, overrides: tuple[str, ...], as_json: bool) -> None:
    """Print the longest sequence of WORKLOAD that fits on TOPOLOGY."""
    import sim
    from sim.report.need import context_text

    found = sim.need_context(topology, workload, overrides=overrides)
    click.echo(found.to_json() if as_json else context_text(found))


@command.command("price")
@click.argument("first")
@click.argument("other")
@click.argument("workload")
@sets
@_JSON
def price(first: str, other: str, workload: str, overrides: tuple[str, ...], as_json: bool) -> None:
    """Print the price at which machine FIRST costs as much as OTHER for WORKLOAD."""
    import sim
    from sim.report.need import price_text

    found = sim.need_price(first, other, workload, overrides=overrides)
    click.echo(found.to_json() if as_json else price_text(found))
