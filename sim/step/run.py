"""One training step, from specs to measures: plan, prices, program, timeline, breakdown."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from sim.blocks.parameters import tree_of
from sim.engine import run
from sim.fabric import compile_fabric
from sim.fabric.role import Role
from sim.inputs.shares import mesh_of
from sim.inputs.topology import Topology
from sim.inputs.workload import Workload
from sim.lowering.costs import Priced, Prices, price
from sim.lowering.frames import folds, lowered, stacks
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
    ready = _ready(topology, workload, simulated, variation, level, layers)
    program = lowered(ready.priced)
    if not variation.jitter:
        only = _ran([0], [ready], program, run(program.program, engine)).outcome(0)
        return only, np.full(variation.replicas, only.time_s)

    def outcome(replica: int) -> StepOutcome:
        drawn = jittered(program, ready.ranks, variation.seed, replica)
        timeline = run(drawn.program, engine)
        return _ran([0], [ready._replace(ranks={})], drawn, timeline).outcome(0)

    if variation.replicas == 1:
        only = outcome(0)
        return only, np.array([only.time_s])
    times = np.array([outcome(replica).time_s for replica in range(variation.replicas)])
    median = int(np.argsort(times, kind="stable")[(times.size - 1) // 2])
    return outcome(median), times


class _Ready(NamedTuple):
    """A priced step."""

    priced: Priced
    ranks: Mapping[Role, Ranks]  # as the kernels of a role were slowed
    repeats: int


def _ready(
    topology: Topology,
    workload: Workload,
    simulated: Workload,
    variation: Variation,
    level: str,
    layers: int | None,
    prices: Prices | None = None,
) -> _Ready:
    fabric = compile_fabric(topology)
    tree = tree_of(workload)
    plans = plans_of(simulated, tree, mesh_of(topology, workload))
    known = topology.calibration
    slow = speeds(variation, fabric)
    told = known is not None and known.slowest_gpu != 1.0 and not variation.jitter
    if known is not None and told:  # a calibration that found one GPU slower says so itself
        slow = np.ones(fabric.n_ranks) if slow is None else slow
        slow[-1] *= known.slowest_gpu
    slower = capacities(variation, fabric)
    priced = price(plans, simulated, fabric, level, slow, slower, prices)
    check_size(priced, level, variation.replicas)
    ranks = () if told else ranks_of(priced, simulated, variation.jitter, _deep(workload, layers))
    if not variation.jitter:
        priced = _as_the_slowest(priced, ranks)
    by_role = {part.role: mine for part, mine in zip(priced.parts, ranks, strict=False)}
    repeats = workload.gradient_accumulation - simulated.gradient_accumulation
    return _Ready(priced, by_role, repeats)


class Job(NamedTuple):
    """A step to simulate.

    Attributes
    ----------
    topology, workload : specs
        Checked by the loader.
    layers : int
        Of the whole model, where `workload` has some of its blocks.
    prices : Prices
        Shared with steps that differ in blocks and micro-steps alone.
    """

    topology: Topology
    workload: Workload
    layers: int
    prices: Prices


class Ran(NamedTuple):
    """Steps that differ in numbers only, run together; or one."""

    places: list[int]  # which of those that were asked for
    lowered: Lowered  # a stack of them, or the one
    timeline: Timeline
    priced: list[Priced]
    whole: list[Breakdown]
    middle: list[Breakdown | None]
    repeats: list[int]

    def outcome(self, i: int) -> StepOutcome:
        """One of them by itself."""
        return StepOutcome(
            self.whole[i], self.lowered.row(i), self.timeline.row(i), self.priced[i],
            self.middle[i], self.repeats[i],
        )  # fmt: skip


def run_together(jobs: Sequence[Job], engine: str) -> Iterator[Ran]:
    """Simulate steps with equal ranks once, those of one structure in one call of the engine.

    Parameters
    ----------
    jobs : sequence of Job
        Each is measured as by `run_step`.
    engine : str
        As for `run_step`.
    """
    together: dict[int, _Ready] = {}
    for place, (topology, workload, layers, prices) in enumerate(jobs):
        if workload.parallelism.pipeline_parallel == 1:
            few = next(shortened(workload))
            ready = _ready(topology, workload, few, Variation(), "folded", layers, prices)
            if folds(ready.priced):
                together[place] = ready
                continue
        one = run_step(topology, workload, engine=engine, layers=layers)
        yield Ran(
            [place], one.lowered, one.timeline, [one.priced], [one.breakdown], [one.middle],
            [one.repeats],
        )  # fmt: skip
    all_places = list(together)
    for stack in stacks([ready.priced for ready in together.values()]):
        places = [all_places[i] for i in stack.places]
        timeline = run(stack.lowered.program, engine)
        yield _ran(places, [together[i] for i in places], stack.lowered, timeline)


def _ran(places: list[int], ready: Sequence[_Ready], lowered: Lowered, timeline: Timeline) -> Ran:
    """Measures of steps, in which the middle micro-step counts once more as often as it repeats."""
    repeats = [each.repeats for each in ready]
    views = lowered.views if lowered.program.stack else (_slowest(lowered, timeline),)
    inside = _windows(lowered, timeline, views[0], repeats)

    def of(views: Sequence[RankView]) -> list[list[Breakdown]]:
        far = [between_nodes(r.priced, view.plan) for r, view in zip(ready, views, strict=True)]
        found = measure(lowered, timeline, views, inside, far)
        for each, view, mine in zip(ready, views, found, strict=True):
            usual = each.ranks.get(view.role)
            if usual is not None:
                for window in mine:
                    window.split(usual.slowdown, usual.deviation)
        return found

    found = of(views)
    # beside a rank's, those of one on each other kind of GPU
    kinds = {} if lowered.program.stack else {v.role.gpu.name: v for v in reversed(lowered.views)}
    if len(kinds) > 1:
        for name, view in kinds.items():
            for window, its in zip(found[0], of([view])[0], strict=True):
                window.by_gpu[name] = its.parts
    for (whole, *middle), times in zip(found, repeats, strict=True):
        if middle:
            whole.add(middle[0], times)
    middles = [each[1] if len(each) > 1 else None for each in found]
    priced = [each.priced for each in ready]
    return Ran(places, lowered, timeline, priced, [w for w, *_ in found], middles, repeats)


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


def _slowest(lowered: Lowered, timeline: Timeline) -> RankView:
    return max(lowered.views, key=lambda view: float(timeline.end[view.compute].max()))


def windows(outcome: StepOutcome) -> list[tuple[float, float, int]]:
    """Parts of the simulated time that make up the step: begin, end [s], and how often."""
    lowered, timeline = outcome.lowered, outcome.timeline
    found = _windows(lowered, timeline, _slowest(lowered, timeline), [outcome.repeats])[0]
    return [(*window, times) for window, times in zip(found, (1, outcome.repeats), strict=False)]


def _windows(
    lowered: Lowered, timeline: Timeline, view: RankView, repeats: Sequence[int]
) -> list[list[tuple[float, float]]]:
    """The whole of each step, and the micro-step in its middle where it repeats. [s]"""
    found = [[(0.0, end)] for end in np.atleast_1d(timeline.end.max(axis=-1)).tolist()]
    if any(repeats):
        begin, finish = (np.atleast_1d(t).tolist() for t in middle_of(lowered, timeline, view))
        for i, times in enumerate(repeats):
            if times:
                found[i].append((begin[i], finish[i]))
    return found
