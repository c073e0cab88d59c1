"""What steps are measured to be, each simulated with a few of its blocks where that will do."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import NamedTuple

import numpy as np

from sim.inputs.strategy import strategy_of
from sim.inputs.topology import Topology
from sim.inputs.workload import Workload
from sim.step.blocks_repeat import blocks_repeat, measured_block
from sim.step.breakdown import Breakdown
from sim.step.cycling import UnevenError, cycled, few_of
from sim.step.depth import (
    DEEP,
    SHALLOW,
    ShallowSteps,
    alike,
    alone,
    factors,
    of_layers,
    pace_of,
    repeats,
    rows_of,
    settled,
)
from sim.step.outcome import Ran
from sim.step.run import StepJob, no_more, run_together
from sim.step.variation import Progress
from sim.step.waiting import WaitingGroup, summed, waiting_in_windows

_MIDDLE = slice(2, 4)  # forward and backward of the micro-step that stands for others


class WindowMeasures(NamedTuple):
    """What was measured within a window of the step."""

    breakdown: Breakdown
    ranks: tuple[WaitingGroup, ...]


class StepMeasures(NamedTuple):
    """A simulated step, and the micro-step in its middle that may stand for more."""

    whole: WindowMeasures
    middle: WindowMeasures | None
    fallbacks: tuple[str, ...]
    algorithms: Mapping[str, tuple[str, ...]]


class AskedOf(NamedTuple):
    """What is measured, and by which engine; see `sim.step.step.steps`."""

    engine: str
    causes: bool
    waits: bool

    def answers(self) -> Iterator[AskedOf]:
        """What is asked for, and what says more than that."""
        for causes in (self.causes, True)[self.causes :]:
            for waits in (self.waits, True)[self.waits :]:
                yield AskedOf(self.engine, causes, waits)


def simulated(
    jobs: Sequence[tuple[Topology, Workload]], asked: AskedOf, progress: Progress | None
) -> list[StepMeasures]:
    """Steps of a few blocks where that will do, or of all.

    Parameters
    ----------
    jobs : sequence of (topology, workload)
        Those of one structure are run together.
    asked : AskedOf
        What is measured.
    progress : callable, optional
        As by `sim.step.run.run_replicas`, of large pipelines.
    """
    found: dict[int, StepMeasures] = {}

    def together(which: Sequence[int], layers: int | None) -> Iterator[tuple[Ran, list[int]]]:
        """Some of the steps with so many blocks, and which they are; None: with all of them."""
        parts = []
        for i in which:
            topology, workload = jobs[i]
            few = workload if layers is None else of_layers(workload, layers)
            parts.append(StepJob(topology, few, workload.model.layers))
        blocks = measured_block if layers == DEEP else no_more
        for ran in run_together(parts, asked.engine, asked.causes, progress, blocks):
            yield ran, [which[place] for place in ran.places]

    depths = np.array([workload.model.layers for _, workload in jobs])
    deep: dict[int, tuple[StepMeasures, Breakdown, ShallowSteps, int]] = {}
    many = [i for i, job in enumerate(jobs) if repeats(*job)]
    for ran, places in together(many, DEEP):
        pace = pace_of(ran.lowered, ran.timeline, DEEP)
        repeated = _repeated(ran, pace, [jobs[i] for i in places], asked.waits)
        repeated = {row: one for row, one in repeated.items() if row not in ran.apart}
        found.update((places[row], measures) for row, measures in repeated.items())
        for row, (i, even) in enumerate(
            zip(places, settled(pace, depths[places]).tolist(), strict=True)
        ):
            if row in repeated or row in ran.apart:
                continue
            if even and not alone(*jobs[i]):
                deep[i] = _measured(ran, row, asked.waits), ran.whole[row], pace, row
    for ran, places in together(list(deep), SHALLOW):
        mine = [deep[i] for i in places]
        further = rows_of([(pace, row) for *_, pace, row in mine])
        parts = list(zip(ran.whole, (whole for _, whole, *_ in mine), strict=True))
        pace = pace_of(ran.lowered, ran.timeline, SHALLOW)
        same = alike(pace, further, parts, depths[places]).tolist()
        for row, (i, (other, *_)) in enumerate(zip(places, mine, strict=True)):
            if same[row] and row not in ran.apart:
                shallow = _measured(ran, row, asked.waits)
                found[i] = _extended(shallow, other, jobs[i][1].model.layers)
    for i, (topology, workload) in enumerate(jobs):
        for few in () if i in found else few_of(workload):
            with suppress(UnevenError):
                found[i] = _in_parts(topology, workload, few, asked, progress)
                break
    rest = [i for i in range(len(jobs)) if i not in found]
    for ran, places in together(rest, None):
        for row, i in enumerate(places):
            if row not in ran.apart:
                found[i] = _measured(ran, row, asked.waits)
    return [found[i] for i in range(len(jobs))]


def _in_parts(
    topology: Topology, workload: Workload, few: Workload, asked: AskedOf,
    progress: Progress | None,
) -> StepMeasures:  # fmt: skip
    """A pipeline of many micro-batches, of which few are written down."""
    parts = cycled(
        topology, workload, few, asked.engine, asked.causes,
        lambda ran: _measured(ran, 0, asked.waits), progress,
    )  # fmt: skip
    middle = next((part.middle for part in parts if part.middle is not None), None)
    whole = weighted(*((part.whole, 1.0) for part in parts))
    return parts[0]._replace(whole=whole, middle=middle)


def _measured(ran: Ran, row: int, waits: bool) -> StepMeasures:
    whole, middle, priced = ran.whole[row], ran.middle[row], ran.priced[row]
    # where ranks are one class, none waits for another
    apart = waits and not ran.lowered.program.stack and len(ran.lowered.views) > 1
    ranks = waiting_in_windows(ran.outcome(row)) if apart else [(), ()]
    said = priced.fallbacks, priced.algorithms
    if middle is None:
        return StepMeasures(WindowMeasures(whole, ranks[0]), None, *said)
    together = summed([(ranks[0], 1.0), (ranks[1], ran.windows[row][1].times)])
    return StepMeasures(WindowMeasures(whole, together), WindowMeasures(middle, ranks[1]), *said)


def _repeated(
    ran: Ran, pace: ShallowSteps, jobs: Sequence[tuple[Topology, Workload]], waits: bool
) -> dict[int, StepMeasures]:
    """Those of some steps of `DEEP` blocks whose blocks repeat, with all of their blocks."""
    counted = [strategy_of(w).counts_missing(w.parallelism) for _, w in jobs]
    if not (ran.lowered.program.stack and any(counted)):
        return {}
    same = blocks_repeat(ran.lowered, ran.timeline, pace) & counted
    found = {}
    for row in np.flatnonzero(same).tolist():
        own = _measured(ran, row, waits)
        more = jobs[row][1].model.layers - DEEP
        parts = [(WindowMeasures(block, ()), float(more)) for block in ran.more[row]]
        middle = own.middle
        if middle is not None:
            again = ran.windows[row][1].times
            middle = weighted((middle, 1.0), *parts[_MIDDLE])
            parts[_MIDDLE] = [(block, times * (1 + again)) for block, times in parts[_MIDDLE]]
        found[row] = own._replace(whole=weighted((own.whole, 1.0), *parts), middle=middle)
    return found


def _extended(shallow: StepMeasures, deep: StepMeasures, layers: int) -> StepMeasures:
    less, more = factors(layers)
    middle = None
    if shallow.middle is not None and deep.middle is not None:
        middle = weighted((deep.middle, more), (shallow.middle, less))
    whole = weighted((deep.whole, more), (shallow.whole, less))
    return deep._replace(whole=whole, middle=middle)


def weighted(*parts: tuple[WindowMeasures, float]) -> WindowMeasures:
    """Windows one after another, each so many times."""
    whole = Breakdown()
    for window, times in parts:
        whole.add(window.breakdown, times)
    whole.level()
    apart = any(window.ranks for window, _ in parts)
    ranks = summed((window.ranks, times) for window, times in parts) if apart else ()
    return WindowMeasures(whole, ranks)
