"""OpenRLHF's options: SFT, DPO and reward models with DeepSpeed's engine.

Names and defaults as its ``openrlhf/cli/train_sft.py`` and its like (0.8) have them, and names with
their tables in front since 0.10: ``--ds.zero_stage``.
"""

from __future__ import annotations

from sim.inputs.registry import FORMATS
from sim.inputs.translation import Source, Translation
from sim.interop.trainers import common, deepspeed, preferences, words
from sim.interop.trainers.common import LoraKeys, TrainerFormat
from sim.interop.trainers.keys import Keys

_DEFAULT = "OpenRLHF's default"
_MARKS = frozenset({"pretrain", "micro_train_batch_size"})
_TABLED = frozenset({"model.model_name_or_path", "train.micro_batch_size"})


def recognises(source: Source) -> bool:
    """Its names of the model and of the micro-batch."""
    return source.keys >= _MARKS or source.keys >= _TABLED


def read(source: Source, job: Translation) -> None:
    """Read the options."""
    keys = Keys.of(source, job, _DEFAULT)
    model = ("pretrain", "model.model_name_or_path")
    keys.put("model", keys.text(*model), *model)
    keys.put_count("sequence_length", "max_len", "data.max_len", default=2048)
    rows = ("micro_train_batch_size", "train.micro_batch_size")
    keys.put_count("micro_batch", *rows, default=8)
    keys.put_count("global_batch", "train_batch_size", "train.batch_size", default=128)
    keys.put_count("epochs", "max_epochs", "train.max_epochs", default=1)
    keys.put_count("samples", "max_samples", "data.max_samples")
    _engine(keys)
    keys.put_on("attention", "flash_attn", value="flash2")
    words.attention(keys, "attn_implementation", "ds.attn_implementation")
    keys.suppose("attention", "flash2" if keys.has(*_TABLED) else "sdpa")
    packed = next((n for n in ("packing_samples", "ds.packing_samples") if keys.flag(n)), "")
    if packed:
        common.unpadded(keys, packed)
    keys.suppose("data.packing", False)
    keys.put_ulysses("ring_attn_size", "ds.ring_attn_size")
    if (keys.count("lora_rank", "ds.lora.rank") or 0) > 0:
        rank = "lora_rank ds.lora.rank"
        names = LoraKeys(rank, rank, "target_modules ds.lora.target_modules",
                         "lora_dropout ds.lora.dropout")  # fmt: skip
        four = keys.flag("load_in_4bit", "ds.load_in_4bit") is True
        common.lora(keys, names, four, default_targets="all-linear", why=_DEFAULT)
    else:
        keys.suppose("method.kind", "full")
    _checkpointing(keys)
    common.liger(keys, "use_liger_kernel", "ds.use_liger_kernel")
    keys.suppose("loss", "huggingface")
    words.optimizer(keys, "optim")
    keys.suppose("optimizer", "adamw")
    keys.suppose("trainer", "deepspeed")
    name = keys.text("module").rpartition("train_")[2]
    if name not in ("", "sft"):
        preferences.of_key(keys, name, "module", f"train_{name}")
    keys.leave("read above", "load_in_4bit ds.load_in_4bit module")
    keys.settle("openrlhf", "huggingface")
    keys.rest("OpenRLHF")


def _engine(keys: Keys) -> None:
    """DeepSpeed's configuration as `get_train_ds_config` makes it of options."""
    names = ("zero_stage", "ds.zero_stage")
    said = keys.count(*names)
    stage = 2 if said is None else said
    deepspeed.staged(keys, stage, keys.named(*names))
    keys.put_on("parallelism.offload", "adam_offload", "ds.adam_offload", value="optimizer")
    keys.put_on("parallelism.overlap_comm", "overlap_comm", "ds.overlap_comm")
    if stage == 3:
        names = ("zpg", "ds.zpg")
        size = keys.count(*names)
        if size and size > 1:
            keys.put("parallelism.zero_hpz_partition_size", size, *names)
    names = ("ds_tensor_parallel_size", "ds.tensor_parallel_size")
    if (keys.count(*names) or 1) > 1:
        why = "DeepSpeed's tensor parallelism is not modelled: data parallelism alone"
        keys.matters(why, *names)
    names = ("grad_accum_dtype", "ds.grad_accum_dtype")
    if words.dtype(keys, *names) not in ("", "fp32"):
        keys.matters("gradients are taken to add up in the dtype that the stage mostly has", *names)
    keys.put_on("precision.kind", "bf16", value="bf16")
    words.put_dtype(keys, "precision.kind", "ds.param_dtype")
    keys.suppose("precision.kind", "bf16")
    keys.leave("the default", "zpg ds.zpg grad_accum_dtype ds.grad_accum_dtype")
    keys.leave("the default", "ds_tensor_parallel_size ds.tensor_parallel_size")


def _checkpointing(keys: Keys) -> None:
    kind, tabled = "activation_checkpointing", "model.gradient_checkpointing"
    reentrant = "gradient_checkpointing_use_reentrant"
    if common.checkpointing(keys, reentrant=False):
        keys.put_on(f"{kind}.reentrant", reentrant)
    elif keys.flag(f"{tabled}_enable"):
        keys.put(f"{kind}.kind", "full", f"{tabled}_enable")
        keys.put_on(f"{kind}.reentrant", f"{tabled}_reentrant")
        keys.suppose(f"{kind}.reentrant", False)


FORMATS.register(TrainerFormat("openrlhf", "OpenRLHF's options", recognises, read))
