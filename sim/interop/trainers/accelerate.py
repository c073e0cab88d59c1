"""accelerate's YAML as (a part of) a job: GPUs, strategy, precision; no batch, no model."""

from __future__ import annotations

from sim.inputs.registry import FORMATS
from sim.inputs.translation import Keys, Source, Translation
from sim.interop.trainers import common, deepspeed, fsdp_keys
from sim.interop.trainers.common import DTYPES, TrainerFormat

_MARKS = {
    "distributed_type",
    "compute_environment",
    "fsdp_config",
    "deepspeed_config",
    "parallelism_config",
    "num_processes",
    "num_machines",
    "mixed_precision",
}


def recognises(source: Source) -> bool:
    """Its kind of launch, or two other keys of accelerate's."""
    keys = source.keys
    return bool({"distributed_type", "compute_environment"} & keys) or len(_MARKS & keys) > 1


def read(source: Source, job: Translation) -> None:
    """Read the file, and the DeepSpeed file that it names."""
    keys = Keys(job, common.branch_of(source))
    world, nodes = keys.count("num_processes"), keys.count("num_machines")
    if nodes:
        job.nodes = (nodes, keys.place("num_machines"))
    if world:
        job.world = (world, keys.place("num_processes"))
    keys.leave("held against the machine", "num_processes", "num_machines")
    kind = keys.text("distributed_type").upper()
    plugin, zero = keys.inner("fsdp_config"), keys.inner("deepspeed_config")
    if kind == "FSDP" or (not kind and plugin.branch.entries):
        version = plugin.count("fsdp_version") or 1
        fsdp_keys.fsdp(plugin, job, version, [])
    elif kind == "DEEPSPEED":
        _zero(source, zero, job)
    elif kind in ("MULTI_GPU", "NO", ""):
        if kind:
            keys.put("parallelism.strategy", "ddp", "distributed_type")
    else:
        keys.fault(
            f"{kind} is not modelled; FSDP, DEEPSPEED, MULTI_GPU and NO are", "distributed_type"
        )
    _mesh(keys, job)
    precision = keys.text("mixed_precision").lower()
    if precision in DTYPES:
        keys.put("precision.kind", DTYPES[precision], "mixed_precision")
        if precision == "fp8":
            keys.put("precision.recipe", _recipe(keys), "mixed_precision")
    dynamo = keys.inner("dynamo_config")
    if dynamo.text("dynamo_backend").upper() not in ("", "NO"):
        job.take("compile", True, keys.place("dynamo_config"), "dynamo_config.dynamo_backend")
    job.suppose("trainer", "accelerate", "accelerate launches it")
    keys.leave_matching(
        common.WHY_NO_MATTER,
        r"compute_environment|debug|downcast_bf16|machine_rank|main_\w+|rdzv_backend|same_network"
        r"|tpu_\w+|use_cpu|gpu_ids|enable_cpu_affinity|fsdp_config|deepspeed_config|fp8_config"
        r"|distributed_type|megatron_lm_config|mpirun_config|ipex_config|dynamo_config|\w*commands?",
    )
    keys.rest("accelerate")


def _recipe(keys: Keys) -> str:
    """FP8's recipe by its backend."""
    backend = keys.inner("fp8_config").text("backend").upper()
    return "tensorwise" if backend in ("AO", "TORCHAO") else "te-delayed"


def _zero(source: Source, zero: Keys, job: Translation) -> None:
    """DeepSpeed by a file, or by accelerate's own few keys."""
    if zero.has("deepspeed_config_file"):
        deepspeed.named(source, zero, job, "deepspeed_config_file")
        zero.leave(common.WHY_NO_MATTER, "zero3_init_flag", "deepspeed_multinode_launcher")
        zero.rest("accelerate")
        return
    stage = zero.count("zero_stage")
    stage = 2 if stage is None else stage  # accelerate's default
    job.take(
        "parallelism.strategy",
        f"zero{stage}" if stage else "ddp",
        zero.place("zero_stage"),
        zero.named("zero_stage"),
        str(stage),
    )
    zero.put_count("gradient_accumulation", "gradient_accumulation_steps")
    held = [
        zero.text(f"offload_{n}_device").lower() in ("cpu", "nvme") for n in ("optimizer", "param")
    ]
    if stage and any(held):
        both = held[1] and stage == 3
        what = "all" if held[0] and both else "optimizer" if held[0] else "parameters"
        names = ("offload_optimizer_device",) if held[0] else ("offload_param_device",)
        zero.put("parallelism.offload", what, *names)
    if stage == 3 and zero.flag("zero3_save_16bit_model"):
        zero.put("checkpoint.mode", "full", "zero3_save_16bit_model")
    zero.leave(
        common.WHY_NO_MATTER,
        "deepspeed_multinode_launcher",
        "deepspeed_hostfile",
        "zero3_init_flag",
        "gradient_clipping",
        "offload_optimizer_device",
        "offload_param_device",
        "zero3_save_16bit_model",
        "deepspeed_moe_layer_cls_names",
        "offload_optimizer_nvme_path",
        "offload_param_nvme_path",
    )
    zero.rest("accelerate")


def _mesh(keys: Keys, job: Translation) -> None:
    """Axes of `parallelism_config`."""
    mesh = keys.inner("parallelism_config")
    for name, ours in (
        ("dp_replicate", "replicate"),
        ("tp", "tensor_parallel"),
        ("cp", "context_parallel"),
        ("dp_shard", "shard"),
    ):
        names = (f"parallelism_config_{name}_size", f"{name}_size")
        value = mesh.count(*names)
        if value and value > 1:
            mesh.put(f"parallelism.{ours}", value, *names)
        mesh.leave("1: not split along it", *names) if value == 1 else None
    sizes = [mesh.count(f"parallelism_config_{n}_size", f"{n}_size") for n in ("sp",)]
    if sizes[0] and sizes[0] > 1:
        names = ("parallelism_config_sp_size", "sp_size")
        mesh.put("parallelism.context_parallel", sizes[0], *names)
        mesh.put("parallelism.context_parallel_kind", "ulysses", *names)
        mesh.leave("all-to-alls either way", "parallelism_config_sp_backend", "sp_backend")
    rotate = mesh.text("parallelism_config_cp_comm_strategy", "cp_comm_strategy").lower()
    if not rotate and job.at("parallelism.context_parallel") is not None:
        job.suppose("parallelism.context_parallel_kind", "all-gather", "accelerate's default")
    if rotate and job.at("parallelism.context_parallel") is not None:
        mesh.put(
            "parallelism.context_parallel_kind",
            "all-gather" if rotate == "allgather" else "ring",
            "parallelism_config_cp_comm_strategy",
            "cp_comm_strategy",
        )
    mesh.rest("accelerate")


FORMATS.register(TrainerFormat("accelerate", "an accelerate file", recognises, read))
