"""What every strategy allocates alike: state at rest, the optimizer's step, checkpoints, the host.

Host memory is that of one rank, held from the first step on.
"""

from __future__ import annotations

from sim.blocks.modules import ModelTree
from sim.inputs.workload import Workload
from sim.strategies.allocations import (
    BYTES,
    CLONED_SAVE,
    FETCHED,
    FULL_GRADIENTS,
    FULL_SAVE,
    GRADIENTS,
    INPUT_BYTES,
    INPUTS,
    OPTIMIZER,
    SAVE,
    SCALE_BYTES,
    SCALES,
    SCRATCH,
    SCRATCH_BYTES,
    SHARDED,
    STAGED,
    STAGING,
    STATE_BYTES,
    STATES,
    Allocations,
    Style,
)
from sim.strategies.units import (
    checkpointed,
    dtypes,
    stored_bytes,
    trainable_elements,
)
from sim.units import DTYPE_BYTES

#: DeepSpeed's pinned buffers for NVMe: so many, of a sub-group's fp32 elements or `buffer_size`
#: bf16 elements. Source: DeepSpeed offload_config.py, buffer_count 4 and 5, buffer_size 1e8.
NVME_OPTIMIZER_BUFFERS, NVME_PARAMETER_BUFFERS, NVME_PARAMETER_ELEMENTS = 4, 5, 1e8


def at_rest(
    to: Allocations, workload: Workload, tree: ModelTree, ranks: int, parameters: float, *,
    parameters_on_host: bool, states_on_host: bool, master: float = 0.0,
) -> None:  # fmt: skip
    """A step begins; before the first, what is there all the time.

    Parameters
    ----------
    to : Allocations
        Where to write.
    workload, tree
        The job and its whole model.
    ranks : int
        That share the optimizer's states.
    parameters : float
        Of this rank, as they are kept. [B]
    parameters_on_host, states_on_host : bool
        Whether they are offloaded.
    master : float
        Master copy kept with the optimizer's states. [B]
    """
    if not to.log:
        to.ranks = ranks
        marks = checkpointed(workload.activation_checkpointing, len(tree.layers))
        to.layers = [Style(b.kind, mark) for b, mark in zip(tree.layers, marks, strict=True)]
        to.put(SHARDED, 0.0 if parameters_on_host else parameters)
        to.add(SCALES, 1.0, SCALE_BYTES)
        to.mark()
        if not states_on_host:
            to.add(STATES, 1.0, STATE_BYTES)
            to.add(STATES, master)
        _on_host(to, workload, tree)
    to.put(INPUTS, 1.0, INPUT_BYTES)


def _on_host(to: Allocations, workload: Workload, tree: ModelTree) -> None:
    p, types, ranks, keep = workload.parallelism, dtypes(workload), to.ranks, to.keep_on_host
    elements = trainable_elements(workload.model, workload.method, ranks)[0]
    deepspeed, nvme = p.strategy.startswith("zero"), p.offload_device == "nvme"
    offloads = p.offload != "none"
    parameters = p.offload in ("parameters", "all")
    if p.offload in ("optimizer", "all") and nvme:
        keep("NVMe buffers", NVME_OPTIMIZER_BUFFERS * 4.0 * min(elements, p.sub_group_size))
    elif offloads and not (deepspeed and p.offload == "parameters"):
        keep("optimizer states", 1.0, STATE_BYTES)
        keep("gradients", (4.0 if deepspeed else DTYPE_BYTES[types.master]) * elements)
        if deepspeed:
            keep("master weights", 4.0 * elements)
    if parameters and nvme:
        buffers = NVME_PARAMETER_BUFFERS * DTYPE_BYTES[types.compute] * NVME_PARAMETER_ELEMENTS
        keep("NVMe buffers", buffers)
    elif parameters or (offloads and not deepspeed):
        trained = types.compute if deepspeed else types.master
        keep("parameters", stored_bytes(tree, types, trained) / ranks)
    if workload.activation_checkpointing.offload:
        for layer, style in enumerate(to.layers, start=1):
            if style.recomputed:
                keep("activations", 1.0, FETCHED, layer)
    if not offloads:
        keep("checkpoint staging", 1.0, STAGED)


def steps(to: Allocations, scratch: float, more: float = 0.0) -> None:
    """The optimizer's step: `scratch` of its temporaries, and `more` bytes; gradients are freed."""
    to.moment = OPTIMIZER
    to.mark((SCRATCH, scratch, SCRATCH_BYTES, 0), (SCRATCH, more, BYTES, 0))
    to.put(GRADIENTS)
    to.put(FULL_GRADIENTS)


def saves(to: Allocations, largest: float, clones: float = 0.0) -> None:
    """A checkpoint: of full tensors, the largest one and perhaps clones of all. [B]"""
    to.moment = SAVE
    to.mark((STAGING, largest, FULL_SAVE, 0), (STAGING, clones, CLONED_SAVE, 0))
    to.put(INPUTS)
