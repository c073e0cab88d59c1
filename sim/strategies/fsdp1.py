"""FSDP1 (`FullyShardedDataParallel`): its flat-parameter handles, played on a recorder.

Follows torch 2.13 (`_runtime_utils.py`, `_exec_order_utils.py`, `_limiter_utils.py`) call by call.
Streams: "copy_in" is its pre-unshard stream, "all_gather" its unshard stream and
"reduce_scatter" its post-backward stream. spec.md section 4 and spec_extra.md 4b say the same in
words.
"""

from __future__ import annotations

from collections import deque
from itertools import pairwise
from typing import NamedTuple

from sim.blocks.modules import ModelTree
from sim.blocks.update import host_update_bytes
from sim.inputs.trainer import reduces_each, trainer_of
from sim.inputs.workload import Workload
from sim.mesh import Mesh
from sim.strategies.activation_copies import ActivationCopies
from sim.strategies.fsdp1_layout import ROOT, lay_out
from sim.strategies.fsdp_memory import FsdpMemory, Remembers, runs_again
from sim.strategies.plan import Event, Plan, Quiet, Recorder
from sim.strategies.repeat import Folding, remember, shortened
from sim.strategies.tail import clip_and_step, loss_all_reduce
from sim.strategies.traced import traced
from sim.strategies.units import Unit, dtypes
from sim.units import DTYPE_BYTES

FORWARD, BACKWARD = "forward", "backward"

#: free events that may be outstanding before the CPU waits for the oldest
_MAX_IN_FLIGHT = 2


def _predivide_factor(ranks: int) -> int:
    """FSDP1 divides gradients before and after reducing, about evenly, against overflow."""
    factor = 1
    while ranks % factor == 0 and ranks / factor > factor:
        factor *= 2
    return factor


def _held_tensors(unit: Unit, ranks: int) -> float:
    """Trained tensors of a flat parameter that a rank has something of, on average.

    Equation: (t + n - 1)/n: n equal parts of t tensors one after another, n - 1 of which are cut.
    """
    return (unit.grad_tensors + ranks - 1) / ranks if unit.grad_tensors else 0.0


class _Unheard:
    """The memory of a step that is played to learn: nobody asks for it."""

    def _nothing(self, *_: object, **__: object) -> None:
        """Whatever it is told."""

    start = step = forward = backward = done = reach = _nothing


class _Moved(NamedTuple):
    """What a unit moves, again and again, on each rank. [B]"""

    cast: float  # before it is gathered
    stored: float
    gathered: float
    gradient: float  # flat, in the dtype of computation
    reduced_in: float
    reduced_out: float


class Fsdp1Run:
    """The CPU thread: hooks in the order in which autograd and modules call them."""

    def __init__(
        self, workload: Workload, full: ModelTree, mesh: Mesh, edge: int, recorder: type[Recorder]
    ) -> None:
        self.workload, self.mesh, self.full, self.edge = workload, mesh, full, edge
        tree = shortened(full, edge)
        self.recorded, self.kind = len(tree.layers), recorder
        self.knobs = workload.parallelism
        self.types = dtypes(workload)
        self.sharded = self.knobs.sharding_strategy != "no-shard"
        # what is not sharded is all-reduced over the same group
        self.over = mesh.groups("fsdp" if self.sharded else "world")
        self.shard = shard = self.over.size
        self.replicate = mesh.dp_replicate if self.sharded else 1
        layout = self.layout = lay_out(workload, tree, shard, self.types)
        self.units = layout.units
        self.frees = self.knobs.sharding_strategy == "full-shard"
        self.offload = self.knobs.offload != "none"
        offloads = workload.activation_checkpointing.offload
        self.copies = ActivationCopies(workload, tree) if offloads else None
        self.predivide = traced(_predivide_factor, shard * self.replicate)
        self.alone, self.replicated = shard <= 1, self.replicate > 1
        self.predivides = self.predivide > 1
        self.postdivides = shard * self.replicate > self.predivide
        parts = shard if self.sharded else 1
        self.moved = [self._moved(unit, parts) for unit in layout.units]
        n = len(layout.units)
        self.gathered = [False] * n
        self.in_use = [False] * n  # unsharded views in use, until resharded
        self.prefetched = [False] * n
        self.needs_forward = [True] * n
        self.needs_backward = [False] * n
        self.ran_backward = [False] * n  # in state BACKWARD_PRE
        self.index: list[int | None] = [None] * n  # in the post-forward order
        self.order: list[int] = []
        self.next_forward: dict[int, int] = {}  # known from the second iteration on
        self.views = [0] * n  # piece before which autograd met the unit's parameters
        self.made: list[int] = []  # units in the order in which their views were made
        self.free: deque[Event] = deque()
        self.held_grad = [False] * n  # unsharded gradient of an unsynchronised micro-step
        self.has_grad = [False] * n
        self.reduce_grads = True
        self.around = runs_again(workload)

    def _moved(self, unit: Unit, parts: int) -> _Moved:
        width, wide = (DTYPE_BYTES[dtype] for dtype in (self.types.compute, self.types.reduce))
        reduced = unit.grad_numel * wide
        return _Moved(
            sum(unit.cast) / parts, unit.master_bytes / parts, unit.gather_bytes / self.shard,
            unit.grad_numel * width, reduced, reduced / self.shard,
        )  # fmt: skip

    def _begin(self, kind: type[Recorder], learning: bool = False) -> None:
        """Start a recording, or a step that is played to learn; what the run learned is kept."""
        groups = {"shard": self.over}
        if self.replicated:
            groups["replicate"] = self.mesh.groups("dp_replicate")
        recorder = self.recorder = kind(groups, trainer_of(self.workload))
        extra = len(self.full.layers) - self.recorded
        self.folding = Folding(recorder, self.edge, extra)
        plan = recorder.plan
        parts = self.shard if self.sharded else 1
        self.memory: Remembers = _Unheard()
        if learning:
            return
        self.memory = FsdpMemory(self.workload, self.full, parts, self.recorded, recorder.memory)
        owned = self.units + self.units[1:2] * extra
        plan.owned_numel = sum(u.grad_numel for u in owned) / parts
        plan.owned_tensors = round(sum(_held_tensors(u, parts) for u in owned))
        plan.optimizer_on_host = self.offload

    def play(self, steps: int, cold: bool) -> Plan:
        """Record steps, after what a run learns in its first one unless it is to start cold."""
        if self.kind.quiet:
            self._begin(self.kind)
            pieces = [(piece.block, True) for piece in self.layout.pieces]
            remember(self.memory, self.folding, pieces, self.workload, steps)
            return self.folding.unfold(self.recorder.plan, self.full)
        if steps == 1 and not cold:
            self._begin(Quiet, learning=True)
            few = 1 + bool(self.knobs.forward_prefetch)  # whose order the first one teaches
            self.step(min(few, self.workload.gradient_accumulation))
            self.free = deque(() for _ in self.free)  # events of the past have happened
        self._begin(self.kind)
        for _ in range(steps):
            self.step(self.workload.gradient_accumulation)
        return self.folding.unfold(self.recorder.plan, self.full)

    def step(self, micro_steps: int) -> None:
        """All micro-steps of one optimizer step, then clipping and the optimizer."""
        r, knobs = self.recorder, self.knobs
        self.has_grad = [False] * len(self.units)
        self.memory.start()
        for micro in range(micro_steps):
            r.start(micro)
            self.reduce_grads = micro == micro_steps - 1 or reduces_each(self.workload)
            self.memory.forward(sync=self.reduce_grads, accumulating=micro > 0)
            self.forward()
            self.backward()
        self.memory.step()
        loss_all_reduce(r, knobs, self.mesh)
        norm = 4.0 if self.sharded else 0.0
        clip_and_step(
            r,
            knobs,
            DTYPE_BYTES[self.types.master],
            norm_bytes=norm,
            clip_call="fsdp1.clip",
            update_bytes=host_update_bytes(self.workload),
        )
        r.end()

    # forward

    def forward(self) -> None:
        """The model's forward, with each unit's hooks around it."""
        r, pieces = self.recorder, self.layout.pieces
        n = len(self.units)
        if self.knobs.forward_prefetch:
            self.needs_forward = [True] * n
            self.prefetched = [False] * n
        r.call("fsdp1.root_forward")
        r.wait_stream("all_gather", "compute")
        r.wait_stream("copy_in", "compute")
        self.made = []
        entered: list[int] = []
        self.pre_forward(ROOT, 0, entered)
        for i, piece in enumerate(pieces):
            self.folding.open(piece.block, 1)
            self.memory.reach(piece.block)
            for unit in piece.enter:
                self.pre_forward(unit, i, entered)
            if self.copies and pieces[i - 1].block != piece.block:
                self.copies.forward(r, piece.block)
            name = self.units[piece.unit].name
            r.segment("forward", FORWARD, piece.block, piece.module, name)
            for unit in piece.leave:
                self.post_forward(unit)
                if self.around and piece.recompute:  # its output has no graph yet
                    self.needs_backward[unit] = False
            self.folding.close(piece.block, 1)
        self.post_forward(ROOT)
        if not self.next_forward:
            self.next_forward = dict(pairwise(entered))

    def pre_forward(self, unit: int, position: int, entered: list[int] | None = None) -> None:
        """Gather unless prefetched, wait, then prefetch the next in forward order."""
        self.recorder.call("fsdp1.pre_forward")
        if not self.prefetched[unit]:
            self.unshard(unit, FORWARD, position)
        self.needs_forward[unit] = False
        self.recorder.wait_stream("compute", "all_gather")
        if entered is not None:
            entered.append(unit)
        if self.knobs.forward_prefetch:
            target = self.next_forward.get(unit)
            if target is not None and self.needs_forward[target] and not self.prefetched[target]:
                self.unshard(target, FORWARD, position)
                self.prefetched[target] = True

    def post_forward(self, unit: int) -> None:
        """Record the order, free the parameters, expect to be needed in backward."""
        self.recorder.call("fsdp1.post_forward")
        if not self.index[unit]:
            self.index[unit] = len(self.order)
        self.order.append(unit)
        self.reshard(unit, self.frees and unit != ROOT)
        if self.held_grad[unit]:  # parameters are shards again, their gradients are whole
            self._grad_views(unit)
        self.needs_backward[unit] = self.layout.output_grad[unit]
        self.ran_backward[unit] = False

    def unshard(self, unit: int, phase: str, position: int) -> None:
        """Cast, wait on the CPU for an older free if two are outstanding, all-gather."""
        u, moved, r = self.units[unit], self.moved[unit], self.recorder
        r.call("fsdp1.unshard")
        needed = self.sharded and not self.gathered[unit]
        if needed or (not self.sharded and moved.cast):
            if self.offload:
                r.kernel("copy_in", "h2d", phase, moved.stored, u.name, u.block)
            if moved.cast:
                r.kernel("copy_in", "cast", phase, moved.cast, u.name, u.block)
            r.wait_stream("all_gather", "copy_in")
        if self.knobs.limit_all_gathers and len(self.free) >= _MAX_IN_FLIGHT:
            r.host_sync(self.free.popleft())
        if needed:
            self.gathered[unit] = True
            if not self.alone:
                r.collective(
                    "all_gather", "all_gather", phase, "shard", moved.gathered, u.gather_bytes,
                    u.gather_dtype, u.name, u.block,
                )  # fmt: skip
        r.call_times("fsdp1.view", u.tensors)
        if phase == FORWARD and not self.in_use[unit]:
            self.views[unit] = position
            self.made.append(unit)
        self.in_use[unit] = True

    def reshard(self, unit: int, free: bool) -> None:
        """Free the parameters, with an event for the limiter."""
        self.recorder.call("fsdp1.reshard")
        self.recorder.call_times("fsdp1.view", self.units[unit].tensors)
        if free:
            self.gathered[unit] = False
            if self.knobs.limit_all_gathers:
                self.free.append(self.recorder.record("compute"))
        self.in_use[unit] = False
        self.prefetched[unit] = False

    # backward

    def backward(self) -> None:
        """The backward graph, newest autograd node first, then the final callback."""
        r, layout = self.recorder, self.layout
        pieces = layout.pieces
        self.memory.backward()
        waiting = [u for u in self.made if self.units[u].grad_numel]
        if layout.output_grad[ROOT]:
            self.pre_backward(ROOT)
        frozen = -1  # unit without gradients whose input's gradient has just come
        recomputed = -1
        for i in range(len(pieces) - 1, -1, -1):
            piece = pieces[i]
            self.folding.open(piece.block, -1)
            self.memory.reach(piece.block)
            if piece.output_grad:
                if self.copies and pieces[(i + 1) % len(pieces)].block != piece.block:
                    self.copies.backward(r, piece.block)
                if self.around and piece.recompute and piece.block != recomputed:
                    recomputed = piece.block
                    self._run_again(piece.block)
                for unit in reversed(piece.leave):
                    self.pre_backward(unit)
                    if frozen >= 0:
                        self._post_backward_reshard(frozen)
                        frozen = -1
                if piece.recompute and piece.block != recomputed:
                    recomputed = piece.block
                    self._recompute(piece.block)
                name = self.units[piece.unit].name
                if piece.backward:
                    r.segment("backward", BACKWARD, piece.block, piece.module, name)
            while waiting and self.views[waiting[-1]] >= i:
                self.post_backward(waiting.pop())
            for unit in piece.enter:
                if not self.units[unit].grad_numel and layout.input_grad[unit]:
                    frozen = unit
            self.folding.close(piece.block, -1)
        self.memory.done()
        self._final_callback()

    def _recompute(self, block: int) -> None:
        """The second forward of a block; its inner units are gathered and freed again."""
        r, layout = self.recorder, self.layout
        for i in range(layout.first[block], layout.last[block] + 1):
            piece = layout.pieces[i]
            inner = piece.module and piece.unit in piece.enter and not self.ran_backward[piece.unit]
            if inner:
                seen = self.views[piece.unit]
                self.pre_forward(piece.unit, i)
                self.views[piece.unit] = seen
            name = self.units[piece.unit].name
            r.segment("recompute", BACKWARD, block, piece.module, name)
            if inner:
                self.post_forward(piece.unit)

    def _run_again(self, block: int) -> None:
        """A reentrant checkpoint around a block calls it anew, its hooks too.

        It is gathered, run and freed, and only then gathered for its backward. Until it has run, no
        hook expects that, so nothing is gathered ahead.
        """
        r, layout = self.recorder, self.layout
        for i in range(layout.first[block], layout.last[block] + 1):
            piece = layout.pieces[i]
            for unit in piece.enter:
                seen = self.views[unit]
                self.pre_forward(unit, i)
                self.views[unit] = seen
            r.segment("recompute", BACKWARD, block, piece.module, self.units[piece.unit].name)
            for unit in piece.leave:
                self.post_forward(unit)

    def pre_backward(self, unit: int) -> None:
        """Gather unless prefetched, wait, then prefetch what ran just before (BACKWARD_PRE)."""
        if self.ran_backward[unit]:
            return
        self.recorder.call("fsdp1.pre_backward")
        if self.needs_backward[unit]:
            if not self.prefetched[unit]:
                self.unshard(unit, BACKWARD, 0)
            self.recorder.wait_stream("compute", "all_gather")
        self.needs_backward[unit] = False
        if self.knobs.backward_prefetch == "pre":
            self._prefetch(unit)
        self.ran_backward[unit] = True

    def _prefetch(self, unit: int) -> None:
        index = self.index[unit]
        if not index:
            return
        target = self.order[index - 1]
        if self.needs_backward[target] and not self.prefetched[target]:
            self.unshard(target, BACKWARD, 0)
            self.prefetched[target] = True

    def _post_backward_reshard(self, unit: int) -> None:
        free = self.sharded and (self.reduce_grads or self.frees)
        self.reshard(unit, free)
        if self.knobs.backward_prefetch == "post":
            self._prefetch(unit)

    def post_backward(self, unit: int) -> None:
        """Free the parameters and reduce the flat gradient."""
        u, gradient, r = self.units[unit], self.moved[unit].gradient, self.recorder
        # gradients of the views become one flat tensor (torch.split's backward)
        name = "cat" if DTYPE_BYTES[self.types.compute] == 2 else "flatten"
        r.kernel("compute", name, BACKWARD, 2 * gradient, u.name, u.block)
        r.call("fsdp1.post_backward")
        if self.held_grad[unit]:
            r.kernel("compute", "accumulate", BACKWARD, 3 * gradient, u.name, u.block)
        self._post_backward_reshard(unit)
        self.held_grad[unit] = not self.reduce_grads
        if self.reduce_grads:
            self._reduce(unit)
        else:
            self._grad_views(unit)

    def _grad_views(self, unit: int) -> None:
        """Each parameter's gradient becomes a view of the flat one (_use_unsharded_grad_views)."""
        self.recorder.call("fsdp1.grad_views")
        self.recorder.call_times("fsdp1.grad_view", self.units[unit].grad_tensors)

    def _reduce(self, unit: int) -> None:
        u, moved, r, types = self.units[unit], self.moved[unit], self.recorder, self.types
        stream = "reduce_scatter"
        r.call("fsdp1.reduce")
        r.wait_stream(stream, "compute")
        bytes_in, bytes_out = moved.reduced_in, moved.reduced_out
        if types.reduce != types.compute:
            r.kernel(stream, "cast", BACKWARD, moved.gradient + bytes_in, u.name, u.block)
        if self.predivides:
            r.kernel(stream, "predivide", BACKWARD, 2 * bytes_in, u.name, u.block)
        if not self.sharded:
            if not self.alone:
                r.collective(
                    stream, "all_reduce", BACKWARD, "shard", bytes_in, bytes_in, types.reduce,
                    u.name, u.block,
                )  # fmt: skip
            self._store(unit, stream, bytes_in)
            return
        if not self.alone:
            r.collective(
                stream, "reduce_scatter", BACKWARD, "shard", bytes_in, bytes_out, types.reduce,
                u.name, u.block,
            )  # fmt: skip
        if self.replicated:
            r.wait_stream("all_reduce", stream)
            stream = "all_reduce"
            r.collective(
                stream, "all_reduce", BACKWARD, "replicate", bytes_out, bytes_out, types.reduce,
                u.name, u.block,
            )  # fmt: skip
        self._store(unit, stream, bytes_out)

    def _store(self, unit: int, stream: str, reduced_bytes: float) -> None:
        """Second division, cast to the parameter's dtype, accumulation, offload."""
        u, r, types = self.units[unit], self.recorder, self.types
        if self.postdivides:
            r.kernel(stream, "postdivide", BACKWARD, 2 * reduced_bytes, u.name, u.block)
        stored = reduced_bytes
        if types.reduce != types.master:
            stored = reduced_bytes / DTYPE_BYTES[types.reduce] * DTYPE_BYTES[types.master]
            r.kernel(stream, "cast", BACKWARD, reduced_bytes + stored, u.name, u.block)
        if self.has_grad[unit]:
            r.kernel(stream, "accumulate", BACKWARD, 3 * stored, u.name, u.block)
        self.has_grad[unit] = True
        if self.offload:
            r.kernel(stream, "d2h", BACKWARD, stored, u.name, u.block)

    def _final_callback(self) -> None:
        """Wait for the reductions, free what no hook has freed, forget the order."""
        r = self.recorder
        each = (len(self.units) - 1) // self.recorded  # of a layer
        r.call_times("fsdp1.final", 1 + each * len(self.full.layers))
        if self.reduce_grads:
            r.wait_stream("compute", "reduce_scatter")
            if self.replicated:
                r.wait_stream("compute", "all_reduce")
            if self.offload:
                r.host_sync(r.record("compute"))
        for unit in range(len(self.units)):
            if self.in_use[unit]:
                self.reshard(unit, self.sharded and (self.reduce_grads or self.frees))
            self.index[unit] = None
            self.ran_backward[unit] = False
            self.needs_backward[unit] = False
            self.prefetched[unit] = False
        self.order.clear()
