"""A plan as an axolotl configuration; data set and learning rate are yours to add."""

from __future__ import annotations

from typing import Any

from sim.inputs.models import repository
from sim.inputs.shares import mesh_of
from sim.inputs.strategy import strategy_of
from sim.inputs.topology import Topology
from sim.inputs.workload import Workload
from sim.interop.emit_accelerate import comment
from sim.interop.emit_common import (
    accumulation,
    adapters,
    length_said,
    state_dict_type,
    tf32,
    yours,
)
from sim.interop.trainers import projected
from sim.interop.trainers.words import written_attention, written_optimizer
from sim.interop.yaml_text import blocks


def axolotl_yaml(topology: Topology, workload: Workload) -> str:
    """The configuration file."""
    p, method = workload.parallelism, workload.method
    precision = workload.precision.kind
    config: dict[str, Any] = {
        "base_model": repository(workload.model),
        "sequence_len": workload.sequence_length,
        "sample_packing": workload.data.packing is True,
        **({"group_by_length": True} if workload.data.group_by_length else {}),
        "micro_batch_size": workload.micro_batch,
        "gradient_accumulation_steps": workload.gradient_accumulation,
        "optimizer": "muon" if workload.optimizer == "muon" else written_optimizer(workload),
        **projected.written(workload),
        "bf16": workload.precision.activations == "bf16",
        "fp16": precision == "fp16",
        **tf32(workload),
        **written_attention(workload.attention),
        "torch_compile": workload.compile,
        **({} if workload.parallelism.clip_gradients else {"max_grad_norm": 0.0}),
    }
    if precision == "fp8":
        config["fp8"] = True
        config["fp8_enable_fsdp_float8_all_gather"] = workload.precision.all_gather == "fp8"
    if method.adapted:
        config |= {"adapter": method.kind, **adapters(workload, "peft_use_dora")}
        if method.kind == "qlora":
            config["load_in_4bit"] = True
        if method.quantization == "int8":
            config["load_in_8bit"] = True
    config |= length_said(topology, workload, "num_epochs")
    checkpointed = workload.activation_checkpointing.kind != "none"
    for axis, size in (("context", p.context_parallel), ("tensor", p.tensor_parallel)):
        if size > 1:
            config[f"{axis}_parallel_size"] = size
    if workload.fused_kernels == "all":
        config |= {"liger_rms_norm": True, "liger_glu_activation": True, "liger_rope": True}
    if workload.loss == "fused-linear":
        config["liger_fused_linear_cross_entropy"] = True
    if workload.loss == "fused-linear" or workload.fused_kernels == "all":
        config["plugins"] = ["axolotl.integrations.liger.LigerPlugin"]
    strategy = strategy_of(workload)
    if strategy.deepspeed:
        config["deepspeed"] = "ds_config.json"
        config |= _checkpointing(workload)
    elif not strategy.fsdp_version:
        config |= _checkpointing(workload)
    else:
        version = strategy.fsdp_version
        mesh = mesh_of(topology, workload)
        if mesh.dp_replicate > 1:
            config |= {"dp_replicate_size": mesh.dp_replicate, "dp_shard_size": mesh.dp_shard}
        if mesh.ep > 1:
            config |= {
                "plugins": ["axolotl.integrations.expert_parallel.ExpertParallelPlugin"],
                "experts_implementation": "grouped_mm",
                "expert_parallel_size": mesh.ep,
                "dp_shard_size": mesh.dp_shard // mesh.ep,
            }
        config["fsdp_version"] = version
        fsdp: dict[str, Any] = {
            "offload_params": p.offload in ("parameters", "all"),
            "auto_wrap_policy": "TRANSFORMER_BASED_WRAP",
            "state_dict_type": state_dict_type(workload),
            "cpu_ram_efficient_loading": p.cpu_ram_efficient_loading,
            "activation_checkpointing": checkpointed,
        }
        if version == 2:
            fsdp["reshard_after_forward"] = bool(p.reshard_after_forward)
        else:  # 0.19's FSDPConfig knows neither sharding strategy nor prefetch, and drops them
            fsdp["use_orig_params"] = p.use_orig_params
        config["fsdp_config"] = fsdp
    config |= accumulation(workload)
    return blocks(config, f"{comment(workload)}\n{yours(workload, 'datasets', 'output_dir')}")


def _checkpointing(workload: Workload) -> dict[str, Any]:
    """The trainer's own checkpointing, where no wrapper of FSDP does it."""
    checkpointing = workload.activation_checkpointing
    if checkpointing.kind == "none":
        return {"gradient_checkpointing": False}
    return {
        "gradient_checkpointing": "offload" if checkpointing.offload else True,
        "gradient_checkpointing_kwargs": {"use_reentrant": checkpointing.reentrant},
    }
