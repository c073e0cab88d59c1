"""Inverse questions: what would have to be true for an answer to come out as wished."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from sim.errors import InfeasibleError, InputError
from sim.inputs.arguments import Argument
from sim.inputs.loader import Loaded, load
from sim.inputs.offers import catalogue, newest
from sim.inputs.price import PriceRow
from sim.inputs.scaled import at_nodes
from sim.inputs.shares import batch_of, batch_on
from sim.inputs.topology import Topology
from sim.inputs.workload import Workload
from sim.job.basis import has_length, no_length
from sim.job.cost import break_even_price
from sim.job.estimate import JobEstimate, estimate_job
from sim.memory.bound import Bound, solve
from sim.quantities import counted, duration, gib, percent
from sim.step.breakdown import Breakdown
from sim.step.step import memory_of, step
from sim.step.variation import Progress, Stop, never, silent
from sim.study.candidates import NODES
from sim.study.machine_offers import A_PRICE, like_for_like, list_price
from sim.study.machines import rented
from sim.study.needed import BandwidthNeeded, GpusNeeded, PriceNeeded

#: bandwidths are answered to this relative width
_WIDTH = 0.005
_SLOWEST, _FASTEST = 1e8, 1e12  # [B/s] of one NIC: 0.8 Gb/s to 8 Tb/s
_NO_NICS = "it has no NICs; add --set 'node.nics={count: 8, rate: 400 Gb/s}'"


def bandwidth_for(
    topology: Argument, workload: Argument, efficiency: float, sets: Iterable[str] = (),
    progress: Progress | None = None, stop: Stop = never,
) -> BandwidthNeeded:  # fmt: skip
    """The NIC rate at which a job scales with a given efficiency: `sim.need_bandwidth`.

    Raises
    ------
    InputError
        One node, or no NICs.
    InfeasibleError
        Not even the fastest network gets there.
    """
    machine, job, _ = load(topology, workload, sets)
    node = machine.node
    if node is None or machine.graph is not None:
        message = "needs a machine of one kind of `node`: the rate of its NICs is what is asked for"
        raise InputError.single(machine.name, message)
    if node.nics is None:
        more = " --set nodes=2" if machine.nodes < 2 else ""
        message = f"needs two nodes with NICs or more; {_NO_NICS}{more}"
        raise InputError.single(machine.name, message)
    if machine.nodes < 2:
        message = "needs two nodes with NICs or more; add --set nodes=2"
        raise InputError.single(machine.name, message)
    one = at_nodes(machine, job, 1)
    if one is None:
        message = f"its groups do not divide one node, so there is no baseline for {job.name}"
        raise InputError.single(job.name, message)
    told, most = progress or silent, 4 + _halvings(_SLOWEST, _FASTEST)
    told(0, most)
    alone = step(*one)
    told(1, most)
    base = batch_of(*one).tokens / alone.time_s

    def with_nics(rate: float) -> Topology:
        nics = node.nics.model_copy(update={"rate": rate}) if node.nics else None
        return machine.model_copy(update={"node": node.model_copy(update={"nics": nics})})

    def at(rate: float) -> float:
        moved = with_nics(rate)
        rate_of_all = batch_of(moved, job).tokens / step(moved, job).time_s
        return rate_of_all / machine.nodes / base

    now = node.nics.rate
    present = at(now)
    best = max(at(_FASTEST), present)  # NCCL may choose otherwise where all is quick
    if best < efficiency:
        message = (
            f"no network gives {percent(efficiency)}: with {_FASTEST / 1e9:.0f} GB/s a NIC it is "
            f"{percent(best)} (now {percent(present)})"
        )
        fast = with_nics(_FASTEST)
        tokens = batch_on(one[1]).tokens_per_gpu / batch_on(job).tokens_per_gpu
        left = _longer(step(fast, job).breakdown, alone.breakdown, tokens)
        raise InfeasibleError(message + left)
    low, high = _SLOWEST, _FASTEST
    if present >= efficiency:
        high = now
    else:
        low = now
    done = 3
    while high / low > 1.0 + _WIDTH and not stop():
        told(done, done + _halvings(low, high) + 1)
        middle, done = math.sqrt(low * high), done + 1
        if at(middle) >= efficiency:
            high = middle
        else:
            low = middle
    found = BandwidthNeeded(
        high, node.nics.count, at(high), now, present, best, efficiency,
        None if low == _SLOWEST else low, stopped=high / low > 1.0 + _WIDTH,
        oversubscription=machine.network.oversubscription,
    )  # fmt: skip
    told(done + 1, done + 1)
    return found


def _longer(fast: Breakdown, alone: Breakdown, tokens: float) -> str:
    """What of a step is longer than on one node, whatever the network; "" where nothing is.

    `tokens` of a GPU in the step of one node, over those in the other. [1]
    """
    here, there = ({_LEFT.get(k, "kernels"): 0.0 for k in b.parts} for b in (fast, alone))
    for parts, found, times in ((here, fast, tokens), (there, alone, 1.0)):
        for key, seconds in found.parts.items():
            parts[_LEFT.get(key, "kernels")] += times * seconds
    more = {name: seconds - there.get(name, 0.0) for name, seconds in here.items()}
    name = max(more, key=more.__getitem__)
    if more[name] <= 0.0:
        return ""
    return f"; most of what is left is {name}, {duration(more[name])} a step more than on one node"


#: parts of a step beside kernels, as reasons
_LEFT = {
    "waiting": "waiting for the slowest rank", "exposed_communication": "exposed communication",
    "copies": "copies", "host": "the host", "optimizer": "the optimizer",
}  # fmt: skip


def _halvings(low: float, high: float) -> int:
    """How often a range of bandwidths is halved until it is as narrow as answers are."""
    width = math.log1p(_WIDTH)
    return math.ceil(math.log2(max(math.log(high / low), width) / width))


def gpus_for(
    topology: Argument,
    workload: Argument,
    deadline_s: float | None,
    sets: Iterable[str] = (),
    progress: Progress | None = None,
    stop: Stop = never,
) -> GpusNeeded:
    """The fewest nodes of a machine on which a job ends in time, its batch per GPU unchanged.

    Without a deadline the fewest on which it fits.
    A workload with a ``global_batch`` keeps it, and only sizes that divide it are tried.
    `progress` is called with sizes tried and all there are, `stop` asked before each but the first.

    Raises
    ------
    InputError
        A job without a length, or a machine that is an explicit graph.
    InfeasibleError
        No size does, with the fastest.
    """  # fmt: skip
    machine, job, notes = load(topology, workload, sets)
    # one node is where the search begins
    if machine.nodes > 1 and notes.origin("topology.nodes").kind == "override":
        message = f"{machine.nodes} changes nothing: how many is the question; leave it out"
        raise InputError.single(machine.name, message, "nodes")
    if machine.node is None or machine.graph is not None:
        message = "describe the machine by `node`: an explicit graph has its own number of nodes"
        raise InputError.single(machine.name, message)
    if not has_length(job):
        raise no_length(job.name)
    before: tuple[int, JobEstimate | None] | None = None
    fastest: tuple[int, JobEstimate] | None = None
    most = NODES[-1] if machine.node.nics else 1
    sizes, told = [nodes for nodes in NODES if nodes <= most], progress or silent
    for done, nodes in enumerate(sizes):
        told(done, len(sizes))
        moved = _resized(machine, job, nodes)
        if moved is None:
            continue
        if before is not None and stop():
            return GpusNeeded(nodes, moved[0].world_size, None, before, deadline_s, stopped=True)
        if not memory_of(*moved).fits:
            before = nodes, None
            continue
        estimate = _estimate(*moved)
        if deadline_s is None or estimate.wall_s <= deadline_s:
            told(len(sizes), len(sizes))  # larger ones need not be tried
            return GpusNeeded(
                nodes, moved[0].world_size, estimate, before, deadline_s,
                settings=_settings((machine, job), moved),
            )  # fmt: skip
        if fastest is None or estimate.wall_s < fastest[1].wall_s:
            fastest = nodes, estimate
        before = nodes, estimate
    where, why = f"no size of {machine.name} up to {most} nodes", ""
    if machine.node.nics is None:
        where, why = f"no size of {machine.name}, of which 1 node was tried,", f"; {_NO_NICS}"
    if fastest is None or deadline_s is None:
        message = f"{where} has room for {job.name}{why}"
        raise InfeasibleError(message)
    message = (
        f"{where} ends in {duration(deadline_s)}; the fastest is {counted(fastest[0], 'node')} "
        f"with {duration(fastest[1].wall_s)}{why}"
    )
    raise InfeasibleError(message)


def context_for(
    topology: Argument, workload: Argument, sets: Iterable[str] = (),
    progress: Progress | None = None, stop: Stop = never,
) -> Bound:  # fmt: skip
    """The longest sequence that fits, `progress` and `stop` as for `solve`.

    Raises
    ------
    InfeasibleError
        None does.
    """
    machine, job, _ = load(topology, workload, sets)
    return solve(machine, job, "sequence_length", progress, stop)


def price_for(
    first: Argument, other: Argument, workload: Argument, sets: Iterable[str] = (),
    progress: Progress | None = None,
) -> PriceNeeded:  # fmt: skip
    """The price at which the first machine costs as much as the other for a job.

    A machine that has no price is taken at the cheapest of its kind, as `compare` does
    (`sim.study.machine_offers.list_price`); `like_for_like` has both at one provider.
    `progress` is called with machines simulated, of two.

    Raises
    ------
    InputError
        One has no price and nobody offers it, or the job has no length.
    InfeasibleError
        The job does not fit on one of them.
    """
    given = list(sets)
    loaded = [load(machine, workload, given) for machine in (first, other)]
    machines = loaded[0].topology, loaded[1].topology
    for machine, job, _ in loaded:
        report = memory_of(machine, job)
        if not report.fits:
            need, have = gib(report.needed_bytes), gib(report.capacity_bytes)
            message = f"{job.name} does not fit on {machine.name}: {need} of {have}"
            raise InfeasibleError(message)
    told = progress or silent
    for done, (machine, job, _) in enumerate(loaded):
        told(done, len(loaded))
        step(machine, job)  # kept, whatever it is rented at
    told(len(loaded), len(loaded))
    rows = newest(catalogue())

    def at(offers: tuple[PriceRow | None, PriceRow | None]) -> PriceNeeded:
        pairs = zip(loaded, offers, strict=True)
        return _between(*(j._replace(topology=rented(j.topology, r)) if r else j for j, r in pairs))

    found = at((list_price(machines[0], rows), list_price(machines[1], rows)))
    if found.alike:
        return found
    same = like_for_like(*machines, rows)
    if same[0] is None or same[1] is None or same[0].provider != same[1].provider:
        return found
    return replace(found, like_for_like=at(same))


def _between(first: Loaded, other: Loaded) -> PriceNeeded:
    """The break-even of two machines at the prices that they have."""
    a, b = first.topology, other.topology
    mine, theirs = _estimate(a, first.workload), _estimate(b, other.workload)
    for machine, estimate in ((b, theirs), (a, mine)):
        if estimate.cost is None:
            message = f"has no price; add {A_PRICE}"
            raise InputError.single(machine.name, message)
    assert mine.cost is not None
    assert theirs.cost is not None
    per_gpu = (theirs.wall_s * b.world_size / theirs.tokens) / (
        mine.wall_s * a.world_size / mine.tokens
    )
    # per token, where the two jobs are of different lengths (steps given)
    target = theirs.cost.total_usd / theirs.tokens * mine.tokens
    return PriceNeeded(
        a.name, b.name, mine, theirs, break_even_price(target, mine.cost),
        mine.cost.price_per_gpu_hour_usd, per_gpu, _place(a), _place(b),
    )  # fmt: skip


def _place(topology: Topology) -> str:
    offer = topology.offer
    return f"{offer.provider} {offer.region}".strip() if offer else ""


def _resized(machine: Topology, job: Workload, nodes: int) -> tuple[Topology, Workload] | None:
    moved = at_nodes(machine, job, nodes)
    if moved is None or job.global_batch is None:
        return moved
    topology, workload = moved
    steps, rest = batch_of(topology, workload).accumulated(job.global_batch)
    if rest or not steps:
        return None
    return topology, workload.model_copy(update={"gradient_accumulation": steps})


def _settings(was: tuple[Topology, Workload], now: tuple[Topology, Workload]) -> dict[str, Any]:
    """What `run` is told of a job at another size: groups keep theirs, so that replicas differ."""
    (machine, job), (moved, resized) = was, now
    p, q = job.parallelism, resized.parallelism
    pairs = {
        "nodes": (machine.nodes, moved.nodes),
        "parallelism.strategy": (p.strategy, q.strategy),
        "parallelism.replicate": (p.replicate, q.replicate),
        "gradient_accumulation": (job.gradient_accumulation, resized.gradient_accumulation),
    }
    return {key: new for key, (old, new) in pairs.items() if new != old}


def _estimate(topology: Topology, workload: Workload) -> JobEstimate:
    estimate = estimate_job(topology, workload, step(topology, workload).breakdown)
    if estimate is None:
        raise no_length(workload.name)
    return estimate
