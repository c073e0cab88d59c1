"""Lightning's Trainer and Fabric, and their strategies, as calls of a loop in Python have them."""

from __future__ import annotations

import re
from collections.abc import Mapping

from sim.inputs.translation import Source
from sim.interop.trainers import deepspeed, fsdp_calls
from sim.interop.trainers.keys import WHY_NO_MATTER, Keys
from sim.interop.trainers.script_calls import ScriptCall
from sim.units import whole

#: what both are given, of which a Hugging Face trainer has none
MARKS = frozenset({"devices", "accelerator", "strategy", "num_nodes", "accumulate_grad_batches"})
#: classes of strategies whose arguments are read
STRATEGIES = ("FSDPStrategy", "ModelParallelStrategy", "DeepSpeedStrategy", "DDPStrategy")
_PRECISIONS = {
    "bf16-true": ("bf16", True), "bf16-mixed": ("bf16", False), "bf16": ("bf16", False),
    "16-true": ("fp16", False), "16-mixed": ("fp16", False), "16": ("fp16", False),
    "32-true": ("fp32", False), "32": ("fp32", False), "transformer-engine": ("fp8", False),
}  # fmt: skip
_ZERO = re.compile(r"deepspeed(?:_stage_([123]))?(_offload)?$")
_DEFAULT = "Lightning's default"
_DEGREE = (frozenset({"parallelism.tensor_parallel"}),)


def trainer(source: Source, keys: Keys, given: Keys | None, by: Mapping[str, ScriptCall]) -> None:
    """Read strategy, precision, accumulation and GPUs.

    Parameters
    ----------
    source : Source
        The script.
    keys : Keys
        Arguments of the call; names of classes as they are called (``FSDPStrategy(...)``).
    given : Keys or None
        Arguments of the strategy's class, where the script calls one.
    by : mapping of ScriptCall
        The script's calls by kind.
    """
    job = keys.job
    word = keys.text("strategy").partition("(")[0]
    zero = _ZERO.match(word)
    if given is not None and not zero:
        keys.leave("read by its arguments", "strategy")
        given.whose = _DEFAULT
        _READ[given.prefix.rstrip(".")](source, given, by)
    elif zero:
        stage = int(zero[1] or 2)
        keys.put("parallelism.strategy", deepspeed.strategy_of(stage), "strategy")
        if zero[2]:
            keys.put("parallelism.offload", deepspeed.offloaded(stage), "strategy")
    elif word in ("fsdp", "fsdp_cpu_offload"):
        keys.put("parallelism.strategy", "fsdp1", "strategy")
        if "offload" in word:
            keys.put("parallelism.offload", "all", "strategy")
    elif word in ("auto", "") or word.startswith(("ddp", "DDP")):
        keys.job.suppose("parallelism.strategy", "ddp", "Lightning's strategy for several GPUs")
    else:
        keys.matters(f"{word} is not read: taken as DDP", "strategy")
    _precision(keys)
    keys.put_count("gradient_accumulation", "accumulate_grad_batches")
    keys.put_count("steps", "max_steps")
    keys.put_count("epochs", "max_epochs")
    if keys.number("gradient_clip_val"):
        keys.put("parallelism.clip_gradients", True, "gradient_clip_val")
    elif "clip" not in by:
        job.suppose("parallelism.clip_gradients", False, _DEFAULT)
    devices, nodes = whole(keys.text("devices")), keys.count("num_nodes")
    if devices is not None:
        job.gpus_per_node = (devices, keys.place("devices"))
        job.world = (devices * (nodes or 1), keys.place("devices"))
    if nodes:
        job.nodes = (nodes, keys.place("num_nodes"))
    job.suppose("trainer", "none", "Lightning's loop is none of those known here")
    keys.leave(WHY_NO_MATTER, "accelerator logger callbacks")
    keys.rest("Python scripts'")


def _precision(keys: Keys) -> None:
    """Words of Lightning's for dtypes; "true" is that of weights and states too."""
    job, precision = keys.job, keys.text("precision")
    if precision in _PRECISIONS:
        kind, pure = _PRECISIONS[precision]
        keys.put("precision.kind", kind, "precision")
        if pure:
            keys.put("precision.master", "bf16", "precision")
        if precision == "16-true":
            why = "weights and states of 16 bits are modelled in bf16 alone: counted in fp32"
            keys.matters(why, "precision")
    elif precision:
        keys.matters(f"{precision} is not read: taken as fp32", "precision")
    job.suppose("precision.kind", "fp32", _DEFAULT)


def _fsdp(_: Source, given: Keys, by: Mapping[str, ScriptCall]) -> None:
    """FSDP1, of strategies/fsdp.py: parameters stay their own; ``cpu_offload`` may be a flag."""
    if given.text("cpu_offload") == "true":
        given.put("parallelism.offload", "all", "cpu_offload")
    if given.has("activation_checkpointing", "activation_checkpointing_policy"):
        names = ("activation_checkpointing", "activation_checkpointing_policy")
        given.put("activation_checkpointing.kind", "full", *names)
        given.job.suppose("activation_checkpointing.reentrant", False, "Lightning's wrapper")
    if word := given.text("state_dict_type"):
        given.put("checkpoint.mode", "full" if word == "full" else "sharded", "state_dict_type")
    fsdp_calls.fsdp1(given, by, originals=True)


def _model_parallel(_: Source, given: Keys, by: Mapping[str, ScriptCall]) -> None:
    """FSDP2 and tensor parallelism, as ``configure_model`` applies them to layers."""
    job, name = given.job, "tensor_parallel_size"
    job.take("parallelism.strategy", "fsdp2", given.branch.place, "ModelParallelStrategy()")
    if whole(given.text(name)) is not None:
        given.put_degree("parallelism.tensor_parallel", name)
    else:
        why = "auto is the GPUs of a node, where layers are cut: add --set tensor_parallel=N"
        job.skip(given.place(name), given.named(name), why, True, _DEGREE)
    given.leave("the other GPUs", "data_parallel_size")
    given.rest("Python scripts'")


def _deepspeed(source: Source, given: Keys, by: Mapping[str, ScriptCall]) -> None:
    """ZeRO by a configuration, or by arguments of strategies/deepspeed.py: stage 2 by default."""
    if given.has("config"):
        deepspeed.named(source, given, "config")
    else:
        said = given.count("stage")
        stage = 2 if said is None else said
        deepspeed.staged(given, stage, "stage")
        names = ("offload_optimizer", "offload_parameters")
        deepspeed.away(given, stage, *(name if given.flag(name) else "" for name in names))
    given.rest("DeepSpeed")


def _ddp(_: Source, given: Keys, __: Mapping[str, ScriptCall]) -> None:
    fsdp_calls.ddp(given)


_READ = dict(zip(STRATEGIES, (_fsdp, _model_parallel, _deepspeed, _ddp), strict=True))
