"""Optimizer states and what the optimizer step allocates for itself."""

from __future__ import annotations

from functools import lru_cache

from sim.blocks.modules import ModelTree
from sim.blocks.tree import build_tree
from sim.inputs.model import Model
from sim.inputs.workload import Method, Workload
from sim.strategies.units import dtypes, is_matrix, padded_numel

#: bytes a trainable element. 8-bit: two bytes of states, fp32 scales per block of 256.
#: Source: torch.optim.AdamW, bitsandbytes and torchao 8-bit AdamW; SGD without momentum.
STATE_BYTES = {"adamw": 8.0, "adamw-bf16": 4.0, "adamw-8bit": 2.0 + 2 * 4 / 256, "sgd": 0.0}
#: a step counter per tensor, fp32 [B]
COUNTER_BYTES = 4.0
#: bytes an element that foreach Adam holds beside its states: the second moment's square root
FOREACH_BYTES = 4.0


@lru_cache(maxsize=64)
def trainable_elements(model: Model, method: Method, ranks: int) -> tuple[float, int, float, float]:
    """Padded trainable elements of a shard, tensors, largest shard of one, Adafactor's factors."""
    tree = build_tree(model, method)
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


def optimizer_bytes(workload: Workload, ranks: int) -> float:
    """Optimizer states of one rank. [B]"""
    elements, tensors, _, factors = trainable_elements(workload.model, workload.method, ranks)
    if workload.optimizer == "adafactor":
        return 4.0 * factors + COUNTER_BYTES * tensors
    if workload.optimizer == "sgd":
        return 0.0
    return STATE_BYTES[workload.optimizer] * elements + COUNTER_BYTES * tensors


def optimizer_temporaries(workload: Workload, ranks: int) -> float:
    """What the step allocates and frees again on one rank. [B]"""
    elements, _, largest, _ = trainable_elements(workload.model, workload.method, ranks)
    if workload.optimizer in ("sgd", "adamw-8bit") or workload.optimizer_implementation == "fused":
        return 0.0
    if workload.optimizer == "adafactor" or workload.optimizer_implementation == "for-loop":
        return 2 * FOREACH_BYTES * largest
    return FOREACH_BYTES * elements


def scale_bytes(workload: Workload, tree: ModelTree) -> float:
    """Scales of 4-bit weights: no parameters, so every rank keeps all of them. [B]

    Notes
    -----
    nf4: an fp32 scale a block of 64, or with double quantisation 8 bits and an fp32 scale per 256
    of those. GPTQ: an fp16 scale and a 4-bit zero a group of 128.

    Source: QLoRA (Dettmers et al. 2023), section 3; AutoGPTQ's default group.
    """
    if not dtypes(workload).quantised:
        return 0.0
    method = workload.method
    each = 4.0 / 64
    if method.quantization == "gptq-int4":
        each = 2.5 / 128
    elif method.double_quantization:
        each = 1.0 / 64 + 4.0 / (64 * 256)
    weights: dict[str, float] = {}
    for block in tree.layers:
        if block.kind not in weights:
            weights[block.kind] = sum(
                q.numel
                for m in block.modules
                for q in m.parameters
                if not q.trainable and is_matrix(m, q)
            )
    return each * sum(weights[block.kind] for block in tree.layers)
