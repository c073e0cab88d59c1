"""FSDP2 (`fully_shard`): the state machine of its parameter groups, played on a recorder.

Follows torch 2.13 (`_fsdp_param_group.py`, `_fsdp_state.py`, `_fsdp_collectives.py`) call by call;
the methods of `_Run` carry the names of the hooks they play. The recordings in
`tests/data/fsdp_recordings.json` are the expected values.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

from sim.blocks.modules import ModelTree
from sim.blocks.update import host_update_bytes
from sim.inputs.finding import Finding, fault
from sim.inputs.strategy import Strategy, Trial, register
from sim.inputs.trainer import trainer_of
from sim.inputs.workload import Parallelism, Workload
from sim.mesh import Mesh
from sim.strategies.activation_copies import ActivationCopies
from sim.strategies.exchanges import GROUPS, Exchanging
from sim.strategies.fsdp2_layout import Piece, lay_out, post_forward_ranks, prefetch_targets
from sim.strategies.fsdp_memory import FsdpMemory
from sim.strategies.plan import Event, Plan, Recorder
from sim.strategies.repeat import Folding, shortened
from sim.strategies.tail import clip_and_step, loss_all_reduce
from sim.strategies.units import FSDP_KNOBS, Unit, dtypes, equal_layers, tree_blocks
from sim.units import DTYPE_BYTES

SHARDED, POST_FORWARD, UNSHARDED = range(3)
FORWARD, PRE_BACKWARD = "forward", "backward"


def record_in_full(workload: Workload, tree: ModelTree, mesh: Mesh, steps: int = 1) -> Plan:
    """As `Strategy.build`, every layer by the state machine: what tests hold it against."""
    return _record(_Run(workload, tree, mesh, 0, Recorder), tree, steps)


def _record(run: _Run, tree: ModelTree, steps: int) -> Plan:
    for _ in range(steps):
        run.step()
    return run.folding.unfold(run.recorder.plan, tree)


def _edge(workload: Workload, tree: ModelTree) -> int:
    """Layers to record at either end before all in between are copies of one; 0: record all."""
    knobs = workload.parallelism
    layers = len(tree.layers)
    smaller = not isinstance(knobs.reshard_after_forward, bool)
    if knobs.wrap == "linear" or smaller or knobs.offload != "none":
        return 0
    if workload.activation_checkpointing.offload:
        return 0
    depth = knobs.backward_prefetch if isinstance(knobs.backward_prefetch, int) else 1
    edge = 3 + max(depth, knobs.forward_prefetch, knobs.reduce_scatter_max_input_buffers)
    if layers < 2 * edge + 3:
        return 0
    return edge if equal_layers(workload, tree) else 0


class _Run:
    """The CPU thread: hooks in the order in which autograd and modules call them."""

    def __init__(
        self, workload: Workload, full: ModelTree, mesh: Mesh, edge: int, recorder: type[Recorder]
    ) -> None:
        knobs = self.knobs = workload.parallelism
        self.workload, self.mesh = workload, mesh
        self.shard = shard = mesh.size("fsdp")
        self.replicate = mesh.dp_replicate
        self.types = dtypes(workload)
        tree = shortened(full, edge)
        extra = len(full.layers) - len(tree.layers)
        layout = self.layout = lay_out(workload, tree, shard, self.types)
        self.units = layout.units
        self.exchanging = Exchanging.of(workload, mesh)
        self.blocks = tree_blocks(tree)
        offloads = workload.activation_checkpointing.offload
        self.copies = ActivationCopies(workload, tree) if offloads else None
        groups = {"shard": mesh.groups("fsdp")}
        if mesh.dp_replicate > 1:
            groups["replicate"] = mesh.groups("dp_replicate")
        self.smaller = post_forward_ranks(knobs, shard)
        value = knobs.reshard_after_forward
        self.keeps = value is False or (not isinstance(value, bool) and value == 1)
        if self.smaller:
            groups[f"subgroup:{self.smaller}"] = groups["shard"].inner(self.smaller)
        for axis, name in GROUPS.items():
            if mesh.size(axis) > 1:
                groups[name] = mesh.groups(axis)
        self.recorder = recorder(groups, trainer_of(workload))
        self.folding = Folding(self.recorder, edge, extra)
        self.memory = FsdpMemory(workload, full, shard, len(tree.layers), self.recorder.memory)
        self.rs_comm = "shard.reduce_scatter" if knobs.separate_reduce_scatter_group else "shard"
        self.offload = knobs.offload != "none"
        n = len(layout.units)
        self.state = [SHARDED] * n
        self.gathered: list[Event | None] = [None] * n  # pending all-gather
        self.resharded: list[Event] = [()] * n
        self.held: Event = ()  # copy-out whose buffer the next forward copy-out frees
        self.scatters: list[Event] = []  # reduce-scatters whose input is retained
        self.reduced: dict[str, Event] = {}  # last post-reduce event by stream
        self.order: list[int] = []  # post-forward order
        self.indices: list[list[int]] = [[] for _ in range(n)]
        self.done = [False] * n  # post-backward has run
        self.accumulated = [False] * n  # holds an unsharded gradient
        self.partial = [False] * n  # HSDP: holds a reduced, not yet all-reduced gradient
        self.has_grad = [False] * n  # sharded gradient exists from an earlier micro-step
        self.offloaded: list[list[Event]] = [[] for _ in range(n)]
        self.reduce_grads = self.all_reduce_grads = self.reshard_after_backward = True
        self.forward_targets, self.backward_targets = prefetch_targets(knobs, layout)
        plan = self.recorder.plan
        owned = self.units + [self.units[layout.pieces[1].unit]] * extra
        plan.owned_numel = sum(u.grad_numel for u in owned) / shard
        plan.owned_tensors = sum(u.grad_tensors for u in owned)
        plan.optimizer_on_host = self.offload

    def step(self) -> None:
        """All micro-steps of one optimizer step, then clipping and the optimizer."""
        r, knobs = self.recorder, self.knobs
        micro_steps = self.workload.gradient_accumulation
        self.has_grad = [False] * len(self.units)
        self.memory.start()
        for micro in range(micro_steps):
            r.start(micro)
            last = micro == micro_steps - 1
            self.reduce_grads = last or knobs.gradient_sync == "every"
            self.all_reduce_grads = last or knobs.requires_all_reduce == "every"
            self.reshard_after_backward = last or knobs.reshard_after_backward
            self.memory.forward(sync=self.reduce_grads, accumulating=micro > 0)
            self.forward()
            self.backward()
        self.memory.step()
        loss_all_reduce(r, knobs, self.mesh)
        update = host_update_bytes(self.workload)
        clip_and_step(r, knobs, DTYPE_BYTES[self.types.master], update_bytes=update)
        r.end()

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
            if self.copies and layout.pieces[i - 1].block != piece.block:
                self.copies.forward(r, piece.block)
            self._compute("forward", FORWARD, piece)
            if unit != layout.root and layout.closes[unit] == i:
                self.post_forward(unit)
            self.folding.close(block, 1)
        if layout.root >= 0:
            self.post_forward(layout.root)
        if self.held:
            r.wait("copy_in", self.held)
            r.wait("all_gather", self.held)
            self.held = ()

    def _compute(self, name: str, phase: str, piece: Piece) -> None:
        number, unit, play = piece.block, self.units[piece.unit].name, self.exchanging
        block = self.blocks[number]
        if play is None or not play.inside(block):
            self.recorder.segment(name, phase, number, piece.module, unit)
        else:
            play.play(self.recorder, name, phase, number, block, unit, again=piece.recompute)

    def pre_forward(self, unit: int) -> None:
        self.recorder.call("fsdp2.pre_forward")
        self.recorder.call_times("fsdp2.tensor", self.units[unit].tensors)
        self.unshard(unit, FORWARD)
        self.wait_for_unshard(unit, FORWARD)

    def post_forward(self, unit: int) -> None:
        self.recorder.call("fsdp2.post_forward")
        keep = self._keeps(unit)
        if not keep and self.smaller and unit != self.layout.root:
            u, r = self.units[unit], self.recorder
            kept = u.gather_bytes / self.smaller
            r.kernel("compute", "reshard", FORWARD, 2 * kept, u.name, u.block)
            self.state[unit] = POST_FORWARD
            self.resharded[unit] = r.record("compute")
        elif not keep:
            self.state[unit] = SHARDED
        self.indices[unit].append(len(self.order))
        self.order.append(unit)

    def _keeps(self, unit: int) -> bool:
        """Whether a unit stays gathered after forward."""
        knobs, layout = self.knobs, self.layout
        if unit == layout.root:
            return knobs.root_reshard_after_forward is not True
        if layout.root < 0 and layout.closes[unit] == len(layout.pieces) - 1:
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
        ranks = self.smaller if smaller else self.shard
        if smaller:
            r.wait("copy_in", self.resharded[unit])
            r.wait("all_gather", self.resharded[unit])
        r.call("fsdp2.unshard")
        if ranks == 1:
            if self.offload:  # nothing to gather, but the weights are in host memory
                self._load(u.master_bytes, phase, u)
                if self.types.casts:
                    cast = u.master_bytes + u.gather_bytes
                    r.kernel("copy_in", "cast", phase, cast, u.name, u.block)
            self.gathered[unit] = r.record("copy_in" if self.offload else "compute")
            return
        bytes_in = u.gather_bytes / ranks
        stored = bytes_in if smaller else u.master_bytes / ranks
        if self.offload:
            self._load(stored, phase, u)
        if self.types.casts:
            r.kernel("copy_in", "cast", phase, stored + bytes_in, u.name, u.block)
        r.kernel("copy_in", "copy_in", phase, 2 * bytes_in, u.name, u.block)
        r.wait_stream("all_gather", "copy_in")
        group = f"subgroup:{ranks}" if smaller else "shard"
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
        if phase == FORWARD and self.shard > 1:
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
            if self.copies and pieces[(i + 1) % len(pieces)].block != piece.block:
                self.copies.backward(self.recorder, piece.block)
            if piece.recompute and piece.module and piece.block != recomputed:
                recomputed = piece.block
                self._recompute_modules(piece.block)
            if unit != root and layout.closes[unit] == i:
                self.pre_backward(unit)
            if piece.recompute and not piece.module:
                self._compute("recompute", PRE_BACKWARD, piece)
            if piece.backward:
                self._compute("backward", PRE_BACKWARD, piece)
            if unit != root and layout.opens[unit] == i and piece.input_grad:
                self.post_backward(unit)
            self.folding.close(block, -1)
        self.memory.done()
        self._final_callback()

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
        self.recorder.call("fsdp2.pre_backward")
        self.unshard(unit, PRE_BACKWARD)
        self.wait_for_unshard(unit, PRE_BACKWARD)
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
        u, r, knobs = self.units[unit], self.recorder, self.knobs
        r.call("fsdp2.post_backward")
        r.call_times("fsdp2.tensor", u.tensors)
        grads = u.grad_numel > 0
        width, wide = DTYPE_BYTES[self.types.compute], DTYPE_BYTES[self.types.reduce]
        if grads and self.accumulated[unit]:
            traffic = u.grad_numel * (width + 2 * wide)
            r.kernel("compute", "accumulate", PRE_BACKWARD, traffic, u.name, u.block)
        if self.reshard_after_backward:
            self.state[unit] = SHARDED
        if not self.reduce_grads:
            if grads and not self.accumulated[unit]:
                self.accumulated[unit] = True
                if wide != width:
                    traffic = u.grad_numel * (width + wide)
                    r.kernel("compute", "upcast", PRE_BACKWARD, traffic, u.name, u.block)
            return
        if grads:
            self._sum_partial(unit, wide if self.accumulated[unit] else width)
        while len(self.scatters) >= knobs.reduce_scatter_max_input_buffers:
            r.wait("compute", self.scatters.pop(0))
        if grads:
            self._reduce(unit, width if not self.accumulated[unit] else wide)
            self.accumulated[unit] = False

    def _sum_partial(self, unit: int, grad_bytes: float) -> None:
        """Gradients that each tensor-parallel rank has a part of are summed, one by one."""
        if self.mesh.tp == 1:
            return
        u, r = self.units[unit], self.recorder
        dtype = self.types.reduce if self.accumulated[unit] else self.types.compute
        for numel in u.partial:
            size = numel * grad_bytes
            r.collective(
                "compute", "all_reduce", PRE_BACKWARD, "tensor", size, size, dtype, u.name, u.block
            )

    def _reduce(self, unit: int, grad_bytes: float) -> None:
        u, r, types = self.units[unit], self.recorder, self.types
        wide = DTYPE_BYTES[types.reduce]
        r.call("fsdp2.reduce")
        bytes_in = u.grad_numel * wide
        bytes_out = bytes_in / self.shard
        r.kernel(
            "compute", "reduce_scatter_copy_in", PRE_BACKWARD, u.grad_numel * (grad_bytes + wide),
            u.name, u.block,
        )  # fmt: skip
        stream = "reduce_scatter"
        r.wait_stream(stream, "compute")
        scaled = types.reduce == "fp16"  # NCCL's own average could overflow
        if scaled:
            r.kernel(stream, "predivide", PRE_BACKWARD, 2 * bytes_in, u.name, u.block)
        if self.shard > 1:
            r.collective(
                stream, "reduce_scatter", PRE_BACKWARD, "shard", bytes_in, bytes_out,
                types.reduce, u.name, u.block, comm=self.rs_comm,
            )  # fmt: skip
        else:
            r.kernel(stream, "copy", PRE_BACKWARD, 2 * bytes_in, u.name, u.block)
        scattered = r.record(stream)
        if self.replicate > 1:
            if not self.all_reduce_grads:
                if self.partial[unit]:
                    r.kernel(stream, "accumulate", PRE_BACKWARD, 3 * bytes_out, u.name, u.block)
                self.partial[unit] = True
                self.reduced[stream] = r.record(stream)
                self.scatters.append(scattered)
                return
            if self.partial[unit]:
                r.kernel(stream, "accumulate", PRE_BACKWARD, 3 * bytes_out, u.name, u.block)
                self.partial[unit] = False
            r.wait_stream("all_reduce", stream)
            stream = "all_reduce"
            r.collective(
                stream, "all_reduce", PRE_BACKWARD, "replicate", bytes_out, bytes_out,
                types.reduce, u.name, u.block,
            )  # fmt: skip
        if scaled:
            r.kernel(stream, "postdivide", PRE_BACKWARD, 2 * bytes_out, u.name, u.block)
        self._store(unit, stream, bytes_out)
        self.reduced[stream] = r.record(stream)
        self.scatters.append(scattered)

    def _load(self, size: float, phase: str, u: Unit) -> None:
        """Offloaded weights to the GPU; of pageable memory the copy returns when it is done."""
        r = self.recorder
        r.kernel("copy_in", "h2d", phase, size, u.name, u.block)
        if not self.knobs.pin_memory:
            r.host_sync(r.record("copy_in"))

    def _store(self, unit: int, stream: str, reduced_bytes: float) -> None:
        """Cast the reduced gradient, send it to the host or add it to an earlier one."""
        u, r, types = self.units[unit], self.recorder, self.types
        stored = u.grad_numel / self.shard * DTYPE_BYTES[types.master]
        if types.reduce != types.master:
            r.kernel(stream, "cast", PRE_BACKWARD, reduced_bytes + stored, u.name, u.block)
        if self.offload:
            r.kernel(stream, "d2h", PRE_BACKWARD, stored, u.name, u.block)
            if self.has_grad[unit] or not self.knobs.pin_memory:
                r.host_sync(r.record(stream))
            if self.has_grad[unit]:
                r.host("accumulate", PRE_BACKWARD, 3 * stored)
            elif self.knobs.pin_memory:
                self.offloaded[unit].append(r.record(stream))
        elif self.has_grad[unit]:
            r.kernel(stream, "accumulate", PRE_BACKWARD, 3 * stored, u.name, u.block)
        self.has_grad[unit] = True

    def _final_callback(self) -> None:
        """End of the backward graph: what no autograd hook has reduced, and the last waits."""
        r = self.recorder
        for unit in range(len(self.units)):
            if not self.done[unit]:
                self.post_backward(unit)
            for event in self.reduced.values():
                r.wait("compute", event)
            self.reduced.clear()
            for event in self.offloaded[unit]:
                r.host_sync(event)
            self.offloaded[unit].clear()
            pending = self.gathered[unit]
            if pending is not None:
                r.wait("compute", pending)
                self.gathered[unit] = None
            self.indices[unit].clear()
        self.order.clear()
        for event in self.scatters:
            r.wait("compute", event)
        self.scatters.clear()


class Fsdp2(Strategy):
    """`fully_shard`."""

    name, title, feature, fsdp_version = "fsdp2", "FSDP2", "fsdp2", 2
    knobs = FSDP_KNOBS | {
        "reshard_after_forward", "root_reshard_after_forward", "separate_reduce_scatter_group",
        "reduce_scatter_max_input_buffers", "requires_all_reduce", "reshard_after_backward",
        "unshard_embedding_in_backward", "pin_memory",
    }  # fmt: skip
    instead: ClassVar = {"sharding_strategy": "fsdp2 says reshard_after_forward: false"}
    wraps = ("block+root", "torchtitan", "linear")
    offloads = ("all",)
    tools = frozenset({"accelerate", "axolotl", "deepspeed", "torchtitan"})
    family = ("fsdp2", "ddp")
    gathers_blocks = blocks_alike = casts_inputs = context_parallel = True
    tensor_parallel = True
    gathers_fp8 = offloads_inputs = True

    def replicates(self, knobs: Parallelism) -> bool:
        """Never: shards are what it is for."""
        return False

    def zero_stage(self, knobs: Parallelism) -> int:
        """Parameters kept from forward to backward are ZeRO-2's."""
        return 2 if knobs.reshard_after_forward is False else 3

    def trainer(self, workload: Workload) -> str:
        """What it was written with; bf16 weights and moments are torchtune's way."""
        precision = workload.precision
        pure = precision.master == "bf16" and precision.kind != "fp32"
        return "torchtune" if pure else "torchtitan"

    def findings(self, workload: Workload) -> Iterator[Finding]:
        """Values that are FSDP1's."""
        p = workload.parallelism
        if p.backward_prefetch == "post":
            message = "fsdp2 takes pre or a number of groups"
            yield fault("prefetch-kind", "workload", "parallelism.backward_prefetch", message)

    def trials(self, nodes: int) -> Iterator[Trial]:
        """Within a node and replicated, and parameters kept between the passes."""
        for replicate in (1, nodes) if nodes > 1 else (1,):
            yield Trial({"replicate": replicate})
            keep = {"replicate": replicate, "reshard_after_forward": False}
            yield Trial(keep, offload=False)

    def build(
        self, workload: Workload, tree: ModelTree, mesh: Mesh, *, steps: int, cold: bool,
        recorder: type[Recorder],
    ) -> Plan:  # fmt: skip
        """One step (or several) of FSDP2.

        Arguments and answer are those of `Strategy.build`.

        Raises
        ------
        InputError
            If the knobs contradict the mesh.
        """
        return _record(_Run(workload, tree, mesh, _edge(workload, tree), recorder), tree, steps)


register(Fsdp2())
