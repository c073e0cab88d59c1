"""LLaMA-Factory's YAML as a job. Keys and defaults as its 0.9.5 has them."""

from __future__ import annotations

from sim.inputs.registry import FORMATS
from sim.inputs.translation import Source, Translation
from sim.interop.trainers import common, huggingface, preferences, words
from sim.interop.trainers.common import LoraKeys, TrainerFormat
from sim.interop.trainers.keys import Keys

_MARKS = {"finetuning_type", "cutoff_len", "stage", "lora_target", "quantization_bit"}
_NOT_MODELLED = {
    "use_badam": "BAdam is not modelled: taken as AdamW",
    "use_galore": "GaLore is not modelled: taken as AdamW",
    "use_apollo": "APOLLO is not modelled: taken as AdamW",
    "use_adam_mini": "Adam-mini is not modelled: taken as AdamW",
    "use_kt": "KTransformers' experts in host memory are not modelled: all are on the GPU",
    "shift_attn": "shifted sparse attention is not modelled: taken as full",
    "use_ray": "Ray launches it: the ranks are the same",
}


def recognises(source: Source) -> bool:
    """A model's name and a key of its own."""
    return "model_name_or_path" in source.keys and bool(_MARKS & source.keys)


def read(source: Source, job: Translation) -> None:
    """Read the file, and the DeepSpeed file that it names."""
    keys = Keys.of(source, job, "LLaMA-Factory's default")
    keys.put("model", keys.text("model_name_or_path"), "model_name_or_path")
    job.marks_leaves = "LLaMA-Factory"  # model_utils/moe.py, add_z3_leaf_module
    keys.put_count("sequence_length", "cutoff_len", default=2048)
    stage = keys.text("stage")
    _rows(keys, stage)
    _samples(keys)
    _method(keys)
    off = keys.flag("disable_gradient_checkpointing")
    if keys.text("flash_attn").lower() != "auto":
        words.attention(keys, "flash_attn")
    keys.suppose("attention", "sdpa")
    if keys.flag("use_unsloth"):
        common.unsloth(job, job.text_at("method.kind") != "full")
    if keys.flag("use_muon"):
        keys.put("optimizer", "muon", "use_muon")
        keys.leave("use_muon decides", "optim")
    huggingface.training(
        source, keys, micro_batch=8, precision="fp32", checkpointing=not off,
        reentrant=keys.flag("use_reentrant_gc") is not False,
    )  # fmt: skip
    if keys.count("quantization_bit") == 8:
        common.eight_bit(keys, "quantization_bit")
    if off:
        keys.put("activation_checkpointing.kind", "none", "disable_gradient_checkpointing")
    if keys.flag("pure_bf16"):
        keys.put("precision.kind", "bf16", "pure_bf16")
        keys.put("precision.master", "bf16", "pure_bf16")
    _stage(keys, stage)
    common.own_muon(keys, "use_muon")
    keys.matter_on(_NOT_MODELLED)
    if not off:  # Unsloth's checkpointing keeps what it saves in host memory
        keys.put_on("activation_checkpointing.offload", "use_unsloth_gc")
    keys.leave(
        "read above", "use_reentrant_gc double_quantization quantization_type quantization_method"
    )
    keys.leave_matching(
        common.WHY_NO_MATTER,
        r"preprocessing_\w+|flash_attn|rope_scaling|infer_\w+|export_\w+"
        r"|ddp_\w+|image_\w+|video_\w+|media_dir|mask_history|enable_thinking"
        r"|adapter_name_or_path|overwrite_\w+|ref_\w+|pref_\w+|max_samples",
    )
    keys.rest("LLaMA-Factory")


def _stage(keys: Keys, stage: str) -> None:
    """Pairs and scores; of what is rolled out a plain step."""
    loss = keys.text("pref_loss")
    kind = loss if stage == "dpo" and loss in ("orpo", "simpo") else stage
    if kind not in ("", "sft", "pt"):
        preferences.of_key(keys, kind, "stage", f"stage {stage}")
    if kind in ("dpo", "kto") and keys.job.text_at("method.kind") == "full":
        keys.job.suppose("reference_dtype", "bf16", "LLaMA-Factory loads it in the compute dtype")


def _rows(keys: Keys, stage: str) -> None:
    if keys.flag("neat_packing"):
        keys.put("data.packing", True, "neat_packing")
        common.masked(keys, "neat_packing")
    else:
        keys.put_flag("data.packing", "packing")
    keys.suppose("data.packing", stage == "pt")
    keys.leave("taken with neat_packing", "packing neat_packing")


def _samples(keys: Keys) -> None:
    """`max_samples` is of each data set."""
    most, sets = keys.count("max_samples"), keys.text("dataset").split(",")
    if most and not (keys.count("max_steps") or 0) > 0:
        keys.put("samples", most * len(sets), "max_samples")
        why = "at most so many of each data set; a smaller one ends sooner"
        keys.job.skip(keys.place("max_samples"), "max_samples", why)


def _method(keys: Keys) -> None:
    kind = keys.text("finetuning_type") or "lora"
    bits = keys.count("quantization_bit")
    if kind not in ("lora", "oft"):
        if kind == "freeze":
            keys.matters(common.PARTLY_FROZEN, "finetuning_type")
        keys.put("method.kind", "full", "finetuning_type")
        return
    if kind == "oft":
        keys.matters("OFT is not modelled: taken as LoRA", "finetuning_type")
    names = LoraKeys("finetuning_type", "lora_rank", "lora_target", "lora_dropout")
    common.lora(keys, names, bits == 4, default_targets="all-linear")
    if bits == 4:
        keys.put_flag("method.double_quantization", "double_quantization")
    elif bits and bits != 8:
        why = f"{bits}-bit weights are not modelled: taken in the compute dtype"
        keys.matters(why, "quantization_bit")


FORMATS.register(TrainerFormat("llamafactory", "a LLaMA-Factory file", recognises, read))
