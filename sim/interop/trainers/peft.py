"""PEFT's adapter_config.json as (a part of) a job."""

from __future__ import annotations

from sim.inputs.registry import FORMATS
from sim.inputs.translation import Source, Translation
from sim.interop.trainers import common
from sim.interop.trainers.common import LoraKeys, TrainerFormat
from sim.interop.trainers.keys import Keys


def recognises(source: Source) -> bool:
    """PEFT's mark."""
    return "peft_type" in source.keys


def read(source: Source, job: Translation) -> None:
    """Read the adapter: rank, targets, dropout, base model."""
    keys = Keys.of(source, job, common.OF_PEFT)
    kind = keys.text("peft_type").upper()
    if kind not in ("LORA", "ADALORA"):
        keys.matters(f"{kind} is not modelled: taken as LoRA", "peft_type")
    base = keys.text("base_model_name_or_path")
    if base:
        keys.put("model", base, "base_model_name_or_path")
    four = job.text_at("method.quantization") == "nf4"
    names = LoraKeys("peft_type", "r init_r", "target_modules", "lora_dropout")
    common.lora(keys, names, four)
    keys.settle("peft")
    keys.rest("PEFT")


FORMATS.register(TrainerFormat("peft", "a PEFT adapter_config.json", recognises, read))
