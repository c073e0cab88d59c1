"""A plan as arguments of TRL's SFT script (`trl sft --config sft.yaml`); the data set is yours."""

from __future__ import annotations

from typing import Any

from sim.errors import InputError
from sim.inputs.models import repository
from sim.inputs.strategy import strategy_of
from sim.inputs.topology import Topology
from sim.inputs.workload import Workload
from sim.interop.emit_common import accumulation, adapters, length_said, tf32, yours
from sim.interop.trainers import projected
from sim.interop.trainers.words import written_attention, written_optimizer
from sim.interop.yaml_text import blocks
from sim.strategies.units import dtypes

_OPTION = "--emit trl"


def trl_yaml(topology: Topology, workload: Workload) -> str:
    """The configuration file; FSDP comes from accelerate's beside it.

    Raises
    ------
    InputError
        A precision that transformers' trainer does not train in.
    """
    method, precision = workload.method, workload.precision
    if precision.low:
        what = precision.kind.upper()
        message = f"transformers' trainer takes {what} from accelerate alone; emit axolotl instead"
        raise InputError.single(_OPTION, message)
    config: dict[str, Any] = {"model_name_or_path": repository(workload.model)}
    stored = dtypes(workload).frozen
    if stored != "fp32":  # the script's default
        config["dtype"] = {"bf16": "bfloat16", "fp16": "float16"}[stored]
    if method.adapted:
        config |= {"use_peft": True, **adapters(workload, "use_dora")}
    if method.quantization == "int8":
        config["load_in_8bit"] = True
    if method.kind == "qlora":
        config |= {"load_in_4bit": True, "use_bnb_nested_quant": method.double_quantization}
    config |= {
        "max_length": workload.sequence_length,
        "packing": workload.data.packing is True,
        **({"padding_free": True} if workload.data.packing == "padding-free" else {}),
        **({"train_sampling_strategy": "group_by_length"} if workload.data.group_by_length else {}),
        "per_device_train_batch_size": workload.micro_batch,
        "gradient_accumulation_steps": workload.gradient_accumulation,
        "bf16": precision.kind == "bf16",
        "fp16": precision.kind == "fp16",
        **tf32(workload),
        "optim": written_optimizer(workload),
        **projected.written(workload),
        **written_attention(workload.attention),
        "torch_compile": workload.compile,
        "dataloader_num_workers": workload.data.workers,
        "max_grad_norm": 1.0 if workload.parallelism.clip_gradients else 0.0,
    }
    checkpointing = workload.activation_checkpointing
    config["gradient_checkpointing"] = checkpointing.kind != "none"
    if checkpointing.kind != "none":
        config["gradient_checkpointing_kwargs"] = {"use_reentrant": checkpointing.reentrant}
        if checkpointing.offload:
            config["activation_offloading"] = True
    if workload.fused_kernels == "all" and workload.loss == "fused-linear":
        config["use_liger_kernel"] = True
    config |= accumulation(workload)
    if strategy_of(workload).deepspeed:
        config["deepspeed"] = "ds_config.json"
    config |= length_said(topology, workload, "num_train_epochs")
    added = yours(workload, "dataset_name", "output_dir")
    return blocks(config, f"{workload.name}, written by scaling-sim\n{added}")
