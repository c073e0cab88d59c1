"""OpenRLHF's options: SFT, DPO and reward models with DeepSpeed's engine.

Names and defaults as its ``openrlhf/cli/train_sft.py`` and its like (0.8) have them.
"""

from __future__ import annotations

from sim.inputs.registry import FORMATS
from sim.inputs.translation import Source, Translation
from sim.interop.trainers import common, deepspeed, preferences, words
from sim.interop.trainers.common import LoraKeys, TrainerFormat
from sim.interop.trainers.keys import Keys

_DEFAULT = "OpenRLHF's default"
_MARKS = frozenset({"pretrain", "micro_train_batch_size"})


def recognises(source: Source) -> bool:
    """Its names of the model and of the micro-batch."""
    return source.keys >= _MARKS


def read(source: Source, job: Translation) -> None:
    """Read the options."""
    keys = Keys.of(source, job, _DEFAULT)
    keys.put("model", keys.text("pretrain"), "pretrain")
    keys.put_count("sequence_length", "max_len", default=2048)
    keys.put_count("micro_batch", "micro_train_batch_size", default=8)
    keys.put_count("global_batch", "train_batch_size", default=128)
    keys.put_count("epochs", "max_epochs", default=1)
    keys.put_count("samples", "max_samples")
    stage = keys.count("zero_stage")
    deepspeed.staged(keys, 2 if stage is None else stage, "zero_stage")
    if keys.flag("adam_offload"):
        keys.put("parallelism.offload", "optimizer", "adam_offload")
    keys.put_on("precision.kind", "bf16", value="bf16")
    keys.suppose("precision.kind", "bf16")
    keys.put_on("attention", "flash_attn", value="flash2")
    words.attention(keys, "attn_implementation")
    keys.suppose("attention", "sdpa")
    if keys.flag("packing_samples"):
        common.unpadded(keys, "packing_samples")
    keys.suppose("data.packing", False)
    keys.put_ulysses("ring_attn_size")
    if (keys.count("lora_rank") or 0) > 0:
        names = LoraKeys("lora_rank", "lora_rank", "target_modules", "lora_dropout")
        four = keys.flag("load_in_4bit") is True
        common.lora(keys, names, four, default_targets="all-linear", why=_DEFAULT)
    else:
        keys.suppose("method.kind", "full")
    if common.checkpointing(keys, reentrant=False):
        keys.put_on("activation_checkpointing.reentrant", "gradient_checkpointing_use_reentrant")
    common.liger(keys, "use_liger_kernel")
    keys.suppose("loss", "huggingface")
    keys.suppose("optimizer", "adamw")
    keys.suppose("trainer", "deepspeed")
    name = keys.text("module").rpartition("train_")[2]
    if name not in ("", "sft"):
        preferences.of_key(keys, name, "module", f"train_{name}")
    keys.leave("read above", "load_in_4bit module")
    keys.settle("huggingface")
    keys.rest("OpenRLHF")


FORMATS.register(TrainerFormat("openrlhf", "OpenRLHF's options", recognises, read))
