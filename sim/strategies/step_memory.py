"""What every strategy allocates alike: state at rest, the optimizer's step, checkpoints, the host.

Host memory is that of one rank, held from the first step on.
"""

from __future__ import annotations

from sim.blocks.flops import checkpointed_layers
from sim.blocks.modules import ModelTree
from sim.inputs.strategy import strategy_of
from sim.inputs.workload import Workload
from sim.strategies import terms as t
from sim.strategies.allocations import Allocations, Style
from sim.strategies.pinned import fsdp_shards, pinned_bytes
from sim.strategies.units import (
    dtypes,
    stored_bytes,
    trainable_elements,
    tree_blocks,
)
from sim.units import DTYPE_BYTES

#: DeepSpeed's pinned buffers for NVMe: so many, of a sub-group's fp32 elements or `buffer_size`
#: bf16 elements. Source: DeepSpeed offload_config.py, buffer_count 4 and 5, buffer_size 1e8.
NVME_OPTIMIZER_BUFFERS, NVME_PARAMETER_BUFFERS, NVME_PARAMETER_ELEMENTS = 4, 5, 1e8
#: Of a training process beside its tensors: Python, PyTorch, the host's part of CUDA and NCCL. [B]
#: Source: 3 to 5 GB in reports of offloaded runs; assumed
PROCESS = 4e9


class StepMemory:
    """Allocations of one rank in a step.

    Parameters
    ----------
    workload, tree
        The job and its whole model, though middle layers may be missing from the recording.
    ranks : int
        That share parameters or the optimizer's states.
    to : Allocations
        Where to write.
    """

    def __init__(self, workload: Workload, tree: ModelTree, ranks: int, to: Allocations) -> None:
        self.workload, self.tree, self.ranks, self.to = workload, tree, ranks, to
        self.knobs, self.types = workload.parallelism, dtypes(workload)
        self.compute = DTYPE_BYTES[self.types.compute]
        self.block = 0  # that is running

    def at_rest(
        self, parameters: float, *, parameters_on_host: bool, states_on_host: bool,
        master: float = 0.0, share: float = 1.0,
    ) -> None:  # fmt: skip
        """A step begins; before the first, what is there all the time.

        Parameters
        ----------
        parameters : float
            Of this rank, as they are kept. [B]
        parameters_on_host, states_on_host : bool
            Whether they are offloaded.
        master : float
            Master copy kept with the optimizer's states. [B]
        share : float
            Of the elements of `trainable_elements`, those that this rank updates. [1]
        """
        to, layers = self.to, self.tree.layers
        if not to.log:
            marks = checkpointed_layers(self.workload.activation_checkpointing, len(layers))
            to.ranks = self.ranks
            pairs = [(block.kind, mark) for block, mark in zip(layers, marks, strict=True)]
            styles = {pair: Style(*pair) for pair in set(pairs)}
            to.layers = [styles[pair] for pair in pairs]
            to.put(t.SHARDED, 0.0 if parameters_on_host else parameters)
            to.add(t.SCALES, 1.0, t.SCALE_BYTES)
            to.mark()
            if not states_on_host:
                to.add(t.STATES, share, t.STATE_BYTES)
                to.add(t.STATES, master)
                to.keep_on_host("optimizer states", share, t.PAGED_BYTES)
            self._on_host(share)
        # a training loop's batch lives until the next one is assigned to its name
        to.put(t.INPUTS, 1.0, t.INPUT_BYTES)

    def _on_host(self, share: float) -> None:
        p, types, keep = self.knobs, self.types, self.to.keep_on_host
        deepspeed, nvme = strategy_of(self.workload).deepspeed, p.offload_device == "nvme"
        taken = pinned_bytes if p.pin_memory else float
        offloads, parameters = p.offload != "none", p.offload in ("parameters", "all")
        elements = trainable_elements(self.workload, self.ranks)[0] if offloads else 0.0
        if p.offload in ("optimizer", "all") and nvme:
            keep("NVMe buffers", NVME_OPTIMIZER_BUFFERS * 4.0 * min(elements, p.sub_group_size))
        elif offloads and not (deepspeed and p.offload == "parameters"):
            keep("optimizer states", 1.0, t.STATE_BYTES)
            if deepspeed:
                groups, rest = divmod(elements, float(p.sub_group_size))
                keep("master weights", 4.0 * elements)
                keep("gradients", groups * taken(4.0 * p.sub_group_size) + taken(4.0 * rest))
                keep("gradients in the compute dtype", taken(self.compute * elements))
        if parameters and nvme:
            keep("NVMe buffers", NVME_PARAMETER_BUFFERS * self.compute * NVME_PARAMETER_ELEMENTS)
        elif parameters and deepspeed:
            size = stored_bytes(self.tree, types, types.compute) / self.ranks
            keep("parameters", taken(size))
            keep("parameters as loaded", self._as_loaded(size) if p.pin_memory else size)
        elif offloads and not deepspeed:
            held, gradients = fsdp_shards(self.workload, self.tree, self.ranks)
            keep("parameters", held)
            keep("gradients", gradients)
        if offloads:
            keep("process", PROCESS)
        if self.workload.activation_checkpointing.offload:
            for layer, style in enumerate(self.to.layers, start=1):
                if style.recomputed:
                    keep("activations", 1.0, t.FETCHED, layer)
        if not offloads:
            keep("checkpoint staging", share, t.STAGED)

    def _as_loaded(self, stored: float) -> float:
        """Pinned partitions that `zero.Init` made, parameter by parameter. [B]

        One buffer takes them all, but the allocator of pinned memory keeps what it has once taken.
        """
        whole = rounded = 0.0
        for block in tree_blocks(self.tree):
            for module in block.modules:
                for q in module.parameters:
                    whole += self.compute * q.numel / self.ranks
                    rounded += pinned_bytes(self.compute * q.numel / self.ranks)
        return stored * rounded / whole

    def loss_backward(self) -> None:
        """The loss's backward, and what its gradient is made of."""
        self.to.mark(
            (t.LOGITS, 1.0, t.LOSS_SAVED),
            (t.LOGIT_GRADIENTS, 1.0, t.LOSS_BACKWARD),
            (t.LOGIT_GRADIENTS, -1.0, t.LOSS_SAVED),
        )

    def ends(
        self, scratch: float, more: float = 0.0, largest: float = 0.0, clones: float = 0.0
    ) -> None:
        """The optimizer's step, after which gradients are freed, and a checkpoint.

        Parameters
        ----------
        scratch, more : float
            Share of the optimizer's temporaries, and bytes beside them. [1], [B]
        largest, clones : float
            Of a checkpoint of full tensors: the largest one, and clones of all if asked for. [B]
        """
        to = self.to
        to.moment = t.OPTIMIZER
        to.mark((t.SCRATCH, scratch, t.SCRATCH_BYTES), (t.SCRATCH, more))
        to.put(t.GRADIENTS)
        to.put(t.FULL_GRADIENTS)
        to.moment = t.SAVE
        to.mark((t.STAGING, largest, t.FULL_SAVE), (t.STAGING, clones, t.CLONED_SAVE))
