"""DeepSpeed's JSON as (a part of) a job.

Keys and defaults as DeepSpeed's `DeepSpeedZeroConfig` has them, with and without ``stage3_``;
"auto" is resolved as transformers resolves it: batch and dtype from the trainer, bucket sizes from
the hidden size.
"""

from __future__ import annotations

import re

from sim.inputs.registry import FORMATS
from sim.inputs.translation import Source, Translation
from sim.inputs.tree import Branch, Place
from sim.interop.trainers import common, words
from sim.interop.trainers.common import TrainerFormat
from sim.interop.trainers.keys import AUTO, WHY_NO_MATTER, Keys

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
_DEFAULT = "DeepSpeed's default"
PINS = "DeepSpeed 0.19.8's default (false up to 0.18)"
#: of what is not followed: what false would change
_TRUE_HERE = ("contiguous_gradients", "reduce_scatter", "use_multi_rank_bucket_allreduce")
_BATCH = {
    "micro_batch": "train_micro_batch_size_per_gpu",
    "gradient_accumulation": "gradient_accumulation_steps",
    "global_batch": "train_batch_size",
}
_COMMUNICATION = {"fp32": "fp32", "fp16": "fp16", "bfp16": "bf16", "bf16": "bf16"}


def recognises(source: Source) -> bool:
    """ZeRO's table, or DeepSpeed's batch keys."""
    keys = source.keys
    batch = {"train_micro_batch_size_per_gpu", "train_batch_size"} & keys
    return "zero_optimization" in keys or bool(batch and {"fp16", "bf16", "optimizer"} & keys)


def read(source: Source, job: Translation) -> None:
    """Read a configuration."""
    table(Keys.of(source, job, _DEFAULT))


def named(source: Source, keys: Keys, name: str) -> None:
    """The configuration that a trainer's key names, or holds."""
    job, tree = keys.job, keys.tree(name)
    if isinstance(tree, Branch):
        table(Keys(job, tree, _DEFAULT, f"{name}."))
        return
    path = keys.text(name)
    if not path or job.has_file(path):
        return
    found = common.refer(source, path, job)
    if found is None:
        by_name(path, job, keys.place(name), name)
    else:
        read(found, job)


def by_name(name: str, job: Translation, place: Place, theirs: str) -> None:
    """What a DeepSpeed file that is not here says by its name: ``zero3``, ``ds_z2_offload``."""
    base = name.rpartition("/")[2].lower()
    found = re.search(r"(?:zero|z|(?<![a-z])stage)[_-]?(?:stage_?)?([0-3])", base)
    if found is None:
        job.faults.append(
            place.fault(theirs, f'"{name}" is not here; name it too, or put it beside this file')
        )
        return
    stage = int(found[1])
    job.take("parallelism.strategy", strategy_of(stage), place, theirs, name)
    if re.search(r"(?<!no)(?<!no[_-])offload", base):
        states = "optim" in base and "params" not in base
        what = "optimizer" if states else offloaded(stage)
        job.take("parallelism.offload", what, place, theirs, name)
    job.skip(place, theirs, f"{name} is not here: its stage is taken from its name", True)


def strategy_of(stage: int) -> str:
    """Our name of a ZeRO stage; stage 0 shards nothing."""
    return f"zero{stage}" if stage else "ddp"


def offloaded(stage: int) -> str:
    """What goes to the host where nothing but offload is said: weights too, where sharded."""
    return "all" if stage == 3 else "optimizer"


def away(zero: Keys, stage: int, states: str, weights: str) -> str:
    """Take what goes to the host by the keys that send states and weights there, "" for none.

    Weights go where stage 3 shards them; the key that says what goes is returned, "" for none.
    """
    if weights and stage != 3:
        zero.leave("stage 3 alone has it", weights)
        weights = ""
    if name := states or weights:
        what = ("all" if weights else "optimizer") if states else "parameters"
        zero.job.take("parallelism.offload", what, zero.place(name), zero.named(name))
    return name


def staged(zero: Keys, stage: int, name: str) -> None:
    """The strategy of a ZeRO stage, which a key says."""
    said = zero.place(name), zero.named(name), str(stage)
    zero.job.take("parallelism.strategy", strategy_of(stage), *said)


def by_stage(keys: Keys) -> None:
    """ZeRO's stage as an option of a script with DeepSpeed's engine (DeepSpeed-Chat)."""
    stage, job = keys.count("zero_stage"), keys.job
    if stage is None:
        return
    staged(keys, stage, "zero_stage")
    job.take("trainer", "deepspeed", keys.place("zero_stage"), "zero_stage")
    if stage and keys.flag("offload"):
        keys.put("parallelism.offload", offloaded(stage), "offload")
        job.suppose("parallelism.pin_memory", True, PINS)
    if not (keys.flag("bf16") or keys.flag("fp16")):
        kind = words.dtype(keys, "dtype") or "fp16"  # utils/ds_utils.py of DeepSpeed-Chat
        job.take("precision.kind", kind, keys.place("dtype"), keys.named("dtype"))
    if keys.text("deepspeed").lower() in ("true", ""):  # the engine is on, without a file
        keys.branch.entries.pop("deepspeed", None)


def table(keys: Keys) -> None:
    """A configuration's keys."""
    job = keys.job
    _batch(keys)
    zero = keys.inner("zero_optimization")
    stage = zero.count("stage") or 0
    if zero.text("stage") == AUTO:
        zero.fault(f'"{AUTO}" is no stage, and no trainer fills it in; it is 0, 1, 2 or 3', "stage")
    staged(zero, stage, "stage")
    if stage:
        _zero(zero, stage)
    else:
        zero.leave_matching("stage 0 shards nothing")
    if keys.inner("bf16").flag("enabled"):
        job.take("precision.kind", "bf16", keys.place("bf16"), "bf16.enabled")
    elif keys.inner("fp16").flag("enabled"):
        job.take("precision.kind", "fp16", keys.place("fp16"), "fp16.enabled")
    elif any(keys.inner(name).flag("enabled") is False for name in ("bf16", "fp16")):
        job.suppose("precision.kind", "fp32", "neither bf16 nor fp16 is enabled")
    communication = keys.text("communication_data_type")
    if stage and communication in _COMMUNICATION:
        ours = _COMMUNICATION[communication]
        keys.put("parallelism.communication_data_type", ours, "communication_data_type")
    clip = keys.number("gradient_clipping")
    if stage and clip == 0:
        keys.put("parallelism.clip_gradients", False, "gradient_clipping")
    words.optimizer(keys.inner("optimizer"), "type")
    for name in ("bf16", "fp16"):
        inner = keys.inner(name)
        inner.settle("deepspeed-precision")
        inner.rest("DeepSpeed")
    _cuts(keys)
    keys.leave(
        "DeepSpeed's own checkpointing, which a Hugging Face trainer does not call",
        "activation_checkpointing",
    )
    keys.settle("deepspeed")
    keys.rest("DeepSpeed")


def _cuts(keys: Keys) -> None:
    """What cuts a model or its sequences, and DeepSpeed's compiler."""
    keys.put_ulysses("sequence_parallel_size")
    tensor = keys.inner("tensor_parallel")
    tensor.put_degree("parallelism.tensor_parallel", "autotp_size")
    tensor.leave(WHY_NO_MATTER, "tp tensor_parallel dtype preset_model")
    if keys.inner("compile").flag("deepcompile"):
        keys.matters("DeepCompile's schedule is not modelled: taken as ZeRO's own", "compile")
    keys.leave("1: not split along it", "sequence_parallel_size tensor_parallel")


def _batch(keys: Keys) -> None:
    """Sequences: micro-batch, accumulation, all of a step."""
    for ours, theirs in _BATCH.items():
        keys.put_count(ours, theirs)
    for name in _BATCH.values():
        if keys.text(name) == AUTO:
            keys.leave("auto: as the trainer's arguments say", name)


def _zero(zero: Keys, stage: int) -> None:
    for name in _COUNTS:
        names = (name, name.removeprefix("stage3_"))
        if not zero.has(*names):
            continue
        if name in _STAGE3 and stage != 3:
            zero.leave("stage 3 alone has it", names)
        elif zero.text(*names) == AUTO:
            if name in _AUTOMATIC:
                zero.put(f"parallelism.{name}", AUTO, *names)
            else:
                zero.leave("auto: the default", names)
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
        for name in ("zero_quantized_weights", "zero_quantized_gradients"):
            zero.put_flag(f"parallelism.{name}", name)
        if (zero.count("mics_shard_size") or 0) > 0:
            zero.matters("MiCS is not modelled: sharded over all GPUs", "mics_shard_size")
        word = "gather_{}_weights_on_model_save"
        gather = [f"{at}{word.format(of)}" for of in ("16bit", "fp16") for at in ("stage3_", "")]
        zero.put_on("checkpoint.mode", *gather, value="full")
        zero.leave("auto: the trainer's", gather)
        if zero.flag("memory_efficient_linear") is False:
            why = "weights that backward keeps gathered are not counted"
            zero.matters(why, "memory_efficient_linear")
    for name in _TRUE_HERE:
        if zero.flag(name) is False and zero.job.at(f"parallelism.{name}") is None:
            zero.matters("taken as true, which is the default", name)
    zero.settle("deepspeed-zero")
    zero.rest("DeepSpeed")


def _offload(zero: Keys, stage: int) -> None:
    tables = ("offload_optimizer", "offload_param")
    devices = [zero.inner(name).text("device").lower() for name in tables]
    states, weights = (d in ("cpu", "nvme") for d in devices)
    states = bool(zero.flag("cpu_offload")) or states
    weights = bool(zero.flag("cpu_offload_param")) or weights
    name = away(zero, stage, tables[0] if states else "", tables[1] if weights else "")
    if not name:
        return
    weights = weights and stage == 3
    place, said = zero.place(name), zero.named(name)
    optimizer = zero.inner("offload_optimizer")
    if (optimizer.number("ratio") or 1.0) != 1.0:
        optimizer.matters("a part of the states on the GPU is not modelled: all are away", "ratio")
    if optimizer.flag("super_offload"):
        optimizer.matters("SuperOffload is not modelled: taken as plain offload", "super_offload")
    pins = [
        flag
        for table, on in zip(tables, (states, weights), strict=True)
        if on and (flag := zero.inner(table).flag("pin_memory")) is not None
    ]
    if pins:
        zero.job.take("parallelism.pin_memory", all(pins), place, said)
    zero.job.suppose("parallelism.pin_memory", True, PINS)
    for table in tables:
        inner = zero.inner(table)
        inner.settle("deepspeed-offload")
        inner.rest("DeepSpeed")
    if "nvme" in devices:
        zero.job.take("parallelism.offload_device", "nvme", place, said)


FORMATS.register(TrainerFormat("deepspeed", "a DeepSpeed file", recognises, read))
