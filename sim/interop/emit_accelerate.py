"""A plan as a configuration of Hugging Face accelerate (`accelerate launch --config_file`).

Keys as accelerate 1.x documents them. The file holds no batch, sequence or model: these go to the
training script, and stand in the comment above.
"""

from __future__ import annotations

from typing import Any

from sim.inputs.recipes import RECIPES
from sim.inputs.shares import mesh_of
from sim.inputs.strategy import strategy_of
from sim.inputs.topology import Topology
from sim.inputs.workload import Checkpointing, Workload
from sim.interop.emit_common import state_dict_type
from sim.interop.yaml_text import blocks
from sim.mesh import Mesh

_SHARDING = {
    "full-shard": "FULL_SHARD",
    "shard-grad-op": "SHARD_GRAD_OP",
    "no-shard": "NO_SHARD",
}


def beside_trainer(topology: Topology, workload: Workload) -> str:
    """The file beside that of a trainer, which does its own gradient checkpointing."""
    none = Checkpointing(kind="none")
    own = workload.model_copy(update={"activation_checkpointing": none})
    return blocks(_config(topology, own), comment(workload))


def accelerate_yaml(topology: Topology, workload: Workload) -> str:
    """The configuration file."""
    return blocks(_config(topology, workload), comment(workload))


def _config(topology: Topology, workload: Workload) -> dict[str, Any]:
    p, strategy = workload.parallelism, strategy_of(workload)
    config: dict[str, Any] = {"compute_environment": "LOCAL_MACHINE", "debug": False}
    if strategy.deepspeed:
        config["distributed_type"] = "DEEPSPEED"
        config["deepspeed_config"] = {
            "deepspeed_config_file": "ds_config.json",
            "zero3_init_flag": strategy.zero_stage(p) == 3,
        }
        if topology.node_count > 1:
            config["deepspeed_config"]["deepspeed_multinode_launcher"] = "standard"
        if p.context_parallel > 1:
            config["parallelism_config"] = {
                "parallelism_config_sp_backend": "deepspeed",
                "parallelism_config_sp_size": p.context_parallel,
            }
    elif not strategy.fsdp_version:
        config["distributed_type"] = "MULTI_GPU" if topology.world_size > 1 else "NO"
    else:
        config["distributed_type"] = "FSDP"
        config["fsdp_config"] = _fsdp(workload)
        if max(p.replicate, p.context_parallel, p.tensor_parallel) > 1:
            config["parallelism_config"] = _mesh(mesh_of(topology, workload))
    config |= {
        "machine_rank": 0,
        "main_training_function": "main",
        "num_machines": topology.node_count,
        "num_processes": topology.world_size,
        "rdzv_backend": "c10d" if topology.node_count > 1 else "static",
        "same_network": True,
        "use_cpu": False,
    }
    if not strategy.deepspeed:  # a DeepSpeed file says its own
        precision = workload.precision.kind
        config["mixed_precision"] = {"fp32": "no"}.get(precision, precision)
        if precision == "fp8":
            recipe = workload.precision.recipe
            config["fp8_config"] = {"backend": "TE" if RECIPES[recipe].library == "te" else "AO"}
            if recipe == "te-mxfp8":
                config["fp8_config"]["use_mxfp8_block_scaling"] = True
    return config


def _fsdp(workload: Workload) -> dict[str, Any]:
    p, version = workload.parallelism, strategy_of(workload).fsdp_version
    config: dict[str, Any] = {
        "fsdp_version": version,
        "fsdp_auto_wrap_policy": "TRANSFORMER_BASED_WRAP",
        "fsdp_offload_params": p.offload in ("parameters", "all"),
        "fsdp_cpu_ram_efficient_loading": p.cpu_ram_efficient_loading,
        "fsdp_state_dict_type": state_dict_type(workload),
        "fsdp_activation_checkpointing": workload.activation_checkpointing.kind != "none",
    }
    if version == 2:
        config["fsdp_reshard_after_forward"] = bool(p.reshard_after_forward)
        return config
    hybrid = p.replicate > 1
    sharding = "HYBRID_SHARD" if hybrid else _SHARDING[p.sharding_strategy]
    before = {"pre": "BACKWARD_PRE", "post": "BACKWARD_POST"}.get(str(p.backward_prefetch))
    return config | {
        "fsdp_sharding_strategy": sharding,
        "fsdp_backward_prefetch": before or "NO_PREFETCH",
        "fsdp_forward_prefetch": bool(p.forward_prefetch),
        "fsdp_use_orig_params": p.use_orig_params,
        "fsdp_sync_module_states": True,
    }


def _mesh(mesh: Mesh) -> dict[str, int]:
    return {
        "parallelism_config_dp_replicate_size": mesh.dp_replicate,
        "parallelism_config_dp_shard_size": mesh.dp_shard,
        "parallelism_config_tp_size": mesh.tp,
        "parallelism_config_cp_size": mesh.cp,
    }


def comment(workload: Workload) -> str:
    """What accelerate's file cannot say."""
    ac = workload.activation_checkpointing.kind
    lines = [
        f"{workload.name}, written by scaling-sim. The training script takes the rest:",
        f"per_device_train_batch_size={workload.micro_batch} "
        f"gradient_accumulation_steps={workload.gradient_accumulation} "
        f"sequence_length={workload.sequence_length} model={workload.model.name}",
        f"activation checkpointing: {ac}; attention: {workload.attention}; "
        f"optimizer: {workload.optimizer}; torch.compile: {str(workload.compile).lower()}",
    ]
    if workload.method.adapted:
        lines.append(
            f"{workload.method.kind}: rank {workload.method.rank}, "
            f"targets {', '.join(workload.method.targets)}"
        )
    if ac.startswith("selective"):
        lines.append("accelerate checkpoints whole blocks only: apply the policy in the script")
    return "\n".join(lines)
