"""A plan as an axolotl configuration; data set and learning rate are yours to add."""

from __future__ import annotations

from typing import Any

from sim.inputs.shares import batch_of, mesh_of
from sim.inputs.strategy import strategy_of
from sim.inputs.topology import Topology
from sim.inputs.workload import Workload
from sim.interop.emit_accelerate import comment
from sim.interop.plain_yaml import blocks

_MODULES = {
    "q": "q_proj", "k": "k_proj", "v": "v_proj", "o": "o_proj",
    "gate": "gate_proj", "up": "up_proj", "down": "down_proj",
}  # fmt: skip
_OPTIMIZERS = {
    "adamw": "adamw_torch_fused", "adamw-bf16": "adamw_torch_fused", "adamw-8bit": "adamw_bnb_8bit",
    "adafactor": "adafactor", "sgd": "sgd",
}  # fmt: skip
_ATTENTION = {
    "flash2": "flash_attention_2", "flash3": "flash_attention_3", "sdpa": "sdpa", "eager": "eager",
    "triton": "flex_attention", "cudnn": "sdpa",
}  # fmt: skip


def axolotl_yaml(topology: Topology, workload: Workload) -> str:
    """The configuration file."""
    p, method = workload.parallelism, workload.method
    precision = workload.precision.kind
    config: dict[str, Any] = {
        "base_model": workload.model.source.split(" ")[0].removeprefix("https://huggingface.co/")
        or workload.model.name,
        "sequence_len": workload.sequence_length,
        "sample_packing": workload.data.packing is True,
        "micro_batch_size": workload.micro_batch,
        "gradient_accumulation_steps": workload.gradient_accumulation,
        "optimizer": _OPTIMIZERS[workload.optimizer],
        "bf16": precision in ("bf16", "fp8"),
        "fp16": precision == "fp16",
        "attn_implementation": _ATTENTION[workload.attention],
        "torch_compile": workload.compile,
    }
    if precision == "fp8":
        config["fp8"] = True
        config["fp8_enable_fsdp_float8_all_gather"] = workload.precision.all_gather == "fp8"
    if method.kind != "full":
        config |= {
            "adapter": method.kind,
            "lora_r": method.rank,
            "lora_alpha": 2 * method.rank,
            "lora_dropout": method.dropout,
            "lora_target_modules": [_MODULES[t] for t in method.targets],
        }
        if method.kind == "qlora":
            config["load_in_4bit"] = True
    if workload.steps:
        config["max_steps"] = workload.steps
    elif workload.samples:
        config["num_epochs"] = workload.epochs
    elif workload.tokens:
        config["max_steps"] = -(-int(workload.tokens) // batch_of(topology, workload).tokens)
    checkpointed = workload.activation_checkpointing.kind != "none"
    if p.context_parallel > 1:
        config["context_parallel_size"] = p.context_parallel
    if p.tensor_parallel > 1:
        config["tensor_parallel_size"] = p.tensor_parallel
    strategy = strategy_of(workload)
    if strategy.deepspeed:
        config["deepspeed"] = "ds_config.json"
        config["gradient_checkpointing"] = checkpointed
    elif not strategy.fsdp_version:
        config["gradient_checkpointing"] = checkpointed
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
            "state_dict_type": "SHARDED_STATE_DICT",
            "activation_checkpointing": checkpointed,
        }
        if version == 2:
            fsdp["reshard_after_forward"] = bool(p.reshard_after_forward)
        else:
            full = p.sharding_strategy == "full-shard"
            fsdp["sharding_strategy"] = "FULL_SHARD" if full else "SHARD_GRAD_OP"
        config["fsdp_config"] = fsdp
    return blocks(config, comment(workload))
