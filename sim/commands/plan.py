"""`scaling-sim plan`: several jobs on one cluster, or the same jobs on several."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, cast

import click
from click.core import ParameterSource

from sim.commands.complete import MACHINES
from sim.commands.options import Answer, ShareRange, answered, sets

if TYPE_CHECKING:
    from sim.study.schedule import Policy

_ONE_PLAN = "--gantt and --replicas are of one plan; several are compared here"
_POLICIES = ("fifo", "sjf", "edf", "priority", "backfill")


@click.command("plan")
@click.argument("cluster", shell_complete=MACHINES)
@click.argument("jobs", type=click.Path(path_type=Path))
@sets
@click.option(
    "--policy", "policies", type=click.Choice([*_POLICIES, "all"]), multiple=True,
    default=("fifo",), show_default=True,
    help="Who goes first; several are compared. fifo: by arrival, sjf: shortest first, edf: "
    "earliest deadline first, priority: preempts, backfill: EASY.",
)  # fmt: skip
@click.option(
    "--smallest", is_flag=True, help="Find the fewest nodes instead of using the cluster's."
)
@click.option("--on-time", type=ShareRange(0.0, 1.0), default=0.95, show_default=True,
              help="Share of deadlines that must be met.")  # fmt: skip
@click.option("--or", "others", multiple=True, metavar="CLUSTER",
              help="Another cluster to compare with.")  # fmt: skip
@click.option("--vary", multiple=True, metavar="KEY=A,B",
              help="Values of a key of the cluster to compare, such as nodes=6,8 or "
              "network.oversubscription=1,4.")  # fmt: skip
@click.option("--growth", metavar="1,1.5,2", help="Times as many jobs in the same time.")
@click.option("--replicas", type=click.IntRange(0, 1000), default=20, show_default=True,
              help="Times to play failures, for one plan's odds; 0: not.")  # fmt: skip
@click.option("--gantt", is_flag=True, help="Draw the jobs of one plan over time.")
@answered(page=True)
def command(
    cluster: str, jobs: Path, overrides: tuple[str, ...], policies: tuple[str, ...],
    smallest: bool, on_time: float, others: tuple[str, ...], vary: tuple[str, ...],
    growth: str | None, replicas: int, gantt: bool,
) -> Answer:  # fmt: skip
    """Serve JOBS (.yaml, or a trace .csv) on CLUSTER: queueing, deadlines and their odds, cost."""
    import sim
    from sim.report import plan, plans
    from sim.report.progress import progress_bar

    chosen = cast("tuple[Policy, ...]", _POLICIES if "all" in policies else policies)
    if len(chosen) > 1 or others or vary or growth is not None:
        asked = click.get_current_context().get_parameter_source("replicas")
        if gantt or asked is not ParameterSource.DEFAULT:
            raise click.UsageError(_ONE_PLAN)
        with progress_bar("scenarios") as progress:
            found = sim.compare_plans(
                [cluster, *others], jobs, policies=chosen, vary=vary, growth=growth or "1",
                smallest=smallest, on_time=on_time, overrides=overrides, progress=progress,
            )  # fmt: skip
        return plans.view(found)
    with progress_bar("jobs") as progress:
        planned = sim.plan(
            cluster, jobs, policy=chosen[0], smallest=smallest, on_time=on_time,
            replicas=replicas, overrides=overrides, progress=progress,
        )  # fmt: skip
    return plan.view(planned, on_time if smallest else None, gantt)
