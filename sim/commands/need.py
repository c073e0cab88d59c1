"""`scaling-sim need`: inverse questions."""

from __future__ import annotations

import click

import sim
from sim.api.needs import need_bandwidth
from sim.commands.asked import asks
from sim.commands.complete import JOBS, MACHINES
from sim.commands.options import Answer, answered, pair_of_files, sets
from sim.commands.output import stopped_softly


@click.group("need")
def command() -> None:
    """What must be true for an answer: bandwidth, GPUs, context, price."""


@command.command("bandwidth")
@pair_of_files
@asks(need_bandwidth)("efficiency", help="Scaling efficiency wanted, such as 90%.")
@answered()
def bandwidth(
    topology: str, workload: str, overrides: tuple[str, ...], efficiency: float
) -> Answer:
    """Print the NIC rate at which WORKLOAD scales with an efficiency.

    Ctrl-C and SIGTERM show between which rates it is (exit 130, 143); again, they end at once.
    """
    from sim.report.need import bandwidth_view
    from sim.report.progress import progress_bar

    with progress_bar("steps") as progress, stopped_softly() as stop:
        found = sim.need_bandwidth(
            topology, workload, efficiency=efficiency, overrides=overrides, progress=progress,
            stop=stop,
        )  # fmt: skip
    return bandwidth_view(found)


@command.command("gpus")
@pair_of_files
@click.option("--deadline", metavar="48h", help="Wall-clock of the whole job; any if open.")
@answered()
def gpus(topology: str, workload: str, overrides: tuple[str, ...], deadline: str | None) -> Answer:
    """Print the fewest nodes on which WORKLOAD fits and ends in time.

    Ctrl-C and SIGTERM show how many are too few (exit 130, 143); again, they end at once.
    """
    from sim.report.need import gpus_view
    from sim.report.progress import progress_bar

    with progress_bar("sizes") as progress, stopped_softly() as stop:
        found = sim.need_gpus(
            topology, workload, deadline=deadline, overrides=overrides, progress=progress,
            stop=stop,
        )  # fmt: skip
    return gpus_view(found)


@command.command("context")
@pair_of_files
@answered()
def context(topology: str, workload: str, overrides: tuple[str, ...]) -> Answer:
    """Print the longest sequence of WORKLOAD that fits on TOPOLOGY.

    Ctrl-C and SIGTERM show between which lengths it is (exit 130, 143); again, they end at once.
    """
    from sim.report.need import context_view
    from sim.report.progress import progress_bar

    with progress_bar("lengths") as progress, stopped_softly() as stop:
        found = sim.need_context(
            topology, workload, overrides=overrides, progress=progress, stop=stop
        )
    return context_view(found)


@command.command("price")
@click.argument("first", shell_complete=MACHINES)
@click.argument("other", shell_complete=MACHINES)
@click.argument("workload", shell_complete=JOBS)
@sets
@answered()
def price(first: str, other: str, workload: str, overrides: tuple[str, ...]) -> Answer:
    """Print the price at which FIRST costs as much as OTHER.

    Both are machines, for WORKLOAD.
    """
    from sim.report.need import price_view
    from sim.report.progress import progress_bar

    with progress_bar("machines") as progress:
        found = sim.need_price(first, other, workload, overrides=overrides, progress=progress)
    return price_view(found)
