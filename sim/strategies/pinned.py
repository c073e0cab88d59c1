"""Host memory that is pinned, so that copies run beside kernels: what PyTorch takes for it."""

from __future__ import annotations

import math
from collections import Counter

from sim.blocks.modules import ModelTree
from sim.inputs.strategy import strategy_of
from sim.inputs.workload import Workload
from sim.strategies.fsdp1_layout import lay_out
from sim.strategies.fsdp2_layout import experts_shard
from sim.strategies.units import dtypes, fsdp2_unit, tree_blocks


def pinned_bytes(size: float) -> float:
    """What a pinned allocation of so many bytes takes: the next power of two. [B]

    Source: PyTorch CachingHostAllocator, ``allocate``: "round up the allocation to the nearest
    power of two to improve reuse".
    """
    return float(1 << max(0, math.ceil(size) - 1).bit_length()) if size > 0.0 else 0.0


def fsdp_shards(workload: Workload, tree: ModelTree, ranks: int) -> tuple[float, float]:
    """Parameters, and gradients, that FSDP offloads: what one rank's take on the host. [B]

    FSDP1 pins each flat parameter, and with it as much for its gradient, of frozen ones too; FSDP2
    each parameter, and the gradients that come.

    Parameters
    ----------
    workload, tree
        The job and its whole model.
    ranks : int
        That share a parameter.

    Notes
    -----
    Source: PyTorch, fsdp/_flat_param.py, ``init_flat_param_attributes`` (``_cpu_grad``);
    fsdp/_fully_shard, ``_init_sharded_param`` and ``foreach_reduce`` (a copy to the host that does
    not block is pinned).
    """
    knobs, types = workload.parallelism, dtypes(workload)
    taken = pinned_bytes if knobs.pin_memory else float
    if strategy_of(workload).fsdp_version == 1:
        units = lay_out(workload, tree, ranks, types).units
        held = sum(taken(unit.master_bytes / ranks) for unit in units)
        return held, held
    held = gradients = 0.0
    blocks = {block.kind: block for block in tree_blocks(tree)}
    for kind, many in Counter(block.kind for block in tree_blocks(tree)).items():
        for module in blocks[kind].modules:
            own = experts_shard(knobs, ranks) if module.expert else ranks
            for parameter in module.parameters:
                alone = module._replace(parameters=(parameter,))
                unit = fsdp2_unit("", 0, [alone], own, types)
                size = many * taken(unit.master_bytes / own)
                held += size
                gradients += size if parameter.trainable else 0.0
    return held, gradients
