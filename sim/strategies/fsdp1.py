"""FSDP1 (`FullyShardedDataParallel`): its flat-parameter handles, played on a recorder.

Follows torch 2.13 (`_runtime_utils.py`, `_exec_order_utils.py`, `_limiter_utils.py`) call by call.
Streams: "copy_in" is its pre-unshard stream, "all_gather" its unshard stream and
"reduce_scatter" its post-backward stream.
"""

from __future__ import annotations

from collections import deque
from itertools import pairwise

from sim.blocks.modules import ModelTree
from sim.blocks.update import host_update_bytes
from sim.inputs.trainer import reductions
from sim.inputs.workload import Workload
from sim.mesh import Groups, Mesh
from sim.records import NamedTuple
from sim.strategies.activation_copies import copies_of
from sim.strategies.fsdp1_checkpoints import runs_again
from sim.strategies.fsdp1_gradients import FlatGradients
from sim.strategies.fsdp1_layout import ROOT, Fsdp1Layout
from sim.strategies.fsdp_memory import Remembers
from sim.strategies.recorder import Event, Recorder
from sim.strategies.reduced import BACKWARD
from sim.strategies.repeat import Folding
from sim.strategies.tail import clip_and_step, loss_all_reduce
from sim.strategies.units import SHARD, dtypes
from sim.units import DTYPE_BYTES

FORWARD = "forward"

#: free events that may be outstanding before the CPU waits for the oldest
_MAX_IN_FLIGHT = 2


def groups_of(workload: Workload, mesh: Mesh) -> dict[str, Groups]:
    """The groups that FSDP1's collectives name; what is not sharded is all-reduced over one."""
    if workload.parallelism.sharding_strategy == "no-shard":
        return {SHARD: mesh.groups("world")}
    groups = {SHARD: mesh.groups("fsdp")}
    if mesh.dp_replicate > 1:
        groups["replicate"] = mesh.groups("dp_replicate")
    return groups


class _Gathered(NamedTuple):
    """What a unit moves, again and again, on each rank before it is used. [B]"""

    cast: float  # before it is gathered
    stored: float
    gathered: float


class Fsdp1Run:
    """The CPU thread: hooks in the order in which autograd and modules call them.

    Parameters
    ----------
    workload, mesh
        Of the job.
    tree : ModelTree
        Layers that are recorded.
    layout : Fsdp1Layout
        Their units, and the compute inside them.
    layers : int
        Of the whole model.
    """

    def __init__(
        self, workload: Workload, mesh: Mesh, tree: ModelTree, layout: Fsdp1Layout, layers: int
    ) -> None:
        knobs = self.knobs = workload.parallelism
        self.workload, self.mesh, self.layout, self.units = workload, mesh, layout, layout.units
        self.types = dtypes(workload)
        self.sharded = knobs.sharding_strategy != "no-shard"
        shard = groups_of(workload, mesh)[SHARD].size
        self.alone = shard <= 1
        self.frees = knobs.sharding_strategy == "full-shard"
        self.offload = knobs.offload != "none"
        self.copies = copies_of(workload, tree)
        n = len(layout.units)
        self.handles = 1 + (n - 1) // len(tree.layers) * layers  # of the whole model
        parts = shard if self.sharded else 1
        self.moved = [
            _Gathered(sum(u.cast) / parts, u.master_bytes / parts, u.gather_bytes / shard)
            for u in layout.units
        ]
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
        self.gradients = FlatGradients(workload, mesh, layout.units, shard)
        self.reduce_grads = True
        self.around = runs_again(workload)

    def listen(self, recorder: Recorder, memory: Remembers, folding: Folding) -> None:
        """Who is told of the steps from here on; what was learned in earlier ones is kept."""
        self.recorder, self.memory, self.folding = recorder, memory, folding
        self.gradients.recorder = recorder
        self.free = deque(() for _ in self.free)  # events of the past have happened

    def step(self, micro_steps: int) -> None:
        """All micro-steps of one optimizer step, then clipping and the optimizer."""
        r, knobs = self.recorder, self.knobs
        self.gradients.forget()
        self.memory.start()
        for micro, sync in enumerate(reductions(self.workload, micro_steps)):
            r.start(micro)
            self.reduce_grads = sync
            self.memory.forward(sync=sync, accumulating=micro > 0)
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
            if self.copies:
                self.copies.enter(r, piece.block, forward=True)
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
        if self.gradients.held[unit]:  # parameters are shards again, their gradients are whole
            self.gradients.view(unit)
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
                    "all_gather", "all_gather", phase, SHARD, moved.gathered, u.gather_bytes,
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
                if self.copies:
                    self.copies.enter(r, piece.block, forward=False)
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
        self.gradients.flatten(unit)
        self.recorder.call("fsdp1.post_backward")
        self.gradients.accumulate(unit)
        self._post_backward_reshard(unit)
        if self.reduce_grads:
            self.gradients.reduce(unit)
        else:
            self.gradients.hold(unit)

    def _final_callback(self) -> None:
        """Wait for the reductions, free what no hook has freed, forget the order."""
        self.recorder.call_times("fsdp1.final", self.handles)
        if self.reduce_grads:
            self.gradients.join()
        for unit in range(len(self.units)):
            if self.in_use[unit]:
                self.reshard(unit, self.sharded and (self.reduce_grads or self.frees))
            self.index[unit] = None
            self.ran_backward[unit] = False
            self.needs_backward[unit] = False
            self.prefetched[unit] = False
        self.order.clear()
