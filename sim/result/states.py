"""Optimizer states and what the optimizer step allocates for itself."""

from __future__ import annotations

from functools import lru_cache

from sim.model.modules import ModelTree
from sim.schedule.units import padded_numel
from sim.spec.workload import Workload

#: bytes a trainable element. 8-bit: two bytes of states, fp32 scales per block of 256.
#: Source: torch.optim.AdamW, bitsandbytes and torchao 8-bit AdamW; SGD without momentum.
STATE_BYTES = {"adamw": 8.0, "adamw-bf16": 4.0, "adamw-8bit": 2.0 + 2 * 4 / 256, "sgd": 0.0}
#: a step counter per tensor, fp32 [B]
COUNTER_BYTES = 4.0
#: bytes an element that foreach Adam holds beside its states: the second moment's square root
FOREACH_BYTES = 4.0


@lru_cache(maxsize=64)
def trainable_elements(tree: ModelTree, ranks: int) -> tuple[float, int, float, float]:
    """Padded trainable elements of a shard, tensors, largest shard of one, Adafactor's factors."""
    elements = largest = factors = 0.0
    tensors = 0
    seen: dict[str, tuple[float, int, float, float]] = {}
    for block in (tree.embedding, *tree.layers, tree.head):
        if block.kind not in seen:
            e = big = f = 0.0
            count = 0
            for module in block.modules:
                for parameter in module.parameters:
                    if not parameter.trainable:
                        continue
                    n = padded_numel(parameter.shape, ranks) / ranks
                    e, big, count = e + n, max(big, n), count + 1
                    # a row and a column vector for a matrix, the whole second moment for a vector
                    f += sum(parameter.shape) if len(parameter.shape) > 1 else parameter.numel
            seen[block.kind] = (e, count, big, f)
        e, count, big, f = seen[block.kind]
        elements, tensors, factors = elements + e, tensors + count, factors + f
        largest = max(largest, big)
    return elements, tensors, largest, factors / ranks


def optimizer_bytes(workload: Workload, tree: ModelTree, ranks: int) -> float:
    """Optimizer states of one rank. [B]"""
    elements, tensors, _, factors = trainable_elements(tree, ranks)
    if workload.optimizer == "adafactor":
        return 4.0 * factors + COUNTER_BYTES * tensors
    if workload.optimizer == "sgd":
        return 0.0
    return STATE_BYTES[workload.optimizer] * elements + COUNTER_BYTES * tensors


def optimizer_temporaries(workload: Workload, tree: ModelTree, ranks: int) -> float:
    """What the step allocates and frees again on one rank. [B]"""
    elements, _, largest, _ = trainable_elements(tree, ranks)
    if workload.optimizer in ("sgd", "adamw-8bit") or workload.optimizer_implementation == "fused":
        return 0.0
    if workload.optimizer == "adafactor" or workload.optimizer_implementation == "for-loop":
        return 2 * FOREACH_BYTES * largest
    return FOREACH_BYTES * elements
