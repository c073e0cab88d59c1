"""What steps are measured to be, each simulated with a few of its blocks where that will do."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import NamedTuple

import numpy as np

from sim.inputs.topology import Topology
from sim.inputs.workload import Workload
from sim.step.blocks_repeat import blocks_repeat, measured_block
from sim.step.breakdown import Breakdown
from sim.step.cycling import UnevenError, cycled, few_of
from sim.step.depth import DEEP, block_paces, of_layers, repeats
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

    many = [i for i, job in enumerate(jobs) if repeats(*job)]
    for ran, places in together(many, DEEP):
        more = [jobs[i][1].model.layers - DEEP for i in places]
        found.update((places[row], whole) for row, whole in _repeated(ran, more, asked.waits))
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


def _repeated(ran: Ran, more: Sequence[int], waits: bool) -> Iterator[tuple[int, StepMeasures]]:
    """Those of some steps of `DEEP` blocks whose blocks repeat, with so many blocks more."""
    same = blocks_repeat(ran.lowered, ran.timeline, block_paces(ran.lowered, ran.timeline))
    for row in np.flatnonzero(same).tolist():
        if row in ran.apart:
            continue
        own = _measured(ran, row, waits)
        parts = [(WindowMeasures(block, ()), float(more[row])) for block in ran.more[row]]
        middle = own.middle
        if middle is not None:
            again = ran.windows[row][1].times
            middle = weighted((middle, 1.0), *parts[_MIDDLE])
            parts[_MIDDLE] = [(block, times * (1 + again)) for block, times in parts[_MIDDLE]]
        yield row, own._replace(whole=weighted((own.whole, 1.0), *parts), middle=middle)


def weighted(*parts: tuple[WindowMeasures, float]) -> WindowMeasures:
    """Windows one after another, each so many times."""
    whole = Breakdown()
    for window, times in parts:
        whole.add(window.breakdown, times)
    whole.level()
    apart = any(window.ranks for window, _ in parts)
    ranks = summed((window.ranks, times) for window, times in parts) if apart else ()
    return WindowMeasures(whole, ranks)
