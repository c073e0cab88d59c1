"""Several jobs on one cluster, and questions answered claim by claim."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sim.api.arguments import Overrides, Varied, axes, settings, several
from sim.choices import ON_TIME, share_of
from sim.errors import InputError

_ON_TIME = "--on-time"
if TYPE_CHECKING:
    from sim.choices import Policy, Portion, ReplicaCount
    from sim.files import File
    from sim.inputs.arguments import Argument
    from sim.inputs.calibration import Calibration
    from sim.step.variation import Progress, Stop
    from sim.study.planned import PlanComparison, PlanReport
    from sim.study.question.answers import Answers
    from sim.study.question.reading import Studies


def plan(
    cluster: Argument,
    jobs: File | Mapping[str, Any],
    *,
    policy: Policy = "fifo",
    smallest: bool = False,
    on_time: Portion | None = None,
    replicas: ReplicaCount = 20,
    overrides: Overrides = (),
    calibration: File | Calibration | None = None,
    progress: Progress | None = None,
    stop: Stop | None = None,
) -> PlanReport:
    """Serve several jobs on one cluster: queueing, deadlines and their odds, cost.

    Parameters
    ----------
    cluster, overrides, calibration
        As the topology of `simulate`.
    jobs : path or mapping
        Jobs file, a trace of a real cluster (``.csv``), or the keys of a jobs file.
    policy : {"fifo", "sjf", "edf", "priority", "backfill"}
        Who goes first; priority preempts.
    smallest : bool
        Find the fewest nodes instead of using the cluster's.
    on_time : str or float, optional
        Share of deadlines that `smallest` must meet; 95 %.
    replicas : int
        Times to play failures, for the odds of deadlines; 0: none.
    progress : callable, optional
        Called with jobs served and all there are.
    stop : callable, optional
        Asked between plans: once true, the report is `stopped` and has what is known by then.
    """
    from sim.step.variation import never
    from sim.study.plan import fewest, plan

    sets = settings(overrides, calibration)
    listed = jobs if isinstance(jobs, Mapping) else Path(jobs)
    share = _share(on_time, smallest)
    if smallest:
        return fewest(
            cluster, listed, policy=policy, share=share, sets=sets, replicas=replicas,
            progress=progress, stop=stop or never,
        )  # fmt: skip
    return plan(
        cluster, listed, policy=policy, sets=sets, replicas=replicas, progress=progress,
        stop=stop or never,
    )  # fmt: skip


def compare_plans(
    clusters: Argument | Sequence[Argument],
    jobs: File,
    *,
    policies: Sequence[Policy] = ("fifo",),
    vary: Varied = (),
    growth: str | Sequence[float] = (1.0,),
    smallest: bool = False,
    on_time: Portion | None = None,
    overrides: Overrides = (),
    calibration: File | Calibration | None = None,
    progress: Progress | None = None,
    stop: Stop | None = None,
) -> PlanComparison:
    """The same jobs on several clusters, under several policies and growths, and which to take.

    Parameters
    ----------
    clusters : one or several
        As the topology of `simulate`.
    jobs, smallest, on_time, overrides, calibration
        As for `plan`.
    policies : sequence of str
        As `policy` of `plan`.
    vary : iterable of ``KEY=A,B``, or mapping of keys to values
        Of the clusters; several keys give all their combinations.
    growth : sequence of float, or ``1,1.5``
        Times as many jobs in the same time.
    progress : callable, optional
        Called with scenarios played and all there are, first with none.
    stop : callable, optional
        Asked before each but the first: once true, the answer is `stopped` and has those so far.
    """
    from sim.step.variation import never
    from sim.study.scenarios import compare_plans, try_growth

    return compare_plans(
        several(clusters), Path(jobs), policies=policies, vary=axes(vary),
        growths=try_growth(growth) if isinstance(growth, str) else growth, fewest=smallest,
        share=_share(on_time, smallest), sets=settings(overrides, calibration), progress=progress,
        stop=stop or never,
    )  # fmt: skip


def _share(on_time: Portion | None, smallest: bool) -> float:
    """Of deadlines that must be met."""
    if on_time is not None and not smallest:
        message = "is what the fewest nodes must meet; ask for them by --smallest (smallest=True)"
        raise InputError.single(_ON_TIME, message)
    return share_of(ON_TIME if on_time is None else on_time)


def run_study(
    study: File, *, progress: Progress | None = None, stop: Stop | None = None
) -> Answers:
    """A question answered claim by claim, rerun from its inputs.

    Parameters
    ----------
    study : path or shipped name
        A YAML file, or such as ``h100-vs-a100``.
    progress : callable, optional
        Called with the cases done and their number.
    stop : callable, optional
        Asked before each: once true, the answer is `stopped` and has the claims that can be judged.
    """
    from sim.step.variation import never
    from sim.study.question.answers import run_study
    from sim.study.question.reading import find_study, read_study

    path = find_study(str(study))
    return run_study(read_study(path), path.name, progress, stop or never)


def studies() -> Studies:
    """The studies that are shipped, and the question of each."""
    from sim.study.question.reading import list_studies

    return list_studies()
