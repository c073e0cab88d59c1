"""Megatron's data parallelism: bf16 parameters whole on each rank, gradients summed in a buffer.

Gradients of all micro-batches accumulate in a contiguous buffer of the reduce dtype (``main_grad``)
and are reduced once a step: bucket by bucket beside the last backward (`overlap_grad_reduce`) or
all at once after it. With `use_distributed_optimizer` (ZeRO-1) each rank updates its part of fp32
master weights, and parameters are gathered after the step or, bucket by bucket, in the next
forward (`overlap_param_gather`). Ranks may share matrices and sequences, or hold stages.

Source: Megatron-LM, core/distributed/distributed_data_parallel.py, param_and_grad_buffer.py,
core/optimizer/distrib_optimizer.py, core/distributed/finalize_model_grads.py; nanotron, which also
keeps such a buffer, optim/gradient_accumulator.py and optim/zero.py.
"""

from __future__ import annotations

from collections.abc import Hashable

from sim.blocks.flops import checkpointed_layers
from sim.blocks.modules import Block, ModelTree, OpRole
from sim.inputs.modelling import keeps_weights
from sim.inputs.pipeline import blocks_of, shape_of
from sim.inputs.recipes import RECIPES
from sim.inputs.trainer import trainer_of
from sim.inputs.workload import Workload
from sim.mesh import Groups, Mesh, Pairs
from sim.pipeline.actions import BACKWARD
from sim.pipeline.schedules import SCHEDULES
from sim.records import NamedTuple
from sim.strategies.exchanges import groups_within, player
from sim.strategies.megatron_memory import MegatronMemory, MegatronStageMemory
from sim.strategies.pipeline_play import PipelineRank
from sim.strategies.plan import SEGMENT, PlanOp, modules_of
from sim.strategies.recorder import Event, Recorder
from sim.strategies.tail import clip_and_step, loss_all_reduce
from sim.strategies.units import EXPERT_SHARD, SHARD, dtypes, tree_blocks
from sim.units import DTYPE_BYTES


class _Alike(NamedTuple):
    """Ranks that see other tokens with equal parameters: those of experts, or of the rest."""

    group: str
    ranks: int


#: elements of a bucket, at least, and for each data-parallel rank
#: Source: distributed_data_parallel.py, ``bucket_size = max(40000000, 1000000 * dp_size)``
BUCKET, BUCKET_OF_A_RANK = 40_000_000, 1_000_000
#: launches that a GPU has waiting, at most: the next one blocks the CPU
QUEUE = 1024


class RankJob:
    """What a rank plays; all its stages share it."""

    def __init__(
        self, workload: Workload, tree: ModelTree, mesh: Mesh, rank: int, recorder: type[Recorder]
    ) -> None:
        self.workload, self.mesh, self.rank, self.tree = workload, mesh, rank, tree
        knobs = self.knobs = workload.parallelism
        self.types = dtypes(workload)
        self.blocks = tree_blocks(tree)
        self.layers = len(tree.layers)
        self.again = (
            False, *checkpointed_layers(workload.activation_checkpointing, self.layers), False,
        )  # fmt: skip
        self.play = player(workload, self.blocks, mesh)
        self.micro = workload.gradient_accumulation
        self.sharded = knobs.use_distributed_optimizer
        rest = _Alike(SHARD if self.sharded else "data", mesh.size("loss"))
        self.alike = {False: rest}  # by whether it is of experts on other ranks
        groups: dict[str, Groups | Pairs] = {rest.group: mesh.groups("loss")}
        if mesh.ep > 1:
            self.alike[True] = _Alike(EXPERT_SHARD, mesh.efsdp)
            groups[EXPERT_SHARD] = mesh.groups("efsdp")
        groups |= groups_within(workload, mesh)
        self.tied = tree.tied and mesh.pp > 1 and rank in (0, mesh.pp - 1)
        if self.tied:
            groups["embedding"] = Pairs(0, mesh.pp - 1, mesh.pp, mesh.world // mesh.pp)
        self.trainer = trainer_of(workload)
        self.r = recorder(groups, self.trainer)
        ranges = blocks_of(workload)
        own = SCHEDULES[knobs.pipeline_schedule].stages_of(shape_of(workload), rank)
        held = {s: ranges[s] for s in (own if mesh.pp > 1 else (0,))}
        numbers = [b for blocks in held.values() for b in blocks]
        self.held = {(b, a): self.elements(b, a) for b in numbers for a in self.alike}
        numel = {b: sum(self.held[b, a] for a in self.alike) for b in numbers}
        self.numel = float(sum(numel.values()))
        # elements whose states are this rank's
        self.parts = {a: self._part(sum(self.held[b, a] for b in numbers), a) for a in self.alike}
        self.owned = sum(self.parts.values())
        plan = self.r.plan
        plan.owned_experts = int(self.parts.get(True, 0.0) > 0.0)  # one norm for all
        plan.owned_numel = self.owned
        plan.owned_tensors = sum(len(m.parameters) for b in numel for m in self.blocks[b].modules)
        # of them, those that FP8 products read
        first, last = workload.precision.bf16_ends
        cast = range(first + 1, self.layers + 1 - last) if keeps_weights(workload) else ()
        self.low = {
            (b, apart): _elements(self.blocks[b], apart, True) if b in cast else 0
            for b, apart in self.held
        }
        self.memory = MegatronMemory(
            workload, tree, self.r.memory, numel, self.owned, sum(self.low.values())
        )
        last = len(ranges) - 1
        self.stages = {
            s: _MegatronStage(
                self, blocks, MegatronStageMemory(self.memory, s == 0, s == last), s == 0
            )
            for s, blocks in held.items()
        }

    def elements(self, number: int, apart: bool) -> int:
        """Trainable elements of a block, of experts on other ranks or of the rest.

        The last stage has its own copy of a tied table.
        """
        found = _elements(self.blocks[number], apart)
        if not apart and self.tree.tied and self.mesh.pp > 1 and number == self.layers + 1:
            found += self.tree.embedding.modules[0].parameters[0].numel
        return found

    def gathered(self, number: int, apart: bool) -> float:
        """A block's parameters as they are gathered. [B]"""
        key, compute = (number, apart), DTYPE_BYTES[self.types.compute]
        saved = (compute - DTYPE_BYTES["fp8"]) * self.low[key] if self.types.fp8_gather else 0.0
        return compute * self.held[key] - saved

    def tensors(self, apart: bool) -> int:
        """Parameters of the rank, of experts on other ranks or of the rest."""
        own = (m for s in self.stages.values() for b in s.numbers for m in self.blocks[b].modules)
        return sum(len(m.parameters) for m in own if m.expert is apart)

    def _part(self, numel: int, apart: bool) -> float:
        return float(-(-numel // self.alike[apart].ranks) if self.sharded else numel)

    def step(self) -> None:
        """All micro-batches, the reduction, clipping, the optimizer, and parameters for all."""
        r = self.r
        self.memory.begin()
        for stage in self.stages.values():
            stage.done = 0
            stage.gather_ahead()
        if self.mesh.pp > 1:
            PipelineRank(self.workload, self.mesh, self.rank, r, self.stages).play()
        else:
            (stage,) = self.stages.values()
            for micro in range(self.micro):
                r.start(micro)
                stage.forward()
                stage.backward()
            stage.reduce_all()
        self._finish()
        self.memory.end()
        loss_all_reduce(r, self.knobs, self.mesh)
        wide = DTYPE_BYTES[self.types.reduce]
        clip_and_step(r, self.knobs, wide, norm_bytes=4.0 * (1 + r.plan.owned_experts))
        self._update()
        r.end()

    def _finish(self) -> None:
        """Sums of what ranks hold in common: norms over tensor-parallel ranks, a tied table."""
        r, wide = self.r, DTYPE_BYTES[self.types.reduce]
        partial = [
            q.numel for stage in self.stages.values() for b in stage.numbers
            for m in self.blocks[b].modules if m.partial for q in m.parameters if q.trainable
        ]  # fmt: skip
        if partial and self.mesh.tp > 1:
            for numel in partial if self.trainer.sums_apart else (sum(partial),):
                size = numel * wide
                r.collective(
                    "compute", "all_reduce", "backward", "tensor", size, size, self.types.reduce
                )
        if self.tied:
            size = self.tree.embedding.modules[0].parameters[0].numel * wide
            r.collective(
                "compute", "all_reduce", "backward", "embedding", size, size, self.types.reduce,
                "embedding",
            )  # fmt: skip

    def _update(self) -> None:
        """Master weights to the compute dtype, gradients to zero, parameters to all ranks."""
        r, wide = self.r, DTYPE_BYTES[self.types.reduce]
        compute = DTYPE_BYTES[self.types.compute]
        if compute < 4:
            r.kernel("compute", "cast", "optimizer", (4.0 + compute) * self.owned)
        for apart, (group, ranks) in self.alike.items():
            whole = sum(self.gathered(b, a) for b, a in self.held if a is apart)
            elements = sum(n for (_, a), n in self.held.items() if a is apart)
            part = whole / elements * self.parts[apart] if elements else 0.0
            if not self.sharded or ranks == 1 or not part or self.knobs.overlap_param_gather:
                continue
            r.wait_stream("all_gather", "compute")
            r.collective(
                "all_gather", "all_gather", "optimizer", group, part, part * ranks,
                self.types.compute,
            )  # fmt: skip
            r.wait_stream("compute", "all_gather")
            if self.trainer.gathered_part_s:
                self._copy_parts(self.tensors(apart) * ranks, part * ranks)
        if low := sum(self.low.values()):  # weights to FP8 or FP4, by row and by column
            recipe = RECIPES[self.workload.precision.recipe]
            reads = 0 if self.types.fp8_gather else 1 + recipe.amax
            each = recipe.weight_bytes + reads * compute
            if recipe.turned or not self.types.fp8_gather:  # else they are read as they arrive
                r.kernel("compute", "quantise", "optimizer", each * low)
        r.kernel("compute", "zero", "optimizer", wide * self.numel)

    def _copy_parts(self, parts: int, size: float) -> None:
        """What was gathered, part by part to where it belongs; each is a launch."""
        r = self.r
        if parts > QUEUE:  # the CPU goes on only as the GPU takes them from the queue
            r.host_sync(r.record("compute"))
        r.call_times("trainer.gathered_part", parts)
        r.kernel("compute", "copy", "optimizer", 4.0 * size)


class _MegatronStage:
    """The blocks of a stage, or of the model."""

    def __init__(
        self, job: RankJob, numbers: range, memory: MegatronStageMemory, first: bool
    ) -> None:
        self.job, self.numbers, self.memory = job, numbers, memory
        size = max(BUCKET, BUCKET_OF_A_RANK * job.alike[False].ranks) if first else float("inf")
        self.bucket = float(job.knobs.grad_bucket_size or size)
        self.done = 0  # backwards
        # elements whose gradients wait for their bucket to be full
        self.held = dict.fromkeys(job.alike, 0.0)
        self.coming: dict[int, Event] = {}  # parameters on their way, by the first block in need

    def gather_ahead(self) -> None:
        """Parameters of the last step's update, bucket by bucket in the order of forward."""
        job = self.job
        if not (job.sharded and job.knobs.overlap_param_gather):
            return
        for apart, (group, ranks) in job.alike.items():
            if ranks > 1:
                self._gather(apart, group, ranks)

    def _gather(self, apart: bool, group: str, ranks: int) -> None:
        job, r = self.job, self.job.r
        first, held, size = -1, 0.0, 0.0
        for number in self.numbers:
            first = number if first < 0 else first
            held += job.held[number, apart]
            size += job.gathered(number, apart)
            if held and (held >= self.bucket or number == self.numbers[-1]):
                r.wait_stream("all_gather", "compute")
                r.collective(
                    "all_gather", "all_gather", "forward", group, size / ranks, size,
                    job.types.compute, f"bucket of {job.blocks[first].name}",
                )  # fmt: skip
                self.coming[first] = self.coming.get(first, ()) + r.record("all_gather")
                first, held, size = -1, 0.0, 0.0

    def condition(self) -> Hashable | None:
        """Ops differ while parameters come in, and where the next backward may reduce."""
        last = self.done + 1 == self.job.micro and self._hooks()
        return None if self.coming or last else ()

    def skip(self, kind: str) -> None:
        """A backward counts."""
        self.done += kind == BACKWARD

    def forward(self) -> None:
        """A micro-batch."""
        self.memory.forward()
        for number in self.numbers:
            self.memory.reach(number)
            self.job.r.wait("compute", self.coming.pop(number, ()))
            self._compute("forward", "forward", number)
        self.memory.done()

    def backward(self) -> None:
        """Its backward, and in the step's last one the reduction of what is ready."""
        job, r = self.job, self.job.r
        self.done += 1
        hooked = self.done == job.micro and self._hooks()
        self.memory.backward()
        for number in reversed(self.numbers):
            self.memory.reach(number)
            if job.again[number]:
                self._compute("recompute", "backward", number)
            self._compute("backward", "backward", number)
            if hooked:
                self._accumulate(self._elements(number), number)
                for apart, held in self.held.items():
                    full, left = divmod(held + job.held[number, apart], self.bucket)
                    if full:
                        self._reduce(self.bucket * full, apart)
                    self.held[apart] = left
        self.memory.done()
        if not hooked:
            self._accumulate(sum(map(self._elements, self.numbers)))
            r.call_times("trainer.layer_update", self._layers())

    def _compute(self, name: str, phase: str, number: int) -> None:
        job, r = self.job, self.job.r
        since = len(r.ops)
        job.play(r, name, phase, number, "", "", job.again[number])
        if 0 < number <= job.layers:
            _spread(
                r.ops, f"trainer.layer_{'forward' if name != 'backward' else 'backward'}", since
            )

    def _hooks(self) -> bool:
        """Whether buckets are reduced beside the last backward."""
        several = any(ranks > 1 for _, ranks in self.job.alike.values())
        return self.job.knobs.overlap_grad_reduce and several

    def _elements(self, number: int) -> int:
        return sum(self.job.held[number, apart] for apart in self.job.alike)

    def _layers(self) -> int:
        return sum(0 < number <= self.job.layers for number in self.numbers)

    def _accumulate(self, numel: float, block: int = -1) -> None:
        """Gradients onto the buffer; fused, the products of the weights' gradients do it."""
        job = self.job
        if job.knobs.gradient_accumulation_fusion or not numel:
            return
        traffic = (DTYPE_BYTES[job.types.compute] + 2.0 * DTYPE_BYTES[job.types.reduce]) * numel
        job.r.kernel("compute", "accumulate", "backward", traffic, "", block)

    def _reduce(self, numel: float, apart: bool) -> None:
        """A bucket, or several that are full at the same time."""
        job, r = self.job, self.job.r
        group, ranks = job.alike[apart]
        if ranks == 1 or not numel:
            return
        total = numel * DTYPE_BYTES[job.types.reduce]
        scatters = job.sharded and job.knobs.reduce_scatter
        what, out = ("reduce_scatter", total / ranks) if scatters else ("all_reduce", total)
        r.wait_stream(what, "compute")
        r.collective(what, what, "backward", group, total, out, job.types.reduce)

    def reduce_all(self) -> None:
        """What no bucket has reduced yet; then compute waits for all."""
        job, r = self.job, self.job.r
        hooked = self._hooks()
        for apart, held in self.held.items():
            whole = sum(job.held[number, apart] for number in self.numbers)
            self._reduce(held if hooked else float(whole), apart)
            self.held[apart] = 0.0
        for stream in ("reduce_scatter", "all_reduce"):
            r.wait_stream("compute", stream)

    def part(self, name: str, first: bool) -> None:
        """Megatron's schedules split no backward (see `Megatron.findings`)."""
        raise NotImplementedError(name)

    def gather(self) -> None:
        """Nothing: parameters are whole."""

    drop = gather


def _spread(ops: list[PlanOp], call: str, since: int) -> None:
    """Python that the CPU runs all along the segments among ops from `since` on, once."""
    own = [i for i in range(since, len(ops)) if ops[i].kind == SEGMENT]
    modules = [len(modules_of(ops[i].module)) for i in own]
    for i, count in zip(own, modules, strict=True):
        share = count / sum(modules)
        ops[i] = ops[i]._replace(calls=(*ops[i].calls, (call, share)))


def _elements(block: Block, apart: bool, low: bool = False) -> int:
    """Trained ones, or those of the matrices of linear layers."""
    own = (m for m in block.modules if m.expert is apart and (m.role is OpRole.LINEAR or not low))
    return sum(q.numel for m in own for q in m.parameters if q.trainable and len(q.shape) > low)
