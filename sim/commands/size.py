"""`scaling-sim size`: the cheapest, fastest or greenest cluster for a job."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, cast

import click

from sim.commands.complete import GPUS, MACHINES
from sim.commands.options import EMITTED, FORMS, formed, job, reported, sets
from sim.commands.output import show, stopped_softly, tell, write_page
from sim.page.asked import Asked

if TYPE_CHECKING:
    from sim.study.target import Objective


@click.command("size")
@job
@sets
@click.option("--deadline", metavar="48h", help="Wall-clock of the whole job at most.")
@click.option("--budget", metavar="'500 USD'", help="Total cost at most.")
@click.option("--throughput", type=click.FloatRange(min=0, min_open=True),
              help="Tokens per second at least.")  # fmt: skip
@click.option(
    "--objective", type=click.Choice(["cost", "time", "co2", "energy"]), default="cost",
    show_default=True, help="What shall be least.",
)  # fmt: skip
@click.option("--residency", multiple=True, help="Where data may be: EU, US. Repeatable.")
@click.option("--region", multiple=True, help="Region, by its beginning: eu-north. Repeatable.")
@click.option("--provider", multiple=True, help="Whose offers. Repeatable.")
@click.option("--gpu", multiple=True, shell_complete=GPUS,
              help="GPU, by the beginning of its name. Repeatable.")  # fmt: skip
@click.option("--topology", "topologies", multiple=True, shell_complete=MACHINES,
              help="Choose among these machines instead of the catalogue. Repeatable.")  # fmt: skip
@click.option("--prices", type=click.Path(path_type=Path), help="CSV of offers, over the shipped.")
@click.option("--spot", is_flag=True, help="Also at spot prices.")
@click.option("--max-gpus", type=click.IntRange(1, 16384), default=256, show_default=True)
@click.option("--gpus", type=click.IntRange(1, 16384), help="So many GPUs exactly.")
@click.option("--global-batch", type=click.IntRange(1, 1 << 24), help="Sequences a step.")
@click.option("--vary", multiple=True, metavar="KEY=A,B",
              help="Also choose this key, e.g. precision=bf16,fp8; `layout`: every way to "
                   "cut the model.")  # fmt: skip
@click.option("--risk", default="5 %", show_default=True,
              help="Probability of running out of memory that a plan may have.")  # fmt: skip
@click.option("--slack", metavar="SHARE",
              help="Take a smaller cluster that is worse by no more; 5 %, 0 of time.")  # fmt: skip
@click.option("--setup", default="15 min", show_default=True,
              help="Paid for on every node before the first step.")  # fmt: skip
@click.option("--as-written", is_flag=True,
              help="Leave torch.compile, attention and loss as the workload has them.")  # fmt: skip
@click.option(
    "--exhaustive",
    is_flag=True,
    help="With --vary layout: the best plan of every offer, though it cannot win.",
)
@click.option("--emit", "emitted", multiple=True,
              type=click.Choice(EMITTED),
              help="Write the plan as a configuration of this tool. Repeatable.")  # fmt: skip
@formed(*FORMS)
@reported
@click.option("-o", "--output", type=click.Path(path_type=Path),
              help="Folder for --emit; without it, file for the report.")  # fmt: skip
def command(
    workload: str, overrides: tuple[str, ...], deadline: str | None, budget: str | None,
    throughput: float | None, objective: str, residency: tuple[str, ...],
    region: tuple[str, ...], provider: tuple[str, ...], gpu: tuple[str, ...],
    topologies: tuple[str, ...], prices: Path | None, spot: bool, max_gpus: int,
    gpus: int | None, global_batch: int | None, vary: tuple[str, ...], risk: str,
    slack: str | None, setup: str, as_written: bool, exhaustive: bool,
    emitted: tuple[str, ...],
    form: str, output: Path | None, report: Path | None,
) -> None:  # fmt: skip
    """Search for the best cluster for WORKLOAD; exit 3 if nothing meets the target.

    Ctrl-C shows the best so far (exit 130), pressed again it ends at once.
    """
    import sim
    from sim.report.progress import progress_bar
    from sim.report.size import view

    with progress_bar("plans") as progress, stopped_softly() as stop:
        found = sim.size(
            workload, objective=cast("Objective", objective), deadline=deadline, budget=budget,
            throughput=throughput, residency=residency, region=region, provider=provider, gpu=gpu,
            topologies=topologies, prices=prices, spot=spot, max_gpus=max_gpus,
            gpus=gpus, global_batch=global_batch, vary=vary, risk=risk, slack=slack,
            setup=setup, as_written=as_written, exhaustive=exhaustive, overrides=overrides,
            progress=progress, stop=stop,
        )  # fmt: skip
    show(view(found), form, None if emitted else output)
    best = found.winner.candidate if found.winner else None
    write_page(report, view(found), [Asked(best.topology, best.workload)] if best else [])
    if best is None and not found.stopped:
        sys.exit(3)
    if best is not None and emitted:
        from sim.interop.emit import write_plan

        folder = output or Path("plan")
        for path in write_plan(best.topology, best.workload, emitted, folder):
            tell(f"wrote {path}")
    if found.stopped:
        sys.exit(130)
