"""ZeRO-3 as DeepSpeed 0.19.8 runs it: one training step.

`zero3_trace` lists what the modules do, `zero3_coordinator` what DeepSpeed issues around them;
here is the order of a step. How it is configured is in `zero3_settings`, the peak of gathered
parameters in `zero3_live`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import ClassVar

from sim.blocks.modules import ModelTree
from sim.blocks.optimizer import FP32, Optimizer, optimizer_of
from sim.inputs.finding import Finding, warning
from sim.inputs.notes import Message
from sim.inputs.strategy import BlockRhythm, register
from sim.inputs.trainer import trainer_of
from sim.inputs.workload import Parallelism, Workload
from sim.mesh import Mesh
from sim.strategies.activation_copies import copies_of
from sim.strategies.deepspeed import DeepSpeed
from sim.strategies.exchanges import groups_within, player
from sim.strategies.plan import Plan
from sim.strategies.recorder import Quiet, Recorder
from sim.strategies.replicated_memory import ReplicatedMemory
from sim.strategies.tail import loss_all_reduce
from sim.strategies.units import tree_blocks
from sim.strategies.zero3_coordinator import Coordinator
from sim.strategies.zero3_gradients import STAGED_ANEW
from sim.strategies.zero3_live import gathered, zero3_live_peak
from sim.strategies.zero3_rhythm import zero3_rhythm
from sim.strategies.zero3_settings import one_by_one, settings_of
from sim.strategies.zero3_trace import FORWARD, SEGMENT, trace_of


def _memory(workload: Workload, tree: ModelTree, mesh: Mesh, r: Recorder) -> ReplicatedMemory:
    ranks = mesh.size("fsdp")
    return ReplicatedMemory(workload, tree, ranks, r.memory, gathered(workload, tree, mesh))


def play(
    workload: Workload, tree: ModelTree, mesh: Mesh, steps: int = 1, first_step: bool = False
) -> Coordinator:
    """As `Strategy.build`, but return the coordinator, which knows why each collective was issued.

    With `first_step` the first step is the run's first, in which DeepSpeed records its trace: every
    fetch of its first micro-batch is on demand.
    """
    settings = settings_of(workload, mesh)
    trace = trace_of(workload, tree)
    everybody = mesh.groups("world")
    groups = {"shard": everybody}
    if settings.hpz > 1:
        groups["hpz"] = everybody.inner(settings.hpz)
    if settings.quantized_gradients and mesh.world > settings.gpus_per_node:
        node = settings.gpus_per_node
        groups |= {"node": mesh.groups("node"), "replicate": everybody.outer(node)}
    r = Recorder(groups | groups_within(workload, mesh), trainer_of(workload))
    memory = _memory(workload, tree, mesh, r)
    copies, plays = copies_of(workload, tree), player(workload, tree_blocks(tree), mesh)
    c = Coordinator(trace, settings, r, memory, copies, plays)
    if first_step:
        c.forget_persistent()
    for step in range(steps):
        memory.start()
        for micro_step in range(workload.gradient_accumulation):
            r.start(micro_step)
            c.gradients.boundary = micro_step == workload.gradient_accumulation - 1
            loss_all_reduce(r, workload.parallelism, mesh)
            c.micro_batch(tracing=first_step and step == micro_step == 0)
        memory.step()
        _step(workload, c)
        r.end()
    return c


def _step(workload: Workload, c: Coordinator) -> None:
    """Norm, clipping and update by sub-groups, then the persistent parameters again."""
    r, s = c.recorder, c.settings
    sub_groups = c.gradients.sub_groups()
    owned = 1.0 * sum(sub_groups)
    plan = r.plan
    plan.owned_numel = owned
    plan.owned_tensors = len(sub_groups)
    plan.optimizer_on_host = s.offload_optimizer
    r.wait_stream("compute", "reduce_scatter")
    if s.dtype == "fp16":
        scalar_all_reduce(r, 1.0, "u8")
    for size in sub_groups:
        if s.offload_optimizer:
            scalar_all_reduce(r, 4.0, "fp32")  # norms were taken as gradients left for the host
        else:
            r.kernel("compute", "grad_norm", "clip", 1.0 * c.size * size)
            scalar_all_reduce(r, 8.0, "fp64")
    r.host_sync(r.record("compute"))
    if s.offload_optimizer:
        stays = s.offload_parameters
        kind = optimizer_of(workload)
        step_on_host(r, kind, sub_groups, c.size, stays=stays, nvme=s.nvme, staged=STAGED_ANEW)
    elif sub_groups:
        # gradients become one flat fp32 tensor a sub-group, are scaled in place; then bf16 copies
        r.kernel("compute", "flatten", "clip", (c.size + 4.0) * owned)
        r.kernel("compute", "clip", "clip", 8.0 * owned)
        r.segment("optimizer", "optimizer", -1)
        r.kernel("compute", "cast", "optimizer", (c.size + 4.0) * owned)
    if any(c.persistent):
        c.gather_persistent()
    c.end_step()


def scalar_all_reduce(r: Recorder, size: float, dtype: str) -> None:
    """A flag or a norm of all ranks, on the compute stream. [B]"""
    r.collective("compute", "all_reduce", "clip", "shard", size, size, dtype)


def step_on_host(
    r: Recorder, kind: Optimizer, sub_groups: Sequence[int], element_bytes: float, *,
    stays: bool = False, nvme: bool = False, staged: float = 0.0,
) -> None:  # fmt: skip
    """The optimizer's step on the CPU by sub-groups; then what it updated, cast, to the GPU.

    Parameters
    ----------
    r : Recorder
        Where to issue.
    kind : Optimizer
        Whose step it is.
    sub_groups : sequence of int
        Elements of each.
    element_bytes : float
        Of a parameter on the GPU. [B]
    stays : bool
        Parameters are offloaded too: no copy.
    nvme : bool
        States are read before and written after, without overlap (``pipeline_read`` and
        ``pipeline_write`` are off by default).
    staged : float
        Passes over pageable memory on the way to the GPU. [1]

    Notes
    -----
    PyTorch casts on the CPU where a copy blocks (aten/src/ATen/native/cuda/Copy.cu). Read in
    DeepSpeed 0.9.5 to 0.19.8: stage3.py, `_reassign_or_swap_out_partitioned_parameters`, whose
    tensor in between is new and pageable; stage_1_and_2.py, `step`: pinned since 0.17.
    """
    kept = FP32 + kind.moments * kind.moment(FP32)  # gradients are read only
    r.wait_stream("host", "offload_out")
    for size in sub_groups:
        if nvme:
            r.wait_stream("nvme", "host")
            read = r.kernel("nvme", "nvme_read", "optimizer", (kept + FP32) * size)
            r.host_sync((read,))
        r.host("clip", "clip", 8.0 * size)
        r.host("optimizer", "optimizer", kind.step_bytes(FP32, FP32) * size)
        if element_bytes < FP32:
            r.host("cast", "optimizer", (FP32 + element_bytes) * size)
        if nvme:
            r.wait_stream("nvme", "host")
            written = kept + (element_bytes if stays else 0.0)
            r.host_sync((r.kernel("nvme", "nvme_write", "optimizer", written * size),))
        if not stays:
            if staged:
                r.host("stage", "optimizer", staged * element_bytes * size)
            r.wait_stream("offload_in", "host")
            r.host_sync((r.kernel("offload_in", "h2d", "optimizer", element_bytes * size),))
    r.wait_stream("compute", "offload_in")


class Zero3(DeepSpeed):
    """Stage 3: parameters too are sharded."""

    name, title = "zero3", "ZeRO-3"
    knobs = DeepSpeed.knobs | {
        "stage3_max_live_parameters", "stage3_max_reuse_distance", "stage3_prefetch_bucket_size",
        "stage3_param_persistence_threshold", "sub_group_size", "z3_leaf_experts",
        "zero_hpz_partition_size",
        "zero_quantized_weights", "zero_quantized_gradients",
    }  # fmt: skip
    instead: ClassVar = {
        **DeepSpeed.instead, "reshard_after_forward": "zero2 keeps parameters gathered",
        "replicate": "zero3 has zero_hpz_partition_size",
    }  # fmt: skip
    offloads = ("optimizer", "parameters", "all")
    offload_devices = ("cpu", "nvme")
    gathers_blocks = True
    stage = 3

    def findings(self, workload: Workload) -> Iterator[Finding]:
        """What a mixture is taken to run as, where that decides its step."""
        yield from super().findings(workload)
        if one_by_one(workload):
            message = (
                f"the model's code is taken to loop over its {workload.model.experts} experts, and "
                "ZeRO-3 to gather each of their matrices: the CPU decides the step"
            )
            hint = "write experts: grouped, or parallelism.z3_leaf_experts: true, where that is so"
            yield warning("experts-one-by-one", "workload", "experts", message, hint)

    def block_rhythm(self, workload: Workload, mesh: Mesh) -> BlockRhythm | None:
        """That of its coordinator, which gathers and reduces over the ends of blocks."""
        return zero3_rhythm(workload, mesh)

    def counts_missing(self, knobs: Parallelism) -> bool:
        """Where no more secondary shards are cut with more blocks."""
        return knobs.zero_hpz_partition_size == 1

    def memory_warnings(self, workload: Workload, tree: ModelTree, mesh: Mesh) -> Iterator[Message]:
        """What frozen weights do in some versions."""
        where = "workload.parallelism.deepspeed_version"
        for trap in zero3_live_peak(workload, tree, mesh).traps:
            yield Message(f"memory.{trap.code}", where, trap.message, trap.hint)

    def build(
        self, workload: Workload, tree: ModelTree, mesh: Mesh, *, steps: int, cold: bool,
        recorder: type[Recorder],
    ) -> Plan:  # fmt: skip
        """Plan of steady training steps.

        Arguments and answer are those of `Strategy.build`.

        Raises
        ------
        InputError
            If the knobs contradict the mesh.
        """
        if not recorder.quiet:
            return play(workload, tree, mesh, steps).recorder.plan
        r, trace = Quiet({}), trace_of(workload, tree)
        memory = _memory(workload, tree, mesh, r)
        memory.start()
        for _ in range(workload.gradient_accumulation):
            memory.forward()
            for what, unit, direction in trace.calls:
                if what == SEGMENT:
                    memory.reach(trace.unit_blocks[unit], direction == FORWARD)
            memory.done()
        memory.step()
        return r.plan


register(Zero3())
