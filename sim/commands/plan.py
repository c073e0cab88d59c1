"""`scaling-sim plan`: several jobs on one cluster, or the same jobs on several."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, cast

import click

import sim
from sim.api.plans import compare_plans
from sim.api.plans import plan as one_plan
from sim.choices import CHOICES, ON_TIME
from sim.commands.asked import asks
from sim.commands.complete import MACHINES
from sim.commands.options import Answer, answered, refuse, sets
from sim.commands.output import stopped_softly

if TYPE_CHECKING:
    from sim.choices import Policy

_ONE_PLAN = "of one plan; several are compared here"
_POLICIES = CHOICES["Policy"]
_asks = asks(compare_plans)


@click.command("plan")
@click.argument("cluster", shell_complete=MACHINES)
@click.argument("jobs", type=click.Path(path_type=Path))
@sets
@_asks(
    "policies", "--policy", type=click.Choice([*_POLICIES, "all"]), multiple=True,
    help="Who goes first; several are compared. fifo: by arrival, sjf: shortest first, edf: "
    "earliest deadline first, priority: preempts, backfill: EASY.",
)  # fmt: skip
@_asks("smallest", help="Find the fewest nodes instead of using the cluster's.")
@_asks("on_time", help="Share of deadlines that --smallest must meet; 95 %.")
@click.option("--or", "others", multiple=True, metavar="CLUSTER",
              help="Another cluster to compare with.")  # fmt: skip
@_asks("vary", metavar="KEY=A,B",
       help="Values of a key of the cluster to compare, such as nodes=6,8 or "
       "network.oversubscription=1,4.")  # fmt: skip
@click.option("--growth", metavar="1,1.5,2", help="Times as many jobs in the same time.")
@asks(one_plan)("replicas", help="Times to play failures, for one plan's odds; 0: not.")
@click.option("--gantt", is_flag=True, help="Draw the jobs of one plan over time.")
@answered(page=True)
def command(
    cluster: str, jobs: Path, overrides: tuple[str, ...], policies: tuple[str, ...],
    smallest: bool, on_time: float | None, others: tuple[str, ...], vary: tuple[str, ...],
    growth: str | None, replicas: int, gantt: bool,
) -> Answer:  # fmt: skip
    """Serve JOBS (.yaml, or a trace .csv) on CLUSTER: queueing, deadlines and their odds, cost.

    Ctrl-C and SIGTERM show what is known so far (exit 130, 143); again, they end at once.
    """
    from sim.report import plan, plans
    from sim.report.progress import progress_bar

    chosen = cast("tuple[Policy, ...]", _POLICIES if "all" in policies else policies)
    if len(chosen) > 1 or others or vary or growth is not None:
        refuse(["gantt", "replicas"], _ONE_PLAN)
        with progress_bar("scenarios") as progress, stopped_softly() as stop:
            found = sim.compare_plans(
                [cluster, *others], jobs, policies=chosen, vary=vary, growth=growth or "1",
                smallest=smallest, on_time=on_time, overrides=overrides, progress=progress,
                stop=stop,
            )  # fmt: skip
        return plans.view(found)
    with progress_bar("jobs") as progress, stopped_softly() as stop:
        planned = sim.plan(
            cluster, jobs, policy=chosen[0], smallest=smallest, on_time=on_time,
            replicas=replicas, overrides=overrides, progress=progress, stop=stop,
        )  # fmt: skip
    share = ON_TIME if on_time is None else on_time
    return plan.view(planned, share if smallest else None, gantt)
