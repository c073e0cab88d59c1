"""`step(topology, workload)`: the one way to a step time, for every verb.

It measures a step, with two short cuts: micro-steps alike are simulated once (`sim.step.run`), and
so are blocks alike (`sim.step.measures`); then it adds what a job close to capacity loses to
retries of the allocator, for which it walks the memory. What was simulated (`sim.step.kept`) and
walked is kept.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache

import numpy as np

from sim.inputs.rows import longest_on, run_on
from sim.inputs.topology import Topology
from sim.inputs.workload import Workload
from sim.memory.report import MemoryReport, elsewhere, memory, sizes
from sim.records import dataclass
from sim.step.breakdown import Breakdown
from sim.step.intervals import F8
from sim.step.kept import MEMORY, SHARED, StepKey, measures_kept
from sim.step.measures import AskedOf, StepMeasures, WindowMeasures
from sim.step.pressure import with_paging, with_retries
from sim.step.reference import reference_passes, with_passes
from sim.step.run import run_replicas
from sim.step.variation import Progress, Variation
from sim.step.waiting import WaitingGroup, waiting
from sim.strategies import micro_steps_apart

_ALIKE = Variation()


@dataclass(frozen=True, slots=True)
class StepReport:
    """One optimizer step of a job on a machine.

    Attributes
    ----------
    breakdown : Breakdown
        Of the slowest rank, with all micro-steps, paging and retries; shared, not to be changed.
    memory : MemoryReport
        Of the same job; a step that does not fit is one as if it just ran, with every retry.
    retries_s : float
        Of the step, what allocations that fail at first cost. [s]
    replicas_s : (replicas,) float64
        Step time of every replica; the breakdown is the median one's. [s]
    ranks : tuple of WaitingGroup
        Who waits for whom; empty where all ranks do the same.
    fallbacks : tuple of str
        Constants that were borrowed from other hardware.
    algorithms : dict of str to tuple of str
        Algorithm, protocol and channels that NCCL takes, by kind of collective; where it takes
        several, each with its largest message, as nccl-tests counts bytes.
    """

    breakdown: Breakdown
    memory: MemoryReport
    retries_s: float
    replicas_s: F8
    ranks: tuple[WaitingGroup, ...]
    fallbacks: tuple[str, ...]
    algorithms: Mapping[str, tuple[str, ...]]

    @property
    def time_s(self) -> float:
        """Duration. [s]"""
        return self.breakdown.time_s


def step(
    topology: Topology, workload: Workload, *, engine: str = "auto", level: str | None = None,
    variation: Variation = _ALIKE, progress: Progress | None = None,
) -> StepReport:  # fmt: skip
    """The optimizer step of a job on a machine.

    Parameters
    ----------
    topology, workload : specs
        Checked by the loader.
    engine : str
        ``auto | reference | python | compiled``; all give the same times.
    level : str, optional
        ``folded`` (equal ranks and blocks once), ``ranks`` or ``steps`` (every ring step of every
        rank); by default folded unless `variation` makes ranks unequal.
    variation : Variation
        Jitter and slow parts, and how many steps to draw.
    progress : callable, optional
        As by `run_replicas`.

    Returns
    -------
    StepReport

    Raises
    ------
    InputError
        A machine that cannot be, or equal ranks asked for where they are not.
    """
    level = variation.level(level)
    if level == "folded":
        return steps([(topology, workload)], engine=engine, progress=progress)[0]
    needed = memory_of(topology, workload)
    workload = run_on(topology, workload)
    outcome, times = run_replicas(
        topology, workload, variation, engine=engine, level=level, progress=progress,
        every_rank=False,
    )  # fmt: skip
    whole = WindowMeasures(outcome.breakdown, waiting(outcome))
    passes = reference_passes(topology, workload, variation.slow)
    if passes is not None:
        whole = with_passes(whole, passes, workload.gradient_accumulation)
        times = times + workload.gradient_accumulation * passes.breakdown.time_s
    said = outcome.priced.fallbacks, outcome.priced.algorithms
    return _report(StepMeasures(whole, None, *said), times, needed, (topology, workload))


def steps(
    jobs: Sequence[tuple[Topology, Workload]], *, engine: str = "auto", causes: bool = True,
    waits: bool = True, progress: Progress | None = None,
) -> list[StepReport]:  # fmt: skip
    """`step` of many jobs with equal ranks once: those of one structure are run together.

    Parameters
    ----------
    jobs : sequence of (topology, workload)
        Checked by the loader.
    engine : str
        As for `step`.
    causes : bool
        Whether breakdowns say what transfers lost to each other, a thirtieth of the time.
    waits : bool
        Whether to say who waits for whom (`StepReport.ranks`); of a pipeline a sixth of the time.
    progress : callable, optional
        As by `run_replicas`, of large pipelines.

    Raises
    ------
    InputError
        As from `step`, of any of them.
    """
    needed = [memory_of(topology, workload) for topology, workload in jobs]
    run = [(topology, run_on(topology, workload)) for topology, workload in jobs]
    found, asked = [], AskedOf(engine, causes, waits)
    for job, memory_, one in zip(run, needed, measures_kept(run, asked, progress), strict=True):
        times = np.array([one.whole.breakdown.time_s])
        found.append(_report(one, times, memory_, job))
    return found


def quick(topology: Topology, workload: Workload, engine: str = "auto") -> StepReport:
    """`step` with equal ranks for its time and memory alone: without causes, nor who waits."""
    [found] = steps([(topology, workload)], engine=engine, causes=False, waits=False)
    return found


def micro_steps(jobs: Sequence[tuple[Topology, Workload]]) -> list[WindowMeasures]:
    """What `steps` measures of the micro-step in the middle of each, without causes or retries.

    Parameters
    ----------
    jobs : sequence of (topology, workload)
        As for `steps`, without a pipeline; their own number of micro-steps does not matter.

    Returns
    -------
    list of WindowMeasures
        Empty ones of jobs whose micro-steps are not alike soon.
    """
    many = {"gradient_accumulation": SHARED}
    longer = [
        (topology, run_on(topology, workload.model_copy(update=many)))
        for topology, workload in jobs
    ]
    found = measures_kept(longer, AskedOf("auto", causes=False, waits=False))
    return [one.middle or WindowMeasures(Breakdown(), ()) for one in found]


def _report(
    found: StepMeasures, times: F8, needed: MemoryReport, job: tuple[Topology, Workload]
) -> StepReport:
    topology, workload = job
    simulated, ranks = found.whole
    paging = with_paging(simulated, topology, needed)
    pressed = with_retries(paging, workload, topology, needed.verdict)
    retries, times = pressed.time_s - paging.time_s, times + (pressed.time_s - simulated.time_s)
    return StepReport(pressed, needed, retries, times, ranks, found.fallbacks, found.algorithms)


def memory_of(topology: Topology, workload: Workload) -> MemoryReport:
    """`memory(topology, workload)`, kept: one walk for all machines of the same sizes."""
    workload = longest_on(topology, workload)
    steps = micro_steps_walked(workload)
    if steps != workload.gradient_accumulation:
        workload = workload.model_copy(update={"gradient_accumulation": steps})
    walked = _walked(StepKey(sizes(topology), MEMORY, steps, topology, workload))
    return elsewhere(walked, topology)


def micro_steps_walked(workload: Workload) -> int:
    """Micro-steps that `memory_of` walks: those apart; stages keep what they receive of each."""
    if workload.parallelism.pipeline_parallel == 1:
        return micro_steps_apart(workload)
    return workload.gradient_accumulation


@lru_cache(maxsize=4096)
def _walked(key: StepKey) -> MemoryReport:
    return memory(key.topology, key.workload)
