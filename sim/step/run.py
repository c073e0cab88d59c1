"""One training step, from specs to measures: plan, prices, program, timeline, breakdown."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import numpy as np

from sim.engine import run, watch
from sim.inputs.strategy import EACH_BLOCK, BlockRhythm
from sim.inputs.topology import Topology
from sim.inputs.workload import Workload
from sim.lowering.costs import Priced
from sim.lowering.crowd import gathered
from sim.lowering.frames import folds, lowered, stacks
from sim.lowering.lowered import Lowered
from sim.program import Timeline
from sim.records import NamedTuple
from sim.step.blocks_repeat import missing_blocks
from sim.step.bounds import LONG, MAX_DRAWN, check_size, ops_of
from sim.step.intervals import F8
from sim.step.micro_repeat import micro_steps_repeat
from sim.step.outcome import CrowdRun, Ran, StepOutcome, measured, windows_of
from sim.step.ready import Ready, plan_bytes, ready_of, reckoned
from sim.step.rhythm import shortened, stretch_of
from sim.step.variation import Progress, Variation, jittered, paces
from sim.step.windows import Window


def run_step(
    topology: Topology,
    workload: Workload,
    *,
    engine: str = "auto",
    level: str = "folded",
    all_micro_steps: bool = False,
    layers: int | None = None,
    variation: Variation | None = None,
    progress: Progress | None = None,
) -> StepOutcome:
    """Simulate one optimizer step.

    Arguments are those of `step`, these apart; of several replicas it is the median one.

    Parameters
    ----------
    all_micro_steps : bool
        Simulate every micro-step instead of repeating the middle one.
    layers : int, optional
        Of the whole model, where `workload` has some of its blocks.
    """
    return run_replicas(
        topology, workload, variation or Variation(), engine=engine, level=level,
        all_micro_steps=all_micro_steps, layers=layers, progress=progress,
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
    progress: Progress | None = None,
    every_rank: bool = True,
    causes: bool = True,
) -> tuple[StepOutcome, F8]:
    """Simulate a step as often as `variation` asks, with new draws each time.

    `progress` is called with steps drawn and steps in all; of one large step, with ops that have
    ended (none while they are made) and all of them, of one rank where ranks share their columns:
    many that do the same do so where not `every_rank` is wanted in the outcome's `lowered`.
    `causes` is as for `run_together`, other arguments are those of `run_step`.

    Returns
    -------
    StepOutcome
        Of the median replica (the lower one of two).
    (replicas,) float64
        Every replica's step time. [s]
    """
    level = variation.level(level)
    tried = (workload,) if all_micro_steps else shortened(workload)
    lean = not every_rank and level == "ranks" and engine in ("auto", "compiled")
    even: _Found | None = None  # what is left out is like what was run but for little
    known: tuple[Priced, int] | None = None  # what a step takes, of so many micro-steps
    for simulated in tried:
        steps = simulated.gradient_accumulation
        if known is None:  # one of few micro-steps, and how many times as much this one takes
            ahead = reckoned(topology, simulated, variation, level)
        else:
            ahead = known[0], steps / known[1]
        if ahead is not None:
            ops = ahead[1] * ops_of(ahead[0])
            if even is not None and (ops > LONG or ops * variation.replicas > MAX_DRAWN):
                return even[:2]
            check_size(
                ahead[0], level, variation, ahead[1], whole=all_micro_steps,
                plan_bytes=plan_bytes(simulated),
            )  # fmt: skip
            _announce(*ahead, variation, progress)
        ready = ready_of(topology, workload, simulated, variation, level, layers, lean=lean)
        _announce(ready.priced, 1.0, variation, progress)
        known = ready.priced, steps
        found = _replicas(ready, variation, engine, progress, causes)
        if found is not None and found.exact:
            return found[:2]
        even = found
    raise AssertionError  # the last has all micro-steps


def _announce(
    priced: Priced, times: float, variation: Variation, progress: Progress | None
) -> None:
    """That a step so many times as long begins, if large: its ops are made before they run."""
    if progress is None:
        return
    ops = times * ops_of(priced)
    if ops >= watch.LARGE:
        drawn = variation.replicas if variation.jitter else 1
        progress(0, drawn if drawn > 1 else round(ops))


class _Found(NamedTuple):
    """A simulated step, its replicas' times, and whether what was left out is left out exactly."""

    outcome: StepOutcome
    times: F8
    exact: bool


def _replicas(
    ready: Ready, variation: Variation, engine: str, progress: Progress | None, causes: bool
) -> _Found | None:
    """As `run_replicas`; None where micro-steps that are left out are like none of those run."""
    mine = ready._replace(ranks={}) if variation.jitter else ready
    draws = variation.replicas if variation.jitter else 1
    exact = True
    if ready.crowd:
        of_crowd = _crowd_replica(ready, variation, progress if draws == 1 else None)
    else:
        of_crowd = None
        program = lowered(ready.priced)

    def ran(replica: int) -> _RunOnce | None:
        nonlocal exact
        if of_crowd is not None:
            crowd = of_crowd(replica)
            if ready.repeats and not micro_steps_repeat(crowd.lowered, crowd.timeline).all():
                exact = False
            return crowd
        drawn = program
        if variation.jitter:
            drawn = jittered(program, ready.ranks, variation.seed, replica)
        timeline = run(drawn.program, engine, progress if draws == 1 else None)
        stretch = None
        if ready.repeats and program.views[0].plan.stages > 1:
            view = drawn.slowest(timeline)
            stretch = stretch_of(drawn, timeline, view, ready.cycle)
            if stretch is None:
                exact = False
                stretch = stretch_of(drawn, timeline, view, ready.cycle, nearly=True)
            if stretch is None:
                return None
        elif ready.repeats and not micro_steps_repeat(drawn, timeline).all():
            exact = False
        return _RunOnce(drawn, timeline, windows_of([ready], drawn, timeline, stretch), None)

    times = np.empty(draws)
    for replica in range(draws):
        found = ran(replica)
        if found is None:
            return None
        times[replica] = sum(w.times * (w.finish - w.begin) for w in found.windows[0])
        if progress is not None and draws > 1:
            progress(replica + 1, draws)
    if draws > 1:  # the median alone is measured
        found = ran(int(np.argsort(times, kind="stable")[(draws - 1) // 2]))
    if draws < variation.replicas:
        times = np.full(variation.replicas, times[0])
    if found is None:
        return None
    outcome = measured([0], [mine], *found[:3], causes).outcome(0)
    return _Found(replace(outcome, crowd=found.crowd), times, exact)


class _RunOnce(NamedTuple):
    """A step that was run once."""

    lowered: Lowered
    timeline: Timeline
    windows: list[tuple[Window, ...]]
    crowd: CrowdRun | None


def _crowd_replica(
    ready: Ready, variation: Variation, progress: Progress | None
) -> Callable[[int], _RunOnce]:
    """What runs a step of many ranks, whose columns are made once."""
    from sim.engine.crowd import play

    gathering = gathered(ready.priced)
    roles = [ready.priced.parts[role].role for role in gathering.classes.role.tolist()]

    def ran(replica: int) -> _RunOnce:
        mine = gathering
        if variation.jitter:
            pace = paces(ready.ranks, roles, variation.seed, replica)
            mine = gathering._replace(crowd=gathering.crowd._replace(pace=pace))

        timeline = play(mine.crowd, progress)
        some = mine.of(mine.latest(timeline), timeline)
        windows = windows_of([ready], *some, end_s=float(timeline.end.max()))
        return _RunOnce(*some, windows, CrowdRun(mine, timeline))

    return ran


class StepJob(NamedTuple):
    """A step to simulate.

    Attributes
    ----------
    topology, workload : specs
        Checked by the loader.
    layers : int
        Of the whole model, where `workload` has some of its blocks.
    """

    topology: Topology
    workload: Workload
    layers: int


def run_together(
    jobs: Sequence[StepJob], engine: str, causes: bool = True, progress: Progress | None = None,
    rhythm: BlockRhythm = EACH_BLOCK,
) -> Iterator[Ran]:  # fmt: skip
    """Simulate steps with equal ranks once, those of one structure in one call of the engine.

    Parameters
    ----------
    jobs : sequence of StepJob
        Each is measured as by `run_step`, but for those of some of their blocks whose ranks are
        not one class, or whose second micro-step is not like those that would follow: they are
        left out.
    engine : str
        As for `run_step`.
    causes : bool
        Whether to say what transfers lost to each other (`Breakdown.transfers`).
    progress : callable, optional
        Of a large pipeline, as for `run_replicas`.
    rhythm : BlockRhythm
        In which blocks of those are issued that have some of them.
    """
    together: dict[int, Ready] = {}
    longer = []
    for place, (topology, workload, layers) in enumerate(jobs):
        if workload.parallelism.pipeline_parallel > 1:
            longer.append(place)
            continue
        few = next(shortened(workload))
        ready = ready_of(topology, workload, few, Variation(), "folded", layers)
        if folds(ready.priced):
            together[place] = ready
            continue
        if workload.model.layers < layers:
            continue
        alone = lowered(ready.priced)
        timeline = run(alone.program, engine)
        if ready.repeats and not micro_steps_repeat(alone, timeline).all():
            longer.append(place)
            continue
        windows = windows_of([ready], alone, timeline)
        yield measured([place], [ready], alone, timeline, windows, causes)
    all_places = list(together)
    for stack in stacks([ready.priced for ready in together.values()]):
        places = [all_places[i] for i in stack.places]
        timeline = run(stack.lowered.program, engine)
        mine = [together[i] for i in places]
        windows = windows_of(mine, stack.lowered, timeline)
        missing = [jobs[i].layers - jobs[i].workload.model.layers for i in places]
        more: Sequence[tuple[Window, ...] | None] = [()] * len(places)
        if any(missing):
            more = missing_blocks(stack.lowered, timeline, missing, windows, rhythm)
        found = measured(places, mine, stack.lowered, timeline, windows, causes, more)
        apart = {row for row, each in enumerate(more) if each is None}
        if any(found.repeats):
            same = micro_steps_repeat(stack.lowered, timeline).tolist()
            apart |= {row for row, n in enumerate(found.repeats) if n and not same[row]}
        longer += [places[row] for row in sorted(apart)]
        yield found._replace(apart=frozenset(apart))
    for place in longer:
        topology, workload, layers = jobs[place]
        if workload.model.layers < layers:
            continue
        one, _ = run_replicas(
            topology, workload, Variation(), engine=engine, level="folded", layers=layers,
            causes=causes, progress=progress,
        )  # fmt: skip
        yield Ran(
            [place], one.lowered, one.timeline, [one.priced], [one.breakdown], [one.middle],
            [one.repeats], [one.windows],
        )  # fmt: skip
