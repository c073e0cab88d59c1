"""One training step, from specs to measures: plan, prices, program, timeline, breakdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from sim.blocks.parameters import tree_of
from sim.engine import run
from sim.fabric import compile_fabric
from sim.fabric.role import Role
from sim.inputs.shares import mesh_of
from sim.inputs.topology import Topology
from sim.inputs.workload import Workload
from sim.lowering.costs import Priced, price
from sim.lowering.frames import lowered
from sim.lowering.lower import Lowered, RankView
from sim.program import Timeline
from sim.records import dataclass
from sim.step.bounds import check_size
from sim.step.breakdown import Breakdown, measure
from sim.step.intervals import F8
from sim.step.overlap import between_nodes
from sim.step.rhythm import middle_of, settled, shortened
from sim.step.straggle import Ranks, ranks_of
from sim.step.variation import Variation, capacities, jittered, speeds
from sim.strategies import plans_of


@dataclass(frozen=True, slots=True)
class StepOutcome:
    """A simulated step.

    Attributes
    ----------
    breakdown : Breakdown
        Of the representative rank, the whole step with all its micro-steps.
    lowered, timeline, priced
        What was run, for traces and critical paths; of the simulated micro-steps.
    middle : Breakdown or None
        Of the micro-step that stands for several, where one does.
    repeats : int
        How often that micro-step is to be counted once more.
    """

    breakdown: Breakdown
    lowered: Lowered
    timeline: Timeline
    priced: Priced
    middle: Breakdown | None = None
    repeats: int = 0

    @property
    def time_s(self) -> float:
        """Duration of the optimizer step. [s]"""
        return self.breakdown.time_s


def run_step(
    topology: Topology,
    workload: Workload,
    *,
    engine: str = "auto",
    level: str = "folded",
    all_micro_steps: bool = False,
    layers: int | None = None,
    variation: Variation | None = None,
) -> StepOutcome:
    """Simulate one optimizer step.

    Parameters
    ----------
    topology, workload : specs
        Checked by the loader.
    engine : str
        ``auto | reference | python | compiled``.
    level : str
        ``folded`` (equal ranks once), ``ranks`` or ``steps`` (every ring step of every rank).
    all_micro_steps : bool
        Simulate every micro-step instead of repeating the middle one.
    layers : int, optional
        Of the whole model, where `workload` has some of its blocks.
    variation : Variation, optional
        Jitter and slow parts, at levels ``ranks`` and ``steps``. Of several replicas, the one
        whose time is the median.
    """
    return run_replicas(
        topology, workload, variation or Variation(), engine=engine, level=level,
        all_micro_steps=all_micro_steps, layers=layers,
    )[0]  # fmt: skip


def run_replicas(
    topology: Topology,
    workload: Workload,
    variation: Variation,
    *,
    engine: str = "auto",
    level: str = "ranks",
    all_micro_steps: bool = False,
    layers: int | None = None,
) -> tuple[StepOutcome, F8]:
    """Simulate a step as often as `variation` asks, with new draws each time.

    Returns
    -------
    StepOutcome
        Of the median replica (the lower one of two).
    (replicas,) float64
        Every replica's step time. [s]
    """
    level = variation.level(level)
    tried = (workload,) if all_micro_steps else shortened(workload)
    for simulated in tried:
        found, times = _replicas(topology, workload, simulated, variation, engine, level, layers)
        if simulated is workload or settled(found.lowered, found.timeline):
            break
    return found, times


def _replicas(
    topology: Topology, workload: Workload, simulated: Workload, variation: Variation, engine: str,
    level: str, layers: int | None,
) -> tuple[StepOutcome, F8]:  # fmt: skip
    """As `run_replicas`, of `simulated`, which has all micro-steps of the job or fewer."""
    fabric = compile_fabric(topology)
    tree = tree_of(workload)
    plans = plans_of(simulated, tree, mesh_of(topology, workload))
    known = topology.calibration
    slow = speeds(variation, fabric)
    told = known is not None and known.slowest_gpu != 1.0 and not variation.jitter
    if known is not None and told:  # a calibration that found one GPU slower says so itself
        slow = np.ones(fabric.n_ranks) if slow is None else slow
        slow[-1] *= known.slowest_gpu
    priced = price(plans, simulated, fabric, level, slow, capacities(variation, fabric))
    check_size(priced, level, variation.replicas)
    ranks = () if told else ranks_of(priced, simulated, variation.jitter, _deep(workload, layers))
    if not variation.jitter:
        priced = _as_the_slowest(priced, ranks)
    program = lowered(priced)
    repeats = workload.gradient_accumulation - simulated.gradient_accumulation

    by_role = {part.role: mine for part, mine in zip(priced.parts, ranks, strict=False)}

    def outcome(replica: int) -> StepOutcome:
        drawn = program
        if variation.jitter:
            drawn = jittered(program, by_role, variation.seed, replica)
        timeline = run(drawn.program, engine)
        usual = {} if variation.jitter else by_role
        whole, middle = _whole(priced, drawn, timeline, repeats, usual)
        return StepOutcome(whole, drawn, timeline, priced, middle, repeats)

    if variation.replicas == 1:
        only = outcome(0)
        return only, np.array([only.time_s])
    times = np.array([outcome(replica).time_s for replica in range(variation.replicas)])
    median = int(np.argsort(times, kind="stable")[(times.size - 1) // 2])
    return outcome(median), times


def _deep(workload: Workload, layers: int | None) -> Workload:
    if layers is None or layers == workload.model.layers:
        return workload
    model = workload.model.model_copy(update={"layers": layers})
    return workload.model_copy(update={"model": model})


def _as_the_slowest(priced: Priced, ranks: Sequence[Ranks]) -> Priced:
    """The same step where every rank is as slow as the slowest is in the mean."""
    pace = np.array([1.0 / each.slowdown for each in ranks])
    if (pace == 1.0).all():
        return priced
    classes = priced.compiled.classes
    classes = classes._replace(speed=classes.speed * pace[classes.role])
    return priced._replace(compiled=priced.compiled._replace(classes=classes))


def _whole(
    priced: Priced, lowered: Lowered, timeline: Timeline, repeats: int, ranks: Mapping[Role, Ranks]
) -> tuple[Breakdown, Breakdown | None]:
    """Measures of the step, in which the middle micro-step counts `repeats` more times; and its."""
    slowest = _slowest(lowered, timeline)
    total, *middle = [
        _measured(priced, lowered, timeline, slowest, begin, finish, ranks)
        for begin, finish, _ in _windows(lowered, timeline, slowest, repeats)
    ]
    if not middle:
        return total, None
    total.add(middle[0], repeats)
    return total, middle[0]


def _measured(
    priced: Priced, lowered: Lowered, timeline: Timeline, view: RankView, begin: float,
    finish: float, ranks: Mapping[Role, Ranks],
) -> Breakdown:  # fmt: skip
    """Measures of a rank, and beside them of one on each other kind of GPU."""

    def of(view: RankView) -> Breakdown:
        far = between_nodes(priced, view.plan)
        found = measure(lowered, timeline, view, begin, finish, far)
        mine = ranks.get(view.role)
        return found if mine is None else found.split(mine.slowdown, mine.deviation)

    found = of(view)
    kinds = {v.role.gpu.name: v for v in reversed(lowered.views)}
    if len(kinds) > 1:
        found.by_gpu = {name: of(v).parts for name, v in kinds.items()}
    return found


def _slowest(lowered: Lowered, timeline: Timeline) -> RankView:
    return max(lowered.views, key=lambda view: float(timeline.end[view.compute].max()))


def windows(outcome: StepOutcome) -> list[tuple[float, float, int]]:
    """Parts of the simulated time that make up the step: begin, end [s], and how often."""
    lowered, timeline = outcome.lowered, outcome.timeline
    return _windows(lowered, timeline, _slowest(lowered, timeline), outcome.repeats)


def _windows(
    lowered: Lowered, timeline: Timeline, view: RankView, repeats: int
) -> list[tuple[float, float, int]]:
    whole = (0.0, float(timeline.end.max()), 1)
    if not repeats:
        return [whole]
    return [whole, (*middle_of(lowered, timeline, view), repeats)]
