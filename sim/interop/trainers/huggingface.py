"""Hugging Face's TrainingArguments and TRL's SFTConfig, as YAML, JSON or command line, as a job.

Defaults as transformers 5.24 and TRL 1.16 have them.
"""

from __future__ import annotations

from sim.inputs.registry import FORMATS
from sim.inputs.translation import Keys, Source, Translation
from sim.inputs.tree import Branch
from sim.interop.trainers import common, deepspeed, fsdp_keys
from sim.interop.trainers.common import DTYPES, TrainerFormat

_MARKS = {
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "num_train_epochs",
    "optim",
    "gradient_checkpointing",
    "bf16",
    "fp16",
    "max_steps",
    "output_dir",
    "max_length",
    "use_peft",
    "model_name_or_path",
    "max_seq_length",
    "learning_rate",
}
_TRL = {
    "max_length",
    "max_seq_length",
    "use_peft",
    "lora_r",
    "lora_target_modules",
    "packing",
    "dataset_text_field",
    "assistant_only_loss",
    "completion_only_loss",
    "padding_free",
    "dataset_name",
}
_DEFAULT = "transformers' default"
_OF_TRL = "TRL's default"


def recognises(source: Source) -> bool:
    """A batch size, or several other keys of theirs."""
    keys = source.keys
    if {"zero_optimization", "train_micro_batch_size_per_gpu"} & keys:
        return False
    return "per_device_train_batch_size" in keys or len(_MARKS & keys) > 2


def read(source: Source, job: Translation) -> None:
    """Read the arguments, and the DeepSpeed file that they name."""
    keys = Keys(job, common.branch_of(source))
    arguments(source, keys, job)
    keys.rest("Hugging Face trainers'")


def arguments(source: Source, keys: Keys, job: Translation) -> None:
    """The arguments of a trainer and, where they are there, of TRL's SFT script."""
    trl = bool(_TRL & frozenset(keys.branch.entries))
    if keys.has("model_name_or_path"):
        keys.put("model", keys.text("model_name_or_path"), "model_name_or_path")
    if trl:
        keys.put_count("sequence_length", "max_length", "max_seq_length")
        job.suppose("sequence_length", 1024, _OF_TRL)
        _rows(keys, job)
        _method(keys, job)
    training(
        source,
        keys,
        job,
        micro_batch=8,
        precision="bf16" if trl else "fp32",
        checkpointing=trl,
        why=_OF_TRL if trl else _DEFAULT,
    )
    if not trl:
        job.suppose("data.packing", False, _DEFAULT)
    common.attention(keys, "attn_implementation")
    job.suppose("attention", "sdpa", _DEFAULT)
    dtype = keys.text("dtype", "torch_dtype", "model_dtype").lower()
    master(keys, job, DTYPES.get(dtype, ""), "dtype", "torch_dtype", "model_dtype")


def training(
    source: Source,
    keys: Keys,
    job: Translation,
    *,
    micro_batch: int,
    precision: str,
    checkpointing: bool,
    why: str,
    reentrant: bool = False,
) -> None:
    """What every trainer built on Hugging Face's takes from its `TrainingArguments`."""
    keys.put_count("micro_batch", "per_device_train_batch_size", "per_gpu_train_batch_size")
    job.suppose("micro_batch", micro_batch, why)
    keys.put_count("gradient_accumulation", "gradient_accumulation_steps")
    if job.at("global_batch") is None:
        job.suppose("gradient_accumulation", 1, why)
    common.length(keys, "num_train_epochs", 3.0, "transformers' default")
    common.optimizer(keys, "optim")
    job.suppose("optimizer", "adamw", why)
    word = keys.text("optim").lower()
    if not word:
        job.suppose("optimizer_implementation", "fused", _DEFAULT)
    if keys.flag("bf16"):
        keys.put("precision.kind", "bf16", "bf16")
    elif keys.flag("fp16"):
        keys.put("precision.kind", "fp16", "fp16")
    elif "bf16" in keys.branch.entries or "fp16" in keys.branch.entries:
        keys.flag("bf16"), keys.flag("fp16")
        job.suppose("precision.kind", "fp32", "neither bf16 nor fp16")
    job.suppose("precision.kind", precision, why)
    if keys.flag("torch_compile"):
        keys.put("compile", True, "torch_compile")
    names = ("gradient_checkpointing", "activation_checkpointing")
    on = common.checkpointing(keys, job, reentrant, why)
    if not on and checkpointing and not any(n in keys.branch.entries for n in names):
        job.suppose("activation_checkpointing.kind", "full", why)
        job.suppose("activation_checkpointing.reentrant", reentrant, why)
    if keys.flag("activation_offloading"):
        keys.put("activation_checkpointing.offload", True, "activation_offloading")
    if keys.flag("use_liger_kernel", "use_liger", "enable_liger_kernel"):
        liger = ("use_liger_kernel", "use_liger", "enable_liger_kernel")
        keys.put("fused_kernels", "all", *liger)
        keys.put("loss", "fused-linear", *liger)
    job.suppose("loss", "huggingface", _DEFAULT)
    strategy(source, keys, job)
    job.suppose("trainer", "huggingface", _DEFAULT)
    keys.put_count("data.workers", "dataloader_num_workers")
    keys.put_count("data.prefetch", "dataloader_prefetch_factor")
    if keys.number("max_grad_norm") == 0:
        keys.put("parallelism.clip_gradients", False, "max_grad_norm")
    if keys.flag("auto_find_batch_size"):
        keys.matters(
            "the batch that will fit is not known: per_device_train_batch_size is taken",
            "auto_find_batch_size",
        )
    common.saving(keys)
    keys.leave_matching(common.WHY_NO_MATTER, common.NO_MATTER)
    keys.leave_matching("the compiler's settings", "torch_compile_.*")
    keys.leave(
        "read above",
        "bf16",
        "fp16",
        "tf32",
        "max_grad_norm",
        "optim_args",
        "torch_empty_cache_steps",
        "dataloader_drop_last",
        "dataloader_pin_memory",
        "dataloader_persistent_workers",
        "gradient_checkpointing_kwargs",
        "activation_checkpointing_kwargs",
        "liger_kernel_config",
    )


def strategy(source: Source, keys: Keys, job: Translation) -> None:
    """FSDP, DeepSpeed or DDP of `TrainingArguments`."""
    words = " ".join(keys.words("fsdp")).lower().split()
    plugin = keys.tree("fsdp_config")
    if (words and words != ["false"]) or isinstance(plugin, Branch):
        inner = keys.inner("fsdp_config") if isinstance(plugin, Branch) else None
        inner = inner or Keys(job, Branch({}, keys.place("fsdp")), "fsdp.")
        version = inner.count("version", "fsdp_version") or (2 if words == ["true"] else 1)
        inner.seen.add("version")
        fsdp_keys.fsdp(inner, job, version, words)
    deepspeed.named(source, keys, job, "deepspeed")
    bucket = keys.number("ddp_bucket_cap_mb")
    if bucket and job.at("parallelism.strategy") is None:
        job.suppose("parallelism.strategy", "ddp", "neither FSDP nor DeepSpeed is configured")
        keys.put("parallelism.bucket_cap_mb", bucket, "ddp_bucket_cap_mb")
    keys.leave(
        "FSDP and DeepSpeed have none",
        "ddp_bucket_cap_mb",
        "ddp_backend",
        "ddp_broadcast_buffers",
        "fsdp_min_num_params",
    )


def master(keys: Keys, job: Translation, dtype: str, *names: str) -> None:
    """Weights loaded in 16 bits and trained without FSDP or DeepSpeed stay in 16 bits."""
    if dtype == "bf16":
        job.loads_bf16 = f"{keys.named(*names)}: {keys.text(*names)}"


def _rows(keys: Keys, job: Translation) -> None:
    packed, free = keys.flag("packing"), keys.flag("padding_free")
    if packed:
        keys.put("data.packing", True, "packing")
    elif free:
        common.unpadded(keys, "padding_free")
    elif packed is False:
        keys.put("data.packing", False, "packing")
    job.suppose("data.packing", False, _OF_TRL)
    keys.leave(
        "how samples are put into rows",
        "packing_strategy",
        "padding_free",
        "eval_packing",
        "truncation_mode",
        "pad_to_multiple_of",
        "dataset_kwargs",
        "completion_only_loss",
        "assistant_only_loss",
        "loss_type",
        "pad_token",
        "eos_token",
    )


def _method(keys: Keys, job: Translation) -> None:
    four = bool(keys.flag("load_in_4bit"))
    if keys.flag("use_peft"):
        common.lora(
            keys,
            kind="lora",
            four_bit=four,
            rank=16,
            why=_OF_TRL,
            dropout=0.05,
            rank_names=("lora_r",),
            target_names=("lora_target_modules",),
            dropout_names=("lora_dropout",),
            place_names=("use_peft",),
        )
        nested = keys.flag("use_bnb_nested_quant")
        if four:
            job.take(
                "method.double_quantization",
                bool(nested),
                keys.place("use_bnb_nested_quant", "load_in_4bit"),
                "use_bnb_nested_quant",
            )
        if keys.flag("load_in_8bit"):
            keys.matters(
                "8-bit weights are not modelled: taken in the compute dtype", "load_in_8bit"
            )
    else:
        job.suppose("method.kind", "full", "use_peft is not set")
        keys.leave(
            "use_peft is not set",
            "lora_r",
            "lora_target_modules",
            "lora_dropout",
            "load_in_4bit",
            "load_in_8bit",
        )
    keys.leave(
        common.WHY_NO_MATTER,
        "bnb_4bit_quant_type",
        "bnb_4bit_quant_storage",
        "lora_task_type",
        "use_bnb_nested_quant",
        "load_in_4bit",
        "load_in_8bit",
    )


FORMATS.register(
    TrainerFormat("huggingface", "a file of Hugging Face trainer arguments", recognises, read)
)
