"""Host memory of one rank: offloaded state, copies on their way to storage, loading the weights."""

from __future__ import annotations

from sim.blocks.activations import checkpoint_policy, layer_footprint
from sim.blocks.modules import ModelTree
from sim.inputs.workload import Workload
from sim.memory.states import optimizer_bytes, trainable_elements
from sim.mesh import Mesh
from sim.strategies.units import (
    QUANTISED_BYTES,
    checkpointed,
    dtypes,
    is_matrix,
)
from sim.units import DTYPE_BYTES

#: DeepSpeed's pinned buffers for NVMe: so many, of a sub-group's fp32 elements or `buffer_size`
#: bf16 elements. Source: DeepSpeed offload_config.py, buffer_count 4 and 5, buffer_size 1e8.
NVME_OPTIMIZER_BUFFERS, NVME_PARAMETER_BUFFERS, NVME_PARAMETER_ELEMENTS = 4, 5, 1e8


def host_terms(workload: Workload, tree: ModelTree, mesh: Mesh) -> dict[str, float]:
    """Host memory of one rank while it trains, by what takes it. [B]

    Parameters
    ----------
    workload : Workload
        The job.
    tree : ModelTree
        The model's parameters.
    mesh : Mesh
        How the ranks are grouped.

    Returns
    -------
    dict
        ``optimizer states``, ``gradients``, ``master weights``, ``parameters``, ``NVMe buffers``,
        ``activations``, ``checkpoint staging``; only those that are there.
    """
    p = workload.parallelism
    ranks = mesh.size("fsdp")
    types = dtypes(workload)
    elements = trainable_elements(workload.model, workload.method, ranks)[0]
    deepspeed = p.strategy.startswith("zero")
    parameters = p.offload in ("parameters", "all")
    terms = {}
    if p.offload in ("optimizer", "all") and p.offload_device == "nvme":
        terms["NVMe buffers"] = NVME_OPTIMIZER_BUFFERS * 4.0 * min(elements, p.sub_group_size)
    elif p.offload != "none" and not (deepspeed and p.offload == "parameters"):
        terms["optimizer states"] = optimizer_bytes(workload, ranks)
        terms["gradients"] = (4.0 if deepspeed else DTYPE_BYTES[types.master]) * elements
        if deepspeed:
            terms["master weights"] = 4.0 * elements
    if parameters and p.offload_device == "nvme":
        buffers = NVME_PARAMETER_BUFFERS * DTYPE_BYTES[types.compute] * NVME_PARAMETER_ELEMENTS
        terms["NVMe buffers"] = terms.get("NVMe buffers", 0.0) + buffers
    elif parameters or (p.offload != "none" and not deepspeed):
        terms["parameters"] = stored_bytes(workload, tree, deepspeed) / ranks
    policy = workload.activation_checkpointing
    if policy.offload and policy.kind != "none":
        marks = checkpointed(policy, len(tree.layers))
        name = checkpoint_policy(workload)
        terms["activations"] = sum(
            layer_footprint(workload, block.kind, name).hidden
            for block, mark in zip(tree.layers, marks, strict=True)
            if mark
        )
    if p.offload == "none" and workload.checkpoint.asynchronous:
        states = optimizer_bytes(workload, ranks)
        terms["checkpoint staging"] = DTYPE_BYTES[types.master] * elements + states
    return terms


def loading_bytes(workload: Workload, tree: ModelTree) -> float:
    """Host memory of one rank while it loads the weights. [B]

    Nothing to speak of where each rank reads its own part; the whole model, as it will be stored,
    where every rank builds a copy first (no ``cpu_ram_efficient_loading``).
    """
    if workload.parallelism.cpu_ram_efficient_loading:
        return 0.0
    return stored_bytes(workload, tree, workload.parallelism.strategy.startswith("zero"))


def stored_bytes(workload: Workload, tree: ModelTree, compute: bool = False) -> float:
    """All parameters as they are kept: trainable ones in the master (or compute) dtype. [B]"""
    types = dtypes(workload)
    trained = DTYPE_BYTES[types.compute if compute else types.master]
    total = 0.0
    for block in (tree.embedding, *tree.layers, tree.head):
        for module in block.modules:
            for q in module.parameters:
                if q.trainable:
                    total += trained * q.numel
                elif types.quantised and block.kind.startswith("layer") and is_matrix(module, q):
                    total += QUANTISED_BYTES * q.numel
                else:
                    total += DTYPE_BYTES[types.frozen] * q.numel
    return total
