"""A plan as a LLaMA-Factory configuration; data set and template are yours to add.

FSDP comes from accelerate's file beside it, DeepSpeed from its JSON. Gradient checkpointing is
LLaMA-Factory's own, so that accelerate's wrapper has none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sim.errors import InputError
from sim.inputs.models import repository
from sim.inputs.strategy import strategy_of
from sim.inputs.topology import Topology
from sim.inputs.workload import Workload
from sim.interop.emit_common import accumulation, length_said, tf32
from sim.interop.trainers.linears import written_targets
from sim.interop.trainers.llamafactory import ENDS, PARTS
from sim.interop.trainers.words import written_optimizer
from sim.interop.yaml_text import blocks

_ATTENTION = {"flash2": "fa2", "flash3": "fa3", "sdpa": "sdpa", "eager": "disabled"}


def _named(names: Mapping[str, str], parts: Sequence[str]) -> str:
    return ",".join(theirs for theirs, ours in names.items() if ours in parts)


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
    config: dict[str, Any] = {
        "model_name_or_path": repository(workload.model),
        "stage": "sft",
        "do_train": True,
        "finetuning_type": "lora" if method.adapted else method.kind,
    }
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
        "per_device_train_batch_size": workload.micro_batch,
        "gradient_accumulation_steps": workload.gradient_accumulation,
        **(
            {"use_muon": True}
            if workload.optimizer == "muon"
            else {"optim": written_optimizer(workload)}
        ),
        "bf16": precision.kind == "bf16" and precision.master == "fp32",
        "fp16": precision.kind == "fp16",
        **tf32(workload),
        "dataloader_num_workers": workload.data.workers,
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
        config["max_samples"] = workload.samples
    config |= length
    return blocks(config, f"{workload.name}, written by scaling-sim; add dataset and template")
