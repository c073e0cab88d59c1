"""What DDP and DeepSpeed's ZeRO allocate: gradients in buckets, parameters whole or by module.

Sources: torch DistributedDataParallel (buckets beside gradients unless views), DeepSpeed 0.19.8
stage_1_and_2.py and stage3.py: bf16 parameters, fp32 master partition, contiguous gradient buckets.
"""

from __future__ import annotations

from typing import NamedTuple

from sim.blocks.modules import ModelTree
from sim.inputs.workload import Workload
from sim.strategies.allocations import (
    BACKWARD,
    FORWARD,
    FULL_GRADIENTS,
    GATHERS,
    GONE,
    GRADIENTS,
    HELD,
    HIDDEN,
    LAYER_BACKWARD,
    LAYER_FORWARD,
    LOGIT_GRADIENTS,
    LOGITS,
    LOSS_BACKWARD,
    LOSS_FORWARD,
    LOSS_SAVED,
    RECOMPUTED,
    RESIDENT,
    SAVED,
    SCATTERS,
    UNSHARDED,
    Allocations,
)
from sim.strategies.rest import at_rest, saves, steps
from sim.strategies.units import dtypes, stored_bytes, trainable_elements
from sim.units import DTYPE_BYTES

STAGES = {"ddp": 0, "zero1": 1, "zero2": 2, "zero3": 3}


class Gathered(NamedTuple):
    """Parameters and buffers of ZeRO-3 that grow with what its coordinator does. [B]"""

    forward: float = 0.0  # gathered parameters at most in forward
    backward: float = 0.0  # and by the end of backward
    buffers: float = 0.0  # of coalesced all-gathers
    buckets: float = 0.0  # of reduce-scatters


class ReplicatedMemory:
    """Allocations of one rank.

    Parameters
    ----------
    workload : Workload
        Strategy ``ddp``, ``zero1``, ``zero2`` or ``zero3``.
    tree : ModelTree
        The model.
    ranks : int
        That share the optimizer's states.
    to : Allocations
        Where to write.
    gathered : Gathered
        Of ZeRO-3.
    """

    def __init__(
        self, workload: Workload, tree: ModelTree, ranks: int, to: Allocations,
        gathered: Gathered | None = None,
    ) -> None:  # fmt: skip
        self.workload, self.tree, self.ranks, self.to = workload, tree, ranks, to
        self.gathered = gathered or Gathered()
        p, types = workload.parallelism, dtypes(workload)
        self.knobs, self.types, self.stage = p, types, STAGES[p.strategy]
        self.compute = DTYPE_BYTES[types.compute]
        self.elements, _, self.largest, _ = trainable_elements(workload.model, workload.method, 1)
        self.count = len(tree.layers)
        self.states_on_host = p.offload in ("optimizer", "all")
        width = self.compute if self.stage else DTYPE_BYTES[types.master]
        self.kept = width * self.elements  # gradients
        if self.stage >= 2:
            self.kept = 0.0 if self.states_on_host else self.kept / ranks
        self.buckets = self.gathered.buckets
        if self.stage in (1, 2) and self.elements:
            size = p.reduce_bucket_size
            if isinstance(size, str):
                size = float(tree.layers[0].modules[0].parameters[0].shape[-1]) ** 2
            # DeepSpeed allocates whole buckets, however few parameters train
            self.buckets = (2 if p.overlap_comm else 1) * self.compute * max(size, self.largest)

    def start(self) -> None:
        """A step begins; before the first, what is there all the time."""
        p, types, ranks = self.knobs, self.types, self.ranks
        whole = stored_bytes(self.tree, types, types.compute if self.stage else types.master)
        parameters = whole / ranks if self.stage == 3 else whole
        if self.stage == 3 and p.zero_hpz_partition_size > 1:
            # a second shard inside the group, in the compute dtype
            parameters += whole / p.zero_hpz_partition_size
        partition = 4.0 * self.elements / ranks if self.stage and types.compute != "fp32" else 0.0
        at_rest(
            self.to, self.workload, self.tree, ranks, parameters,
            parameters_on_host=p.offload in ("parameters", "all"),
            states_on_host=self.states_on_host, master=partition,
        )  # fmt: skip
        if self.stage == 0 and self.compute < DTYPE_BYTES[types.master]:
            # autocast keeps a cast copy of each weight until its backward
            self.to.put(UNSHARDED, self.compute * self.elements)

    def forward(self, first: bool) -> None:
        """A micro-batch, the first of its step or a later one."""
        to = self.to
        self.first, self.block = first, 0
        to.moment = FORWARD
        if self.stage == 3:
            to.put(UNSHARDED, self.gathered.forward)
            to.put(GATHERS, self.gathered.buffers)

    def reach(self, block: int, forward: bool) -> None:
        """A block is about to run: layers up to it, or down to it, have."""
        if forward:
            while self.block < block:
                self.block += 1
                self._forward(self.block)
            return
        if self.to.moment == FORWARD:
            self._loss()
        while self.block > max(block, 1):
            self.block -= 1
            self._backward(self.block)

    def _forward(self, layer: int) -> None:
        to = self.to
        if layer > self.count:
            to.mark((LOGITS, 1.0, LOSS_FORWARD, 0))
            return
        to.mark((SAVED, 1.0, HIDDEN, 0), (SAVED, 1.0, LAYER_FORWARD, layer))
        to.add(SAVED, 1.0, RESIDENT, layer)

    def _loss(self) -> None:
        """Backward of the loss."""
        to = self.to
        to.moment = BACKWARD
        to.put(SCATTERS, self.buckets)
        to.mark(
            (LOGITS, 1.0, LOSS_SAVED, 0),
            (LOGIT_GRADIENTS, 1.0, LOSS_BACKWARD, 0),
            (LOGIT_GRADIENTS, -1.0, LOSS_SAVED, 0),
        )
        if self.stage == 0 and self.first:
            to.add(SCATTERS, self.kept)  # DDP's buckets, beside the gradients
        to.put(LOGITS, 1.0, HELD)

    def _backward(self, layer: int) -> None:
        to, gathered = self.to, self.gathered
        if self.stage == 3:  # what piles up does so layer by layer
            passed = (self.count + 1 - layer) / self.count
            held = gathered.forward + (gathered.backward - gathered.forward) * passed
            to.put(UNSHARDED, held)
        to.mark(
            (SAVED, -1.0, GONE, layer),
            (RECOMPUTED, 1.0, HIDDEN, 0),
            (RECOMPUTED, 1.0, LAYER_BACKWARD, layer),
        )
        to.add(SAVED, -1.0, RESIDENT, layer)
        if self.first:
            to.add(GRADIENTS if self.stage >= 2 else FULL_GRADIENTS, self.kept / self.count)

    def done(self) -> None:
        """Backward has ended."""
        self.reach(0, forward=False)
        self.to.mark((RECOMPUTED, 1.0, HIDDEN, 0))
        self.to.put(LOGITS)

    def step(self) -> None:
        """The optimizer's step, and a checkpoint after it."""
        to, stage, ranks = self.to, self.stage, self.ranks
        if stage:
            to.put(SCATTERS)
        if stage in (0, 3):
            to.put(UNSHARDED)
            to.put(GATHERS)
        own, sub_group = self.elements / ranks, float(self.knobs.sub_group_size)
        scratch, gradients = 1.0, 0.0
        if stage == 3 and own:  # a sub-group at a time
            scratch = min(1.0, sub_group / own)
        if stage:
            gradients = 4.0 * (min(own, sub_group) if stage == 3 else own)  # in fp32
        if self.states_on_host:
            scratch = gradients = 0.0
        steps(to, scratch, gradients)
        saves(to, self.compute * self.largest if stage == 3 else 0.0)
