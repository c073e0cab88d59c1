"""Dtypes of a job: of activations, reduced gradients, adapters and frozen weights; what casts."""

from __future__ import annotations

from sim.inputs.strategy import strategy_of
from sim.inputs.trainer import trainer_named, trainer_of
from sim.inputs.workload import Workload
from sim.units import DTYPE_BYTES


def compute_dtype(workload: Workload) -> str:
    """Dtype of activations: linears of 8 and 4 bits keep bf16 outside their products."""
    return workload.precision.activations


def reduce_dtype(workload: Workload) -> str:
    """Dtype in which FSDP and DDP reduce gradients: as asked, or as the trainer named has it."""
    asked, compute = workload.parallelism.reduce_dtype, compute_dtype(workload)
    if asked != "auto":
        return asked or compute
    named = trainer_named(workload.trainer or "none")
    return compute if strategy_of(workload).name in named.reduces_computed else "fp32"


def casts_units(workload: Workload) -> bool:
    """Whether parameters reach the blocks in the compute dtype, whatever they are stored in.

    FSDP's mixed precision gathers them so; DeepSpeed and Megatron cast the model.
    """
    strategy = strategy_of(workload)
    mixed = strategy.fsdp_version > 0 and workload.precision.master == "fp32"
    return strategy.deepspeed or strategy.casts_model or mixed


def autocast(workload: Workload) -> bool:
    """Whether weights are cast product by product (`torch.autocast`, the trainer's ``bf16``)."""
    p = workload.precision
    return p.kind in ("bf16", "fp16") and p.master == "fp32" and not casts_units(workload)


def adapter_dtype(workload: Workload) -> str:
    """Dtype of adapters as forward reads them.

    PEFT makes them fp32 (``autocast_adapter_dtype``, 0.12 and newer), which lasts unless the
    strategy casts every parameter, or the trainer has layers of its own.
    """
    asked = workload.method.adapter_dtype
    if asked is None:
        own = trainer_of(workload).own_adapters and workload.precision.master != "fp32"
        asked = "as-compute" if own or casts_units(workload) else "fp32"
    return compute_dtype(workload) if asked == "as-compute" else asked


def frozen_dtype(workload: Workload) -> str:
    """Dtype in which frozen weights are stored that are not of 4 bits.

    Source: PEFT, ``prepare_model_for_kbit_training`` casts every one of them to fp32.
    """
    asked = workload.method.frozen_dtype
    if asked == "as-compute":
        return "fp32" if workload.method.prepare_kbit else compute_dtype(workload)
    return asked


def casts_frozen(workload: Workload) -> bool:
    """Whether each product casts a frozen weight that is stored wider, and keeps the copy.

    `torch.autocast` caches copies of trained weights alone; backward keeps those of frozen ones.
    """
    narrow = DTYPE_BYTES[compute_dtype(workload)] < DTYPE_BYTES[frozen_dtype(workload)]
    return workload.method.frozen and narrow and not casts_units(workload)
