"""Stages of a pipeline rank under FSDP2.

Gradients accumulate unsharded in the reduce dtype over the micro-batches and are reduced once, in
module order; parameters stay gathered meanwhile.

Source: torch 2.13, ``distributed/pipelining/stage.py``; recordings in
``tests/data/pipeline_recordings.json``.
"""

from __future__ import annotations

from collections.abc import Hashable

from sim.blocks.modules import ModelTree
from sim.inputs.pipeline import blocks_of, shape_of
from sim.inputs.trainer import trainer_of
from sim.inputs.workload import Workload
from sim.mesh import Mesh
from sim.pipeline.schedules import SCHEDULES
from sim.strategies.fsdp2 import FORWARD as FORWARD_PHASE
from sim.strategies.fsdp2 import SHARDED, UNSHARDED, Hooks, groups_of
from sim.strategies.fsdp2_gradients import PRE_BACKWARD
from sim.strategies.fsdp2_layout import Fsdp2Piece, lay_out, part_of
from sim.strategies.pipeline_play import PipelineRank
from sim.strategies.plan import Plan
from sim.strategies.recorder import Recorder
from sim.strategies.stage_memory import PipelineMemory, StageMemory
from sim.strategies.tail import clip_and_step, loss_all_reduce
from sim.strategies.units import SHARD, dtypes, sharers, tree_blocks
from sim.units import DTYPE_BYTES


def build_stage(
    workload: Workload, tree: ModelTree, mesh: Mesh, rank: int, recorder: type[Recorder] = Recorder
) -> Plan:
    """What the ranks of a pipeline rank issue in a step.

    Parameters
    ----------
    workload, tree, mesh
        As for `Strategy.build`.
    rank : int
        Along the pipeline. [1]
    recorder : type
        `Quiet` to record allocations alone.
    """
    shape, types = shape_of(workload), dtypes(workload)
    r = recorder(groups_of(workload, mesh), trainer_of(workload))
    knobs = workload.parallelism.model_copy(update={"wrap": "torchtitan"})
    apart = workload.model_copy(update={"parallelism": knobs})
    layout = lay_out(apart, tree, mesh.size("fsdp"), types)
    blocks = dict(enumerate(tree_blocks(tree)))
    ranges = blocks_of(workload)
    own = SCHEDULES[knobs.pipeline_schedule].stages_of(shape, rank)
    parts = {s: part_of(layout, ranges[s]) for s in own}
    shard, ranks = mesh.size("fsdp"), sharers(mesh)
    owned = sum(
        u.grad_numel / ranks[u.over]
        for part in parts.values() for u in part.units
    )  # fmt: skip
    memory = PipelineMemory(apart, tree, shard, r.memory, owned)
    stages = {}
    for s, part in parts.items():
        of_stage = StageMemory(memory, s == 0, s == shape.stages - 1)
        stage = stages[s] = _StageHooks(apart, mesh, part, blocks, r, of_stage)
        stage.own(stage.units)
        stage.reduce_grads = stage.reshard_after_backward = False
    memory.begin({s: ranges[s] for s in own}, shape.stages - 1)
    PipelineRank(workload, mesh, rank, r, stages).play()
    memory.end()
    loss_all_reduce(r, knobs, mesh)
    clip_and_step(r, knobs, DTYPE_BYTES[types.master])
    r.end()
    return r.plan


class _StageHooks(Hooks):
    """One stage's units and compute."""

    memory: StageMemory

    def forward(self) -> None:
        """A micro-batch; what is gathered stays, unless parameters are gathered for each."""
        self.keeps = not self.knobs.pipeline_reshard_after_forward
        self.memory.forward()
        super().forward()
        self.memory.done()

    def condition(self) -> Hashable | None:
        """Once all is gathered, ops differ by which gradients are there."""
        under_way = self.held or self.gradients.under_way or self.copies
        units = len(self.state)
        if under_way or self.gathered.count(None) < units or self.state.count(UNSHARDED) < units:
            return None
        return tuple(self.gradients.accumulated), len(self.memory.kept)

    def skip(self, kind: str) -> None:
        """Nothing: what is whole already is looked for in no order."""

    def unshard(self, unit: int, phase: str) -> None:
        """As FSDP2 does, once."""
        u = self.units[unit]
        if self.gathered[unit] is None and self.state[unit] == SHARDED and u.over == SHARD:
            self.memory.gathered(u.block)  # its experts' group too
        super().unshard(unit, phase)

    def post_forward(self, unit: int) -> None:
        """As FSDP2 does; its last unit is kept because it is the head."""
        super().post_forward(unit)
        if self.state[unit] == SHARDED and self.units[unit].over == SHARD:
            self.memory.dropped(self.units[unit].block)

    def gather(self) -> None:
        """All units at once, in module order."""
        for unit in range(len(self.units)):
            self.unshard(unit, FORWARD_PHASE)

    def drop(self) -> None:
        """All units."""
        for unit, state in enumerate(self.state):
            if state != SHARDED and self.units[unit].over == SHARD:
                self.memory.dropped(self.units[unit].block)
        self.state = [SHARDED] * len(self.units)

    def part(self, name: str, first: bool) -> None:
        """Gradients of inputs, or of weights; of the `first` stage all when those of weights are.

        Autograd is called once for every parameter, and each call repeats a checkpointed block, but
        starts from the gradient that its product was given: that of the block's output is not
        gathered again. FSDP's hooks before backward hang on outputs: gradients of inputs run them.
        """
        if first:
            if name == "weight":
                self.backward()
            return
        layout, root, inputs = self.layout, self.layout.root, name == "input"
        self.memory.turn(name)
        if inputs and root >= 0 and layout.pieces[-1].output_grad:
            self.pre_backward(root)
        for i in range(len(layout.pieces) - 1, -1, -1):
            piece = layout.pieces[i]
            if not piece.output_grad:
                continue
            self.memory.reach(piece.block)
            if inputs and piece.unit != root and layout.closes[piece.unit] == i:
                self.pre_backward(piece.unit)
            for _ in range(self._repeats(name, piece)):
                self.compute("recompute", PRE_BACKWARD, piece, again=inputs)
            self.compute(name, PRE_BACKWARD, piece, again=inputs)
            for group in () if inputs else layout.groups(piece.unit):
                self.gradients.accumulate(group, keep=True)
        self.memory.done()

    def _repeats(self, name: str, piece: Fsdp2Piece) -> int:
        if not piece.recompute:
            return 0
        modules = self.blocks[piece.block].modules
        return sum(len(m.parameters) for m in modules) if name == "weight" else 1

    def reduce_all(self) -> None:
        """Gradients of all units, in module order; then compute waits for them."""
        for unit in range(len(self.units)):
            self.state[unit] = SHARDED
            self.gradients.reduce(unit)
            if self.units[unit].over == SHARD:
                self.memory.reduced(self.units[unit].block)
            self.done[unit] = True
        self.final_callback()
