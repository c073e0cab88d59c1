"""DeepSpeed's JSON as (a part of) a job.

Keys and defaults as DeepSpeed's `DeepSpeedZeroConfig` has them, with and without ``stage3_``;
"auto" is resolved as transformers resolves it: batch and dtype from the trainer, bucket sizes from
the hidden size.
"""

from __future__ import annotations

from sim.inputs.registry import FORMATS
from sim.inputs.translation import AUTO, Keys, Source, Translation
from sim.inputs.tree import Branch
from sim.interop.trainers import common
from sim.interop.trainers.common import TrainerFormat

_COUNTS = (
    "stage3_prefetch_bucket_size",
    "stage3_param_persistence_threshold",
    "stage3_max_live_parameters",
    "stage3_max_reuse_distance",
    "reduce_bucket_size",
    "allgather_bucket_size",
    "sub_group_size",
)
_AUTOMATIC = frozenset(
    {"stage3_prefetch_bucket_size", "stage3_param_persistence_threshold", "reduce_bucket_size"}
)
_STAGE3 = frozenset({"sub_group_size", *(k for k in _COUNTS if k.startswith("stage3"))})
_COMMUNICATION = {"fp32": "fp32", "fp16": "fp16", "bfp16": "bf16", "bf16": "bf16"}


def recognises(source: Source) -> bool:
    """ZeRO's table, or DeepSpeed's batch keys."""
    keys = source.keys
    batch = {"train_micro_batch_size_per_gpu", "train_batch_size"} & keys
    return "zero_optimization" in keys or bool(batch and {"fp16", "bf16", "optimizer"} & keys)


def read(source: Source, job: Translation) -> None:
    """Read a configuration."""
    table(Keys(job, common.branch_of(source)), job)


def named(source: Source, keys: Keys, job: Translation, name: str) -> None:
    """The configuration that a trainer's key names, or holds."""
    tree = keys.tree(name)
    if isinstance(tree, Branch):
        table(Keys(job, tree, f"{name}."), job)
        return
    path = keys.text(name)
    if not path or job.has_file(path):
        return
    place = keys.place(name)
    found = common.refer(source, path, job, place, name)
    if found is None:
        common.zero_by_name(path, job, place, name)
    else:
        read(found, job)


def table(keys: Keys, job: Translation) -> None:
    """A configuration's keys."""
    _batch(keys, job)
    zero = keys.inner("zero_optimization")
    stage = zero.count("stage") or 0
    job.take(
        "parallelism.strategy",
        f"zero{stage}" if stage else "ddp",
        zero.place("stage"),
        zero.named("stage"),
        str(stage),
    )
    if stage:
        _zero(zero, job, stage)
    else:
        zero.leave_matching("stage 0 shards nothing", ".*")
    if keys.inner("bf16").flag("enabled"):
        job.take("precision.kind", "bf16", keys.place("bf16"), "bf16.enabled")
    elif keys.inner("fp16").flag("enabled"):
        job.take("precision.kind", "fp16", keys.place("fp16"), "fp16.enabled")
    communication = keys.text("communication_data_type")
    if stage and communication in _COMMUNICATION:
        keys.put(
            "parallelism.communication_data_type",
            _COMMUNICATION[communication],
            "communication_data_type",
        )
    clip = keys.number("gradient_clipping")
    if stage and clip == 0:
        keys.put("parallelism.clip_gradients", False, "gradient_clipping")
    kind = keys.inner("optimizer").text("type")
    if kind:
        common.optimizer(keys.inner("optimizer"), "type")
    if keys.has("activation_checkpointing"):
        keys.leave(
            "DeepSpeed's own checkpointing, which a Hugging Face trainer does not call",
            "activation_checkpointing",
        )
    for name in (
        "compression_training",
        "data_efficiency",
        "curriculum_learning",
        "flops_profiler",
        "sparse_attention",
        "autotuning",
    ):
        if name in keys.branch.entries:
            keys.matters("is not modelled", name)
    keys.leave_matching(
        common.WHY_NO_MATTER,
        "optimizer|scheduler|steps_per_print|wall_clock.*"
        "|zero_allow_.*|zero_force_.*|comms_.*|monitor_config|tensorboard|csv_.*"
        "|wandb|memory_breakdown|dump_state|prescale_.*|gradient_predivide.*"
        "|fp16|bf16|checkpoint|seed|gradient_clipping|communication_.*",
    )
    keys.rest("DeepSpeed")


def _batch(keys: Keys, job: Translation) -> None:
    """Sequences: micro-batch, accumulation, all of a step."""
    keys.put_count("micro_batch", "train_micro_batch_size_per_gpu")
    keys.put_count("gradient_accumulation", "gradient_accumulation_steps")
    keys.put_count("global_batch", "train_batch_size")
    for name in (
        "train_micro_batch_size_per_gpu",
        "gradient_accumulation_steps",
        "train_batch_size",
    ):
        if keys.text(name) == AUTO:
            keys.leave("auto: as the trainer's arguments say", name)


def _zero(zero: Keys, job: Translation, stage: int) -> None:
    for name in _COUNTS:
        names = (name, name.removeprefix("stage3_"))
        if not zero.has(*names):
            continue
        if name in _STAGE3 and stage != 3:
            zero.leave("stage 3 alone has it", *names)
        elif zero.text(*names) == AUTO:
            if name in _AUTOMATIC:
                zero.put(f"parallelism.{name}", AUTO, *names)
            else:
                zero.leave("auto: the default", *names)
        else:
            value = zero.number(*names)
            if name == "sub_group_size" and value == 0:
                value = 1  # every parameter a group of its own
            if value is not None:
                zero.put(f"parallelism.{name}", value, *names)
    _offload(zero, stage)
    zero.put_flag("parallelism.overlap_comm", "overlap_comm")
    if stage < 3:
        zero.put_flag("parallelism.reduce_scatter", "reduce_scatter")
    if stage == 3:
        zero.put_count("parallelism.zero_hpz_partition_size", "zero_hpz_partition_size")
        zero.put_flag("parallelism.zero_quantized_weights", "zero_quantized_weights")
        zero.put_flag("parallelism.zero_quantized_gradients", "zero_quantized_gradients")
        if (zero.count("mics_shard_size") or 0) > 0:
            zero.matters("MiCS is not modelled: sharded over all GPUs", "mics_shard_size")
        gather = ("stage3_gather_16bit_weights_on_model_save", "gather_16bit_weights_on_model_save")
        if zero.flag(*gather):
            zero.put("checkpoint.mode", "full", *gather)
        zero.leave("auto: the trainer's", *gather)
    zero.leave(
        "the default here",
        "contiguous_gradients",
        "allgather_partitions",
        "reduce_scatter",
        "stage3_gather_16bit_weights_on_model_save",
        "gather_16bit_weights_on_model_save",
        "round_robin_gradients",
        "ignore_unused_parameters",
        "load_from_fp32_weights",
        "elastic_checkpoint",
        "stage",
    )
    zero.rest("DeepSpeed")


def _offload(zero: Keys, stage: int) -> None:
    state, weights = zero.inner("offload_optimizer"), zero.inner("offload_param")
    devices = [k.text("device").lower() for k in (state, weights)]
    held = [d in ("cpu", "nvme") for d in devices]
    if zero.flag("cpu_offload"):
        held[0] = True
    if not any(held):
        return
    kind = {(True, True): "all", (True, False): "optimizer", (False, True): "parameters"}
    names = ("offload_optimizer",) if held[0] else ("offload_param",)
    chosen = kind[held[0], held[1] and stage == 3]
    zero.job.take("parallelism.offload", chosen, zero.place(*names), zero.named(*names))
    if "nvme" in devices:
        zero.job.take("parallelism.offload_device", "nvme", zero.place(*names), zero.named(*names))


FORMATS.register(TrainerFormat("deepspeed", "a DeepSpeed file", recognises, read))
