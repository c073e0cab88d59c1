"""`scaling-sim collective`: what the network of a machine gives."""

from __future__ import annotations

from typing import Any

import click

from sim.commands.complete import MACHINES
from sim.commands.options import Answer, answered, sets
from sim.cost.nccl.algorithms import names
from sim.cost.nccl.communicator import ASKED, COLLECTIVES, collective_named


class _Operation(click.Choice[str]):
    """An operation as people call it."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        return super().convert(collective_named(str(value)) or value, param, ctx)


@click.command("collective")
@click.argument("topology", shell_complete=MACHINES)
@click.argument("operation", type=_Operation(COLLECTIVES), required=False, metavar="[OPERATION]")
@click.option("--op", type=_Operation(COLLECTIVES),
              help="Which; all_gather by default. May stand after TOPOLOGY, too.")  # fmt: skip
@click.option("--sizes", default="1K:8G", show_default=True, metavar="LOW:HIGH | LIST",
              help="Total bytes: a range in powers of two, or a comma list; K = 1024.")  # fmt: skip
@click.option("--ranks", type=int, help="Only the first so many GPUs.")
@click.option("--nccl", default="2.21", show_default=True, help="Version of NCCL.")
@click.option("--algorithm", type=click.Choice(names()), help="Instead of NCCL's choice.")
@click.option("--protocol", type=click.Choice(["ll", "ll128", "simple"]),
              help="Instead of NCCL's choice.")  # fmt: skip
@click.option("--nccl-path", type=click.Choice(["plain", *ASKED]), default="plain",
              show_default=True, help="As stack.nccl_path.")  # fmt: skip
@click.option("--vary", "varied", multiple=True, metavar="KEY=A,B,C",
              help="A row for each value of a key of the topology. Repeatable.")  # fmt: skip
@click.option("--zip", "zipped", is_flag=True, help="The --vary keys move together.")
@sets
@answered()
def command(
    topology: str, operation: str | None, op: str | None, sizes: str, ranks: int | None,
    nccl: str, algorithm: str | None, protocol: str | None, nccl_path: str,
    varied: tuple[str, ...], zipped: bool, overrides: tuple[str, ...],
) -> Answer:  # fmt: skip
    """Print the table that nccl-tests would print on TOPOLOGY, of OPERATION or --op."""
    import sim
    from sim.report.collective import view
    from sim.report.progress import progress_bar

    if operation and op and operation != op:
        message = f"{operation} stands after the topology, and --op says {op}; say one"
        raise click.UsageError(message)
    with progress_bar("machines") as progress:
        found = sim.collective(
            topology, op=operation or op or COLLECTIVES[0], sizes=sizes, ranks=ranks, nccl=nccl,
            algorithm=algorithm, protocol=protocol, nccl_path=nccl_path, vary=varied,
            zipped=zipped, overrides=overrides, progress=progress,
        )  # fmt: skip
    return view(found)
