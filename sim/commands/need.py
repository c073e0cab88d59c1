"""`scaling-sim need`: inverse questions."""

from __future__ import annotations

from pathlib import Path

import click

from sim.commands.complete import JOBS, MACHINES
from sim.commands.options import FORMS, printed, sets, show


@click.group("need")
def command() -> None:
    """What must be true for an answer: bandwidth, GPUs, context, price."""


@command.command("bandwidth")
@click.argument("topology", shell_complete=MACHINES)
@click.argument("workload", shell_complete=JOBS)
@sets
@click.option("--efficiency", type=click.FloatRange(0.0, 1.5, min_open=True), default=0.9,
              show_default=True, help="Scaling efficiency wanted.")  # fmt: skip
@printed(*FORMS)
def bandwidth(
    topology: str, workload: str, overrides: tuple[str, ...], efficiency: float, form: str,
    output: Path | None,
) -> None:  # fmt: skip
    """Print the NIC rate at which WORKLOAD scales on TOPOLOGY with a given efficiency."""
    import sim
    from sim.report.need import bandwidth_view

    found = sim.need_bandwidth(topology, workload, efficiency=efficiency, overrides=overrides)
    show(bandwidth_view(found), form, output)


@command.command("gpus")
@click.argument("topology", shell_complete=MACHINES)
@click.argument("workload", shell_complete=JOBS)
@sets
@click.option("--deadline", required=True, metavar="48h", help="Wall-clock of the whole job.")
@printed(*FORMS)
def gpus(
    topology: str, workload: str, overrides: tuple[str, ...], deadline: str, form: str,
    output: Path | None,
) -> None:  # fmt: skip
    """Print the fewest nodes of TOPOLOGY on which WORKLOAD ends in time."""
    import sim
    from sim.report.need import gpus_view

    found = sim.need_gpus(topology, workload, deadline=deadline, overrides=overrides)
    show(gpus_view(found), form, output)


@command.command("context")
@click.argument("topology", shell_complete=MACHINES)
@click.argument("workload", shell_complete=JOBS)
@sets
@printed(*FORMS)
def context(
    topology: str, workload: str, overrides: tuple[str, ...], form: str, output: Path | None
) -> None:
    """Print the longest sequence of WORKLOAD that fits on TOPOLOGY."""
    import sim
    from sim.report.need import context_view

    found = sim.need_context(topology, workload, overrides=overrides)
    show(context_view(found), form, output)


@command.command("price")
@click.argument("first", shell_complete=MACHINES)
@click.argument("other", shell_complete=MACHINES)
@click.argument("workload", shell_complete=JOBS)
@sets
@printed(*FORMS)
def price(
    first: str, other: str, workload: str, overrides: tuple[str, ...], form: str,
    output: Path | None,
) -> None:  # fmt: skip
    """Print the price at which machine FIRST costs as much as OTHER for WORKLOAD."""
    import sim
    from sim.report.need import price_view

    found = sim.need_price(first, other, workload, overrides=overrides)
    show(price_view(found), form, output)
