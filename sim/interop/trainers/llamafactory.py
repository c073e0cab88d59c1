"""LLaMA-Factory's YAML as a job. Keys and defaults as its 0.9.5 has them."""

from __future__ import annotations

from sim.inputs.registry import FORMATS
from sim.inputs.translation import Keys, Source, Translation
from sim.interop.trainers import common, huggingface
from sim.interop.trainers.common import TrainerFormat

_MARKS = {"finetuning_type", "cutoff_len", "stage", "lora_target", "quantization_bit"}
_DEFAULT = "LLaMA-Factory's default"


def recognises(source: Source) -> bool:
    """A model's name and a key of its own."""
    return "model_name_or_path" in source.keys and bool(_MARKS & source.keys)


def read(source: Source, job: Translation) -> None:
    """Read the file, and the DeepSpeed file that it names."""
    keys = Keys(job, common.branch_of(source))
    keys.put("model", keys.text("model_name_or_path"), "model_name_or_path")
    keys.put_count("sequence_length", "cutoff_len")
    job.suppose("sequence_length", 2048, _DEFAULT)
    stage = keys.text("stage")
    if stage not in ("", "sft", "pt"):
        keys.matters(f"stage {stage} is not modelled: taken as a plain step", "stage")
    _rows(keys, job, stage)
    _samples(keys)
    _method(keys, job)
    off = keys.flag("disable_gradient_checkpointing")
    _attention(keys, job)
    huggingface.training(
        source,
        keys,
        job,
        micro_batch=8,
        precision="fp32",
        checkpointing=not off,
        why=_DEFAULT,
        reentrant=_reentrant(keys, job),
    )
    if off:
        keys.put("activation_checkpointing.kind", "none", "disable_gradient_checkpointing")
    if keys.flag("pure_bf16"):
        keys.put("precision.kind", "bf16", "pure_bf16")
        keys.put("precision.master", "bf16", "pure_bf16")
    for name, why in (
        ("use_unsloth", "Unsloth's model code is not modelled: its fused adapters are"),
        ("use_badam", "BAdam is not modelled: taken as AdamW"),
        ("use_galore", "GaLore is not modelled: taken as AdamW"),
        ("use_apollo", "APOLLO is not modelled: taken as AdamW"),
        ("shift_attn", "shifted sparse attention is not modelled: taken as full"),
        ("use_ray", "Ray launches it: the ranks are the same"),
    ):
        if keys.flag(name):
            keys.matters(why, name)
    if keys.flag("use_unsloth"):
        keys.put("method.adapters", "fused", "use_unsloth")
    keys.leave(
        "read above",
        "use_reentrant_gc",
        "double_quantization",
        "quantization_type",
        "quantization_method",
    )
    keys.leave_matching(
        common.WHY_NO_MATTER,
        r"preprocessing_\w+|flash_attn|rope_scaling|infer_\w+|export_\w+"
        r"|ddp_\w+|image_\w+|video_\w+|media_dir|mask_history|enable_thinking"
        r"|adapter_name_or_path|overwrite_\w+|ref_\w+|pref_\w+|max_samples",
    )
    keys.rest("LLaMA-Factory")


def _rows(keys: Keys, job: Translation, stage: str) -> None:
    if keys.flag("neat_packing"):
        keys.put("data.packing", True, "neat_packing")
        common.masked(keys, "neat_packing")
    elif keys.flag("packing"):
        keys.put("data.packing", True, "packing")
    elif keys.flag("packing") is False:
        keys.put("data.packing", False, "packing")
    job.suppose("data.packing", stage == "pt", _DEFAULT)
    keys.leave("taken with neat_packing", "packing", "neat_packing")


def _samples(keys: Keys) -> None:
    """`max_samples` is of each data set."""
    most, sets = keys.count("max_samples"), keys.text("dataset").split(",")
    if most and not (keys.count("max_steps") or 0) > 0:
        keys.put("samples", most * len(sets), "max_samples")
        keys.job.skip(
            keys.place("max_samples"),
            "max_samples",
            "at most so many of each data set; a smaller one ends sooner",
        )


def _method(keys: Keys, job: Translation) -> None:
    kind = keys.text("finetuning_type") or "lora"
    bits = keys.count("quantization_bit")
    if kind in ("lora", "oft"):
        if kind == "oft":
            keys.matters("OFT is not modelled: taken as LoRA", "finetuning_type")
        common.lora(
            keys,
            kind="lora",
            four_bit=bits == 4,
            rank=8,
            why=_DEFAULT,
            dropout=0.0,
            rank_names=("lora_rank",),
            target_names=("lora_target",),
            dropout_names=("lora_dropout",),
            place_names=("finetuning_type",),
            default_targets="all-linear",
        )
        if bits == 4:
            double = keys.flag("double_quantization")
            if double is not None:
                keys.put("method.double_quantization", double, "double_quantization")
        elif bits:
            keys.matters(
                f"{bits}-bit weights are not modelled: taken in the compute dtype",
                "quantization_bit",
            )
        return
    if kind == "freeze":
        keys.matters(
            "partly frozen models are not modelled: taken as trained in full", "finetuning_type"
        )
    keys.put("method.kind", "full", "finetuning_type")


def _attention(keys: Keys, job: Translation) -> None:
    word = keys.text("flash_attn").lower()
    if word and word != "auto":
        common.attention(keys, "flash_attn")
    job.suppose("attention", "sdpa", _DEFAULT)


def _reentrant(keys: Keys, job: Translation) -> bool:
    """Reentrant unless FSDP2 runs, or the file says otherwise."""
    said = keys.flag("use_reentrant_gc")
    return True if said is None else said


FORMATS.register(TrainerFormat("llamafactory", "a LLaMA-Factory file", recognises, read))
