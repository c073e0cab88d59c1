"""`scaling-sim size`: the cheapest, fastest or greenest cluster for a job."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, cast

import click

import sim
from sim.api.questions import size
from sim.commands.asked import asks
from sim.commands.complete import GPUS, MACHINES
from sim.commands.options import EMITTED, FORMS, formed, job, quieted, reported, sets
from sim.commands.output import end_as_asked, quiet, show, stopped_softly, tell, write_page
from sim.page.asked import Asked

if TYPE_CHECKING:
    from sim.choices import Objective


_asks = asks(size)


@click.command("size")
@job
@sets
@_asks("deadline", metavar="48h", help="Wall-clock of the whole job at most.")
@_asks("budget", metavar="'500 USD'", help="Total cost at most.")
@_asks("throughput", help="Tokens per second at least.")
@_asks("objective", help="What shall be least.")
@_asks("residency", help="Where data may be: EU, US. Repeatable.")
@_asks("region", help="Region, by its beginning: eu-north. Repeatable.")
@_asks("provider", help="Whose offers. Repeatable.")
@_asks("gpu", shell_complete=GPUS, help="GPU, by the beginning of its name. Repeatable.")
@_asks("topologies", "--topology", shell_complete=MACHINES,
       help="Choose among these machines instead of the catalogue. Repeatable.")  # fmt: skip
@_asks("prices", help="CSV of offers, over the shipped.")
@_asks("spot", help="Also at spot prices.")
@_asks("max_gpus")
@_asks("gpus", help="So many GPUs exactly.")
@_asks("global_batch", help="Sequences a step.")
@_asks("vary", metavar="KEY=A,B",
       help="Also choose this key, e.g. precision=bf16,fp8; `layout`: every way to cut the "
       "model.")  # fmt: skip
@_asks("risk", help="Probability of running out of memory that a plan may have.")
@_asks("slack", metavar="SHARE",
       help="Take a smaller cluster that is worse by no more; 5 %, 0 of time.")  # fmt: skip
@_asks("setup", help="Paid for on every node before the first step.")
@_asks("as_written", help="Leave torch.compile, attention and loss as the workload has them.")
@_asks("exhaustive", help="With --vary layout: the best plan of every offer, though it cannot win.")
@click.option("--emit", "emitted", multiple=True,
              type=click.Choice(EMITTED),
              help="Write the plan as a configuration of this tool. Repeatable.")  # fmt: skip
@formed(*FORMS)
@reported
@quieted
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

    Ctrl-C and SIGTERM show the best so far (exit 130, 143); again, they end at once.
    """
    from sim.report.progress import progress_bar
    from sim.report.size import view

    with progress_bar("plans", quiet()) as progress, stopped_softly() as stop:
        found = sim.size(
            workload, objective=cast("Objective", objective), deadline=deadline, budget=budget,
            throughput=throughput, residency=residency, region=region, provider=provider, gpu=gpu,
            topologies=topologies, prices=prices, spot=spot, max_gpus=max_gpus,
            gpus=gpus, global_batch=global_batch, vary=vary, risk=risk, slack=slack,
            setup=setup, as_written=as_written, exhaustive=exhaustive, overrides=overrides,
            progress=progress, stop=stop,
        )  # fmt: skip
    show(view(found), form, None if emitted else output)
    if not quiet():
        tell(f"searched in {found.seconds:.1f} s")  # no part of the answer: other runs take longer
    best = found.winner.candidate if found.winner else None
    write_page(report, view(found), [Asked(best.topology, best.workload)] if best else [])
    if best is None and not found.stopped:
        sys.exit(3)
    if best is not None and emitted:
        from sim.interop.emit import write_plan

        folder = output or Path("plan")
        for path in write_plan(best.topology, best.workload, emitted, folder):
            tell(f"wrote {path}")
    end_as_asked(found)
