"""A plan as a LLaMA-Factory configuration; data set and template are yours to add.

FSDP comes from accelerate's file beside it, DeepSpeed from its JSON. Gradient checkpointing is
LLaMA-Factory's own, so that accelerate's wrapper has none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sim.errors import InputError
from sim.inputs.check_optimizer import PROJECTED
from sim.inputs.models import repository
from sim.inputs.strategy import strategy_of
from sim.inputs.topology import Topology
from sim.inputs.workload import Workload
from sim.interop.emit_common import accumulation, length_said, tf32, yours
from sim.interop.trainers.linears import written_targets
from sim.interop.trainers.llamafactory import ENDS, PARTS
from sim.interop.trainers.words import written_optimizer
from sim.interop.yaml_text import blocks

_ATTENTION = {"flash2": "fa2", "flash3": "fa3", "sdpa": "sdpa", "eager": "disabled"}


def _named(names: Mapping[str, str], parts: Sequence[str]) -> str:
    return ",".join(theirs for theirs, ours in names.items() if ours in parts)


def _optimizer(workload: Workload) -> dict[str, Any]:
    """The optimizer: flags of its own for those of whole matrices."""
    name = workload.optimizer
    if name == "muon":
        return {"use_muon": True}
    if name not in PROJECTED:
        return {"optim": written_optimizer(workload)}
    library = PROJECTED[name].lower()
    said = {f"use_{library}": True, f"{library}_rank": workload.optimizer_rank}
    return {**said, "optim": "adamw_8bit"} if name.endswith("8bit") else said


def _stage(workload: Workload) -> tuple[str, int]:
    """Its stage, and of how many rows a sample of it is."""
    if workload.reference != "none":
        if workload.reference_passes == 3:
            return "kto", 1
        if workload.reference_passes == 1 and workload.micro_batch % 2 == 0:
            return "dpo", 2
    return "sft", 1


def llamafactory_yaml(topology: Topology, workload: Workload) -> str:
    """The configuration file.

    Raises
    ------
    InputError
        A precision that LLaMA-Factory does not train in.
    """
    method, precision = workload.method, workload.precision
    if precision.low:
        option = "--emit llamafactory"
        raise InputError.single(option, "LLaMA-Factory's FP8 is not written; emit axolotl instead")
    stage, rows = _stage(workload)
    config: dict[str, Any] = {
        "model_name_or_path": repository(workload.model),
        "stage": stage,
        "do_train": True,
        "finetuning_type": "lora" if method.adapted else method.kind,
    }
    if workload.reference == "copy" and method.adapted:  # else it is the base, adapters off
        config["ref_model"] = config["model_name_or_path"]
    if method.kind == "freeze":
        config["freeze_trainable_layers"] = method.last or -method.first
        if set(method.modules) != set(PARTS.values()):
            config["freeze_trainable_modules"] = _named(PARTS, method.modules)
        if method.extra:
            config["freeze_extra_modules"] = _named(ENDS, method.extra)
    if method.adapted:
        config |= {
            "lora_rank": method.rank,
            "lora_dropout": method.dropout,
            "lora_target": ",".join(written_targets(workload)),
            **({"use_dora": True} if method.dora else {}),
        }
    if method.quantization == "int8":
        config["quantization_bit"] = 8
    if method.kind == "qlora":
        config |= {"quantization_bit": 4, "double_quantization": method.double_quantization}
    config |= {
        "cutoff_len": workload.sequence_length,
        "per_device_train_batch_size": workload.micro_batch // rows,
        "gradient_accumulation_steps": workload.gradient_accumulation,
        **_optimizer(workload),
        "bf16": precision.kind == "bf16" and precision.master == "fp32",
        "fp16": precision.kind == "fp16",
        **tf32(workload),
        **({"torch_compile": True} if workload.compile else {}),
        "dataloader_num_workers": workload.data.workers,
        "max_grad_norm": 1.0 if workload.parallelism.clip_gradients else 0.0,
    }
    if precision.kind == "bf16" and precision.master == "bf16":
        config["pure_bf16"] = True
    if workload.data.packing is True:
        config["packing"] = True
        if workload.data.document_masks:
            config["neat_packing"] = True
    if workload.data.group_by_length:
        config["group_by_length"] = True
    if workload.attention in _ATTENTION:
        config["flash_attn"] = _ATTENTION[workload.attention]
    if workload.fused_kernels == "all" and workload.loss == "fused-linear":
        config["enable_liger_kernel"] = True
    checkpointing = workload.activation_checkpointing
    if checkpointing.kind == "none":
        config["disable_gradient_checkpointing"] = True
    else:
        config["use_reentrant_gc"] = checkpointing.reentrant
    config |= accumulation(workload)
    if strategy_of(workload).deepspeed:
        config["deepspeed"] = "ds_config.json"
    length = length_said(topology, workload, "num_train_epochs")
    if workload.samples and "max_steps" not in length:
        config["max_samples"] = workload.samples // rows
    config |= length
    added = yours(workload, "dataset", "template", "output_dir")
    return blocks(config, f"{workload.name}, written by scaling-sim\n{added}")
