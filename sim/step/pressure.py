"""What a job close to capacity pays: allocations that fail, free the cache, and try again.

PyTorch's caching allocator keeps freed blocks by size and stream. FSDP1 hands its gathered
parameters and whole gradients from stream to stream (`record_stream`), so a block's memory is free
again only when all streams have passed it: a second set of both is in flight. Where that set no
longer fits, each gather and each gradient finds no block, and waits for `cudaFree` of the cache and
a new `cudaMalloc`. FSDP2 and ZeRO wait for their events instead and need no second set.
"""

from __future__ import annotations

from dataclasses import replace

from sim.blocks.parameters import tree_of
from sim.inputs.notes import Message
from sim.inputs.strategy import strategy_of
from sim.inputs.workload import Workload
from sim.quantities import percent
from sim.step.breakdown import Breakdown
from sim.strategies.units import dtypes
from sim.units import DTYPE_BYTES

IN_FLIGHT = 2  # sets of a block's parameters and gradients: fsdp1's limiter lets two gathers ahead
PER_BLOCK = 3  # gather in forward, gather in backward, gradient
#: device synchronisation, `cudaFree` of cached blocks, `cudaMalloc` of a gigabyte; assumed. The one
#: published run past the limit (MPT-30B at 8192 on 8 A100, listed as an anomaly) lost some 16 ms
RETRY_S = 10e-3
RAMP = 0.01  # of the capacity, over which failures become the rule


def retry_share(workload: Workload, reserved_bytes: float, capacity_bytes: float) -> float:
    """Share of large allocations that fail at first.

    Parameters
    ----------
    workload : Workload
        Strategy and the size of a block.
    reserved_bytes, capacity_bytes : float
        Peak and what there is. A job that does not fit has no such share: it stops. [B]

    Returns
    -------
    float
        0 to 1.

    Notes
    -----
    (reserved + 2 (parameters + gradients of a block) - capacity) / (1 % of capacity), within 0..1.
    Of the published runs, the one at 1.008 of its capacity lost a third of its speed; the 50 next
    ones, up to 0.98, lost nothing that depends on it.
    """
    if reserved_bytes > capacity_bytes or not strategy_of(workload).record_streams:
        return 0.0
    tree = tree_of(workload)
    types = dtypes(workload)
    gathered = largest = 0.0
    for block in tree.layers:
        numels = [(p.numel, p.trainable) for m in block.modules for p in m.parameters]
        gathered = DTYPE_BYTES[types.compute] * sum(n for n, _ in numels)
        gathered += DTYPE_BYTES[types.reduce] * sum(n for n, trains in numels if trains)
        largest = max(largest, gathered)
    over = reserved_bytes + IN_FLIGHT * largest - capacity_bytes
    return min(1.0, max(0.0, over / (RAMP * capacity_bytes)))


def with_retries(
    breakdown: Breakdown, workload: Workload, reserved_bytes: float, capacity_bytes: float
) -> Breakdown:
    """The step with what its failed allocations cost, as time in which the host holds it up."""
    share = retry_share(workload, reserved_bytes, capacity_bytes)
    if share == 0.0:
        return breakdown
    allocations = PER_BLOCK * workload.model.layers * workload.gradient_accumulation
    lost = share * allocations * RETRY_S
    return replace(breakdown, time_s=breakdown.time_s + lost, host_s=breakdown.host_s + lost)


def retry_warnings(retries_s: float, step_s: float) -> tuple[Message, ...]:
    """Says so where retries make a step longer."""
    if retries_s <= 0.0:
        return ()
    share = retries_s / step_s
    message = f"so close to capacity that failed allocations cost {percent(share, 0)} of the step"
    hint = "a smaller micro_batch, fsdp2, or PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True"
    return (Message("allocator-retries", "micro_batch", message, hint),)
