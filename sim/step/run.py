"""One training step, from specs to measures: plan, prices, program, timeline, breakdown."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from sim.engine import run
from sim.inputs.topology import Topology
from sim.inputs.workload import Workload
from sim.lowering.costs import Priced
from sim.lowering.crowd import Gathering, gathered
from sim.lowering.frames import folds, lowered, stacks
from sim.lowering.lower import Lowered, RankView
from sim.program import Timeline
from sim.records import dataclass
from sim.step.bounds import LONG, PROBED, check_size, ops_of
from sim.step.breakdown import Breakdown, measure
from sim.step.intervals import F8
from sim.step.overlap import between_nodes
from sim.step.ready import Ready, priced_of, ready_of
from sim.step.rhythm import fewest, middle_of, shortened, stretch_of
from sim.step.transfers import shared
from sim.step.variation import Progress, Variation, jittered, paces


class Window(NamedTuple):
    """A part of the simulated time, and how often it is to be counted. [s]"""

    begin: float
    finish: float
    times: int


class CrowdRun(NamedTuple):
    """Ranks that share their columns, and when each one's ops ran."""

    gathering: Gathering
    timeline: Timeline


@dataclass(frozen=True, slots=True)
class StepOutcome:
    """A simulated step.

    Attributes
    ----------
    breakdown : Breakdown
        Of the representative rank, the whole step with all its micro-steps.
    lowered, timeline, priced
        What was run, for traces and critical paths; of the simulated micro-steps. Of a crowd some
        ranks only, and all that is on the wire.
    windows : tuple of Window
        Parts of the simulated time that make up the step: all of it, and the second, where there is
        one, as often again as it stands for micro-steps that were left out.
    middle : Breakdown or None
        Of the second window, once.
    repeats : int
        Micro-steps that were left out.
    crowd : CrowdRun or None
        All ranks, where they are many.
    """

    breakdown: Breakdown
    lowered: Lowered
    timeline: Timeline
    priced: Priced
    windows: tuple[Window, ...]
    middle: Breakdown | None = None
    repeats: int = 0
    crowd: CrowdRun | None = None

    @property
    def time_s(self) -> float:
        """Duration of the optimizer step. [s]"""
        return self.breakdown.time_s

    @property
    def ops(self) -> int:
        """Ops of the program that was run. [1]"""
        return self.crowd.gathering.crowd.ops if self.crowd else self.lowered.program.lane.size

    def classes(self) -> Iterator[tuple[Lowered, Timeline, RankView]]:
        """Every class of ranks: where its ops are, and when they ran."""
        if self.crowd is not None:
            yield from self.crowd.gathering.each(self.crowd.timeline)
            return
        for view in self.lowered.views:
            yield self.lowered, self.timeline, view


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
    progress: Progress | None = None,
    every_rank: bool = True,
    causes: bool = True,
) -> tuple[StepOutcome, F8]:
    """Simulate a step as often as `variation` asks, with new draws each time.

    `progress` is called with steps drawn and steps in all; of one large step, with ops of a rank
    that have ended and all of them. Where not `every_rank` is wanted in the outcome's `lowered`,
    many ranks that do the same share their columns. `causes` is as for `run_together`, other
    arguments are those of `run_step`.

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
    even: _Found | None = None  # ranks go in step but for little
    known: tuple[Priced, int] | None = None  # what a step takes, of so many micro-steps
    for simulated in tried:
        steps = simulated.gradient_accumulation
        if known is None and steps > PROBED * workload.parallelism.pipeline_parallel > PROBED:
            few = fewest(workload)
            known = priced_of(topology, few, variation, level), few.gradient_accumulation
        if known is not None:
            times = steps / known[1]
            if even is not None and times * ops_of(known[0]) > LONG:
                return even[:2]
            check_size(known[0], level, variation, times)
        ready = ready_of(topology, workload, simulated, variation, level, layers, lean=lean)
        known = ready.priced, steps
        found = _replicas(ready, variation, engine, progress, causes)
        if found is not None and found.exact:
            return found[:2]
        even = found
    raise AssertionError  # the last has all micro-steps


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
            return of_crowd(replica)
        drawn = program
        if variation.jitter:
            drawn = jittered(program, ready.ranks, variation.seed, replica)
        timeline = run(drawn.program, engine)
        stretch = None
        if ready.repeats and program.views[0].plan.stages > 1:
            view = drawn.slowest(timeline)
            stretch = stretch_of(drawn, timeline, view, ready.cycle)
            if stretch is None:
                exact = False
                stretch = stretch_of(drawn, timeline, view, ready.cycle, nearly=True)
            if stretch is None:
                return None
        return _RunOnce(drawn, timeline, _windows([ready], drawn, timeline, stretch), None)

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
    outcome = _ran([0], [mine], *found[:3], causes).outcome(0)
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
        windows = _windows([ready], *some, end_s=float(timeline.end.max()))
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


class Ran(NamedTuple):
    """Steps that differ in numbers only, run together; or one."""

    places: list[int]  # which of those that were asked for
    lowered: Lowered  # a stack of them, or the one
    timeline: Timeline
    priced: list[Priced]
    whole: list[Breakdown]
    middle: list[Breakdown | None]
    repeats: list[int]
    windows: list[tuple[Window, ...]]

    def outcome(self, i: int) -> StepOutcome:
        """One of them by itself."""
        return StepOutcome(
            self.whole[i], self.lowered.row(i), self.timeline.row(i), self.priced[i],
            self.windows[i], self.middle[i], self.repeats[i],
        )  # fmt: skip


def run_together(jobs: Sequence[StepJob], engine: str, causes: bool = True) -> Iterator[Ran]:
    """Simulate steps with equal ranks once, those of one structure in one call of the engine.

    Parameters
    ----------
    jobs : sequence of StepJob
        Each is measured as by `run_step`.
    engine : str
        As for `run_step`.
    causes : bool
        Whether to say what transfers lost to each other (`Breakdown.transfers`).
    """
    together: dict[int, Ready] = {}
    for place, (topology, workload, layers) in enumerate(jobs):
        if workload.parallelism.pipeline_parallel == 1:
            few = next(shortened(workload))
            ready = ready_of(topology, workload, few, Variation(), "folded", layers)
            if folds(ready.priced):
                together[place] = ready
            else:
                alone = lowered(ready.priced)
                timeline = run(alone.program, engine)
                windows = _windows([ready], alone, timeline)
                yield _ran([place], [ready], alone, timeline, windows, causes)
            continue
        one, _ = run_replicas(
            topology, workload, Variation(), engine=engine, level="folded", layers=layers,
            causes=causes,
        )  # fmt: skip
        yield Ran(
            [place], one.lowered, one.timeline, [one.priced], [one.breakdown], [one.middle],
            [one.repeats], [one.windows],
        )  # fmt: skip
    all_places = list(together)
    for stack in stacks([ready.priced for ready in together.values()]):
        places = [all_places[i] for i in stack.places]
        timeline = run(stack.lowered.program, engine)
        mine = [together[i] for i in places]
        windows = _windows(mine, stack.lowered, timeline)
        yield _ran(places, mine, stack.lowered, timeline, windows, causes)


def _ran(
    places: list[int], ready: Sequence[Ready], lowered: Lowered, timeline: Timeline,
    windows: list[tuple[Window, ...]], causes: bool = True,
) -> Ran:  # fmt: skip
    """Measures of steps."""
    views = lowered.views if lowered.program.stack else (lowered.slowest(timeline),)
    inside = [[window[:2] for window in each] for each in windows]

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
    for i, (view, moments, mine) in enumerate(zip(views, inside, found, strict=True)):
        if not causes:
            break
        lost = shared(lowered.row(i), timeline.row(i), view, moments)
        for window, transfers in zip(mine, lost, strict=True):
            window.transfers = transfers
    # beside a rank's, those of one on each other kind of GPU
    kinds = {} if lowered.program.stack else {v.role.gpu.name: v for v in reversed(lowered.views)}
    if len(kinds) > 1:
        for name, view in kinds.items():
            for window, its in zip(found[0], of([view])[0], strict=True):
                window.by_gpu[name] = its.parts
    for (whole, *middle), (_, *more) in zip(found, windows, strict=True):
        if middle:
            whole.add(middle[0], more[0].times)
    middles = [each[1] if len(each) > 1 else None for each in found]
    priced = [each.priced for each in ready]
    wholes = [whole for whole, *_ in found]
    repeats = [each.repeats for each in ready]
    return Ran(places, lowered, timeline, priced, wholes, middles, repeats, windows)


def _windows(
    ready: Sequence[Ready], lowered: Lowered, timeline: Timeline,
    stretch: tuple[float, float] | None = None, end_s: float | None = None,
) -> list[tuple[Window, ...]]:  # fmt: skip
    """The whole of each step, and the micro-step in its middle where it repeats.

    `stretch` is what stands for others of a pipeline, of one step; `end_s` when that ends, where
    `timeline` does not tell. [s]
    """
    ends = timeline.end.max(axis=-1) if end_s is None else end_s
    found: list[tuple[Window, ...]] = [
        (Window(0.0, end, 1),) for end in np.atleast_1d(ends).tolist()
    ]
    if stretch is not None:
        begin, finish = [stretch[0]], [stretch[1]]
    elif any(each.repeats for each in ready):
        middle = middle_of(lowered, timeline, lowered.slowest(timeline))
        begin, finish = (np.atleast_1d(t).tolist() for t in middle)
    for i, each in enumerate(ready):
        if each.repeats:
            found[i] += (Window(begin[i], finish[i], each.repeats // each.cycle),)
    return found
