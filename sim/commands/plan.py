"""`scaling-sim plan`: several jobs on one cluster."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, cast

import click

from sim.commands.options import FORMS, printed, reported, sets, show, write_page

if TYPE_CHECKING:
    from sim.study.schedule import Policy


@click.command("plan")
@click.argument("cluster")
@click.argument("jobs", type=click.Path(path_type=Path))
@sets
@click.option(
    "--policy", type=click.Choice(["fifo", "priority", "backfill"]), default="fifo",
    show_default=True, help="Who goes first; priority preempts.",
)  # fmt: skip
@click.option(
    "--smallest", is_flag=True, help="Find the fewest nodes instead of using the cluster's."
)
@click.option("--on-time", type=click.FloatRange(0.0, 1.0), default=0.95, show_default=True,
              help="Share of deadlines that --smallest must meet.")  # fmt: skip
@printed(*FORMS)
@reported
def command(
    cluster: str, jobs: Path, overrides: tuple[str, ...], policy: str, smallest: bool,
    on_time: float, form: str, output: Path | None, report: Path | None,
) -> None:  # fmt: skip
    """Serve JOBS.yaml on CLUSTER: queueing, utilisation, deadlines, cost."""
    import sim
    from sim.report.plan import view

    found = sim.plan(
        cluster, jobs, policy=cast("Policy", policy), smallest=smallest, on_time=on_time,
        overrides=overrides,
    )  # fmt: skip
    said = view(found, on_time if smallest else None)
    show(said, form, output)
    write_page(report, said)
