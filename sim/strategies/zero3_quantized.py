"""ZeRO++: all-gathers in int8 (qwZ) and gradients by int4 all-to-alls (qgZ).

Read in DeepSpeed 0.19.8 (``partition_parameters.py``, ``coalesced_collectives.py``); not recorded,
as its quantiser needs a GPU.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from math import ceil

from sim.strategies.recorder import Recorder

TARGET_GROUP = 8000  # elements per scale; CUDAQuantizer.target_group_size


@lru_cache(maxsize=4096)
def scale_groups(numel: int) -> int:
    """Scales of an int8 tensor: as few as divide it evenly into groups of about 8,000."""
    groups = ceil(numel / TARGET_GROUP)
    while groups < numel and numel % (8 * groups):
        groups += 1
    while numel % (16 * groups) == 0 and numel / groups > TARGET_GROUP:
        groups *= 2
    return groups


def quantized_gather(
    r: Recorder, phase: str, group: str, shards: Sequence[int], ranks: int, unit: str
) -> int:
    """Gather int8 values, then their fp32 scales. Returns the last op."""
    numel = sum(shards)
    values = float(numel)
    scales = 4.0 * scale_groups(numel)
    op = -1
    for sent, dtype in ((values, "i8"), (scales, "fp32")):
        op = r.collective("all_gather", "all_gather", phase, group, sent, sent * ranks, dtype, unit)
    return op


def quantized_reduce(
    r: Recorder, shapes: Sequence[tuple[int, int]], world: int, per_node: int, dtype: str, unit: str
) -> int:
    """Reduce gradients one by one: int4 within the node, then int4 between nodes.

    Parameters
    ----------
    r : Recorder
        Where to issue.
    shapes : sequence of (elements, longest side)
        Gradients; a longest side of 0 stands for a vector. Vectors, and those that
        ``2 * world`` does not divide, take a plain reduce-scatter.
    world, per_node : int
        Ranks.
    dtype : str
        Of the plain reduce-scatter.
    unit : str
        Label.

    Returns
    -------
    int
        Last op.
    """
    op = -1
    wide = 4.0 if dtype == "fp32" else 2.0
    for numel, widest in shapes:
        if not widest or numel % (2 * world):
            part = wide * ceil(numel / world)
            op = r.collective(
                "reduce_scatter", "reduce_scatter", "backward", "shard", part * world, part,
                dtype, unit,
            )  # fmt: skip
            continue
        groups = max(widest, world)
        r.kernel("reduce_scatter", "quantize", "backward", 2.5 * numel)
        near, far = numel / 2, numel / 2 / per_node
        for size, count, name in ((near, groups, "node"), (far, groups // per_node, "replicate")):
            for sent, kind in ((size, "i8"), (4.0 * count, "fp32")):
                op = r.collective(
                    "reduce_scatter", "all_to_all", "backward", name, sent, sent, kind, unit
                )
            r.kernel("reduce_scatter", "dequantize_reduce", "backward", 1.5 * size)
    return op
