"""A better machine is never slower, and twice the work is twice the work: random jobs x knobs.

python -m bench.monotone            # 1,000 jobs, a report of what is broken
python -m bench.monotone 100 7      # so many, from another seed
python -m bench.monotone 100 7 cut  # of jobs cut along other axes, or offloaded to disks
python -m bench.monotone 100 7 varied  # of other precisions, losses, methods, versions
python -m bench.monotone 100 7 terms   # whole jobs: prices, failures, saves, loaders

A step that the better machine makes more than 0.1 % longer is explained where, to within 0.1 % of
the step, one thing that the result names takes so much more: kernels of the kinds that now lose
more, collectives, copies to the host or copies on other streams lose it to what runs beside them
(`step.overlap_slowdown_kernels`, `step.transfer_slowdown`), or collectives of a kind for which NCCL
chose otherwise (`step.algorithms`) are under way for so much longer.
"""

from __future__ import annotations

import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from math import isfinite
from typing import Any

from bench.drawn import DRAWN, jobs
from bench.knobs import KNOBS, LESS, LOADERS, NEWER, TERMS, Knob
from sim.inputs.loader import Loaded
from sim.inputs.topology import Topology
from sim.inputs.workload import Workload
from sim.job.energy import gpu_states
from sim.job.estimate import JobEstimate, estimate_job
from sim.result.sections import throughput_section
from sim.step.step import StepReport, memory_of, step

TOLERANCE = 1e-3  # of a step whose ops fall in another order, of a job by approximations
ROUNDING = 1e-9
#: less of it goes into other buckets, or under the size up to which ZeRO-3 keeps parameters whole
CUT_BY_SIZE = ("half the rank",)
STAGES = "send"  # how collectives between stages of a pipeline begin
PAID = "a spare more"  # which takes no longer, and costs


@dataclass
class Tally:
    """What was asked, and how often a step was longer by what the result says."""

    asked: int = 0
    explained: int = 0


@dataclass(frozen=True)
class Fault:
    """A law that a job breaks."""

    law: str
    job: str
    sides: tuple[Mapping[str, Any], Mapping[str, Any]] = ({}, {})
    amount: float = 0.0  # by how much, relative

    def __str__(self) -> str:
        return f"{self.law}: {100 * self.amount:+.2f} %  {self.job}\n    {self.sides}"


def _words(found: Loaded) -> str:
    topology, workload, _ = found
    node = topology.node
    words = f"{topology.nodes}x{node.gpus if node else '?'} {topology.first_gpu.name} "
    return words + f"{workload.name} {workload.parallelism.strategy} {workload.model.name}"


def broken(
    found: Loaded, knobs: Mapping[str, Knob] | None = None, tally: Tally | None = None
) -> Iterator[Fault]:
    """Laws that a job breaks on its machine, on better ones, with newer software and as less of it.

    Parameters
    ----------
    knobs : mapping, optional
        Of `bench.knobs.KNOBS`, to ask these alone.
    tally : Tally, optional
        Goes on counting.
    """
    topology, workload, _ = found
    base, tally = step(topology, workload), tally or Tally()
    if knobs is None:
        yield from _of_one(found, base)
        for name, less in LESS.items():
            if smaller := less(workload):
                yield from _of_less(name, found, base, smaller, tally)
        for name, newer in NEWER.items():
            yield from _of_better(name, found, base, (topology, newer(workload)), tally)
    for name, change in (KNOBS if knobs is None else knobs).items():
        if better := change(topology):
            yield from _of_better(name, found, base, (better, workload), tally)


def _of_better(
    name: str, found: Loaded, base: StepReport, better: tuple[Topology, Workload], tally: Tally
) -> Iterator[Fault]:
    """A better machine, or newer software."""
    if better == found[:2]:
        return
    other = step(*better)
    yield from _slower(name, found, base, other, tally)
    if base.memory.fits and not other.memory.fits:
        yield Fault(f"{name}: no longer fits", _words(found))


def _of_less(
    name: str, found: Loaded, base: StepReport, smaller: Workload, tally: Tally
) -> Iterator[Fault]:
    """Less of the same work."""
    other = step(found.topology, smaller)
    if name not in CUT_BY_SIZE or _calls(base) == _calls(other):
        yield from _slower(name, found, base, other, tally)
    needs, less = base.memory.needed_bytes, other.memory.needed_bytes
    if less > needs * (1 + 1e-9):
        sides = (base.memory.by_category, other.memory.by_category)
        yield Fault(f"{name}: needs more", _words(found), sides, less / needs - 1)


def _calls(report: StepReport) -> dict[str, float]:
    return {kind: each["count"] for kind, each in report.breakdown.collectives.items()}


def _slower(
    name: str, found: Loaded, base: StepReport, other: StepReport, tally: Tally
) -> Iterator[Fault]:
    """A step that takes longer by more than what the result says."""
    tally.asked += 1
    slower = other.time_s / base.time_s - 1
    if slower <= TOLERANCE:
        return
    if slower - _said_s(base, other) / base.time_s > TOLERANCE:
        yield Fault(name, _words(found), (base.breakdown.parts, other.breakdown.parts), slower)
    else:
        tally.explained += 1


def _said_s(base: StepReport, other: StepReport) -> float:
    """By how much the most takes longer of what may explain a longer step. [s]

    Kernels that lose less than before may do so while the step waits for a host: their gain is not
    set off against what others lose. What the next stage of a pipeline loses, as much as the one
    that is looked at, this waits for.
    """
    before, after = base.breakdown.slowed, other.breakdown.slowed
    kernels = sum(max(0.0, after[kind] - before.get(kind, 0.0)) for kind in after)
    before, after = base.breakdown.exposed, other.breakdown.exposed
    waits = sum(s - before.get(k, 0.0) for k, s in after.items() if k.startswith(STAGES))
    kernels += min(kernels, max(0.0, waits))
    before, after = _named(base), _named(other)
    taken, now = base.algorithms, other.algorithms
    chosen = {kind for kind in taken.keys() & now.keys() if taken[kind] != now[kind]}
    names = after.keys() - (other.breakdown.collectives.keys() - chosen)
    return max(kernels, *(after[name] - before.get(name, 0.0) for name in names))


def _named(report: StepReport) -> dict[str, float]:
    """What collectives and copies lose beside others; collectives of a kind in all. [s]"""
    lost = defaultdict[str, float](float)
    for key, seconds in report.breakdown.transfers.items():
        lost[key.partition(" beside ")[0]] += seconds
    return lost | {kind: each["time_s"] for kind, each in report.breakdown.collectives.items()}


def _of_one(found: Loaded, base: StepReport) -> Iterator[Fault]:
    """What holds of a job by itself."""
    topology, workload, _ = found
    words, measured = _words(found), base.breakdown
    parts = {**measured.parts, **measured.exposed, **base.memory.by_category}
    for name, value in parts.items():
        if value < 0:
            yield Fault(f"negative {name}", words, amount=value)
    rest = sum(measured.parts.values()) / base.time_s - 1
    if abs(rest) > ROUNDING:
        yield Fault("parts add up to the step", words, amount=rest)
    ordered = measured.exposed_s, measured.communication_s, base.time_s
    if not ordered[0] * (1 - ROUNDING) <= ordered[1] <= ordered[2] * (1 + ROUNDING):
        yield Fault("exposed <= communication <= step", words, amount=ordered[0] / ordered[1])
    rates = throughput_section(topology, workload, base.time_s)
    if not 0 < rates.mfu_causal <= rates.hfu <= 1:
        yield Fault("causal MFU <= HFU <= 1", words, amount=rates.hfu)
    twice = {"gradient_accumulation": 2 * workload.gradient_accumulation}
    again = throughput_section(topology, workload.model_copy(update=twice), 1.0)
    if again.model_flops_per_step != 2 * rates.model_flops_per_step:
        yield Fault("twice the tokens", words)
    if workload.parallelism.strategy == "zero3":
        return  # which fetches ahead for what is recomputed too, up to its live parameters
    kept = {"activation_checkpointing": workload.activation_checkpointing.model_copy(
        update={"kind": "none"})}  # fmt: skip
    needs = memory_of(topology, workload.model_copy(update=kept)).needed_bytes
    if base.memory.needed_bytes > needs * (1 + ROUNDING):
        more = base.memory.needed_bytes / needs - 1
        yield Fault("what is recomputed needs no room", words, amount=more)


# --- the whole job -------------------------------------------------------------------------------


def broken_terms(found: Loaded, tally: Tally | None = None) -> Iterator[Fault]:
    """Laws that a whole job breaks: better terms and loaders cost no more and take no longer."""
    tally = tally or Tally()
    topology, workload, _ = found
    words, measured = _words(found), step(topology, workload).breakdown

    def job(terms: Topology = topology, kind: Workload = workload) -> JobEstimate:
        estimate = estimate_job(terms, kind, measured)
        assert estimate is not None  # drawn jobs have a length
        return estimate

    base = job()
    changed = [(name, change(topology), workload) for name, change in TERMS.items()]
    changed += [(name, topology, change(workload)) for name, change in LOADERS.items()]
    for name, terms, kind in changed:
        if not terms:
            continue
        other = job(terms, kind)
        if other.spec.step_s < base.spec.step_s:
            other = job(terms, _as_often(kind, other.spec.step_s / base.spec.step_s))
        tally.asked += 1
        longer = other.wall_s / base.wall_s - 1 if isfinite(base.wall_s) else 0.0
        if longer > TOLERANCE:
            yield Fault(f"{name}: longer", words, (_told(base), _told(other)), longer)
        if base.cost and other.cost and isfinite(base.cost.total_usd) and name != PAID:
            dearer = other.cost.total_usd / base.cost.total_usd - 1
            if dearer > TOLERANCE:
                yield Fault(f"{name}: dearer", words, (_told(base), _told(other)), dearer)
    yield from _of_the_bill(found, base, job)


def _as_often(workload: Workload, pace: float) -> Workload:
    """It with as many steps between saves, where each takes so much of the time.

    Saves fall due after so long, and then there are more quicker steps to lose, and evaluations.
    """
    saves = workload.checkpoint
    names = [name for name in ("interval", "memory_interval") if getattr(saves, name)]
    less = {name: pace * getattr(saves, name) for name in names}
    return workload.model_copy(update={"checkpoint": saves.model_copy(update=less)})


def _of_the_bill(
    found: Loaded, base: JobEstimate, job: Callable[..., JobEstimate]
) -> Iterator[Fault]:
    """Energy is between idling and the limit; cost is a straight line of the price."""
    topology, words = found.topology, _words(found)
    if not isfinite(base.wall_s):
        return
    gpu, time_s = topology.first_gpu, topology.world_size * base.wall_s
    least, most = gpu_states(gpu)["idle"] * time_s, gpu.power_limit * time_s
    if not least * (1 - ROUNDING) <= base.energy.gpu_energy_j <= most * (1 + ROUNDING):
        yield Fault("energy within idle and limit", words, amount=base.energy.gpu_energy_j / most)
    if topology.offer and topology.offer.price_per_gpu_hour:
        costs = []
        for times in (1, 2, 3):
            price = times * topology.offer.price_per_gpu_hour
            spot = topology.offer.spot_price_per_gpu_hour
            update = {"price_per_gpu_hour": price, "spot_price_per_gpu_hour": spot and times * spot}
            offer = topology.offer.model_copy(update=update)
            cost = job(topology.model_copy(update={"offer": offer})).cost
            costs.append(cost.total_usd if cost else 0.0)
        bent = (costs[2] - 2 * costs[1] + costs[0]) / costs[2]
        if abs(bent) > ROUNDING:
            yield Fault("cost is linear in the price", words, amount=bent)


def _told(found: JobEstimate) -> dict[str, Any]:
    return {
        "wall_s": found.wall_s, "goodput": found.goodput,
        "usd": found.cost and found.cost.total_usd,
    }  # fmt: skip


def main() -> None:
    """Print every break of random jobs, then how often each law is broken and by how much."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 1000
    seed = int(sys.argv[2]) if len(sys.argv) > 2 else 0
    kind = sys.argv[3] if len(sys.argv) > 3 else "whole"
    tally = Tally()
    began, total, worst = time.process_time(), Counter[str](), defaultdict[str, float](float)
    for place, found in enumerate(jobs(count, seed, DRAWN[kind])):
        laws = broken_terms(found, tally) if kind == "terms" else broken(found, tally=tally)
        for fault in laws:
            print(f"{place}: {fault}", flush=True)
            total[fault.law] += 1
            worst[fault.law] = max(worst[fault.law], fault.amount)
    for law, times in total.most_common():
        print(f"{times} of {count}: {law}, worst {100 * worst[law]:+.2f} %")
    print(f"{tally.asked} questions, {tally.explained} explained", end=", ")
    print(f"{sum(total.values())} laws broken", end=", ")
    print(f"{time.process_time() - began:.0f} s of CPU")


if __name__ == "__main__":
    main()
