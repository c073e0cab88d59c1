"""Steps that were simulated, kept under what they depend on.

Jobs share them that differ in length, price, data or accumulation alone: micro-steps past a few are
the middle one so many times more, where it is like those that follow.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence

from sim.inputs.base import fields_but
from sim.inputs.reference import REFERENCE
from sim.inputs.topology import Topology
from sim.inputs.workload import Workload
from sim.lowering import pricing
from sim.step.measures import AskedOf, StepMeasures, simulated, weighted
from sim.step.reference import reference_passes, with_passes
from sim.step.rhythm import MICRO_STEPS
from sim.step.variation import Progress

#: neither a step nor its memory depends on these
_JOB = frozenset({
    "name", "tokens", "steps", "samples", "epochs", "global_batch", "data", "evaluation", "phases",
    "deadline", "sources",
})  # fmt: skip
_MACHINE = frozenset(("name", "offer", "reliability", "sources"))
_STEP = _JOB | REFERENCE | {"checkpoint", "gradient_accumulation"}  # measured beside it
MEMORY = _JOB | {"gradient_accumulation"}
SHARED = MICRO_STEPS + 1  # micro-steps from which on jobs differ by their middle one alone


class StepKey:
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
        if not isinstance(other, StepKey):
            return False
        return self.steps == other.steps and self.but_steps == other.but_steps


def machine_key(topology: Topology) -> Hashable:
    """What of a machine a step depends on: all but its name, price, place and reliability."""
    return fields_but(topology, _MACHINE)


def measures_kept(
    jobs: Sequence[tuple[Topology, Workload]], asked: AskedOf, progress: Progress | None = None
) -> list[StepMeasures]:
    """Measures of steps with equal ranks, blocks and micro-steps once; arguments of `simulated`."""
    keys, counts = [], []
    for topology, workload in jobs:
        steps = workload.gradient_accumulation
        alone = workload.parallelism.pipeline_parallel > 1  # its micro-batches interlock
        shared = steps if alone else min(steps, SHARED)
        keys.append(_key_of(topology, workload, shared))
        counts.append(steps - shared)
    found = _kept(keys, asked, progress)
    # their micro-steps become alike later, or never
    late = [i for i, more in enumerate(counts) if more and found[i].middle is None]
    apart = [_key_of(*jobs[i], jobs[i][1].gradient_accumulation) for i in late]
    for i, one in zip(late, _kept(apart, asked, progress), strict=True):
        found[i], counts[i] = one, 0
    found = [
        one if not more or one.middle is None
        else one._replace(whole=weighted((one.whole, 1.0), (one.middle, more)))
        for one, more in zip(found, counts, strict=True)
    ]  # fmt: skip
    return [_with_reference(one, *job) for one, job in zip(found, jobs, strict=True)]


def _with_reference(one: StepMeasures, topology: Topology, workload: Workload) -> StepMeasures:
    """A step with the passes of a frozen model in each of its micro-steps."""
    passes = reference_passes(topology, workload)
    if passes is None:
        return one
    middle = None if one.middle is None else with_passes(one.middle, passes, 1.0)
    whole = with_passes(one.whole, passes, workload.gradient_accumulation)
    return one._replace(whole=whole, middle=middle)


def _key_of(topology: Topology, workload: Workload, steps: int) -> StepKey:
    """A job of so many micro-steps."""
    if steps != workload.gradient_accumulation:
        workload = workload.model_copy(update={"gradient_accumulation": steps})
    return StepKey(machine_key(topology), _STEP, steps, topology, workload)


_MOST = 1024
_simulations: dict[tuple[StepKey, AskedOf], StepMeasures] = {}


def forget() -> None:
    """Forget all steps and prices: for who changes a table of constants while the program runs."""
    _simulations.clear()
    pricing.forget()


def _kept(keys: Sequence[StepKey], asked: AskedOf, progress: Progress | None) -> list[StepMeasures]:
    """Simulated steps; those that are not known are simulated together."""
    known = {
        key: next((a for a in asked.answers() if (key, a) in _simulations), None)
        for key in dict.fromkeys(keys)
    }
    missing = [key for key, answer in known.items() if answer is None]
    jobs = [(key.topology, key.workload) for key in missing]
    new = dict(zip(missing, simulated(jobs, asked, progress) if jobs else [], strict=True))
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
