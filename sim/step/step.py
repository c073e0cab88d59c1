"""`step(topology, workload)`: the one way to a step time, for every verb.

It measures a step, with two short cuts: micro-steps alike are simulated once (`sim.step.run`), and
so are blocks alike (`sim.step.depth`); then it adds what a job close to capacity loses to retries
of the allocator, for which it walks the memory. What was simulated and walked is kept, keyed by
what it depends on: jobs share it that differ in length, price, data or accumulation alone.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from sim.inputs.rows import as_run, at_longest
from sim.inputs.topology import Topology
from sim.inputs.workload import Workload, fields_but
from sim.memory.report import MemoryReport, memory
from sim.records import dataclass
from sim.step.breakdown import Breakdown
from sim.step.depth import DEEP, SHALLOW, alike, factors, of_layers, repeats, settled
from sim.step.intervals import F8
from sim.step.pressure import with_retries
from sim.step.rhythm import MICRO_STEPS
from sim.step.run import StepOutcome, run_replicas, run_step
from sim.step.variation import Variation
from sim.step.waiting import WaitingGroup, summed, waiting, waiting_in_windows
from sim.strategies import micro_steps_apart

#: neither a step nor its memory depends on these
_JOB = frozenset({
    "name", "tokens", "steps", "samples", "epochs", "global_batch", "data", "evaluation", "phases",
    "deadline", "sources",
})  # fmt: skip
_MACHINE = ("name", "offer", "reliability", "hourly_price_source", "sources")
_STEP = _JOB | {"checkpoint", "gradient_accumulation"}
_MEMORY = _JOB | {"gradient_accumulation"}
_SHARED = MICRO_STEPS + 1  # micro-steps from which on jobs differ by their middle one alone
_ALIKE = Variation()


@dataclass(frozen=True, slots=True)
class StepReport:
    """One optimizer step of a job on a machine.

    Attributes
    ----------
    breakdown : Breakdown
        Of the slowest rank, with all micro-steps and with retries; shared, not to be changed.
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
        Algorithm, protocol and channels that NCCL takes, by kind of collective.
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
    variation: Variation = _ALIKE,
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

    Returns
    -------
    StepReport

    Raises
    ------
    InputError
        A machine that cannot be, or equal ranks asked for where they are not.
    """
    level = variation.level(level)
    needed = memory_of(topology, workload)
    workload = as_run(workload, topology.world_size)
    if level == "folded":
        found = _folded(topology, workload, engine)
        simulated, ranks, fallbacks = *found.whole, found.fallbacks
        algorithms = found.algorithms
        times = np.array([simulated.time_s])
    else:
        outcome, times = run_replicas(topology, workload, variation, engine=engine, level=level)
        simulated, ranks = outcome.breakdown, waiting(outcome)
        fallbacks, algorithms = outcome.priced.fallbacks, outcome.priced.algorithms
    pressed = with_retries(simulated, workload, needed.verdict)
    lost = pressed.time_s - simulated.time_s
    return StepReport(pressed, needed, lost, times + lost, ranks, fallbacks, algorithms)


def memory_of(topology: Topology, workload: Workload) -> MemoryReport:
    """`memory(topology, workload)`, kept."""
    workload = at_longest(workload, topology.world_size)
    steps = micro_steps_apart(workload)
    if steps != workload.gradient_accumulation:
        workload = workload.model_copy(update={"gradient_accumulation": steps})
    return _walked(_Key(_machine(topology), _MEMORY, steps, topology, workload))


# --- what is kept --------------------------------------------------------------------------------


class _Window(NamedTuple):
    """What was measured within a window of the step."""

    breakdown: Breakdown
    ranks: tuple[WaitingGroup, ...]


class _Measured(NamedTuple):
    """A simulated step, and the micro-step in its middle that may stand for more."""

    whole: _Window
    middle: _Window | None
    fallbacks: tuple[str, ...]
    algorithms: Mapping[str, tuple[str, ...]]


class _Key:
    """A job on a machine, equal to others in what matters."""

    __slots__ = ("content", "topology", "workload")

    def __init__(
        self, machine: Hashable, but: frozenset[str], steps: int, topology: Topology,
        workload: Workload,
    ) -> None:  # fmt: skip
        self.content = (machine, steps, *fields_but(workload, but))
        self.topology, self.workload = topology, workload

    def __hash__(self) -> int:
        return hash(self.content)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Key) and self.content == other.content


def _machine(topology: Topology) -> Hashable:
    values = topology.__dict__
    return tuple(values[k] for k in type(topology).model_fields if k not in _MACHINE)


def _folded(topology: Topology, workload: Workload, engine: str) -> _Measured:
    """Equal ranks, blocks and micro-steps once."""
    steps = workload.gradient_accumulation
    alone = workload.parallelism.pipeline_parallel > 1  # its micro-batches interlock
    shared = steps if alone else min(steps, _SHARED)
    if shared != steps:
        workload = workload.model_copy(update={"gradient_accumulation": shared})
    found = _simulated(_Key(_machine(topology), _STEP, shared, topology, workload), engine)
    if shared == steps or found.middle is None:
        return found
    whole = _sum((found.whole, 1.0), (found.middle, steps - shared))
    return found._replace(whole=whole)


@lru_cache(maxsize=1024)
def _walked(key: _Key) -> MemoryReport:
    return memory(key.topology, key.workload)


@lru_cache(maxsize=1024)
def _simulated(key: _Key, engine: str) -> _Measured:
    topology, workload = key.topology, key.workload
    whole = workload.model.layers
    if repeats(workload):
        deep = run_step(topology, of_layers(workload, DEEP), engine=engine, layers=whole)
        if settled(deep.lowered, deep.timeline, whole):
            shallow = run_step(topology, of_layers(workload, SHALLOW), engine=engine, layers=whole)
            if alike(shallow, deep, whole):
                return _extended(_measured(shallow), _measured(deep), workload.model.layers)
    return _measured(run_step(topology, workload, engine=engine))


def _measured(outcome: StepOutcome) -> _Measured:
    # where ranks are one class, none waits for another
    apart = len(outcome.lowered.views) > 1
    ranks = waiting_in_windows(outcome) if apart else [(), ()]
    said = outcome.priced.fallbacks, outcome.priced.algorithms
    if outcome.middle is None:
        return _Measured(_Window(outcome.breakdown, ranks[0]), None, *said)
    together = summed([(ranks[0], 1.0), (ranks[1], outcome.repeats)])
    middle = _Window(outcome.middle, ranks[1])
    return _Measured(_Window(outcome.breakdown, together), middle, *said)


def _extended(shallow: _Measured, deep: _Measured, layers: int) -> _Measured:
    less, more = factors(layers)
    middle = None
    if shallow.middle is not None and deep.middle is not None:
        middle = _sum((deep.middle, more), (shallow.middle, less))
    whole = _sum((deep.whole, more), (shallow.whole, less))
    return deep._replace(whole=whole, middle=middle)


def _sum(*parts: tuple[_Window, float]) -> _Window:
    whole = Breakdown()
    for window, times in parts:
        whole.add(window.breakdown, times)
    whole.level()
    return _Window(whole, summed((window.ranks, times) for window, times in parts))
