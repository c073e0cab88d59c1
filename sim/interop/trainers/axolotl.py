"""axolotl's YAML as a job. Keys and defaults as axolotl 0.19's schema has them."""

from __future__ import annotations

from sim.inputs.registry import FORMATS
from sim.inputs.translation import Keys, Source, Translation
from sim.interop.trainers import common, deepspeed, fsdp_keys
from sim.interop.trainers.common import TrainerFormat

_DEFAULT = "axolotl's default"
_MARKS = {"sequence_len", "micro_batch_size", "adapter", "datasets", "sample_packing", "output_dir"}


def recognises(source: Source) -> bool:
    """A base model and another key of axolotl's."""
    return "base_model" in source.keys and bool(_MARKS & source.keys)


def read(source: Source, job: Translation) -> None:
    """Read the file, and the DeepSpeed file that it names."""
    keys = Keys(job, common.branch_of(source))
    keys.put("model", keys.text("base_model"), "base_model")
    keys.put_count("sequence_length", "sequence_len")
    job.suppose("sequence_length", 512, _DEFAULT)
    keys.put_count("micro_batch", "micro_batch_size")
    job.suppose("micro_batch", 1, _DEFAULT)
    keys.put_count("gradient_accumulation", "gradient_accumulation_steps")
    job.suppose("gradient_accumulation", 1, _DEFAULT)
    common.length(keys, "num_epochs")
    _rows(keys, job)
    _method(keys, job)
    common.optimizer(keys, "optimizer")
    job.suppose("optimizer", "adamw", _DEFAULT)
    _attention(keys, job)
    compiled = keys.text("torch_compile").lower()
    if compiled == "true":
        keys.put("compile", True, "torch_compile")
    keys.leave(
        "the compiler's settings",
        "torch_compile",
        "torch_compile_backend",
        "torch_compile_mode",
        "flex_attn_compile_kwargs",
    )
    on = common.checkpointing(keys, job, True, _DEFAULT)
    if keys.is_on("activation_offloading"):
        keys.put("activation_checkpointing.kind", "full", "activation_offloading")
        keys.put("activation_checkpointing.offload", True, "activation_offloading")
        job.suppose("activation_checkpointing.reentrant", on, _DEFAULT)
    _liger(keys)
    job.suppose("trainer", "huggingface", "axolotl runs Hugging Face's trainer")
    _strategy(source, keys, job)
    _precision(keys, job)
    keys.put_count("data.workers", "dataloader_num_workers")
    keys.put_count("data.prefetch", "dataloader_prefetch_factor")
    clip = keys.number("max_grad_norm")
    if clip == 0:
        keys.put("parallelism.clip_gradients", False, "max_grad_norm")
    common.saving(keys)
    _aside(keys)


def _rows(keys: Keys, job: Translation) -> None:
    packed = keys.flag("sample_packing")
    if packed is not None:
        keys.put("data.packing", packed, "sample_packing")
    job.suppose("data.packing", False, _DEFAULT)
    if job.text_at("data.packing").lower() == "true":
        common.masked(keys, "sample_packing")
    if keys.flag("pad_to_sequence_len") and job.text_at("data.packing").lower() == "false":
        keys.put("data.packing", True, "pad_to_sequence_len")
    keys.leave(
        "no effect where rows are packed",
        "pad_to_sequence_len",
        "sample_packing_eff_est",
        "total_num_tokens",
        "min_sample_len",
        "sample_packing_group_size",
        "sample_packing_bin_size",
    )


def _method(keys: Keys, job: Translation) -> None:
    adapter = keys.text("adapter").lower()
    four, eight = keys.flag("load_in_4bit"), keys.flag("load_in_8bit")
    if not adapter:
        job.suppose("method.kind", "full", "no adapter")
        return
    if adapter not in ("lora", "qlora"):
        keys.matters(f"{adapter} is not modelled: taken as LoRA", "adapter")
    linear = keys.flag("lora_target_linear")
    if linear:
        keys.put("method.targets", "all-linear", "lora_target_linear")
    common.lora(
        keys,
        kind=adapter,
        four_bit=bool(four),
        rank=8,
        why="PEFT's default",
        dropout=0.0,
        rank_names=("lora_r",),
        target_names=("lora_target_modules",),
        dropout_names=("lora_dropout",),
        place_names=("adapter",),
    )
    if eight:
        keys.matters("8-bit weights are not modelled: taken in the compute dtype", "load_in_8bit")
    fused = [n for n in ("lora_mlp_kernel", "lora_qkv_kernel", "lora_o_kernel") if keys.flag(n)]
    if fused:
        keys.put("method.adapters", "fused", *fused)


def _attention(keys: Keys, job: Translation) -> None:
    common.attention(keys, "attn_implementation")
    for name, ours in (
        ("flash_attention", "flash2"),
        ("sdp_attention", "sdpa"),
        ("eager_attention", "eager"),
    ):
        if keys.flag(name):
            keys.put("attention", ours, name)
    for name in ("xformers_attention", "flex_attention", "sage_attention"):
        if keys.flag(name):
            keys.put("attention", "flash2", name)
            keys.matters(f"{name} is not modelled: taken as FlashAttention 2", name)
    job.suppose("attention", "sdpa", "Hugging Face's default")


def _liger(keys: Keys) -> None:
    """Liger's and other fused kernels."""
    gate, norm = keys.flag("liger_glu_activation"), keys.flag("liger_rms_norm")
    rope = keys.flag("liger_rope")
    if gate and norm:
        keys.put("fused_kernels", "all", "liger_glu_activation")
    elif norm:
        keys.put("fused_kernels", "norm+rope" if rope else "norm", "liger_rms_norm")
    plugins = keys.words("plugins")
    if keys.flag("liger_fused_linear_cross_entropy"):
        keys.put("loss", "fused-linear", "liger_fused_linear_cross_entropy")
    elif any("CutCrossEntropy" in p for p in plugins) or keys.flag("cut_cross_entropy"):
        keys.put("loss", "fused-linear", "plugins")
    elif keys.flag("flash_attn_cross_entropy", "liger_cross_entropy", "unsloth_cross_entropy_loss"):
        keys.put(
            "loss",
            "huggingface-fused",
            "flash_attn_cross_entropy",
            "liger_cross_entropy",
            "unsloth_cross_entropy_loss",
        )
    keys.job.suppose("loss", "huggingface", "Hugging Face's loss")
    keys.leave("taken through its own keys", "plugins")
    keys.leave("a part of what is taken", "liger_rope", "liger_layer_norm", "liger_rms_norm")


def _strategy(source: Source, keys: Keys, job: Translation) -> None:
    words = keys.words("fsdp")
    plugin = keys.inner("fsdp_config")
    if words or plugin.branch.entries:
        version = keys.count("fsdp_version") or plugin.count("fsdp_version") or 1
        fsdp_keys.fsdp(plugin, job, version, words)
    else:
        keys.leave("no fsdp_config", "fsdp_version")
    deepspeed.named(source, keys, job, "deepspeed")
    keys.put_count("parallelism.context_parallel", "context_parallel_size")
    if job.at("parallelism.context_parallel") is not None:
        packed = (
            job.text_at("data.packing").lower() == "true"
        )  # varlen_llama3 gathers keys and values
        kind = "all-gather" if packed else "ring"
        job.suppose("parallelism.context_parallel_kind", kind, "axolotl's ring_attn_func")
    keys.put_count("parallelism.tensor_parallel", "tensor_parallel_size")
    keys.put_count("parallelism.replicate", "dp_replicate_size")
    if keys.text("experts_implementation") in ("grouped_mm", "scattermoe", "sonicmoe"):
        keys.put("experts", "grouped", "experts_implementation")
    experts, shard = common.experts(keys, job, "expert_parallel_size"), keys.count("dp_shard_size")
    if shard:
        keys.put("parallelism.shard", shard * experts, "dp_shard_size")


def _precision(keys: Keys, job: Translation) -> None:
    if keys.flag("fp8"):
        keys.put("precision.kind", "fp8", "fp8")
        keys.put("precision.recipe", "tensorwise", "fp8")
        if keys.flag("fp8_enable_fsdp_float8_all_gather"):
            keys.put("precision.all_gather", "fp8", "fp8_enable_fsdp_float8_all_gather")
        keys.leave("beside fp8", "bf16", "fp16")
        return
    half = keys.flag("bf16", "bfloat16") or keys.text("bf16").lower() in ("auto", "full")
    if half:
        keys.put("precision.kind", "bf16", "bf16", "bfloat16")
    elif keys.flag("fp16", "float16"):
        keys.put("precision.kind", "fp16", "fp16", "float16")
    elif keys.text("bf16").lower() == "false":
        keys.put("precision.kind", "fp32", "bf16")
    else:
        job.suppose("precision.kind", "bf16", "axolotl's bf16: auto")
    if half:
        job.loads_bf16 = "axolotl loads weights in bf16"


def _off(keys: Keys, name: str) -> bool:
    """Whether a key that may also be a list is a plain false."""
    return keys.words(name) == ["false"]


def _aside(keys: Keys) -> None:
    keys.leave("TF32 of what is left in fp32", "tf32")
    for name, why in (
        ("tiled_mlp", "MLPs over tiles of the sequence are not modelled: all of it at once"),
        ("rl", "preference and reinforcement learning is not modelled: taken as a plain step"),
        ("unfrozen_parameters", "partly frozen models are not modelled: taken as trained in full"),
        ("relora", "ReLoRA's merges are not modelled"),
    ):
        if name in keys.branch.entries and keys.has(name) and not _off(keys, name):
            keys.matters(why, name)
        keys.seen.add(name)
    keys.leave(
        "read from the model itself",
        "model_type",
        "base_model_config",
        "is_llama_derived_model",
        "load_in_8bit",
        "load_in_4bit",
        "revision_of_model",
    )
    keys.leave_matching(common.WHY_NO_MATTER, common.NO_MATTER + r"|cosine_\w+|pretraining_dataset")
    keys.rest("axolotl")


FORMATS.register(TrainerFormat("axolotl", "an axolotl file", recognises, read))
