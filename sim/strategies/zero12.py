"""ZeRO-1 and ZeRO-2 as DeepSpeed 0.19.8 runs them: whole parameters, buckets of gradients.

Gradients are all-reduced bucket by bucket (every rank gets them all and keeps its own partition):
in stage 2 as they become ready, in every micro-batch; in stage 1 after the last backward, in the
order of registration, unless `overlap_comm`. After the step one all-gather returns the
updated parameters. `replicate` of stage 1 (InternEvo's `zero1.size`): partitions are of a group
of neighbouring ranks, gradients are reduced over all, parameters gathered in the group.
Without `overlap_comm`, the default in both, nothing hides the all-reduces.
Read in ``stage_1_and_2.py``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from operator import getitem
from typing import ClassVar

from sim.blocks.modules import ModelTree
from sim.blocks.optimizer import optimizer_of
from sim.inputs.strategy import register, strategy_of
from sim.inputs.trainer import trainer_of
from sim.inputs.workload import Workload
from sim.mesh import Mesh
from sim.strategies.activation_copies import ActivationCopies, copies_of
from sim.strategies.deepspeed import DeepSpeed
from sim.strategies.exchanges import Player, groups_within, player
from sim.strategies.plan import Plan
from sim.strategies.recorder import Recorder
from sim.strategies.replicated_memory import ReplicatedMemory
from sim.strategies.tail import loss_all_reduce
from sim.strategies.traced import traced
from sim.strategies.units import tree_blocks
from sim.strategies.zero3 import scalar_all_reduce, step_on_host
from sim.strategies.zero3_gradients import STAGED
from sim.strategies.zero3_settings import resolve
from sim.strategies.zero3_trace import BACKWARD, GRADIENT, PHASES, SEGMENT, ModuleTrace, trace_of
from sim.units import DTYPE_BYTES

ALIGNMENT = 2  # elements at which NCCL wants a partition to start (nccl_start_alignment_factor)


@dataclass(slots=True)
class _Zero12Run:
    workload: Workload
    trace: ModuleTrace
    shard: int  # ranks that share the optimizer states
    everybody: str  # group over which gradients are reduced
    recorder: Recorder
    memory: ReplicatedMemory
    size: float  # bytes an element of a gradient
    dtype: str
    bucket_size: int
    overlap: bool
    offload: bool
    offset: list[int]  # of each parameter in the flat group of trainable ones
    partition: int  # elements a rank owns
    play: Player
    copies: ActivationCopies | None = None  # of block inputs to the host
    bucket: list[int] = field(default_factory=list)
    elements: int = 0

    def micro_batch(self, first: bool, last: bool) -> None:
        """Forward and backward."""
        t, r = self.trace, self.recorder
        stage2 = strategy_of(self.workload).zero_stage(self.workload.parallelism) == 2
        hooked = stage2 or (self.overlap and last)
        later: list[int] = []
        self.memory.forward()
        for what, unit, direction in t.calls:
            if what == SEGMENT:
                phase = PHASES[direction]
                when = "forward" if phase == "forward" else "backward"
                self.memory.reach(t.unit_blocks[unit], when == "forward")
                if self.copies:
                    self.copies.enter(r, t.unit_blocks[unit], when == "forward")
                self.play(r, phase, when, t.unit_blocks[unit], t.unit_modules[unit],
                          t.unit_names[unit])  # fmt: skip
            elif what == GRADIENT and direction == BACKWARD:
                if hooked:
                    for p in t.unit_gradients[unit]:
                        self._add(p, first, last)
                else:
                    later += t.unit_gradients[unit]
                    if not first:  # autograd adds onto the gradients of the micro-steps before
                        numel = sum(t.numel[p] for p in t.unit_gradients[unit])
                        r.kernel("compute", "accumulate", "backward", 3.0 * self.size * numel)
        self.memory.done()
        if last and not hooked:
            for p in sorted(later):
                self._add(p, first, last)
        if stage2 or last:
            self._flush(first, last)
            if self.overlap:
                r.host_sync(r.record("all_reduce"))

    def _add(self, p: int, first: bool, last: bool) -> None:
        numel = self.trace.numel[p]
        if self.elements + numel > self.bucket_size:
            self._flush(first, last)
        if numel <= self.bucket_size:
            self.recorder.kernel("compute", "bucket_copy", "backward", 2.0 * self.size * numel)
        self.bucket.append(p)
        self.elements += numel

    def _flush(self, first: bool, last: bool) -> None:
        if not self.bucket:
            return
        r, t = self.recorder, self.trace
        wire = self.workload.parallelism.communication_data_type or self.dtype
        wide = DTYPE_BYTES[wire]
        stream = "all_reduce" if self.overlap else "compute"
        if self.overlap:
            # the new reduction waits for this bucket's copies; compute waits for the one before
            before = r.record("all_reduce")
            r.wait_stream("all_reduce", "compute")
            r.wait("compute", before)
        label = t.parameter_names[self.bucket[0]]
        for elements in self._pieces():
            passes = 2.0 * self.size * elements + (self.size + wide) * elements
            r.kernel(stream, "average", "backward", passes)
            if not self.overlap:
                r.wait_stream("all_reduce", "compute")
            total = 1.0 * elements * wide
            r.collective(
                "all_reduce", "all_reduce", "backward", self.everybody, total, total, wire, label
            )  # fmt: skip
            if not self.overlap:
                r.wait_stream("compute", "all_reduce")
        mine = sum(t.numel[p] for p in self.bucket) / self.shard
        r.kernel(stream, "keep_gradient", "backward", (2.0 if first else 3.0) * self.size * mine)
        if self.offload:
            self._to_host(mine, stream, first, last)
        self.bucket, self.elements = [], 0

    def _pieces(self) -> Iterator[int]:
        """All-reduces of a bucket: one, unless a single parameter overfills it."""
        if not self.workload.parallelism.reduce_scatter or self.elements <= self.bucket_size:
            yield self.elements
            return
        spans = tuple([(self.offset[p], self.trace.numel[p]) for p in self.bucket])
        pieces, i = traced(_cut, spans, self.partition, self.bucket_size), 0
        while i < traced(len, pieces):
            yield traced(getitem, pieces, i)
            i += 1

    def _to_host(self, mine: float, stream: str, first: bool, last: bool) -> None:
        """Accumulate in host memory through the GPU; hand fp32 to the host optimizer at the end."""
        r = self.recorder
        moves = []
        if self.workload.gradient_accumulation > 1:
            if not first:
                moves.append(("offload_in", "h2d", self.size * mine))
            moves.append(("offload_out", "d2h", self.size * mine))
        if last:
            moves.append(("offload_out", "d2h", 4.0 * mine))
        for copies, name, traffic in moves:
            r.wait_stream(copies, stream)
            moved = r.kernel(copies, name, "backward", traffic)
            r.wait(stream, (moved,))
            if not self.workload.parallelism.pin_memory:
                r.host_sync((moved,))
                r.host("stage", "backward", STAGED * traffic)


def _cut(spans: Sequence[tuple[int, int]], partition: int, most: int) -> tuple[int, ...]:
    """A bucket cut where partitions meet; slices are joined until they exceed `most` elements."""
    slices: list[int] = []
    previous = -1
    for at, numel in spans:
        end = at + numel
        while at < end:
            owner = at // partition
            stop = min(end, (owner + 1) * partition)
            if owner == previous:
                slices[-1] += stop - at
            else:
                slices.append(stop - at)
            previous, at = owner, stop
    pieces, size = [], 0
    for piece in slices:
        size += piece
        if size > most:
            pieces.append(size)
            size = 0
    return (*pieces, size) if size else tuple(pieces)


def _step(run: _Zero12Run, owned: float, shard: int) -> None:
    """Overflow flag, norm, update of the own partition, then everybody's."""
    r, size = run.recorder, float(run.size)
    if run.dtype != "fp32":
        r.kernel("compute", "overflow", "clip", size * owned)
        scalar_all_reduce(r, 1.0, "u8")
        r.host_sync(r.record("compute"))
    r.kernel("compute", "grad_norm", "clip", size * owned)
    scalar_all_reduce(r, 4.0, "fp32")
    r.host_sync(r.record("compute"))
    if run.offload:
        pinned = run.workload.parallelism.pin_memory
        kind = optimizer_of(run.workload)
        step_on_host(r, kind, [int(owned)], size, staged=0.0 if pinned else STAGED)
    else:
        r.kernel("compute", "flatten", "clip", (size + 4.0) * owned)
        r.kernel("compute", "clip", "clip", 8.0 * owned)
        r.segment("optimizer", "optimizer", -1)
        r.kernel("compute", "cast", "optimizer", (size + 4.0) * owned)
    r.wait_stream("all_gather", "compute")
    part = size * owned
    r.collective("all_gather", "all_gather", "optimizer", "shard", part, part * shard, run.dtype)
    r.wait_stream("compute", "all_gather")


class _Zero12(DeepSpeed):
    instead: ClassVar = {**DeepSpeed.instead, "bucket_cap_mb": "ZeRO says reduce_bucket_size"}
    offloads = ("optimizer",)
    shards_more = "zero3"

    def build(
        self, workload: Workload, tree: ModelTree, mesh: Mesh, *, steps: int, cold: bool,
        recorder: type[Recorder],
    ) -> Plan:  # fmt: skip
        """Plan of training steps under ZeRO-1 or ZeRO-2.

        Arguments and answer are those of `Strategy.build`.
        """
        knobs = workload.parallelism
        trace = trace_of(workload, tree)
        dtype = workload.precision.activations
        h = workload.model.hidden_size
        offset, total = [], 0
        for numel, trains in zip(trace.numel, trace.trainable, strict=True):
            offset.append(total)
            total += numel if trains else 0
        shard = mesh.size("fsdp")
        unit = ALIGNMENT * shard
        aligned = -(-total // unit) * unit
        everybody = "world" if mesh.dp_replicate > 1 else "shard"
        groups = {"shard": mesh.groups("fsdp"), everybody: mesh.groups("world")}
        groups |= groups_within(workload, mesh)
        r = recorder(groups, trainer_of(workload))
        run = _Zero12Run(
            workload, trace, shard, everybody, r,
            ReplicatedMemory(workload, tree, shard, r.memory), DTYPE_BYTES[dtype], dtype,
            bucket_size=resolve(knobs.reduce_bucket_size, h * h),
            overlap=bool(knobs.overlap_comm),
            offload=knobs.offload != "none",
            offset=offset,
            partition=max(1, aligned // shard),
            play=player(workload, tree_blocks(tree), mesh),
            copies=copies_of(workload, tree),
        )  # fmt: skip
        owned = aligned // shard
        r.plan.owned_numel = 1.0 * owned
        r.plan.owned_tensors = 1
        r.plan.optimizer_on_host = run.offload
        for _ in range(steps):
            run.memory.start()
            for micro_step in range(workload.gradient_accumulation):
                r.start(micro_step)
                loss_all_reduce(r, knobs, mesh)
                run.micro_batch(micro_step == 0, micro_step == workload.gradient_accumulation - 1)
            run.memory.step()
            _step(run, 1.0 * owned, shard)
            r.end()
        return r.plan


class Zero1(_Zero12):
    """Stage 1: the optimizer's states are sharded, gradients reduced once a step."""

    name, title, stage = "zero1", "ZeRO-1", 1
    knobs = DeepSpeed.knobs | {"gradient_sync", "replicate"}


class Zero2(_Zero12):
    """Stage 2: gradients are reduced and kept in parts."""

    name, title, stage = "zero2", "ZeRO-2", 2


register(Zero1())
register(Zero2())
