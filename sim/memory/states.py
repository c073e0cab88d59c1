"""Optimizer states and what the optimizer step allocates for itself."""

from __future__ import annotations

from functools import lru_cache

from sim.blocks.modules import ModelTree
from sim.blocks.optimizer import OPTIMIZERS
from sim.blocks.tree import build_tree
from sim.inputs.model import Model
from sim.inputs.workload import Method, Workload
from sim.strategies.units import dtypes, is_matrix, padded_numel


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
    return OPTIMIZERS[workload.optimizer].state_bytes(elements, tensors, factors)


def optimizer_temporaries(workload: Workload, ranks: int) -> float:
    """What the step allocates and frees again on one rank. [B]"""
    elements, _, largest, _ = trainable_elements(workload.model, workload.method, ranks)
    how = workload.optimizer_implementation
    return OPTIMIZERS[workload.optimizer].scratch_bytes(how, elements, largest)


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
