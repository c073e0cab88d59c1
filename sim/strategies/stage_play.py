"""Play a pipeline rank's actions on a recorder: its stages under FSDP2, and messages between them.

Gradients accumulate unsharded in the reduce dtype over the micro-batches and are reduced once, in
module order; parameters stay gathered meanwhile. GPipe and 1F1B run loops of their own, in which a
rank waits for what it sends and receives; the other schedules run their table, receive early and
wait for sends at the end of the step.

Source: torch 2.13, ``distributed/pipelining/{schedules,stage}.py``; recordings in
``tests/data/pipeline_recordings.json``.
"""

from __future__ import annotations

from typing import NamedTuple

from sim.blocks.modules import ModelTree
from sim.blocks.setting import Setting
from sim.inputs.check_mesh import shape_of
from sim.inputs.trainer import trainer_of
from sim.inputs.workload import Workload
from sim.mesh import Mesh, Pairs
from sim.pipeline.actions import (
    BACKWARD,
    FORWARD,
    INPUT,
    RECV_B,
    RECV_F,
    REDUCE,
    RESHARD,
    SEND_B,
    SEND_F,
    UNSHARD,
    WEIGHT,
    Action,
)
from sim.pipeline.schedules import SCHEDULES
from sim.pipeline.stages import blocks_of_stages
from sim.strategies.fsdp2 import FORWARD as FORWARD_PHASE
from sim.strategies.fsdp2 import PRE_BACKWARD, SHARDED, Hooks, groups_of
from sim.strategies.fsdp2_layout import Piece, lay_out, part_of
from sim.strategies.plan import Event, Plan, Recorder
from sim.strategies.stage_memory import PipelineMemory, StageMemory
from sim.strategies.tail import clip_and_step, loss_all_reduce
from sim.strategies.units import EXPERT_SHARD, SHARD, dtypes, tree_blocks
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
    return _Rank(workload, tree, mesh, rank, recorder).step()


class _Stage(Hooks):
    """One stage's units and compute."""

    memory: StageMemory

    def forward(self) -> None:
        """A micro-batch; what is gathered stays."""
        self.keeps = True
        self.memory.forward()
        super().forward()
        self.memory.done()

    def unshard(self, unit: int, phase: str) -> None:
        """As FSDP2 does, once."""
        u = self.units[unit]
        if self.gathered[unit] is None and self.state[unit] == SHARDED and u.over == SHARD:
            self.memory.gathered(u.block)  # its experts' group too
        super().unshard(unit, phase)

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

        Autograd is called once for every parameter, and each call repeats a checkpointed block.
        """
        if first:
            if name == "weight":
                self.backward()
            return
        self.memory.turn(name)
        for piece in reversed(self.layout.pieces):
            if not piece.output_grad:
                continue
            self.memory.reach(piece.block)
            for _ in range(self._repeats(name, piece)):
                self.compute("recompute", PRE_BACKWARD, piece)
            self.compute(name, PRE_BACKWARD, piece)
            for group in self.layout.groups(piece.unit) if name == "weight" else ():
                self.accumulate(group, keep=True)
        self.memory.done()

    def _repeats(self, name: str, piece: Piece) -> int:
        if not piece.recompute:
            return 0
        modules = self.blocks[piece.block].modules
        return sum(len(m.parameters) for m in modules) if name == "weight" else 1

    def reduce_all(self) -> None:
        """Gradients of all units, in module order; then compute waits for them."""
        for unit in range(len(self.units)):
            self.state[unit] = SHARDED
            self.reduce(unit)
            if self.units[unit].over == SHARD:
                self.memory.reduced(self.units[unit].block)
            self.done[unit] = True
        self.final_callback()


class _Message(NamedTuple):
    """An activation, or its gradient, from a stage to its neighbour."""

    source: int
    target: int
    micro: int
    forward: bool

    def __str__(self) -> str:
        return f"{'F' if self.forward else 'B'}{self.micro} {self.source}>{self.target}"


class _Rank:
    """A pipeline rank: its stages, and what it sends to others."""

    def __init__(
        self, workload: Workload, tree: ModelTree, mesh: Mesh, rank: int, recorder: type[Recorder]
    ) -> None:
        self.workload, self.mesh, self.rank = workload, mesh, rank
        self.knobs = workload.parallelism
        self.schedule = SCHEDULES[self.knobs.pipeline_schedule]
        self.shape = shape_of(workload)
        self.rank_of = self.schedule.rank_of(self.shape)
        self.types = dtypes(workload)
        self.recorder = r = recorder(groups_of(workload, mesh), trainer_of(workload))
        r.plan.stage, r.plan.stages = rank, mesh.pp
        r.plan.groups["pipeline"] = mesh.groups("pp")
        outer = self.knobs.model_copy(update={"wrap": "torchtitan"})
        apart = workload.model_copy(update={"parallelism": outer})
        layout = lay_out(apart, tree, mesh.size("fsdp"), self.types)
        blocks = dict(enumerate(tree_blocks(tree)))
        ranges = blocks_of_stages(
            len(tree.layers), self.shape.stages, self.knobs.pipeline_first_stage_less_layers,
            self.knobs.pipeline_last_stage_less_layers,
        )  # fmt: skip
        own = self.schedule.stages_of(self.shape, rank)
        parts = {s: part_of(layout, ranges[s]) for s in own}
        shard = mesh.size("fsdp")
        owned = sum(
            u.grad_numel / (mesh.efsdp if u.over == EXPERT_SHARD else shard)
            for part in parts.values() for u in part.units
        )  # fmt: skip
        self.memory = PipelineMemory(apart, tree, shard, r.memory, owned)
        self.stages = {}
        for s, part in parts.items():
            memory = StageMemory(self.memory, s == 0, s == self.shape.stages - 1)
            stage = self.stages[s] = _Stage(apart, mesh, part, blocks, r, memory)
            stage.own(stage.units)
            stage.reduce_grads = stage.reshard_after_backward = False
        setting = Setting.of(workload)
        self.size = setting.element * setting.stream_tokens * workload.model.hidden_size
        self.memory.begin({s: ranges[s] for s in own}, self.shape, self.size)
        self.arrived: dict[Action, Event] = {}  # receives, until what needs them
        self.sent: list[Event] = []

    def step(self) -> Plan:
        """All micro-batches, then clipping and the optimizer."""
        r, knobs = self.recorder, self.knobs
        r.start(0)  # the trainer's batch is cut into the pipeline's
        if self.schedule.table:
            for action in self.schedule.executed(self.shape)[self.rank]:
                self._do(action)
        elif self.schedule.name == "gpipe":
            self._gpipe()
        else:
            self._one_forward_one_backward()
        self._wait_for_sends()
        r.micro_step = 0
        self.memory.end()
        loss_all_reduce(r, knobs, self.mesh)
        clip_and_step(r, knobs, DTYPE_BYTES[self.types.master])
        r.end()
        return r.plan

    # what actions do

    def _do(self, action: Action) -> None:
        kind, index, micro, pair = action
        if pair:
            for part in pair:
                self._do(part)
            return
        self.recorder.micro_step = max(0, micro)
        stage = self.stages[index]
        if kind == UNSHARD:
            stage.gather()
        elif kind == RESHARD:
            stage.drop()
        elif kind == REDUCE:
            stage.reduce_all()
        elif kind in (SEND_F, SEND_B):
            self.sent.append(self._send([self._message(index, micro, kind == SEND_F)]))
        elif kind in (RECV_F, RECV_B):
            forward = kind == RECV_F
            event = self._send([self._message(index - (1 if forward else -1), micro, forward)])
            self.arrived[Action(FORWARD if forward else BACKWARD, index, micro)] = event
        else:
            self._compute(stage, kind, index, micro)

    def _compute(self, stage: _Stage, kind: str, index: int, micro: int) -> None:
        needed = Action(FORWARD if kind == FORWARD else BACKWARD, index, micro)
        if kind != WEIGHT:
            self.recorder.wait("compute", self.arrived.pop(needed, ()))
        if kind == FORWARD:
            stage.forward()
        elif kind == BACKWARD:
            stage.backward()
        else:
            stage.part("input" if kind == INPUT else "weight", first=index == 0)

    # messages

    def _message(self, source: int, micro: int, forward: bool) -> _Message:
        """A stage's activation for the next one, or its gradient for the one before."""
        return _Message(source, source + (1 if forward else -1), micro, forward)

    def _send(self, messages: list[_Message]) -> Event:
        """Messages between two ranks, one way or both at once; who receives says the same."""
        r, (first, *more) = self.recorder, messages
        a, b = self.rank_of(first.source), self.rank_of(first.target)
        near, far = min(a, b), max(a, b)
        stream = f"p2p {near}-{far}"  # one communicator for every two ranks and both ways
        group, ends, what = f"stage {a} to {b}", (a, b), "send"
        if more:  # a coalesced batch is one kernel of the pipeline's own communicator
            stream, group = f"p2p {near}-{far} coalesced", f"stages {near} and {far}"
            ends, what = (near, far), "send_recv"
        if group not in r.plan.groups:
            r.plan.groups[group] = Pairs(*ends, self.mesh.pp, self.mesh.world // self.mesh.pp)
        r.wait_stream(stream, "compute")
        phase = FORWARD_PHASE if first.forward else PRE_BACKWARD
        r.collective(
            stream, what, phase, group, self.size, self.size, self.types.compute,
            " ".join(sorted(map(str, messages))), comm=stream,
        )  # fmt: skip
        return r.record(stream)

    def _exchange(self, messages: list[_Message]) -> None:
        """Send and receive, and wait for both."""
        if messages:
            self.recorder.wait("compute", self._send(messages))

    def _wait_for_sends(self) -> None:
        for event in self.sent:
            self.recorder.wait("compute", event)
        self.sent.clear()

    # the loops of schedules without a table: one stage a rank

    def _gpipe(self) -> None:
        s, last = self.rank, self.shape.ranks - 1
        for m in range(self.shape.micro):
            if s:
                self._do(Action(RECV_F, s, m))
            self._do(Action(FORWARD, s, m))
            if s < last:
                self._do(Action(SEND_F, s, m))
        self._wait_for_sends()
        for m in range(self.shape.micro):
            if s < last:
                self._do(Action(RECV_B, s, m))
            self._do(Action(BACKWARD, s, m))
            if s:
                self._do(Action(SEND_B, s, m))
        self._wait_for_sends()
        self._do(Action(REDUCE, s))

    def _one_forward_one_backward(self) -> None:
        """A rank waits for what it sends and receives between two computations."""
        s, (p, micro, _) = self.rank, self.shape
        warm = min(micro, p - s)
        onward = s < p - 1

        def out(m: int) -> list[_Message]:
            return [self._message(s, m, True)] if onward else []

        def back(m: int) -> list[_Message]:
            return [self._message(s + 1, m, False)] if onward else []

        for m in range(warm):
            if s:
                self._do(Action(RECV_F, s, m))
            self._do(Action(FORWARD, s, m))
            self._wait_for_sends()
            if onward and m < warm - 1:
                self._do(Action(SEND_F, s, m))
        forward, backward = warm, 0
        while True:
            self._exchange(out(forward - 1) + back(backward))
            self._do(Action(BACKWARD, s, backward))
            backward += 1
            if forward == micro:
                break
            if s:
                self._exchange(
                    [self._message(s, backward - 1, False), self._message(s - 1, forward, True)]
                )
            self._do(Action(FORWARD, s, forward))
            forward += 1
        if s:
            self._do(Action(SEND_B, s, backward - 1))
        for m in range(backward, micro):
            self._do(Action(RECV_B, s, m))
            self._do(Action(BACKWARD, s, m))
            self._wait_for_sends()
            if s:
                self._do(Action(SEND_B, s, m))
        self._wait_for_sends()
        self._do(Action(REDUCE, s))
