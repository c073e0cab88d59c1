"""What DDP and DeepSpeed's ZeRO allocate: gradients in buckets, parameters whole or by module.

Sources: torch's reducer.cpp (buckets are allocated once; with ``gradient_as_bucket_view`` a reduced
gradient is a view of its bucket, one of an unsynchronised micro-step is not), DeepSpeed 0.19.8
stage_1_and_2.py and stage3.py: bf16 parameters, fp32 master partition, contiguous gradient buckets.
Both gradients of a tied table live until their sum does, which has memory of its own: the head's is
a transposed view, and autograd adds to no such (but under autocast, which casts it). Autocast's
copy of a weight lives until its backward, in a recomputed block for as long as that runs again.
Recorded in ``tests/data/gradient_memory.json``.
"""

from __future__ import annotations

from collections.abc import Sequence

from sim.blocks.modules import Block, ModelTree
from sim.inputs.strategy import strategy_of
from sim.inputs.workload import Workload
from sim.records import NamedTuple
from sim.strategies import terms as t
from sim.strategies.allocations import Allocations
from sim.strategies.step_memory import StepMemory
from sim.strategies.units import stored_bytes, trainable_elements
from sim.units import DTYPE_BYTES


class Gathered(NamedTuple):
    """Counted by the plan: DDP's buckets, and what ZeRO-3's coordinator gathers. [B]"""

    forward: float = 0.0  # gathered parameters at most in forward
    backward: float = 0.0  # and by the end of backward
    buffers: float = 0.0  # of coalesced all-gathers
    buckets: float = 0.0  # of gradients, that are reduced


def _trained(block: Block) -> list[int]:
    """Elements of a block's trainable parameters."""
    return [p.numel for m in block.modules for p in m.parameters if p.trainable]


class ReplicatedMemory(StepMemory):
    """Under ``ddp``, ``zero1``, ``zero2`` or ``zero3``, which gathers what `gathered` says."""

    def __init__(
        self, workload: Workload, tree: ModelTree, ranks: int, to: Allocations,
        gathered: Gathered | None = None,
    ) -> None:  # fmt: skip
        super().__init__(workload, tree, ranks, to)
        self.gathered = gathered or Gathered()
        p, types = self.knobs, self.types
        self.stage = strategy_of(workload).zero_stage(self.knobs)
        self.elements, _, self.largest, _ = trainable_elements(workload, 1)
        self.count = len(tree.layers)
        self.states_on_host = p.offload in ("optimizer", "all")
        self.autocast = self.stage == 0 and self.compute < DTYPE_BYTES[types.master]
        self.within = workload.optimizer_in_backward  # a gradient lives until its weight is stepped
        width = self.compute if self.stage else DTYPE_BYTES[types.master]
        kinds = {b.kind: b for b in (tree.embedding, *tree.layers, tree.head)}
        sizes = {kind: _trained(block) for kind, block in kinds.items()}
        self.largest_of = {kind: width * max(each, default=0) for kind, each in sizes.items()}
        self.table = 0.0  # of gradients, that two blocks have
        if tree.tied and tree.embedding.modules[0].parameters[0].trainable:
            self.table = width * tree.embedding.modules[0].parameters[0].numel
            self.largest_of[tree.head.kind] = self.table
        # a table that is looked up is not cast, one that multiplies is
        cast = self.compute * self.autocast
        self.cast_of = {kind: cast * sum(each) for kind, each in sizes.items()}
        self.cast_of[tree.embedding.kind] = 0.0
        if self.table:
            self.cast_of[tree.head.kind] += cast * max(sizes[tree.embedding.kind])
        if self.within or (self.stage >= 2 and self.states_on_host):
            width = 0.0
        elif self.stage >= 2:
            width /= ranks
        self.kept_of = {kind: width * sum(each) for kind, each in sizes.items()}
        self.buckets = self.gathered.buckets
        self.views = bool(self.buckets) and p.gradient_as_bucket_view
        if self.stage in (1, 2) and self.elements:
            size = p.reduce_bucket_size
            if isinstance(size, str):
                size = float(workload.model.hidden_size) ** 2
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
        self.at_rest(
            parameters, parameters_on_host=p.offload in ("parameters", "all"),
            states_on_host=self.states_on_host, master=partition,
        )  # fmt: skip
        if self.stage == 0:
            self.to.put(t.SCATTERS, self.buckets)  # for as long as the reducer
        self.apart = False

    def forward(self, reduced: bool = True) -> None:
        """A micro-batch; `reduced`: its gradients are, and with them those of the ones before."""
        to = self.to
        before, self.apart = self.apart, not (self.views and reduced)
        self.gained = self.apart - before  # whether gradients come to lie beside buckets, or go
        self.block = 0
        to.moment = t.FORWARD
        if self.autocast:
            to.put(t.UNSHARDED, self._cast(self.tree.layers))
        if self.stage == 3:
            to.put(t.UNSHARDED, self.gathered.forward)
            to.put(t.GATHERS, self.gathered.buffers)

    def reach(self, block: int, forward: bool) -> None:
        """A block is about to run: layers up to it, or down to it, have."""
        if forward:
            while self.block < block:
                self.block += 1
                self._forward(self.block)
            return
        if self.to.moment == t.FORWARD:
            self._loss()
        while self.block > max(block, 1):
            self.block -= 1
            self._backward(self.block)

    def _forward(self, layer: int) -> None:
        to = self.to
        if layer > self.count:
            to.mark((t.LOGITS, 1.0, t.LOSS_FORWARD))
            return
        to.mark((t.SAVED, 1.0, t.HIDDEN), (t.SAVED, 1.0, t.LAYER_FORWARD, layer))
        to.add(t.SAVED, 1.0, t.RESIDENT, layer)

    def _loss(self) -> None:
        """Backward of the loss."""
        to = self.to
        to.moment = t.BACKWARD
        to.put(t.SCATTERS, self.buckets)
        if self.autocast:  # whose region has ended
            layers = zip(self.tree.layers, to.layers, strict=True)
            to.put(t.UNSHARDED, self._cast([b for b, style in layers if not style.recomputed]))
        self.loss_backward()
        to.put(t.LOGITS, 1.0, t.HELD)
        to.mark(
            (t.FULL_GRADIENTS, self.largest_of[self.tree.head.kind]),
            (t.SCRATCH, float(self.within), t.SCRATCH_BYTES),
            (t.LOGIT_GRADIENTS, 1.0, t.HEAD_BACKWARD),
        )  # fmt: skip
        self._keep(self.tree.head)
        to.put(t.WAITING, self.table)
        to.add(t.UNSHARDED, -self.cast_of[self.tree.head.kind])

    def _cast(self, layers: Sequence[Block]) -> float:
        """Copies that autocast has made of weights, those of the head among them. [B]"""
        return sum(self.cast_of[block.kind] for block in (*layers, self.tree.head))

    def _keep(self, block: Block) -> None:
        """Gradients of a block are there."""
        size = self.gained * self.kept_of[block.kind]
        self.to.add(t.GRADIENTS if self.stage >= 2 else t.FULL_GRADIENTS, size)

    def _backward(self, layer: int) -> None:
        to, gathered = self.to, self.gathered
        if self.stage == 3:  # what piles up does so layer by layer
            passed = (self.count + 1 - layer) / self.count
            held = gathered.forward + (gathered.backward - gathered.forward) * passed
            to.put(t.UNSHARDED, held)
        cast, recomputed = (
            self.cast_of[self.tree.layers[layer - 1].kind],
            to.layers[layer - 1].recomputed,
        )
        to.mark(
            (t.UNSHARDED, cast * recomputed),
            (t.SAVED, -1.0, t.GONE, layer),
            (t.SAVED, 2.0 if layer > 1 else 1.0, t.FETCHED, layer),  # its input, and the next one's
            (t.RECOMPUTED, 1.0, t.HIDDEN),
            (t.RECOMPUTED, 1.0, t.LAYER_BACKWARD, layer),
        )
        to.add(t.SAVED, -1.0, t.RESIDENT, layer)
        to.add(t.UNSHARDED, -cast * (not recomputed))
        self._keep(self.tree.layers[layer - 1])

    def done(self) -> None:
        """Backward has ended."""
        self.reach(0, forward=False)
        embedding = self.tree.embedding
        gradient = self.largest_of[embedding.kind] + (0.0 if self.autocast else self.table)
        self.to.mark((t.RECOMPUTED, 1.0, t.HIDDEN), (t.FULL_GRADIENTS, gradient))
        self.to.put(t.LOGITS)
        self.to.put(t.WAITING)
        self._keep(embedding)

    def step(self) -> None:
        """The optimizer's step, and a checkpoint after it."""
        to, stage, ranks = self.to, self.stage, self.ranks
        if stage:
            to.put(t.SCATTERS)
        if stage == 3:
            to.put(t.UNSHARDED)
            to.put(t.GATHERS)
        own, sub_group = self.elements / ranks, float(self.knobs.sub_group_size)
        scratch, gradients = 1.0, 0.0
        if stage == 3 and own:  # a sub-group at a time
            scratch = min(1.0, sub_group / own)
        if stage:
            gradients = 4.0 * (min(own, sub_group) if stage == 3 else own)  # in fp32
        if self.states_on_host:
            scratch = gradients = 0.0
        self.ends(scratch, gradients, self.compute * self.largest if stage == 3 else 0.0)
