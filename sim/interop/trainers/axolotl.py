"""axolotl's YAML as a job. Keys and defaults as axolotl 0.19's schema has them."""

from __future__ import annotations

from sim.inputs.registry import FORMATS
from sim.inputs.translation import Source, Translation
from sim.interop.trainers import common, deepspeed, fsdp_keys, huggingface, preferences, words
from sim.interop.trainers.common import LoraKeys, TrainerFormat
from sim.interop.trainers.keys import AUTO, Keys

_MARKS = {"sequence_len", "micro_batch_size", "adapter", "datasets", "sample_packing", "output_dir"}
#: one after the other, the last that is set counts
_ATTENTION = {
    "flash_attention": "flash2", "sdp_attention": "sdpa", "eager_attention": "eager",
    "xformers_attention": "", "flex_attention": "", "sage_attention": "",
}  # fmt: skip


def recognises(source: Source) -> bool:
    """A base model and another key of axolotl's."""
    return "base_model" in source.keys and bool(_MARKS & source.keys)


def read(source: Source, job: Translation) -> None:
    """Read the file, and the DeepSpeed file that it names."""
    keys = Keys.of(source, job, "axolotl's default")
    keys.put("model", keys.text("base_model"), "base_model")
    job.marks_leaves = "axolotl"  # loaders/model.py, MOE_ARCH_BLOCK
    keys.put_count("sequence_length", "sequence_len", default=512)
    keys.put_count("micro_batch", "micro_batch_size", default=1)
    keys.put_count("gradient_accumulation", "gradient_accumulation_steps", default=1)
    common.length(keys, "num_epochs")
    _rows(keys)
    _method(keys)
    words.optimizer(keys, "optimizer")
    keys.suppose("optimizer", "adamw")
    _attention(keys)
    if keys.text("torch_compile").lower() == "true":
        keys.put("compile", True, "torch_compile")
    keys.leave(
        "the compiler's settings",
        "torch_compile torch_compile_backend torch_compile_mode flex_attn_compile_kwargs",
    )
    on = common.checkpointing(keys, reentrant=True)
    if keys.is_on("activation_offloading"):
        keys.put("activation_checkpointing.kind", "full", "activation_offloading")
        keys.put("activation_checkpointing.offload", True, "activation_offloading")
        keys.suppose("activation_checkpointing.reentrant", on)
    _liger(keys)
    job.suppose("trainer", "huggingface", "axolotl runs Hugging Face's trainer")
    _strategy(source, keys)
    if keys.flag("load_in_8bit"):
        common.eight_bit(keys, "load_in_8bit")
    _precision(keys)
    common.loader(keys)
    common.saving(keys)
    _preferences(keys)
    common.own_muon(keys, "optimizer")
    _aside(keys)


def _preferences(keys: Keys) -> None:
    """Pairs and scores; of what is rolled out a plain step."""
    kind = keys.text("rl")
    if kind:
        preferences.of_key(keys, kind, "rl")
    for name in ("reward_model", "process_reward_model"):
        if keys.flag(name):  # of the latter a row is one sample
            preferences.of_key(keys, "scores" if name.startswith("process") else "reward", name)


def _rows(keys: Keys) -> None:
    packed = keys.flag("sample_packing")
    if keys.flag("pad_to_sequence_len") and not packed:
        keys.put("data.packing", True, "pad_to_sequence_len")
        keys.leave("each sample is padded to a whole row", "sample_packing")
    elif keys.is_on("batch_flattening") and not packed:
        common.unpadded(keys, "batch_flattening")
    else:
        keys.put_flag("data.packing", "sample_packing", default=False)
    if packed:
        common.masked(keys, "sample_packing")
    keys.leave(
        "no effect where rows are packed",
        "pad_to_sequence_len sample_packing_eff_est total_num_tokens min_sample_len "
        "sample_packing_group_size sample_packing_bin_size",
    )


def _method(keys: Keys) -> None:
    adapter = keys.text("adapter").lower()
    four = keys.flag("load_in_4bit")
    if not adapter:
        keys.job.suppose("method.kind", "full", "no adapter")
        return
    if adapter not in ("lora", "qlora"):
        keys.matters(f"{adapter} is not modelled: taken as LoRA", "adapter")
    keys.put_on("method.targets", "lora_target_linear", value="all-linear")
    names = LoraKeys("adapter", "lora_r", "lora_target_modules", "lora_dropout")
    common.lora(keys, names, bool(four) or adapter == "qlora", why=common.OF_PEFT)
    if keys.flag("peft_autocast_adapter_dtype") is False:
        keys.put("method.adapter_dtype", "as-compute", "peft_autocast_adapter_dtype")
    bits = keys.inner("bnb_config_kwargs")
    bits.put_flag("method.double_quantization", "bnb_4bit_use_double_quant")
    fused = [n for n in ("lora_mlp_kernel", "lora_qkv_kernel", "lora_o_kernel") if keys.flag(n)]
    if fused:
        keys.put("method.adapters", "fused", *fused)


def _attention(keys: Keys) -> None:
    words.attention(keys, "attn_implementation")
    if keys.text("attn_implementation"):
        keys.leave("attn_implementation says it", _ATTENTION)
        return
    for name, ours in _ATTENTION.items():
        keys.put_on("attention", name, value=ours or "flash2")
        if not ours and keys.flag(name):
            keys.matters(f"{name} is not modelled: taken as FlashAttention 2", name)
    keys.job.suppose("attention", "sdpa", "Hugging Face's default")


def _liger(keys: Keys) -> None:
    """Liger's and other fused kernels."""
    gate, norm = keys.flag("liger_glu_activation"), keys.flag("liger_rms_norm")
    rope = keys.flag("liger_rope")
    if gate and norm:
        keys.put("fused_kernels", "all", "liger_glu_activation")
    elif norm:
        keys.put("fused_kernels", "norm+rope" if rope else "norm", "liger_rms_norm")
    plugins = keys.words("plugins")
    eager = ("flash_attn_cross_entropy", "liger_cross_entropy", "unsloth_cross_entropy_loss")
    if keys.flag("liger_fused_linear_cross_entropy"):
        keys.put("loss", "fused-linear", "liger_fused_linear_cross_entropy")
    elif any("CutCrossEntropy" in p for p in plugins) or keys.flag("cut_cross_entropy"):
        keys.put("loss", "fused-linear", "plugins")
    else:
        keys.put_on("loss", *eager, value="huggingface-fused")
    keys.job.suppose("loss", "huggingface", "Hugging Face's loss")
    keys.leave("taken through its own keys", "plugins")
    keys.leave("a part of what is taken", "liger_rope liger_layer_norm liger_rms_norm")


def _strategy(source: Source, keys: Keys) -> None:
    job = keys.job
    workers = keys.count("ray_num_workers") if keys.flag("use_ray") else None
    if workers:
        job.world = (workers, keys.place("ray_num_workers"))
    words = keys.words("fsdp")
    plugin = keys.inner("fsdp_config")
    fsdp_keys.accumulation(keys)
    if words or plugin.branch.entries:
        version = keys.count("fsdp_version") or plugin.count("fsdp_version") or 1
        fsdp_keys.fsdp(plugin, version, words)
    else:
        keys.leave("no fsdp_config", "fsdp_version")
    deepspeed.named(source, keys, "deepspeed")
    huggingface.buckets(keys)
    split = ("context_parallel_size", "sequence_parallel_degree")  # the latter until 0.12
    keys.put_count("parallelism.context_parallel", *split)
    keys.leave("how keys and values go round", "heads_k_stride ring_attn_func")
    if job.at("parallelism.context_parallel") is not None:
        packed = job.text_at("data.packing").lower() == "true"
        kind = "all-gather" if packed else "ring"  # varlen_llama3 gathers keys and values
        job.suppose("parallelism.context_parallel_kind", kind, "axolotl's ring_attn_func")
    keys.put_count("parallelism.tensor_parallel", "tensor_parallel_size")
    keys.put_count("parallelism.replicate", "dp_replicate_size")
    if keys.text("experts_implementation") in ("grouped_mm", "scattermoe", "sonicmoe"):
        keys.put("experts", "grouped", "experts_implementation")
    experts, shard = common.experts(keys, "expert_parallel_size"), keys.count("dp_shard_size")
    if shard:
        keys.put("parallelism.shard", shard * experts, "dp_shard_size")


def _precision(keys: Keys) -> None:
    keys.put_flag("precision.tf32", "tf32")
    if keys.text("tf32").lower() == AUTO:
        keys.matters("on where the GPU has TF32: taken as off; write true where it has", "tf32")
    if keys.flag("fp8"):
        keys.put("precision.kind", "fp8", "fp8")
        keys.put("precision.recipe", "tensorwise", "fp8")
        keys.put_on("precision.all_gather", "fp8_enable_fsdp_float8_all_gather", value="fp8")
        keys.leave("beside fp8", "bf16 fp16")
        return
    found = keys.text("bf16").lower() in (AUTO, "full")
    half = True if found else keys.flag("bf16", "bfloat16")
    if half:
        keys.put("precision.kind", "bf16", "bf16", "bfloat16")
        keys.job.loads_bf16 = "axolotl loads weights in bf16"
    elif keys.flag("fp16", "float16"):
        keys.put("precision.kind", "fp16", "fp16", "float16")
    elif half is False:
        keys.put("precision.kind", "fp32", "bf16")
    else:
        keys.job.suppose("precision.kind", "bf16", "axolotl's bf16: auto")


def _aside(keys: Keys) -> None:
    keys.matter_said({"unfrozen_parameters": common.PARTLY_FROZEN})
    keys.leave(
        "read from the model itself",
        "model_type base_model_config is_llama_derived_model load_in_8bit load_in_4bit "
        "revision_of_model",
    )
    common.spread(keys)
    keys.settle("axolotl", "huggingface")
    keys.rest("axolotl")


FORMATS.register(TrainerFormat("axolotl", "an axolotl file", recognises, read))
