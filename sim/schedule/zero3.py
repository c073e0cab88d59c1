"""ZeRO-3 as DeepSpeed 0.19.8 runs it: one training step.

`zero3_trace` lists what the modules do, `zero3_coordinator` what DeepSpeed issues around them;
here is the configuration, the order of a step, and the peak of gathered parameters.
"""

from __future__ import annotations

from typing import NamedTuple

from sim.model.modules import ModelTree
from sim.schedule.plan import Plan, Recorder
from sim.schedule.zero3_coordinator import DTYPE_BYTES, Coordinator, Settings
from sim.schedule.zero3_trace import Trace, build_trace
from sim.spec.workload import Workload

#: the last release without the attribution of frozen parameters to the active backward
LAST_WITHOUT_ATTRIBUTION = (0, 19, 2)
#: bytes that CPU Adam moves per element: parameter, both moments read and written, gradient read
CPU_ADAM_BYTES = 28.0

_traces: dict[tuple[int, tuple[bool, ...], bool, bool], tuple[ModelTree, Trace]] = {}


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


def build_zero3(workload: Workload, tree: ModelTree, world: int, first_step: bool = False) -> Plan:
    """Plan of one steady training step.

    Parameters
    ----------
    workload : Workload
        Strategy knobs by DeepSpeed's names in `parallelism`.
    tree : ModelTree
        The model's modules.
    world : int
        Ranks.
    first_step : bool
        The step in which DeepSpeed records its trace: every fetch on demand in the first
        micro-batch.

    Returns
    -------
    Plan
        Ops of one optimizer step, all micro-batches included.
    """
    return play_zero3(workload, tree, world, first_step).recorder.plan


def play_zero3(
    workload: Workload, tree: ModelTree, world: int, first_step: bool = False
) -> Coordinator:
    """As `build_zero3`, but return the coordinator, which knows why each collective was issued."""
    settings = settings_of(workload, world)
    trace = trace_of(workload, tree)
    groups = {"shard": world}
    if settings.hpz > 1:
        groups["hpz"] = settings.hpz
    if settings.quantized_gradients and world > settings.gpus_per_node:
        groups |= {"node": settings.gpus_per_node, "replicate": world // settings.gpus_per_node}
    r = Recorder(groups)
    c = Coordinator(trace, settings, r)
    if first_step:
        c.forget_persistent()
    for micro_step in range(workload.gradient_accumulation):
        r.micro_step = micro_step
        c.boundary = micro_step == workload.gradient_accumulation - 1
        c.micro_batch(tracing=first_step and micro_step == 0)
    _step(workload, c)
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
    if workload.precision.kind == "fp16":
        _scalar(c, 1.0, "u8")
    for size in sub_groups:
        if not s.offload_optimizer:
            r.kernel("compute", "norm", "clip", float(c.size * size))
        _scalar(c, 8.0, "fp64")
    if sub_groups:
        r.host_sync(r.record("compute"))
    if not s.offload_optimizer:
        r.segment("optimizer", "optimizer", -1)
    else:
        r.wait_stream("host", "offload_out")
        for size in sub_groups:
            r.host("optimizer", "optimizer", CPU_ADAM_BYTES * size)
            if not s.offload_parameters:
                r.wait("offload_in", r.record("host"))
                moved = r.kernel("offload_in", "h2d", "optimizer", float(c.size * size))
                r.host_sync((moved,))
        r.wait_stream("compute", "offload_in")
    if any(c.persistent):
        c.gather_persistent()


def _scalar(c: Coordinator, size: float, dtype: str) -> None:
    r = c.recorder
    r.wait_stream("all_reduce", "compute")
    r.collective("all_reduce", "all_reduce", "clip", "shard", size, size, dtype)
    r.wait_stream("compute", "all_reduce")


def settings_of(workload: Workload, world: int) -> Settings:
    """DeepSpeed's configuration with Hugging Face's "auto" resolved.

    Notes
    -----
    With hidden size h: reduce bucket h h, prefetch bucket 0.9 h h, persistence threshold 10 h.

    Source: transformers 4.57.1, ``HfTrainerDeepSpeedConfig.trainer_config_finalize``.
    """
    p = workload.parallelism
    h = workload.model.hidden_size
    kind = workload.precision.kind
    dtype = "bf16" if kind == "fp8" else kind

    def resolve(value: float | str, auto: int) -> int:
        return auto if isinstance(value, str) else int(value)

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
        sub_group=int(p.sub_group_size),
        attribute_frozen=attributes_frozen(p.deepspeed_version),
        offload_parameters=p.offload in ("parameters", "all"),
        offload_optimizer=p.offload in ("optimizer", "all"),
        nvme=p.offload_device == "nvme",
    )


def attributes_frozen(version: str) -> bool:
    """Whether a frozen parameter fetched in a recompute is held by the active backward.

    Notes
    -----
    In force in 0.19.8, absent in 0.19.2 (pull request 8148).
    """
    digits = ["".join(ch for ch in part if ch.isdigit()) for part in version.split(".")[:3]]
    return tuple(int(d or 0) for d in digits) > LAST_WITHOUT_ATTRIBUTION


def checkpointed_layers(workload: Workload) -> tuple[bool, ...]:
    """Which layers recompute their forward in the backward pass."""
    a, layers = workload.activation_checkpointing, workload.model.layers
    if a.kind == "none":
        return (False,) * layers
    if a.kind != "selective-blocks":
        return (True,) * layers
    if a.fraction is not None:
        return tuple(i < round(a.fraction * layers) for i in range(layers))
    return tuple(i % a.every == 0 for i in range(layers))


def trace_of(workload: Workload, tree: ModelTree) -> Trace:
    """The calls of a micro-batch (kept for a tree seen before)."""
    layers = checkpointed_layers(workload)
    asked = workload.method.input_require_grads
    # PEFT asks for input gradients where checkpointing is on: without them nothing would train
    grads = workload.method.kind != "full" and (any(layers) if asked is None else asked)
    key = (id(tree), layers, workload.activation_checkpointing.reentrant, grads)
    found = _traces.get(key)
    if found is None or found[0] is not tree:
        if len(_traces) >= 32:
            _traces.clear()
        found = (tree, build_trace(tree, layers, workload.activation_checkpointing.reentrant, grads))
        _traces[key] = found
    return found[1]


def zero3_live_peak(workload: Workload, tree: ModelTree, world: int) -> LivePeak:
    """Gathered parameters and buffers of one rank at their largest.

    Parameters
    ----------
    workload : Workload
        The job.
    tree : ModelTree
        Its modules.
    world : int
        Ranks.

    Returns
    -------
    LivePeak
        ``unsharded_parameters`` (persistent ones included), ``persistent_parameters``,
        ``gather_buffer`` (the largest coalesced all-gather, held twice while it is unpacked),
        ``reduce_bucket`` and ``reduce_buffer``; and the traps.
    """
    one = workload.model_copy(update={"gradient_accumulation": 1})
    c = play_zero3(one, tree, world)
    s, trace = c.settings, c.trace
    wide = DTYPE_BYTES[s.reduce_dtype]
    coalesced = [sum(c.shard[p] for p in i.parameters) for i in c.issued if len(i.parameters) > 1 and i.trigger != "ipg_bucket"]
    reduced = [sum(c.shard[p] for p in i.parameters) for i in c.issued if i.trigger == "ipg_bucket"]
    largest = max((n for n, t in zip(trace.numel, trace.trainable, strict=True) if t), default=0)
    peak = float(c.peak_live * c.size)
    by_category = {
        "unsharded_parameters": peak,
        "persistent_parameters": float(c.persistent_numel * c.size),
        "gather_buffer": float(max(coalesced, default=0) * world * c.size),
        "reduce_bucket": float(s.reduce_bucket * c.size) if largest else 0.0,
        "reduce_buffer": float(max(reduced, default=0) * world * wide),
    }
    return LivePeak(by_category, _traps(workload, c, peak))


def _traps(workload: Workload, c: Coordinator, peak: float) -> tuple[Trap, ...]:
    s, trace = c.settings, c.trace
    a = workload.activation_checkpointing
    frozen = sum(n for n, t in zip(trace.numel, trace.trainable, strict=True) if not t)
    if not (s.attribute_frozen and a.kind != "none" and frozen and c.peak_live > s.max_live):
        return ()
    if not a.reentrant:
        return ()
    return (
        Trap(
            "zero3-frozen-weights-pile-up",
            f"DeepSpeed {workload.parallelism.deepspeed_version} keeps the frozen weights of every "
            f"recomputed layer gathered until the backward pass ends: {peak / 1e9:.1f} GB per GPU, "
            "whatever the number of GPUs",
            "set activation_checkpointing reentrant: false, or use DeepSpeed 0.19.2 or older",
            peak,
        ),
    )
