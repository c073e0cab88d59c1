"""accelerate's YAML as (a part of) a job: GPUs, strategy, precision; no batch, no model."""

from __future__ import annotations

from sim.inputs.registry import FORMATS
from sim.inputs.translation import Source, Translation
from sim.interop.trainers import deepspeed, fsdp_keys
from sim.interop.trainers.common import TrainerFormat
from sim.interop.trainers.keys import WHY_NO_MATTER, Keys
from sim.interop.trainers.words import put_dtype, recipe

_MARKS = {
    "distributed_type", "compute_environment", "fsdp_config", "deepspeed_config",
    "parallelism_config", "num_processes", "num_machines", "mixed_precision",
}  # fmt: skip
_AXES = {
    "dp_replicate": "replicate", "tp": "tensor_parallel", "cp": "context_parallel",
    "dp_shard": "shard",
}  # fmt: skip


def recognises(source: Source) -> bool:
    """Its kind of launch, or two other keys of accelerate's."""
    keys = source.keys
    return bool({"distributed_type", "compute_environment"} & keys) or len(_MARKS & keys) > 1


def read(source: Source, job: Translation) -> None:
    """Read the file, and the DeepSpeed file that it names."""
    keys = Keys.of(source, job, "accelerate's default")
    world, nodes = keys.count("num_processes"), keys.count("num_machines")
    if nodes:
        job.nodes = (nodes, keys.place("num_machines"))
    if world:
        job.world = (world, keys.place("num_processes"))
    keys.leave("held against the machine", "num_processes num_machines")
    kind = keys.text("distributed_type").upper()
    plugin, inner = keys.inner("fsdp_config"), keys.inner("deepspeed_config")
    if kind == "FSDP" or (not kind and plugin.branch.entries):
        fsdp_keys.fsdp(plugin, plugin.count("fsdp_version") or 1, [])
    elif kind == "DEEPSPEED":
        zero(source, inner)
    elif kind in ("MULTI_GPU", "NO"):
        keys.put("parallelism.strategy", "ddp", "distributed_type")
    elif kind:
        message = f"{kind} is not modelled; FSDP, DEEPSPEED, MULTI_GPU and NO are"
        keys.fault(message, "distributed_type")
    mesh(keys.inner("parallelism_config"))
    put_dtype(keys, "precision.kind", "mixed_precision")
    if keys.text("mixed_precision").lower() == "fp8":
        recipe(keys, _recipe(keys), "mixed_precision")
    _compiled(keys)
    job.launched = "accelerate launches it"
    keys.settle("accelerate")
    keys.rest("accelerate")


def compiler(dynamo: Keys) -> None:
    """TorchDynamo's backend: one that makes no kernels of its own leaves the model as it is."""
    backend = dynamo.text("dynamo_backend").upper()
    if backend == "INDUCTOR":
        dynamo.put("compile", True, "dynamo_backend")
    elif backend not in ("", "NO"):
        dynamo.matters(f"{backend} is not modelled: taken as not compiled", "dynamo_backend")


def _compiled(keys: Keys) -> None:
    dynamo = keys.inner("dynamo_config")
    compiler(dynamo)
    if dynamo.text("dynamo_mode").lower() == "default":
        dynamo.leave("the default", "dynamo_mode")
    dynamo.settle("accelerate-dynamo")
    dynamo.rest("accelerate")
    keys.leave(WHY_NO_MATTER, "dynamo_config")


def _recipe(keys: Keys) -> str:
    """FP8's recipe by its backend."""
    config = keys.inner("fp8_config")
    if config.text("backend").upper() in ("AO", "TORCHAO"):
        return "tensorwise"
    return "te-mxfp8" if config.flag("use_mxfp8_block_scaling") else "te-delayed"


def zero(source: Source, keys: Keys) -> None:
    """DeepSpeed by a file, or by accelerate's own few keys: of its YAML or of its command."""
    if keys.has("deepspeed_config_file"):
        deepspeed.named(source, keys, "deepspeed_config_file")
        keys.leave(WHY_NO_MATTER, "zero3_init_flag deepspeed_multinode_launcher")
        keys.rest("accelerate")
        return
    stage = keys.count("zero_stage")
    stage = 2 if stage is None else stage  # accelerate's default
    deepspeed.staged(keys, stage, "zero_stage")
    keys.put_count("gradient_accumulation", "gradient_accumulation_steps")
    names = ("offload_optimizer_device", "offload_param_device")
    sent = [name if keys.text(name).lower() in ("cpu", "nvme") else "" for name in names]
    if stage and deepspeed.away(keys, stage, *sent):
        # utils/dataclasses.py, DeepSpeedPlugin: its configuration says no pin_memory
        keys.job.suppose("parallelism.pin_memory", True, deepspeed.PINS)
    if stage == 3:
        keys.put_on("checkpoint.mode", "zero3_save_16bit_model", value="full")
    keys.leave(
        WHY_NO_MATTER,
        "deepspeed_multinode_launcher deepspeed_hostfile zero3_init_flag gradient_clipping "
        "offload_optimizer_device offload_param_device zero3_save_16bit_model "
        "deepspeed_inclusion_filter deepspeed_exclusion_filter deepspeed_moe_layer_cls_names "
        "offload_optimizer_nvme_path offload_param_nvme_path",
    )
    keys.rest("accelerate")


def mesh(axes: Keys) -> None:
    """Axes of `parallelism_config`, or of `ParallelismConfig`."""
    for name, ours in _AXES.items():
        names = _named(f"{name}_size")
        axes.put_degree(f"parallelism.{ours}", *names)
        if axes.count(*names) == 1:
            axes.leave("1: not split along it", names)
    names = _named("sp_size")
    if axes.put_ulysses(*names):
        axes.leave("all-to-alls either way", _named("sp_backend"))
    names = _named("cp_comm_strategy")
    rotate = axes.text(*names).lower()
    if axes.job.at("parallelism.context_parallel") is not None:
        kind = "all-gather" if rotate in ("", "allgather") else "ring"
        if rotate:
            axes.put("parallelism.context_parallel_kind", kind, *names)
        else:
            axes.suppose("parallelism.context_parallel_kind", kind)
    axes.rest("accelerate")


def _named(name: str) -> tuple[str, str]:
    """An axis' key, with and without the prefix."""
    return f"parallelism_config_{name}", name


FORMATS.register(TrainerFormat("accelerate", "an accelerate file", recognises, read))
