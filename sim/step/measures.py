"""What steps are measured to be, each simulated with a few of its blocks where that will do."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress

from sim.inputs.strategy import EACH_BLOCK, BlockRhythm
from sim.inputs.topology import Topology
from sim.inputs.workload import Workload
from sim.records import NamedTuple
from sim.step.breakdown import Breakdown
from sim.step.cycling import UnevenError, cycled, few_of
from sim.step.depth import of_layers, rhythm_of
from sim.step.outcome import Ran
from sim.step.run import StepJob, run_together
from sim.step.variation import Progress
from sim.step.waiting import WaitingGroup, summed, waiting_in_windows


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

    def together(which: Sequence[int], rhythm: BlockRhythm | None) -> None:
        """Some of the steps with as few blocks as stand for all in a rhythm; None: with all."""
        parts = []
        for i in which:
            topology, workload = jobs[i]
            few = of_layers(workload, rhythm.layers) if rhythm else workload
            parts.append(StepJob(topology, few, workload.model.layers))
        for ran in run_together(
            parts, asked.engine, asked.causes, progress, rhythm or EACH_BLOCK
        ):  # fmt: skip
            for row, place in enumerate(ran.places):
                if row not in ran.apart:
                    found[which[place]] = _measured(ran, row, asked.waits)

    deep: dict[BlockRhythm, list[int]] = {}
    for i, job in enumerate(jobs):
        rhythm = rhythm_of(*job)
        if rhythm is not None:
            deep.setdefault(rhythm, []).append(i)
    for rhythm, which in deep.items():
        together(which, rhythm)
    for i, (topology, workload) in enumerate(jobs):
        few = None if i in found else few_of(workload)
        if few is not None:
            with suppress(UnevenError):
                found[i] = _in_parts(topology, workload, few, asked, progress)
    together([i for i in range(len(jobs)) if i not in found], None)
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


def weighted(*parts: tuple[WindowMeasures, float]) -> WindowMeasures:
    """Windows one after another, each so many times."""
    whole = Breakdown()
    for window, times in parts:
        whole.add(window.breakdown, times)
    whole.level()
    apart = any(window.ranks for window, _ in parts)
    ranks = summed((window.ranks, times) for window, times in parts) if apart else ()
    return WindowMeasures(whole, ranks)
