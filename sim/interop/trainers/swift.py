"""ms-swift's YAML, or the args.json it writes, as a job. Keys and defaults as its 4.6 has them."""

from __future__ import annotations

from sim.inputs.registry import FORMATS
from sim.inputs.translation import Source, Translation
from sim.interop.trainers import common, huggingface, preferences, words
from sim.interop.trainers.common import LoraKeys, TrainerFormat
from sim.interop.trainers.keys import Keys

_KINDS = ("tuner_type", "train_type", "sft_type")
_TASKS = {"seq_cls": "scores", "reranker": "scores", "embedding": "embeddings"}
_MARKS = {
    *_KINDS, "attn_impl", "quant_bits", "quant_method", "per_device_train_batch_size",
    "torch_dtype", "tuner_backend", "max_length",
}  # fmt: skip


def recognises(source: Source) -> bool:
    """A model and two other keys of its own."""
    return bool({"model", "model_id_or_path"} & source.keys) and len(_MARKS & source.keys) > 1


def read(source: Source, job: Translation) -> None:
    """Read the file, and the DeepSpeed file that it names."""
    keys = Keys.of(source, job, "ms-swift's default")
    keys.put("model", keys.text("model", "model_id_or_path"), "model", "model_id_or_path")
    packed, free = keys.flag("packing"), keys.flag("padding_free")
    keys.put_count("sequence_length", *("packing_length",) * bool(packed), "max_length")
    keys.put_flag("data.packing", "packing")
    if packed:
        common.masked(keys, "packing")
    elif free:
        common.unpadded(keys, "padding_free")
    keys.suppose("data.packing", False)
    keys.leave("rows are as long", "packing_length padding_free max_length")
    _method(keys)
    if keys.text("tuner_backend") == "unsloth":
        common.unsloth(job, job.text_at("method.kind") in ("lora", "qlora"))
    if keys.flag("use_galore"):
        keys.put("optimizer", "galore", "use_galore")
        keys.put_count("optimizer_rank", "galore_rank", default=128)
        keys.leave("use_galore decides", "optim")
    words.attention(keys, "attn_impl")
    keys.suppose("attention", "sdpa")
    dtype = words.dtype(keys, "torch_dtype") or "bf16"
    huggingface.training(
        source, keys, micro_batch=1, precision=dtype, checkpointing=True, reentrant=True
    )
    huggingface.master(keys, dtype, "torch_dtype")
    kind = keys.text("rlhf_type")
    if kind:
        preferences.of_key(keys, kind, "rlhf_type")
    task = _TASKS.get(keys.text("task_type"), "")
    if task and not kind:  # a reward model's task is a head of scores, and its rows are pairs
        preferences.of_key(keys, task, "task_type")
    keys.put_ulysses("sequence_parallel_size")
    if keys.text("experts_impl") == "grouped_mm":
        keys.put("experts", "grouped", "experts_impl")
    if job.text_at("parallelism.strategy") == "zero3":
        keys.put_count("parallelism.zero_hpz_partition_size", "zero_hpz_partition_size")
    common.spread(keys)
    keys.put_degree("parallelism.tensor_parallel", "deepspeed_autotp_size")
    keys.leave(
        "taken so far as it cuts", "experts_impl zero_hpz_partition_size deepspeed_autotp_size"
    )
    keys.settle("ms-swift")
    keys.rest("ms-swift")


def _method(keys: Keys) -> None:
    kind = keys.text(*_KINDS) or "lora"
    four = keys.count("quant_bits") == 4 or keys.flag("load_in_4bit") is True
    if kind == "full":
        keys.put("method.kind", "full", *_KINDS)
        _frozen(keys)
    else:
        if kind != "lora":
            keys.matters(f"{kind} is not modelled: taken as LoRA", *_KINDS)
        names = LoraKeys(
            " ".join(_KINDS),
            "lora_rank",
            "target_regex target_modules lora_target_modules",
            "lora_dropout",
        )
        common.lora(keys, names, four, dropout=0.05, default_targets="all-linear")
    if (keys.count("quant_bits") or 4) != 4:
        keys.matters("weights of other than 4 bits are not modelled", "quant_bits")
    keys.leave("taken with quant_bits", "quant_method quant_bits tuner_backend")


def _frozen(keys: Keys) -> None:
    """What full training leaves out: modules by name, a share of the parameters, the decoder."""
    for name in ("freeze_parameters", "freeze_parameters_regex"):
        if any(keys.words(name)):
            keys.matters(common.PARTLY_FROZEN, name)
    if (keys.number("freeze_parameters_ratio") or 0.0) > 0.0:
        keys.matters(common.PARTLY_FROZEN, "freeze_parameters_ratio")
    if keys.flag("freeze_llm"):
        keys.matters("a frozen decoder is not modelled: taken as trained", "freeze_llm")


FORMATS.register(TrainerFormat("ms-swift", "an ms-swift file", recognises, read))
