"""`scaling-sim collective`: what the network of a machine gives."""

from __future__ import annotations

from typing import Any

import click

import sim
from sim.api.machines import collective
from sim.commands.asked import asks
from sim.commands.complete import MACHINES
from sim.commands.options import Answer, answered, sets
from sim.cost.nccl.algorithms import names
from sim.cost.nccl.communicator import ASKED, COLLECTIVES, PROTOCOLS, collective_named


class _Operation(click.Choice[str]):
    """An operation as people call it."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        return super().convert(collective_named(str(value)) or value, param, ctx)


_asks = asks(collective)


@click.command("collective")
@click.argument("topology", shell_complete=MACHINES)
@click.argument("operation", type=_Operation(COLLECTIVES), required=False, metavar="[OPERATION]")
@click.option("--op", type=_Operation(COLLECTIVES),
              help="Which; all_gather by default. May stand after TOPOLOGY, too.")  # fmt: skip
@_asks("sizes", metavar="LOW:HIGH | LIST",
       help="Total bytes: a range in powers of two, or a comma list; K = 1024.")  # fmt: skip
@_asks("ranks", help="Only the first so many GPUs.")
@_asks("nccl", help="Version of NCCL.")
@_asks("algorithm", type=click.Choice(names()), help="Instead of NCCL's choice.")
@_asks("protocol", type=click.Choice(PROTOCOLS), help="Instead of NCCL's choice.")
@_asks("nccl_path", type=click.Choice(["plain", *ASKED]), help="As stack.nccl_path.")
@_asks("vary", metavar="KEY=A,B,C",
       help="A row for each value of a key of the topology. Repeatable.")  # fmt: skip
@_asks("zipped", "--zip", help="The --vary keys move together.")
@sets
@answered()
def command(
    topology: str, operation: str | None, op: str | None, sizes: str, ranks: int | None,
    nccl: str, algorithm: str | None, protocol: str | None, nccl_path: str,
    vary: tuple[str, ...], zipped: bool, overrides: tuple[str, ...],
) -> Answer:  # fmt: skip
    """Print the table that nccl-tests would print on TOPOLOGY, of OPERATION or --op."""
    from sim.report.collective import view
    from sim.report.progress import progress_bar

    if operation and op and operation != op:
        message = f"{operation} stands after the topology, and --op says {op}; say one"
        raise click.UsageError(message)
    with progress_bar("machines") as progress:
        found = sim.collective(
            topology, op=operation or op or COLLECTIVES[0], sizes=sizes, ranks=ranks, nccl=nccl,
            algorithm=algorithm, protocol=protocol, nccl_path=nccl_path, vary=vary,
            zipped=zipped, overrides=overrides, progress=progress,
        )  # fmt: skip
    return view(found)
