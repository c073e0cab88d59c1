"""Optimizer states, what the optimizer step allocates for itself, and what allocators add."""

from __future__ import annotations

from typing import Any

from sim.blocks.modules import ModelTree
from sim.blocks.muon import trained
from sim.blocks.optimizer import OPTIMIZERS, optimizer_of, projection_of
from sim.blocks.parameters import build_tree, count_parameters, share_of
from sim.blocks.update import updated_bytes
from sim.data import table
from sim.inputs.strategy import strategy_of
from sim.inputs.trainer import reduces_each, trainer_of
from sim.inputs.versions import older
from sim.inputs.workload import Workload
from sim.strategies.units import dtypes, is_matrix, trainable_elements
from sim.units import DTYPE_BYTES


def constants() -> dict[str, Any]:
    """Overheads of a GPU process, with their sources in ``data/constants/memory.toml``."""
    return table("constants/memory")


def optimizer_bytes(workload: Workload, ranks: int) -> float:
    """Optimizer states of one rank. [B]"""
    elements, tensors, _, factors = trainable_elements(workload, ranks)
    kind, how = optimizer_of(workload), workload.optimizer_implementation
    size = updated_bytes(workload)
    if kind.by_matrix:
        beside = trained(workload.model, workload.method)
        counted = beside.vector_tensors + beside.end_tensors
        rest = OPTIMIZERS[kind.rest].state_bytes(how, size, beside.beside, counted, 0.0)
        if kind.projected:
            return projection_of(workload, size, size).state_bytes(beside) + rest
        return kind.state_bytes(how, size, elements - beside.beside, 0, 0.0) + rest
    return kind.state_bytes(how, size, elements, tensors, factors) + _of_embeddings(workload, ranks)


def _of_embeddings(workload: Workload, ranks: int) -> float:
    """What bitsandbytes' 8-bit states take more where Hugging Face's trainer steps embeddings. [B]

    It has theirs in fp32, but not of DeepSpeed's flat copies, whose parameters are no module's.

    Source: transformers 4.52, trainer.py, `create_optimizer` (`register_module_override`), which up
    to 4.51 asks for a class that it never makes; 4.52 came out after PyTorch 2.7, before 2.8.
    """
    kind, stack = optimizer_of(workload), workload.stack
    used, since = (stack.transformers, "4.52") if stack.transformers else (stack.torch, "2.8")
    narrow = workload.optimizer in ("adamw-8bit", "lion-8bit") and not older(used, since)
    theirs = trainer_of(workload).name == "huggingface" and not strategy_of(workload).deepspeed
    if not (narrow and theirs):
        return 0.0
    block = build_tree(workload.model, workload.method, share_of(workload)).embedding
    parameters = [p for module in block.modules for p in module.parameters if p.trainable]
    wider = DTYPE_BYTES["fp32"] - kind.moment(updated_bytes(workload))
    return kind.moments * wider * sum(p.numel for p in parameters) / ranks


def optimizer_temporaries(workload: Workload, ranks: int) -> float:
    """What the step allocates and frees again on one rank. [B]"""
    elements, _, largest, _ = trainable_elements(workload, ranks)
    if workload.optimizer_in_backward:  # one tensor at a time
        elements = largest
    how = workload.optimizer_implementation
    kind, size = optimizer_of(workload), updated_bytes(workload)
    if kind.by_matrix:
        found = trained(workload.model, workload.method)
        rest = OPTIMIZERS[kind.rest].scratch_bytes(how, size, found.beside, found.largest_beside)
        if kind.projected:
            return max(projection_of(workload, size, size).scratch_bytes(found), rest)
        return max(found.scratch_bytes(size), rest)
    return kind.scratch_bytes(how, size, elements, largest)


def fragmentation(workload: Workload) -> float:
    """Holes in the allocator's pools, over what the pools hold. [1]"""
    segments = "_expandable" if workload.stack.expandable_segments else ""
    return float(constants()[f"fragmentation{segments}"])


#: sets of a block's parameters and gradients in flight: fsdp1's limiter lets two gathers ahead
IN_FLIGHT = 2


def in_flight_bytes(workload: Workload, tree: ModelTree, reserved: float) -> float:
    """What the allocator takes beside its pools where streams hand memory on (`record_stream`). [B]

    FSDP1's gathered parameters and whole gradients of a block are free again only when all streams
    have passed them. FSDP2 and ZeRO wait for their events instead: nothing. Gradients that no_sync
    keeps lie where activations and the optimizer's temporaries would, whose pool grows by holes.

    Parameters
    ----------
    reserved : float
        What its pools take. [B]
    """
    if not strategy_of(workload).record_streams:
        return 0.0
    kept = workload.gradient_accumulation > 1 and not reduces_each(workload)
    holes = constants()["fragmentation_kept"] * reserved if kept else 0.0
    types = dtypes(workload)
    parameter, gradient = DTYPE_BYTES[types.compute], DTYPE_BYTES[types.reduce]
    largest = 0.0
    for block in {b.kind: b for b in tree.layers}.values():
        parts = [p for m in block.modules for p in m.parameters]
        size = sum(p.numel * (parameter + (gradient if p.trainable else 0)) for p in parts)
        largest = max(largest, size)
    return IN_FLIGHT * largest + float(holes)


def saved_bytes(workload: Workload, ranks: int) -> float:
    """What one of the ranks that share a resumable checkpoint saves of it. [B]

    Weights that are trained as the optimizer has them, and its states. LoRA and QLoRA save adapters
    only, the base comes from its own file; a partly frozen model is saved whole, what is frozen of
    it as it is stored.
    """
    types, elements = dtypes(workload), trainable_elements(workload, ranks)[0]
    size = DTYPE_BYTES[types.master] * elements + optimizer_bytes(workload, ranks)
    if workload.method.adapted:
        return size
    counts = count_parameters(workload.model, workload.method)
    return size + DTYPE_BYTES[types.frozen] * (counts.total - counts.trainable) / ranks


def staged_bytes(workload: Workload, ranks: int) -> float:
    """Copies of its state that a rank keeps in host memory. [B]

    Notes
    -----
    One for an asynchronous checkpoint on its way. Of copies to go on from, its own and those of its
    peers, two each: the last whole one, and one that is being written (Gemini, SOSP 2023).
    """
    save = workload.checkpoint
    copies = int(save.asynchronous)
    if save.memory_interval is not None:
        copies += 2 * (1 + save.peers)
    if not copies:
        return 0.0
    return copies * saved_bytes(workload, ranks)


def scale_bytes(workload: Workload, tree: ModelTree, ranks: int) -> float:
    """Scales of 4- or 8-bit weights on one of the ranks that share them. [B]

    They are no parameters, so that every rank keeps all of them, but for tensors of a kind of their
    own that FSDP shards with what they hold (torchao's).

    Notes
    -----
    int8: an fp32 scale a row. nf4: an fp32 scale a block of 64, or with double quantisation 8 bits
    and an fp32 scale per 256 of those. GPTQ: an fp16 scale and a 4-bit zero a group of 128.

    Source: QLoRA (Dettmers et al. 2023), section 3; AutoGPTQ's default group; torchao,
    dtypes/nf4tensor.py, ``nf4_split``.
    """
    if not dtypes(workload).quantised:
        return 0.0
    method = workload.method
    each = 4.0 / 64
    rows = method.quantization == "int8"
    if rows:
        each = 4.0
    elif method.quantization == "gptq-int4":
        each = 2.5 / 128
    elif method.double_quantization:
        each = 1.0 / 64 + 4.0 / (64 * 256)
    weights: dict[str, float] = {}
    for block in tree.layers:
        if block.kind not in weights:
            weights[block.kind] = sum(
                q.shape[0] if rows else q.numel
                for m in block.modules
                for q in m.parameters
                if not q.trainable and is_matrix(m, q)
            )
    holders = ranks if trainer_of(workload).shards_scales else 1
    return each * sum(weights[block.kind] for block in tree.layers) / holders
