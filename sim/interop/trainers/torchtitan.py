"""torchtitan's TOML (to v0.2) and the JSON that later versions save of their configuration.

Defaults as its `TrainingConfig` and `ParallelismConfig` have them.
"""

from __future__ import annotations

import re

from sim.inputs.registry import FORMATS
from sim.inputs.translation import Keys, Source, Translation
from sim.inputs.tree import Branch
from sim.interop.trainers import common
from sim.interop.trainers.common import DTYPES, TrainerFormat
from sim.pipeline.schedules import SCHEDULES

_DEFAULT = "torchtitan's default"
_AXES = (
    ("data_parallel_replicate_degree", "replicate"),
    ("tensor_parallel_degree", "tensor_parallel"),
    ("pipeline_parallel_degree", "pipeline_parallel"),
    ("context_parallel_degree", "context_parallel"),
    ("data_parallel_shard_degree", "shard"),
)
_SCHEDULES = {schedule.torch_name.lower(): name for name, schedule in SCHEDULES.items()}
#: flavours of its models by the names of the catalogue
_FAMILIES = {
    "llama3": "llama-3.1",
    "llama2": "llama-2",
    "qwen3": "qwen3",
    "deepseek_v3": "deepseek",
}
_SHAPES = {
    "llama3-8b": "llama-3.1-8b",
    "llama3-70b": "llama-3.1-70b",
    "llama3-405b": "llama-3.1-405b",
    "deepseek_v3-16b": "deepseek-v2-lite",
    "deepseek_v3-671b": "deepseek-v3",
}


def recognises(source: Source) -> bool:
    """Its tables of training and of the model."""
    tree = source.tree
    if not isinstance(tree, Branch) or not {"training", "parallelism"} & source.keys:
        return False
    found = [
        k
        for k in ("training", "model", "parallelism", "job", "checkpoint", "optimizer")
        if isinstance(tree.entries.get(k), Branch)
    ]
    return len(found) > 2


def read(source: Source, job: Translation) -> None:
    """Read the configuration."""
    keys = Keys(job, common.branch_of(source))
    _model(keys, job)
    training = keys.inner("training")
    training.put_count("sequence_length", "seq_len", "max_context_length")
    job.suppose("sequence_length", 2048, _DEFAULT)
    training.put_count("micro_batch", "local_batch_size", "batch_size")
    job.suppose("micro_batch", 8, _DEFAULT)
    whole = training.count("global_batch_size")
    if whole and whole > 0:
        training.put("global_batch", whole, "global_batch_size")
    else:
        job.suppose("gradient_accumulation", 1, _DEFAULT)
    training.put_count("steps", "steps")
    if training.flag("enable_cpu_offload"):
        training.put("parallelism.offload", "all", "enable_cpu_offload")
    reduce = DTYPES.get(training.text("mixed_precision_reduce"), "")
    if reduce:
        training.put("parallelism.reduce_dtype", reduce, "mixed_precision_reduce")
    param = DTYPES.get(training.text("mixed_precision_param"), "")
    if training.number("max_norm") == 0:
        training.put("parallelism.clip_gradients", False, "max_norm")
    if DTYPES.get(training.text("dtype")) == "bf16":
        training.put("precision.master", "bf16", "dtype")
    training.leave_matching(
        common.WHY_NO_MATTER,
        r"dataset\w*|max_norm|gc_\w+|seed|warmup\w*"
        "|deterministic|mixed_precision_\\w+|dtype|disable_cuda_graphs",
    )
    training.rest("torchtitan")
    _parallelism(keys, job)
    _precision(keys, job, param)
    _checkpointing(keys.inner("activation_checkpoint"))
    compiled = keys.inner("compile")
    if compiled.flag("enable"):
        compiled.put(
            "compile",
            "model" in compiled.words("components") or not compiled.has("components"),
            "enable",
        )
        if "loss" in compiled.words("components"):
            compiled.put("loss", "compiled", "components")
    optimizer = keys.inner("optimizer")
    common.optimizer(optimizer, "name")
    how = optimizer.text("implementation")
    optimizer.put("optimizer_implementation", how, "implementation") if how else None
    save = keys.inner("checkpoint")
    if save.flag("enable", "enable_checkpoint") is not True:
        job.take("checkpoint.interval", None, save.place("enable"), save.named("enable"))
    elif save.text("async_mode") not in ("", "disabled"):
        save.put("checkpoint.asynchronous", True, "async_mode")
    job.suppose("method.kind", "full", "torchtitan trains in full")
    job.suppose("trainer", "torchtitan", "torchtitan's loop")
    job.suppose("attention", "sdpa", _DEFAULT)
    keys.leave_matching(
        common.WHY_NO_MATTER,
        "job|profiling|metrics|lr_scheduler|validation|comm|debug|experimental"
        "|fault_tolerance|memory_estimation|compile|checkpoint|optimizer"
        "|activation_checkpoint|quantize|float8|hf_assets_path|dump_folder"
        "|tokenizer|dataloader",
    )
    keys.rest("torchtitan")


def _model(keys: Keys, job: Translation) -> None:
    model = keys.inner("model", "model_spec")
    family, flavour = model.text("name"), model.text("flavor")
    if family:
        shape = f"{family}-{flavour}".lower()
        name = _SHAPES.get(
            shape, re.sub(r"^(\w+?)-", lambda m: _FAMILIES.get(m[1], m[1]) + "-", shape)
        )
        model.put("model", name, "flavor", "name")
    model.leave(
        common.WHY_NO_MATTER,
        "name",
        "hf_assets_path",
        "tokenizer_path",
        "norm_type",
        "print_after_conversion",
    )


def _parallelism(keys: Keys, job: Translation) -> None:
    mesh = keys.inner("parallelism")
    sizes = {name: mesh.count(name) for name, _ in _AXES}
    shard = sizes["data_parallel_shard_degree"]
    replicate = sizes["data_parallel_replicate_degree"] or 1
    ddp = shard == 1 and replicate > 1
    place = mesh.place("data_parallel_shard_degree")
    job.take(
        "parallelism.strategy",
        "ddp" if ddp else "fsdp2",
        place,
        mesh.named("data_parallel_shard_degree"),
    )
    for name, ours in _AXES:
        value = sizes[name]
        if value and value > 1 and not (ddp and ours == "replicate"):
            mesh.put(f"parallelism.{ours}", value, name)
    again = mesh.text("fsdp_reshard_after_forward")
    if again == "never":
        mesh.put("parallelism.reshard_after_forward", False, "fsdp_reshard_after_forward")
    pipelined = (sizes["pipeline_parallel_degree"] or 1) > 1
    if pipelined:
        if again in ("", "default"):
            job.take(
                "parallelism.reshard_after_forward",
                False,
                mesh.place("fsdp_reshard_after_forward"),
                mesh.named("fsdp_reshard_after_forward"),
                "default with a pipeline",
            )
        word = mesh.text("pipeline_parallel_schedule").lower() or "1f1b"
        if word in _SCHEDULES:
            mesh.put(
                "parallelism.pipeline_schedule", _SCHEDULES[word], "pipeline_parallel_schedule"
            )
        else:
            mesh.fault(
                f'"{word}" is not modelled; {", ".join(_SCHEDULES)} are',
                "pipeline_parallel_schedule",
            )
        for side in ("first", "last"):
            mesh.put_count(
                f"parallelism.pipeline_{side}_stage_less_layers",
                f"pipeline_parallel_{side}_stage_less_layers",
            )
    if (sizes["context_parallel_degree"] or 1) > 1:
        how = mesh.text("context_parallel_rotate_method")
        job.suppose(
            "parallelism.context_parallel_kind",
            "ring" if how == "alltoall" else "all-gather",
            _DEFAULT,
        )
    if mesh.flag("enable_sequence_parallel") is False:
        mesh.put("parallelism.sequence_parallel", False, "enable_sequence_parallel")
    if mesh.flag("disable_loss_parallel"):
        mesh.put("parallelism.loss_parallel", False, "disable_loss_parallel")
    common.experts(mesh, job, "expert_parallel_degree")
    if mesh.text("expert_parallel_comm_backend").lower() == "deepep":
        mesh.put("parallelism.expert_dispatch", "deepep", "expert_parallel_comm_backend")
    if mesh.flag("enable_async_tensor_parallel"):
        mesh.put(
            "parallelism.tensor_parallel_style", "dtensor-async", "enable_async_tensor_parallel"
        )
    mesh.leave(
        "1, or what is left over",
        *(n for n, _ in _AXES),
        "fsdp_reshard_after_forward",
        "enable_async_tensor_parallel",
        "expert_parallel_degree",
        "expert_parallel_comm_backend",
        "pipeline_parallel_schedule",
        "context_parallel_rotate_method",
        "pipeline_parallel_microbatch_size",
        "context_parallel_load_balancer",
    )
    mesh.rest("torchtitan")


def _precision(keys: Keys, job: Translation, param: str) -> None:
    model = keys.inner("model")
    converters = [w.rpartition(".")[2] for w in model.words("converters")]
    quantize = keys.inner("quantize").inner("linear").inner("float8")
    if not quantize.branch.entries:
        quantize = keys.inner("float8")
    if "float8" in converters:
        model.put("precision.kind", "fp8", "converters")
        recipe = quantize.text("recipe_name") or "tensorwise"
        job.take(
            "precision.recipe",
            recipe if recipe in ("rowwise", "tensorwise") else "tensorwise",
            quantize.place("recipe_name"),
            quantize.named("recipe_name"),
        )
        if quantize.flag("enable_fsdp_float8_all_gather"):
            quantize.put("precision.all_gather", "fp8", "enable_fsdp_float8_all_gather")
        return
    job.suppose("precision.kind", param or "bf16", _DEFAULT)


def _checkpointing(keys: Keys) -> None:
    mode = keys.text("mode")
    if mode == "full":
        keys.put("activation_checkpointing.kind", "full", "mode")
    elif mode == "selective" or not mode:
        option = keys.text("selective_ac_option") or "op"
        if option.isdigit():
            keys.put("activation_checkpointing.kind", "selective-blocks", "selective_ac_option")
            keys.put("activation_checkpointing.every", int(option), "selective_ac_option")
        elif mode or keys.branch.entries:
            keys.put("activation_checkpointing.kind", "selective-op", "selective_ac_option", "mode")
        else:
            keys.job.suppose("activation_checkpointing.kind", "selective-op", _DEFAULT)
    elif mode == "none":
        keys.put("activation_checkpointing.kind", "none", "mode")
    else:
        keys.matters(f"{mode} is not modelled: taken as full", "mode")
        keys.put("activation_checkpointing.kind", "full", "mode")
    keys.leave(
        "read above",
        "selective_ac_option",
        "per_op_sac_force_recompute_mm_shapes_by_fqns",
        "early_stop",
        "mode",
    )


FORMATS.register(TrainerFormat("torchtitan", "a torchtitan configuration", recognises, read))
