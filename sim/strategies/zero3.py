"""ZeRO-3 as DeepSpeed 0.19.8 runs it: one training step.

`zero3_trace` lists what the modules do, `zero3_coordinator` what DeepSpeed issues around them;
here is the configuration, the order of a step, and the peak of gathered parameters.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import ClassVar, NamedTuple

from sim.blocks.flops import checkpointed_layers
from sim.blocks.modules import ModelTree
from sim.blocks.optimizer import FP32, OPTIMIZERS
from sim.errors import InputError
from sim.inputs.finding import Finding, warning
from sim.inputs.modelling import experts
from sim.inputs.notes import Message
from sim.inputs.strategy import register
from sim.inputs.trainer import trainer_of
from sim.inputs.versions import version
from sim.inputs.workload import Workload
from sim.mesh import Mesh
from sim.strategies.activation_copies import copies_of
from sim.strategies.deepspeed import DeepSpeed
from sim.strategies.exchanges import groups_within, player
from sim.strategies.plan import Plan, Quiet, Recorder
from sim.strategies.replicated_memory import Gathered, ReplicatedMemory
from sim.strategies.tail import loss_all_reduce
from sim.strategies.units import SOURCE, tree_blocks
from sim.strategies.zero3_coordinator import Coordinator, Settings
from sim.strategies.zero3_trace import FORWARD, SEGMENT, ModuleTrace, build_trace
from sim.units import DTYPE_BYTES

#: the last release without the attribution of frozen parameters to the active backward
LAST_WITHOUT_ATTRIBUTION = (0, 19, 2)
#: bytes that CPU Adam moves per element, all in fp32
CPU_ADAM_BYTES = OPTIMIZERS["adamw"].step_bytes(FP32, FP32)
#: fp32 parameter, both moments and the gradient come from NVMe; all but the gradient go back
NVME_READ_BYTES, NVME_WRITE_BYTES = 16.0, 12.0

PILE_UP = "zero3-frozen-weights-pile-up"

_traces: dict[tuple[int, tuple[bool, ...], bool, bool, int], tuple[ModelTree, ModuleTrace]] = {}


class Trap(NamedTuple):
    """A known trap that this configuration springs."""

    code: str
    message: str
    hint: str
    bytes: float


class LivePeak(NamedTuple):
    """Largest amounts a rank holds beyond its own shards, each at its own moment. [B]"""

    by_category: dict[str, float]
    traps: tuple[Trap, ...]


def _memory(workload: Workload, tree: ModelTree, mesh: Mesh, r: Recorder) -> ReplicatedMemory:
    ranks = mesh.size("fsdp")
    return ReplicatedMemory(workload, tree, ranks, r.memory, _gathered(workload, tree, mesh))


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
            c.boundary = micro_step == workload.gradient_accumulation - 1
            loss_all_reduce(r, workload.parallelism, mesh)
            c.micro_batch(tracing=first_step and step == micro_step == 0)
        memory.step()
        _step(workload, c)
        r.end()
    return c


def _step(workload: Workload, c: Coordinator) -> None:
    """Norm, clipping and update by sub-groups, then the persistent parameters again."""
    r, s = c.recorder, c.settings
    sub_groups = c.sub_groups()
    owned = float(sum(sub_groups))
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
            r.kernel("compute", "grad_norm", "clip", float(c.size * size))
            scalar_all_reduce(r, 8.0, "fp64")
    r.host_sync(r.record("compute"))
    if s.offload_optimizer:
        step_on_host(r, sub_groups, c.size, stays=s.offload_parameters, nvme=s.nvme)
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
    r: Recorder, sub_groups: Sequence[int], element_bytes: float, *, stays: bool = False,
    nvme: bool = False,
) -> None:  # fmt: skip
    """CPU Adam sub-group by sub-group, and the updated partition copied to the GPU.

    Parameters
    ----------
    r : Recorder
        Where to issue.
    sub_groups : sequence of int
        Elements of each.
    element_bytes : float
        Of a parameter on the GPU. [B]
    stays : bool
        Parameters are offloaded too: no copy.
    nvme : bool
        States are read before and written after, without overlap (``pipeline_read`` and
        ``pipeline_write`` are off by default).
    """
    r.wait_stream("host", "offload_out")
    for size in sub_groups:
        if nvme:
            r.wait_stream("nvme", "host")
            read = r.kernel("nvme", "nvme_read", "optimizer", NVME_READ_BYTES * size)
            r.host_sync((read,))
        r.host("clip", "clip", 8.0 * size)
        r.host("optimizer", "optimizer", CPU_ADAM_BYTES * size)
        if nvme:
            r.wait_stream("nvme", "host")
            written = NVME_WRITE_BYTES + (element_bytes if stays else 0.0)
            r.host_sync((r.kernel("nvme", "nvme_write", "optimizer", written * size),))
        if not stays:
            r.wait_stream("offload_in", "host")
            r.host_sync((r.kernel("offload_in", "h2d", "optimizer", element_bytes * size),))
    r.wait_stream("compute", "offload_in")


def settings_of(workload: Workload, mesh: Mesh) -> Settings:
    """DeepSpeed's configuration with Hugging Face's "auto" resolved.

    Notes
    -----
    With hidden size h: reduce bucket h h, prefetch bucket 0.9 h h, persistence threshold 10 h.

    Source: transformers 4.57.1, ``HfTrainerDeepSpeedConfig.trainer_config_finalize``.
    """
    p, world = workload.parallelism, mesh.world
    if world % p.zero_hpz_partition_size:
        message = f"groups of {p.zero_hpz_partition_size} do not divide {world} ranks"
        raise InputError.single(SOURCE, message, "parallelism.zero_hpz_partition_size")
    h = workload.model.hidden_size
    kind = workload.precision.kind
    dtype = "bf16" if kind == "fp8" else kind
    return Settings(
        world=world,
        dtype=dtype,
        reduce_dtype=p.communication_data_type or dtype,
        prefetch_bucket=resolve(p.stage3_prefetch_bucket_size, int(0.9 * h * h)),
        max_live=int(p.stage3_max_live_parameters),
        max_reuse=int(p.stage3_max_reuse_distance),
        persistence=resolve(p.stage3_param_persistence_threshold, 10 * h),
        reduce_bucket=resolve(p.reduce_bucket_size, h * h),
        reduce_scatter=p.reduce_scatter,
        overlap_comm=p.overlap_comm is not False,
        hpz=p.zero_hpz_partition_size,
        quantized_weights=p.zero_quantized_weights,
        quantized_gradients=p.zero_quantized_gradients,
        gpus_per_node=mesh.size("node"),
        sub_group=int(p.sub_group_size),
        attribute_frozen=attributes_frozen(p.deepspeed_version),
        offload_parameters=p.offload in ("parameters", "all"),
        offload_optimizer=p.offload in ("optimizer", "all"),
        one_by_one=_one_by_one(workload),
        nvme=p.offload_device == "nvme",
    )


def resolve(value: float | str, auto: int) -> int:
    """Size as given, or what "auto" stands for. [1]"""
    return auto if isinstance(value, str) else int(value)


def attributes_frozen(release: str) -> bool:
    """Whether a frozen parameter fetched in a recompute is held by the active backward.

    Notes
    -----
    In force in 0.19.8, absent in 0.19.2 (pull request 8148).
    """
    return version(release)[:3] > LAST_WITHOUT_ATTRIBUTION


def trace_of(workload: Workload, tree: ModelTree) -> ModuleTrace:
    """The calls of a micro-batch (kept for a tree seen before)."""
    policy = workload.activation_checkpointing
    layers = checkpointed_layers(policy, workload.model.layers)
    asked = workload.method.input_require_grads
    # PEFT asks for input gradients where checkpointing is on: without them nothing would train
    grads = workload.method.frozen and (any(layers) if asked is None else asked)
    packed = 1
    if workload.method.quantised:
        packed = 8 if workload.precision.kind == "fp32" else 4
    key = (id(tree), layers, policy.reentrant, grads, packed)
    found = _traces.get(key)
    if found is None or found[0] is not tree:
        if len(_traces) >= 32:
            _traces.clear()
        found = (tree, build_trace(tree, layers, policy.reentrant, grads, packed))
        _traces[key] = found
    return found[1]


def zero3_live_peak(workload: Workload, tree: ModelTree, mesh: Mesh) -> LivePeak:
    """Gathered parameters and buffers of one rank at their largest.

    Parameters
    ----------
    workload : Workload
        The job.
    tree : ModelTree
        Its modules.
    mesh : Mesh
        How the ranks are grouped.

    Returns
    -------
    LivePeak
        ``unsharded_parameters`` (persistent ones included), ``persistent_parameters``,
        ``gather_buffer`` (the largest coalesced all-gather, held twice while it is unpacked),
        ``reduce_bucket`` and ``reduce_buffer``; and the traps.
    """
    s, trace = settings_of(workload, mesh), trace_of(workload, tree)
    found = trace.derived.get(s)
    if found is None:
        found = trace.derived[s] = _played(trace, s)
    return LivePeak(found.by_category, _traps(workload, s, found))


class _Played(NamedTuple):
    """What of a micro-batch the coordinator's memory is told by."""

    by_category: dict[str, float]  # as `LivePeak` has it [B]
    live: int  # elements gathered at most [1]
    frozen: int  # elements that are frozen and do not persist [1]


def _played(trace: ModuleTrace, s: Settings) -> _Played:
    c = Coordinator(trace, s, Quiet({}))
    c.micro_batch()
    wide = DTYPE_BYTES[s.reduce_dtype]
    coalesced, reduced = [], []
    for issued in c.issued:
        size = sum(c.shard[p] for p in issued.parameters)
        if issued.trigger == "ipg_bucket":
            reduced.append(size)
        elif len(issued.parameters) > 1:
            coalesced.append(size)
    largest = max((n for n, t in zip(trace.numel, trace.trainable, strict=True) if t), default=0)
    by_category = {
        "unsharded_parameters": float(c.peak_live * c.size),
        "persistent_parameters": float(c.persistent_numel * c.size),
        "gather_buffer": float(max(coalesced, default=0) * s.world * c.size),
        "reduce_bucket": float(s.reduce_bucket * c.size) if largest else 0.0,
        "reduce_buffer": float(max(reduced, default=0) * s.world * wide),
    }
    frozen = sum(
        n for n, trains, keep in zip(trace.numel, trace.trainable, c.persistent, strict=True)
        if not trains and not keep
    )  # fmt: skip
    return _Played(by_category, c.peak_live, frozen)


def _gathered(workload: Workload, tree: ModelTree, mesh: Mesh) -> Gathered:
    """What the coordinator holds, forward and backward.

    In forward the limit on live parameters holds; what piles up in backward is no part of it.
    """
    held, traps = zero3_live_peak(workload, tree, mesh)
    p, live = workload.parallelism, held["unsharded_parameters"]
    forward = live
    if any(trap.code == PILE_UP for trap in traps):
        ahead = p.stage3_prefetch_bucket_size
        if isinstance(ahead, str):
            ahead = 0.9 * float(workload.model.hidden_size) ** 2
        element = DTYPE_BYTES[settings_of(workload, mesh).dtype]
        limit = element * (p.stage3_max_live_parameters + ahead)
        forward = max(min(live, limit), held["persistent_parameters"])
    buckets = held["reduce_bucket"] + held["reduce_buffer"]
    return Gathered(forward, live, held["gather_buffer"], buckets)


def _traps(workload: Workload, s: Settings, played: _Played) -> tuple[Trap, ...]:
    policy, version = workload.activation_checkpointing, workload.parallelism.deepspeed_version
    if not (s.attribute_frozen and policy.kind != "none" and played.frozen):
        return ()
    peak = played.by_category["unsharded_parameters"]
    if not policy.reentrant:
        return (
            Trap(
                "zero3-frozen-weights-gathered-twice",
                f"DeepSpeed {version} releases the frozen weights of a layer in the middle of its "
                "backward pass, after recomputing it, and gathers them once more, each when it is "
                "needed",
                "use DeepSpeed 0.19.2 or older, if no norm is frozen and partitioned",
                float(played.frozen * DTYPE_BYTES[s.dtype]),
            ),
        )
    if played.live <= s.max_live:
        return ()
    return (
        Trap(
            PILE_UP,
            f"DeepSpeed {version} keeps the frozen weights of every recomputed layer gathered "
            f"until the backward pass ends: {peak / 1e9:.1f} GB per GPU, whatever the number of "
            "GPUs",
            "set activation_checkpointing reentrant: false, or use DeepSpeed 0.19.2 or older",
            peak,
        ),
    )


def _one_by_one(workload: Workload) -> bool:
    """Whether its hooks see each expert on its own; a dense model has none to see."""
    return experts(workload) == "eager" and not workload.parallelism.z3_leaf_experts


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
        if _one_by_one(workload):
            message = (
                f"the model's code is taken to loop over its {workload.model.experts} experts, and "
                "ZeRO-3 to gather each of their matrices: the CPU decides the step"
            )
            hint = "write experts: grouped, or parallelism.z3_leaf_experts: true, where that is so"
            yield warning("experts-one-by-one", "workload", "experts", message, hint)

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
