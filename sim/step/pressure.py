"""What a job close to capacity pays: allocations that fail, free the cache, and try again.

PyTorch's caching allocator keeps freed blocks by size and stream. A block that another stream's
pool holds is no use to this one: where the pools together do not fit, large allocations find no
block, and wait for `cudaFree` of the cache and a new `cudaMalloc`: a few times a micro-step. FSDP1
hands its gathered parameters and whole gradients from stream to stream (`record_stream`) besides,
so a block's memory is free again only when all streams have passed it: a second set of both is in
flight, and each of them may fail. FSDP2 and ZeRO wait for their events instead and need no second.
"""

from __future__ import annotations

from dataclasses import replace

from sim.fabric import compile_fabric
from sim.inputs.architecture import facts_of
from sim.inputs.notes import Message
from sim.inputs.strategy import strategy_of
from sim.inputs.topology import Topology
from sim.inputs.trainer import reduces_each
from sim.inputs.versions import older, versions
from sim.inputs.workload import Workload
from sim.memory.report import MemoryReport
from sim.memory.states import constants
from sim.memory.verdict import Verdict
from sim.quantities import duration, gib, percent
from sim.step.breakdown import Breakdown

PER_BLOCK = 3  # gather in forward, gather in backward, gradient
#: times a micro-step that pools trade places where their blocks do not pass between streams: the
#: loss takes what the gathers of forward held, those of backward take it back; counted twice for
#: the cached blocks that are freed with it and are missed later; assumed
EXCHANGES = 4


def retry_share(found: Verdict) -> float:
    """Share of large allocations that fail at first.

    Parameters
    ----------
    found : Verdict
        What the pools would take if there were room, and what there is.

    Returns
    -------
    float
        0 to 1, growing with the first and falling with the second, through capacity and beyond:
        a job that does not fit is timed as if it just ran.

    Notes
    -----
    (reserved + sets in flight - capacity) / (1 % of capacity), within 0..1.
    """
    ramp: float = constants()["retry_ramp"] * found.capacity_bytes
    return min(1.0, max(0.0, found.missing_bytes / ramp))


def retry_s(workload: Workload, topology: Topology) -> float:
    """What one large allocation that fails at first costs on a machine. [s]"""
    prices: dict[str, float] = constants()["retry_s"]
    virtual = any(group.node.virtual for group in topology.groups)
    kind = "virtual" if virtual else facts_of(topology.first_gpu).constants
    plain = prices.get(kind, prices["h100"])
    return plain * (constants()["retry_expandable"] if workload.stack.expandable_segments else 1.0)


def retries(workload: Workload, found: Verdict) -> float:
    """Large allocations of a step that fail at first. [1]"""
    passed = strategy_of(workload).record_streams
    each = PER_BLOCK * workload.model.layers if passed else EXCHANGES
    return retry_share(found) * each * _passes(workload)


def with_retries(
    breakdown: Breakdown, workload: Workload, topology: Topology, found: Verdict
) -> Breakdown:
    """The step with what its failed allocations cost, as time in which the host holds it up."""
    lost = retries(workload, found) * retry_s(workload, topology)
    if lost == 0.0:
        return breakdown
    return replace(breakdown, time_s=breakdown.time_s + lost, host_s=breakdown.host_s + lost)


def with_paging(breakdown: Breakdown, topology: Topology, needed: MemoryReport) -> Breakdown:
    """The step with what paged states cost that a GPU has no room for beside the rest.

    Notes
    -----
    A parameter's come right before its update, in place of others: over the host's links and
    back. All GPUs page then, and nothing else uses the links.
    Source: bitsandbytes, optim/optimizer.py, `prefetch_state`.
    """
    lost = paging_s(topology, needed)
    if not lost:
        return breakdown
    return replace(breakdown, time_s=breakdown.time_s + lost, host_s=breakdown.host_s + lost)


def paging_s(topology: Topology, needed: MemoryReport) -> float:
    """What paging of optimizer states costs a step. [s]"""
    if not needed.evicted_bytes:
        return 0.0
    fabric = compile_fabric(topology)
    rates = (fabric.copies_bandwidth(way) for way in ("to-device", "to-host"))
    return sum(needed.evicted_bytes / rate for rate in rates)


def paging_warnings(topology: Topology, needed: MemoryReport) -> tuple[Message, ...]:
    """Says so where optimizer states are paged."""
    lost = paging_s(topology, needed)
    if lost <= 0.0:
        return ()
    text = (
        f"{gib(needed.evicted_bytes)} of paged optimizer states do not all find room on a GPU"
        f" beside the rest: they come and go each step, {duration(lost)} of it"
    )
    hint = "more gradient_accumulation, so that it is paid less often, or a smaller micro_batch"
    return (Message("paged-states", "optimizer_paged", text, hint),)


def _passes(workload: Workload) -> int:
    """How often a step pays: once for each micro-step whose gradients are reduced.

    Under no_sync whole gradients stay where they are until the last backward, and the pools find
    their sizes in the first; only the last hands gradients to the stream that reduces them.
    """
    return workload.gradient_accumulation if reduces_each(workload) else 1


def retry_warnings(workload: Workload, retries_s: float, step_s: float) -> tuple[Message, ...]:
    """Says so where retries make a step longer."""
    if retries_s <= 0.0:
        return ()
    share = retries_s / step_s
    cost = percent(share, 0) if share >= 0.01 else "less than 1 %"
    message = f"so close to capacity that failed allocations cost {cost} of the step"
    cures = ["a smaller micro_batch"]
    if strategy_of(workload).record_streams:
        cures.append("fsdp2")
    if not workload.stack.expandable_segments and not older(
        workload.stack.torch, versions()["feature"]["expandable-segments"]["torch"]
    ):
        cures.append("stack.expandable_segments: true")
    return (Message("allocator-retries", "micro_batch", message, ", or ".join(cures)),)
