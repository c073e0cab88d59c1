"""Lightning's Trainer and Fabric, as calls of a loop in Python have them."""

from __future__ import annotations

import re

from sim.interop.trainers import deepspeed
from sim.interop.trainers.keys import Keys
from sim.units import whole

#: what both are given, of which a Hugging Face trainer has none
MARKS = frozenset({"devices", "accelerator", "strategy", "num_nodes", "accumulate_grad_batches"})
_PRECISIONS = {
    "bf16-true": ("bf16", True), "bf16-mixed": ("bf16", False), "bf16": ("bf16", False),
    "16-true": ("fp16", False), "16-mixed": ("fp16", False), "16": ("fp16", False),
    "32-true": ("fp32", False), "32": ("fp32", False), "transformer-engine": ("fp8", False),
}  # fmt: skip
_ZERO = re.compile(r"deepspeed(?:_stage_([123]))?(_offload)?$")


def trainer(keys: Keys) -> None:
    """Read strategy, precision, accumulation and GPUs.

    Parameters
    ----------
    keys : Keys
        Arguments of the call; names of classes as they are called (``FSDPStrategy(...)``).
    """
    job = keys.job
    word = keys.text("strategy").partition("(")[0]
    zero = _ZERO.match(word)
    if zero:
        stage = int(zero[1] or 2)
        keys.put("parallelism.strategy", deepspeed.strategy_of(stage), "strategy")
        if zero[2]:
            keys.put("parallelism.offload", deepspeed.offloaded(stage), "strategy")
    elif word in ("fsdp", "FSDPStrategy", "fsdp_cpu_offload"):
        keys.put("parallelism.strategy", "fsdp1", "strategy")
        if "offload" in word:
            keys.put("parallelism.offload", "all", "strategy")
    elif word == "ModelParallelStrategy":
        keys.put("parallelism.strategy", "fsdp2", "strategy")
    elif word in ("auto", "") or word.startswith(("ddp", "DDP")):
        keys.job.suppose("parallelism.strategy", "ddp", "Lightning's strategy for several GPUs")
    else:
        keys.matters(f"{word} is not read: taken as DDP", "strategy")
    precision = keys.text("precision")
    if precision in _PRECISIONS:
        kind, pure = _PRECISIONS[precision]
        keys.put("precision.kind", kind, "precision")
        if pure:
            keys.put("precision.master", "bf16", "precision")
    elif precision:
        keys.matters(f"{precision} is not read: taken as fp32", "precision")
    job.suppose("precision.kind", "fp32", "Lightning's default")
    keys.put_count("gradient_accumulation", "accumulate_grad_batches")
    keys.put_count("steps", "max_steps")
    keys.put_count("epochs", "max_epochs")
    if keys.number("gradient_clip_val") is None:
        job.suppose("parallelism.clip_gradients", False, "Lightning's default")
    devices, nodes = whole(keys.text("devices")), keys.count("num_nodes")
    if devices is not None:
        job.gpus_per_node = (devices, keys.place("devices"))
        job.world = (devices * (nodes or 1), keys.place("devices"))
    if nodes:
        job.nodes = (nodes, keys.place("num_nodes"))
    job.suppose("trainer", "none", "Lightning's loop is none of those known here")
