"""`step(topology, workload)`: the one way to a step time, for every verb.

It measures a step, with two short cuts: micro-steps alike are simulated once (`sim.step.run`), and
so are blocks alike (`sim.step.depth`); then it adds what a job close to capacity loses to retries
of the allocator, for which it walks the memory. What was simulated and walked is kept, keyed by
what it depends on: jobs share it that differ in length, price, data or accumulation alone.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from sim.inputs.base import fields_but
from sim.inputs.rows import as_run, at_longest
from sim.inputs.topology import Topology
from sim.inputs.workload import Workload
from sim.lowering import pricing
from sim.lowering.parts import I8
from sim.memory.report import MemoryReport, elsewhere, memory, sizes
from sim.records import dataclass
from sim.step.breakdown import Breakdown
from sim.step.depth import (
    DEEP,
    SHALLOW,
    ShallowSteps,
    alike,
    factors,
    of_layers,
    pace_of,
    repeats,
    rows_of,
    settled,
)
from sim.step.intervals import F8
from sim.step.outcome import Ran
from sim.step.pressure import with_retries
from sim.step.rhythm import MICRO_STEPS
from sim.step.run import StepJob, run_replicas, run_together
from sim.step.variation import Progress, Variation
from sim.step.waiting import WaitingGroup, summed, waiting, waiting_in_windows
from sim.strategies import micro_steps_apart

#: neither a step nor its memory depends on these
_JOB = frozenset({
    "name", "tokens", "steps", "samples", "epochs", "global_batch", "data", "evaluation", "phases",
    "deadline", "sources",
})  # fmt: skip
_MACHINE = frozenset(("name", "offer", "reliability", "hourly_price_source", "sources"))
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


class WindowMeasures(NamedTuple):
    """What was measured within a window of the step."""

    breakdown: Breakdown
    ranks: tuple[WaitingGroup, ...]


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
    workload = as_run(workload, topology.world_size)
    outcome, times = run_replicas(
        topology, workload, variation, engine=engine, level=level, progress=progress,
        every_rank=False,
    )  # fmt: skip
    whole = WindowMeasures(outcome.breakdown, waiting(outcome))
    said = outcome.priced.fallbacks, outcome.priced.algorithms
    return _report(_Measured(whole, None, *said), times, needed, (topology, workload))


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
        Whether breakdowns say what transfers lost to each other, which takes a seventh of the time.
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
    run = _as_run(jobs)
    found, asked = [], _AskedOf(engine, causes, waits)
    for job, memory_, one in zip(run, needed, _folded(run, asked, progress), strict=True):
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
    """
    many = {"gradient_accumulation": _SHARED}
    longer = [(topology, workload.model_copy(update=many)) for topology, workload in jobs]
    found = _folded(_as_run(longer), _AskedOf("auto", False, True))
    return [one.middle for one in found if one.middle is not None]


def _as_run(jobs: Sequence[tuple[Topology, Workload]]) -> list[tuple[Topology, Workload]]:
    return [(topology, as_run(workload, topology.world_size)) for topology, workload in jobs]


def _report(
    found: _Measured, times: F8, needed: MemoryReport, job: tuple[Topology, Workload]
) -> StepReport:
    topology, workload = job
    simulated, ranks = found.whole
    pressed = with_retries(simulated, workload, topology, needed.verdict)
    lost = pressed.time_s - simulated.time_s
    return StepReport(pressed, needed, lost, times + lost, ranks, found.fallbacks, found.algorithms)


def memory_of(topology: Topology, workload: Workload) -> MemoryReport:
    """`memory(topology, workload)`, kept: one walk for all machines of the same sizes."""
    workload = at_longest(workload, topology.world_size)
    steps = micro_steps_walked(workload)
    if steps != workload.gradient_accumulation:
        workload = workload.model_copy(update={"gradient_accumulation": steps})
    walked = _walked(_StepKey(sizes(topology), _MEMORY, steps, topology, workload))
    return elsewhere(walked, topology)


def micro_steps_walked(workload: Workload) -> int:
    """Micro-steps that `memory_of` walks: those apart; stages keep what they receive of each."""
    if workload.parallelism.pipeline_parallel == 1:
        return micro_steps_apart(workload)
    return workload.gradient_accumulation


# --- what is kept --------------------------------------------------------------------------------


class _Measured(NamedTuple):
    """A simulated step, and the micro-step in its middle that may stand for more."""

    whole: WindowMeasures
    middle: WindowMeasures | None
    fallbacks: tuple[str, ...]
    algorithms: Mapping[str, tuple[str, ...]]


class _StepKey:
    """A job on a machine, equal to others in what matters."""

    __slots__ = ("_hash", "but_steps", "steps", "topology", "workload")

    def __init__(
        self, machine: Hashable, but: frozenset[str], steps: int, topology: Topology,
        workload: Workload,
    ) -> None:  # fmt: skip
        self.steps, self.topology, self.workload = steps, topology, workload
        self.but_steps = (machine, *fields_but(workload, but))
        self._hash = hash((self.steps, self.but_steps))

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, _StepKey):
            return False
        return self.steps == other.steps and self.but_steps == other.but_steps


def machine_key(topology: Topology) -> Hashable:
    """What of a machine a step depends on: all but its name, price, place and reliability."""
    return fields_but(topology, _MACHINE)


class _AskedOf(NamedTuple):
    """What is measured, and by which engine; see `steps`."""

    engine: str
    causes: bool
    waits: bool

    def answers(self) -> Iterator[_AskedOf]:
        """What is asked for, and what says more than that."""
        for causes in (self.causes, True)[self.causes :]:
            for waits in (self.waits, True)[self.waits :]:
                yield _AskedOf(self.engine, causes, waits)


def _folded(
    jobs: Sequence[tuple[Topology, Workload]], asked: _AskedOf, progress: Progress | None = None
) -> list[_Measured]:
    """Equal ranks, blocks and micro-steps once."""
    keys, counts = [], []
    for topology, workload in jobs:
        steps = workload.gradient_accumulation
        alone = workload.parallelism.pipeline_parallel > 1  # its micro-batches interlock
        shared = steps if alone else min(steps, _SHARED)
        if shared != steps:
            workload = workload.model_copy(update={"gradient_accumulation": shared})
        keys.append(_StepKey(machine_key(topology), _STEP, shared, topology, workload))
        counts.append(steps - shared)
    return [
        found if not more or found.middle is None
        else found._replace(whole=_sum((found.whole, 1.0), (found.middle, more)))
        for found, more in zip(_kept(keys, asked, progress), counts, strict=True)
    ]  # fmt: skip


@lru_cache(maxsize=4096)
def _walked(key: _StepKey) -> MemoryReport:
    return memory(key.topology, key.workload)


_MOST = 1024
_simulations: dict[tuple[_StepKey, _AskedOf], _Measured] = {}


def forget() -> None:
    """Forget all steps and prices: for who changes a table of constants while the program runs."""
    _simulations.clear()
    pricing.forget()


def _kept(keys: Sequence[_StepKey], asked: _AskedOf, progress: Progress | None) -> list[_Measured]:
    """Simulated steps; those that are not known are simulated together."""
    known = {
        key: next((a for a in asked.answers() if (key, a) in _simulations), None)
        for key in dict.fromkeys(keys)
    }
    missing = [key for key, answer in known.items() if answer is None]
    simulated = _simulated(missing, asked, progress) if missing else []
    new = dict(zip(missing, simulated, strict=True))
    found = []
    for key in keys:
        place = key, known[key] or asked
        one = new.get(key) or _simulations.pop(place, None)
        assert one is not None
        _simulations[place] = one  # the last used stands last
        found.append(one)
    while len(_simulations) > _MOST:
        del _simulations[next(iter(_simulations))]
    return found


def _simulated(
    keys: Sequence[_StepKey], asked: _AskedOf, progress: Progress | None
) -> list[_Measured]:
    """Steps of a few blocks where that will do, or of all."""
    found: dict[int, _Measured] = {}

    def together(which: Sequence[int], layers: int | None) -> Iterator[tuple[Ran, list[int]]]:
        """Some of the steps with so many blocks, and which they are; None: with all of them."""
        jobs = []
        for i in which:
            topology, workload = keys[i].topology, keys[i].workload
            few = workload if layers is None else of_layers(workload, layers)
            jobs.append(StepJob(topology, few, workload.model.layers))
        for ran in run_together(jobs, asked.engine, asked.causes, progress):
            yield ran, [which[place] for place in ran.places]

    deep: dict[int, tuple[_Measured, Breakdown, ShallowSteps, int]] = {}
    many = [i for i, key in enumerate(keys) if repeats(key.workload)]
    for ran, places in together(many, DEEP):
        pace = pace_of(ran.lowered, ran.timeline, DEEP)
        for row, (i, even) in enumerate(
            zip(places, settled(pace, _layers(keys, places)).tolist(), strict=True)
        ):
            if even:
                deep[i] = _measured(ran, row, asked.waits), ran.whole[row], pace, row
    for ran, places in together(list(deep), SHALLOW):
        mine = [deep[i] for i in places]
        further = rows_of([(pace, row) for *_, pace, row in mine])
        parts = list(zip(ran.whole, (whole for _, whole, *_ in mine), strict=True))
        pace = pace_of(ran.lowered, ran.timeline, SHALLOW)
        same = alike(pace, further, parts, _layers(keys, places)).tolist()
        for row, (i, (other, *_)) in enumerate(zip(places, mine, strict=True)):
            if same[row]:
                layers = keys[i].workload.model.layers
                found[i] = _extended(_measured(ran, row, asked.waits), other, layers)
    rest = [i for i in range(len(keys)) if i not in found]
    for ran, places in together(rest, None):
        for row, i in enumerate(places):
            found[i] = _measured(ran, row, asked.waits)
    return [found[i] for i in range(len(keys))]


def _layers(keys: Sequence[_StepKey], places: Sequence[int]) -> I8:
    return np.array([keys[i].workload.model.layers for i in places])


def _measured(ran: Ran, row: int, waits: bool) -> _Measured:
    whole, middle, priced = ran.whole[row], ran.middle[row], ran.priced[row]
    # where ranks are one class, none waits for another
    apart = waits and not ran.lowered.program.stack and len(ran.lowered.views) > 1
    ranks = waiting_in_windows(ran.outcome(row)) if apart else [(), ()]
    said = priced.fallbacks, priced.algorithms
    if middle is None:
        return _Measured(WindowMeasures(whole, ranks[0]), None, *said)
    together = summed([(ranks[0], 1.0), (ranks[1], ran.windows[row][1].times)])
    return _Measured(WindowMeasures(whole, together), WindowMeasures(middle, ranks[1]), *said)


def _extended(shallow: _Measured, deep: _Measured, layers: int) -> _Measured:
    less, more = factors(layers)
    middle = None
    if shallow.middle is not None and deep.middle is not None:
        middle = _sum((deep.middle, more), (shallow.middle, less))
    whole = _sum((deep.whole, more), (shallow.whole, less))
    return deep._replace(whole=whole, middle=middle)


def _sum(*parts: tuple[WindowMeasures, float]) -> WindowMeasures:
    whole = Breakdown()
    for window, times in parts:
        whole.add(window.breakdown, times)
    whole.level()
    return WindowMeasures(whole, summed((window.ranks, times) for window, times in parts))
