"""LLaMA-Factory's YAML as a job. Keys and defaults as its 0.9.5 has them."""

from __future__ import annotations

from collections.abc import Sequence

from sim.errors import InputError
from sim.inputs.models import resolve_model
from sim.inputs.registry import FORMATS
from sim.inputs.translation import Source, Translation
from sim.inputs.tree import Items, Leaf
from sim.interop.trainers import common, huggingface, preferences, projected, words
from sim.interop.trainers.common import LoraKeys, TrainerFormat
from sim.interop.trainers.keys import Keys

_MARKS = {"finetuning_type", "cutoff_len", "stage", "lora_target", "quantization_bit"}


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
        common.unsloth(job, job.text_at("method.kind") in ("lora", "qlora"))
    if keys.flag("use_muon"):
        keys.put("optimizer", "muon", "use_muon")
        keys.leave("use_muon decides", "optim")
    _projected(keys)
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
    if not off:  # Unsloth's checkpointing keeps what it saves in host memory
        keys.put_on("activation_checkpointing.offload", "use_unsloth_gc")
    keys.leave(
        "read above", "use_reentrant_gc double_quantization quantization_type quantization_method"
    )
    keys.settle("llamafactory")
    keys.rest("LLaMA-Factory")


def _stage(keys: Keys, stage: str) -> None:
    """Pairs and scores; of what is rolled out a plain step."""
    loss = keys.text("pref_loss")
    kind = loss if stage == "dpo" and loss in ("orpo", "simpo") else stage
    if kind not in ("", "sft", "pt"):
        preferences.of_key(keys, kind, "stage", f"stage {stage}")
    narrower = "ref_model_quantization_bit"
    if keys.has("ref_model") and (bits := keys.count(narrower)):
        keys.matters(f"{bits}-bit weights of a reference are not modelled", narrower)
    method = keys.job.text_at("method.kind")
    whole = method in ("full", "freeze") or keys.has("ref_model")
    if kind in ("dpo", "kto") and whole:
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


def _projected(keys: Keys) -> None:
    """GaLore and APOLLO, of rank 16 unless said: hparams/finetuning_args.py."""
    for name in ("galore", "apollo"):
        if not keys.flag(f"use_{name}"):
            continue
        eight = name == "galore" and "8bit" in keys.text("optim").replace("_", "")
        keys.put("optimizer", f"{name}-8bit" if eight else name, f"use_{name}")
        keys.put_count("optimizer_rank", f"{name}_rank", default=16)
        keys.leave(f"use_{name} decides", "optim")
        if keys.flag(f"{name}_layerwise"):
            keys.matters(projected.LAYERWISE, f"{name}_layerwise")
        if keys.text(f"{name}_target") not in ("", "all"):
            keys.matters("all linear layers are taken to be projected", f"{name}_target")
        keys.leave_matching("nothing of a step's time or memory", rf"{name}_\w+")


#: parts of a layer by what transformers' models call them; norms go with nothing else
PARTS = {"self_attn": "attention", "mlp": "ffn",
         "input_layernorm": "norms", "post_attention_layernorm": "norms"}  # fmt: skip
ENDS = {"embed_tokens": "embedding", "norm": "norm", "lm_head": "head"}


def _spread(keys: Keys, count: int) -> Sequence[int]:
    """LLaMA Pro's blocks, each behind as many old ones; none of a model that is not known."""
    try:
        layers = resolve_model(keys.job.text_at("model")).layers
    except InputError:
        return ()
    stride = layers // count
    return () if layers % count else range(stride - 1, layers, stride)


def _frozen(keys: Keys) -> None:
    """Layers, and parts of the model, that freeze tuning trains.

    Source: model/adapter.py, `_setup_freeze_tuning`; model/model_utils/checkpointing.py,
    `get_custom_gradient_checkpointing_func`, by which no gradient passes below them.
    """
    said = keys.count("freeze_trainable_layers")
    count = 2 if said is None else said
    spread = _spread(keys, abs(count)) if count and keys.flag("use_llama_pro") else ()
    if spread:
        place = keys.place("use_llama_pro")
        keys.put("method.layers", Items([Leaf(n, place) for n in spread], place), "use_llama_pro")
        keys.leave("so many of them", "freeze_trainable_layers")
    else:
        key = "method.last" if count > 0 else "method.first"
        if said is None:
            keys.suppose(key, count)
        else:
            keys.put(key, abs(count), "freeze_trainable_layers")
    keys.job.suppose("method.input_require_grads", False, "checkpoints ask of their input alone")
    if keys.flag("use_llama_pro") and not spread:
        why = "how its blocks are spread over the model is not known: the last as many are taken"
        keys.matters(why, "use_llama_pro")
    for theirs, ours, names in (
        ("freeze_trainable_modules", "method.modules", PARTS),
        ("freeze_extra_modules", "method.extra", ENDS),
    ):
        words = [word.strip() for word in keys.text(theirs).split(",") if word.strip()]
        if not words or ("all" in words and names is PARTS):
            keys.leave("all of a layer", theirs)
            continue
        heads = {word.split(".")[0] for word in words}
        found = dict.fromkeys(ours for word, ours in names.items() if word in heads)
        if strange := ", ".join(word for word in words if word.split(".")[0] not in names):
            known = f"no part that is known here ({', '.join(names)})"
            if not found and names is PARTS:  # which would train all of a layer
                keys.fault(f"{strange}: {known}", theirs)
            else:
                keys.matters(f"{strange}: {known}, so not trained", theirs)
        if any("." in word for word in words):
            keys.matters("parts of attention or of an FFN are taken as the whole", theirs)
        if found:
            place = keys.place(theirs)
            keys.put(ours, Items([Leaf(word, place) for word in found], place), theirs)


def _method(keys: Keys) -> None:
    kind = keys.text("finetuning_type") or "lora"
    bits = keys.count("quantization_bit")
    if kind not in ("lora", "oft"):
        keys.put("method.kind", "freeze" if kind == "freeze" else "full", "finetuning_type")
        if kind == "freeze":
            _frozen(keys)
        return
    if kind == "oft":
        keys.matters("OFT is not modelled: taken as LoRA", "finetuning_type")
    if keys.flag("use_llama_pro"):
        keys.matters("adapters of its new blocks alone are not modelled: of all", "use_llama_pro")
    names = LoraKeys("finetuning_type", "lora_rank", "lora_target", "lora_dropout")
    common.lora(keys, names, bits == 4, default_targets="all-linear")
    library = keys.text("quantization_method").lower()
    if bits and library not in ("", "bnb", "bitsandbytes"):
        keys.matters(f"weights of {library} are taken as bitsandbytes'", "quantization_method")
    if bits == 4:
        keys.put_flag("method.double_quantization", "double_quantization")
    elif bits and bits != 8:
        why = f"{bits}-bit weights are not modelled: taken in the compute dtype"
        keys.matters(why, "quantization_bit")


FORMATS.register(TrainerFormat("llamafactory", "a LLaMA-Factory file", recognises, read))
