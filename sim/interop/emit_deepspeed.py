"""A plan as a DeepSpeed configuration.

A plan of another strategy is written as the ZeRO stage that shards the same: FSDP as stage 3,
FSDP that keeps parameters gathered and DDP as stages 2 and 0. Numbers of DeepSpeed's own knobs are
those of the workload.
"""

from __future__ import annotations

import json
from typing import Any

from sim.inputs.shares import batch_of, mesh_of
from sim.inputs.strategy import strategy_of
from sim.inputs.topology import Topology
from sim.inputs.workload import Workload


def deepspeed_json(topology: Topology, workload: Workload) -> str:
    """The ``ds_config.json``."""
    p = workload.parallelism
    zero: dict[str, Any] = {"stage": strategy_of(workload).zero_stage(p)}
    if zero["stage"]:
        zero |= {
            "overlap_comm": True if p.overlap_comm is None else p.overlap_comm,
            "contiguous_gradients": True,
            "reduce_scatter": p.reduce_scatter,
            "reduce_bucket_size": _count(p.reduce_bucket_size),
            "allgather_bucket_size": _count(p.allgather_bucket_size),
        }
    if zero["stage"] == 3:
        zero |= {
            "stage3_prefetch_bucket_size": _count(p.stage3_prefetch_bucket_size),
            "stage3_param_persistence_threshold": _count(p.stage3_param_persistence_threshold),
            "stage3_max_live_parameters": _count(p.stage3_max_live_parameters),
            "stage3_max_reuse_distance": _count(p.stage3_max_reuse_distance),
            "sub_group_size": _count(p.sub_group_size),
            "stage3_gather_16bit_weights_on_model_save": workload.checkpoint.mode == "full",
        }
        hpz = p.zero_hpz_partition_size
        if p.replicate > 1:  # HSDP: whole copies a node are ZeRO++'s secondary partition
            hpz = mesh_of(topology, workload).size("fsdp")
        if hpz > 1:
            zero["zero_hpz_partition_size"] = hpz
        if p.zero_quantized_weights:
            zero["zero_quantized_weights"] = True
        if p.zero_quantized_gradients:
            zero["zero_quantized_gradients"] = True
    if p.offload != "none":
        device = {"device": p.offload_device, "pin_memory": p.pin_memory}
        if p.offload in ("optimizer", "all"):
            zero["offload_optimizer"] = device
        if p.offload in ("parameters", "all") and zero["stage"] == 3:
            zero["offload_param"] = device
    kind = workload.precision.kind
    config: dict[str, Any] = {
        "train_micro_batch_size_per_gpu": workload.micro_batch,
        "gradient_accumulation_steps": workload.gradient_accumulation,
        "train_batch_size": batch_of(topology, workload).sequences,
        "gradient_clipping": 1.0 if p.clip_gradients else 0.0,
        "bf16": {"enabled": workload.precision.activations == "bf16"},
        "fp16": {"enabled": kind == "fp16"},
        "zero_optimization": zero,
        "wall_clock_breakdown": False,
    }
    if p.communication_data_type is not None:
        config["communication_data_type"] = p.communication_data_type
    return json.dumps(config, indent=2) + "\n"


def _count(value: float | str) -> int | str:
    return value if isinstance(value, str) else int(value)
