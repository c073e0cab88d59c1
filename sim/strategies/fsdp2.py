"""FSDP2 (`fully_shard`): the state machine of its parameter groups, played on a recorder.

Follows torch 2.13 (`_fsdp_param_group.py`, `_fsdp_state.py`, `_fsdp_collectives.py`) call by call;
the methods of `Hooks` carry the names of the hooks they play. The recordings in
`tests/data/fsdp_recordings.json` are the expected values.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from sim.blocks.modules import Block
from sim.blocks.update import host_update_bytes
from sim.inputs.trainer import reductions
from sim.inputs.workload import Workload
from sim.mesh import Groups, Mesh, Pairs
from sim.strategies.activation_copies import ActivationCopies
from sim.strategies.exchanges import groups_within, player
from sim.strategies.fsdp2_gradients import PRE_BACKWARD, GradientReducer
from sim.strategies.fsdp2_layout import (
    Fsdp2Layout,
    Fsdp2Piece,
    post_forward_ranks,
    prefetch_targets,
)
from sim.strategies.fsdp_memory import Remembers
from sim.strategies.recorder import Event, Recorder
from sim.strategies.repeat import Folding
from sim.strategies.tail import clip_and_step, loss_all_reduce
from sim.strategies.units import EXPERT_SHARD, SHARD, Unit, dtypes, sharers
from sim.units import DTYPE_BYTES

SHARDED, POST_FORWARD, UNSHARDED = range(3)
FORWARD = "forward"


def groups_of(workload: Workload, mesh: Mesh) -> dict[str, Groups | Pairs]:
    """The groups that FSDP2's collectives, and those inside blocks, name."""
    groups: dict[str, Groups | Pairs] = {SHARD: mesh.groups("fsdp")}
    if mesh.ep > 1:
        groups[EXPERT_SHARD] = mesh.groups("efsdp")
    if mesh.dp_replicate > 1:
        groups["replicate"] = mesh.groups("dp_replicate")
    smaller = post_forward_ranks(workload.parallelism, mesh.size("fsdp"))
    if smaller:
        groups[f"subgroup:{smaller}"] = mesh.groups("fsdp").inner(smaller)
    return groups | groups_within(workload, mesh)


class Hooks:
    """The CPU thread: hooks in the order in which autograd and modules call them.

    Parameters
    ----------
    workload, mesh
        Of the job.
    layout : Fsdp2Layout
        Units, and the compute inside them, of the model or of a part of it.
    blocks : dict of int to Block
        By the number that pieces give.
    recorder : Recorder
        Where it is written down.
    memory : Remembers
        What it allocates.
    folding : Folding, optional
        Watches for layers that stand for more.
    """

    def __init__(
        self, workload: Workload, mesh: Mesh, layout: Fsdp2Layout, blocks: Mapping[int, Block],
        recorder: Recorder, memory: Remembers, folding: Folding | None = None,
    ) -> None:  # fmt: skip
        knobs = self.knobs = workload.parallelism
        self.workload, self.mesh = workload, mesh
        shard = mesh.size("fsdp")
        self.ranks = sharers(mesh)
        self.types = dtypes(workload)
        self.layout, self.units, self.blocks = layout, layout.units, blocks
        self.head = max(blocks)  # the last block
        self.play = player(workload, blocks, mesh)
        self.copies: ActivationCopies | None = None
        self.smaller = post_forward_ranks(knobs, shard)
        value = knobs.reshard_after_forward
        self.keeps = value is False or (not isinstance(value, bool) and value == 1)
        self.recorder, self.memory = recorder, memory
        self.folding = folding or Folding(recorder, 0, 0)
        self.offload = knobs.offload != "none"
        n = len(layout.units)
        self.state = [SHARDED] * n
        self.gathered: list[Event | None] = [None] * n  # pending all-gather
        self.resharded: list[Event] = [()] * n
        self.held: Event = ()  # copy-out whose buffer the next forward copy-out frees
        self.order: list[int] = []  # post-forward order
        self.indices: list[list[int]] = [[] for _ in range(n)]
        self.done = [False] * n  # post-backward has run
        self.reduce_grads = self.reshard_after_backward = True
        self.gradients = GradientReducer(
            knobs, mesh, self.types, self.units, self.ranks, recorder,
            workload.optimizer_in_backward,
        )  # fmt: skip
        self.forward_targets, self.backward_targets = prefetch_targets(knobs, layout)

    def own(self, units: Iterable[Unit], times: int = 1) -> None:
        """Their parameters, so many times, are what this rank updates a share of."""
        plan, owned = self.recorder.plan, list(units)
        experts = sum(u.grad_tensors for u in owned if u.over == EXPERT_SHARD)
        plan.owned_numel += times * sum(u.grad_numel / self.ranks[u.over] for u in owned)
        plan.owned_tensors += times * sum(u.grad_tensors for u in owned)
        plan.owned_experts += times * experts
        plan.optimizer_on_host = self.offload

    def step(self) -> None:
        """All micro-steps of one optimizer step, then clipping and the optimizer."""
        r, knobs = self.recorder, self.knobs
        micro_steps = self.workload.gradient_accumulation
        self.gradients.forget()
        self.memory.start()
        for micro, sync in enumerate(reductions(self.workload, micro_steps)):
            r.start(micro)
            self.reduce_grads = sync
            last = micro == micro_steps - 1
            self.gradients.all_reduce = last or knobs.requires_all_reduce == "every"
            self.reshard_after_backward = last or knobs.reshard_after_backward
            self.memory.forward(sync=sync, accumulating=micro > 0)
            self.forward()
            self.backward()
        self.memory.step()
        loss_all_reduce(r, knobs, self.mesh)
        update = host_update_bytes(self.workload)
        self.finish(update)
        r.end()

    def finish(self, update_bytes: float) -> None:
        """Clipping and the optimizer."""
        if self.workload.optimizer_in_backward:
            self.recorder.read_loss()
            return
        width = DTYPE_BYTES[self.types.master]
        clip_and_step(self.recorder, self.knobs, width, update_bytes=update_bytes)

    # forward

    def forward(self) -> None:
        """The model's forward, with each unit's hooks around it."""
        r, layout = self.recorder, self.layout
        r.call("fsdp2.root_forward")
        r.wait_stream("copy_in", "compute")
        r.wait_stream("all_gather", "compute")
        if layout.root >= 0:
            self.pre_forward(layout.root)
        for i, piece in enumerate(layout.pieces):
            unit, block = piece.unit, piece.block
            self.folding.open(block, 1)
            self.memory.reach(block)
            if unit != layout.root and layout.opens[unit] == i:
                self.pre_forward(unit)
                for target in self.forward_targets.get(unit, ()):
                    self.unshard(target, FORWARD)
            if self.copies:
                self.copies.enter(r, block, forward=True)
            self.compute("forward", FORWARD, piece)
            if unit != layout.root and layout.closes[unit] == i:
                self.post_forward(unit)
            self.folding.close(block, 1)
        if layout.root >= 0:
            self.post_forward(layout.root)
        if self.held:
            r.wait("copy_in", self.held)
            r.wait("all_gather", self.held)
            self.held = ()

    def compute(self, name: str, phase: str, piece: Fsdp2Piece, *, again: bool = True) -> None:
        """A piece's kernels, with the exchanges inside it; `again`, with those of its output."""
        unit, again = self.units[piece.unit].name, again and piece.recompute
        self.play(self.recorder, name, phase, piece.block, piece.module, unit, again)

    def pre_forward(self, unit: int) -> None:
        """Gather a unit, group by group, and wait for it."""
        for group in self.layout.groups(unit):
            self.recorder.call("fsdp2.pre_forward")
            self.recorder.call_times("fsdp2.tensor", self.units[group].tensors)
            self.unshard(group, FORWARD)
            self.wait_for_unshard(group, FORWARD)

    def post_forward(self, unit: int) -> None:
        """Drop a unit's parameters, or keep what `reshard_after_forward` says."""
        keep = self._keeps(unit)
        for group in self.layout.groups(unit):
            self.recorder.call("fsdp2.post_forward")
            self._reshard(group, keep)
        self.indices[unit].append(len(self.order))
        self.order.append(unit)

    def _reshard(self, unit: int, keep: bool) -> None:
        if not keep and self.smaller and unit != self.layout.root:
            u, r = self.units[unit], self.recorder
            kept = u.gather_bytes / self.smaller
            r.kernel("compute", "reshard", FORWARD, 2 * kept, u.name, u.block)
            self.state[unit] = POST_FORWARD
            self.resharded[unit] = r.record("compute")
        elif not keep:
            self.state[unit] = SHARDED

    def _keeps(self, unit: int) -> bool:
        """Whether a unit stays gathered after forward."""
        knobs, layout = self.knobs, self.layout
        if unit == layout.root:
            return knobs.root_reshard_after_forward is not True
        ends = layout.closes[unit] == len(layout.pieces) - 1
        if layout.root < 0 and ends and layout.pieces[-1].block == self.head:
            return True  # torchtitan: [norm, lm_head] would be gathered again at once
        return self.keeps

    def unshard(self, unit: int, phase: str) -> None:
        """Cast, copy in, all-gather; nothing if gathered already or under way."""
        if self.gathered[unit] is not None or self.state[unit] == UNSHARDED:
            return
        u, r = self.units[unit], self.recorder
        if phase == PRE_BACKWARD and u.block == 0 and not self.knobs.unshard_embedding_in_backward:
            return
        smaller = self.state[unit] == POST_FORWARD
        ranks = self.smaller if smaller else self.ranks[u.over]
        if smaller:
            r.wait("copy_in", self.resharded[unit])
            r.wait("all_gather", self.resharded[unit])
        r.call("fsdp2.unshard")
        casts = 0.0 if smaller else sum(u.cast) / ranks  # a smaller group shares what was cast
        if ranks == 1:
            if self.offload:  # nothing to gather, but the weights are in host memory
                self._load(u.master_bytes, phase, u)
                if casts:
                    r.kernel("copy_in", "cast", phase, casts, u.name, u.block)
            self.gathered[unit] = r.record("copy_in" if self.offload else "compute")
            return
        bytes_in = u.gather_bytes / ranks
        stored = bytes_in if smaller else u.master_bytes / ranks
        if self.offload:
            self._load(stored, phase, u)
        if casts:
            r.kernel("copy_in", "cast", phase, casts, u.name, u.block)
        r.kernel("copy_in", "copy_in", phase, 2 * bytes_in, u.name, u.block)
        r.wait_stream("all_gather", "copy_in")
        group = f"subgroup:{ranks}" if smaller else u.over
        r.collective(
            "all_gather", "all_gather", phase, group, bytes_in, u.gather_bytes, u.gather_dtype,
            u.name, u.block,
        )  # fmt: skip
        self.gathered[unit] = r.record("all_gather")

    def wait_for_unshard(self, unit: int, phase: str) -> None:
        """Compute waits for the all-gather and copies out; frees an all-gather buffer."""
        event = self.gathered[unit]
        if event is None:
            return
        u, r = self.units[unit], self.recorder
        r.call("fsdp2.wait")
        if phase == FORWARD and self.held:
            r.wait("copy_in", self.held)
            r.wait("all_gather", self.held)
            self.held = ()
        r.wait("compute", event)
        r.kernel("compute", "copy_out", phase, 2 * u.gather_bytes, u.name, u.block)
        self.state[unit] = UNSHARDED
        self.gathered[unit] = None
        copied = r.record("compute")
        if phase == FORWARD and self.ranks[u.over] > 1:
            self.held = copied
        else:
            r.wait("copy_in", copied)
            r.wait("all_gather", copied)

    # backward

    def backward(self) -> None:
        """The backward graph, then the final callback."""
        layout = self.layout
        pieces, root = layout.pieces, layout.root
        self.done = [False] * len(self.units)
        self.memory.backward()
        if root >= 0 and pieces[-1].output_grad:
            self.pre_backward(root)
        recomputed = -1
        for i in range(len(pieces) - 1, -1, -1):
            piece = pieces[i]
            unit, block = piece.unit, piece.block
            self.folding.open(block, -1)
            self.memory.reach(block)
            if not piece.output_grad:
                continue
            if self.copies:
                self.copies.enter(self.recorder, block, forward=False)
            if piece.recompute and piece.module and piece.block != recomputed:
                recomputed = piece.block
                self._recompute_modules(piece.block)
            if unit != root and layout.closes[unit] == i and not piece.done:
                self.pre_backward(unit)
            if piece.recompute and not piece.module:
                self.compute("recompute", PRE_BACKWARD, piece)
            if piece.backward and not piece.done:
                self.compute("backward", PRE_BACKWARD, piece)
            if unit != root and layout.opens[unit] == i and piece.input_grad:
                for group in reversed(layout.groups(unit)):
                    self.post_backward(group)
            self.folding.close(block, -1)
        self.memory.done()
        self.final_callback()

    def _recompute_modules(self, block: int) -> None:
        """Forward again through a block whose modules are units: each is gathered on demand."""
        r = self.recorder
        for piece in self.layout.pieces:
            if piece.block == block:
                if piece.unit != self.layout.root:
                    self.pre_forward(piece.unit)
                name = self.units[piece.unit].name
                r.segment("recompute", PRE_BACKWARD, block, piece.module, name)

    def pre_backward(self, unit: int) -> None:
        """Gather a unit, its last group first, wait for it, and gather ahead."""
        for group in reversed(self.layout.groups(unit)):
            self.recorder.call("fsdp2.pre_backward")
            self.unshard(group, PRE_BACKWARD)
            self.wait_for_unshard(group, PRE_BACKWARD)
        targets = self.backward_targets.get(unit)
        if targets is not None:
            for target in targets:
                self.unshard(target, PRE_BACKWARD)
        elif self.indices[unit]:
            index = self.indices[unit].pop()
            if index > 0:
                self.unshard(self.order[index - 1], PRE_BACKWARD)

    def post_backward(self, unit: int) -> None:
        """Reshard, then copy in and reduce the gradients."""
        self.done[unit] = True
        u, r = self.units[unit], self.recorder
        r.call("fsdp2.post_backward")
        r.call_times("fsdp2.tensor", u.tensors)
        self.gradients.accumulate(unit, keep=not self.reduce_grads)
        if self.reshard_after_backward:
            self.state[unit] = SHARDED
        if self.reduce_grads:
            self.gradients.reduce(unit)

    def _load(self, size: float, phase: str, u: Unit) -> None:
        """Offloaded weights to the GPU; of pageable memory the copy returns when it is done."""
        r = self.recorder
        r.kernel("copy_in", "h2d", phase, size, u.name, u.block)
        if not self.knobs.pin_memory:
            r.host_sync(r.record("copy_in"))

    def final_callback(self) -> None:
        """End of the backward graph: what no autograd hook has reduced, and the last waits."""
        r = self.recorder
        for unit in range(len(self.units)):
            if not self.done[unit]:
                self.post_backward(unit)
            self.gradients.join(unit)
            pending = self.gathered[unit]
            if pending is not None:
                r.wait("compute", pending)
                self.gathered[unit] = None
            self.indices[unit].clear()
        self.order.clear()
        self.gradients.drop_inputs()
