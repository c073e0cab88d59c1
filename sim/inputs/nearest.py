"""Keys that nobody has, and those that were meant: near ones, and what other tools call them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from sim.inputs.spoken import folded

CUTOFF = 0.6  # of likeness: below it nothing is near
_MOST = 4  # names that a hint has


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """A hint at the nearest known key, or the list of keys where it is short."""
    names = list(known)
    key, colon, value = word.partition(":")
    if colon and key.strip() in names:
        return f'; a space must follow the colon: "{key.strip()}: {value.strip()}"'
    if near := meant(word, names):
        more = f" or one of {len(near) - _MOST} more" if len(near) > _MOST else ""
        return "; did you mean " + " or ".join(f'"{n}"' for n in near[:_MOST]) + f"{more}?"
    return f"; known are {', '.join(names)}" if 0 < len(names) <= 12 else ""


def meant(word: str, names: Sequence[str]) -> list[str]:
    """Those of some names that a word may stand for, the likeliest first."""
    alias = MISNOMERS.get(word, "")
    if alias in names:
        return [alias]
    plain = {folded(n): n for n in names}
    bare = folded(word)
    if bare in plain:
        return [plain[bare]]
    near = [n for f, n in plain.items() if f.startswith(bare)] if len(bare) > 2 else []
    if not near:  # "h100" is the beginning of several
        from difflib import get_close_matches

        near = get_close_matches(word, names, n=1, cutoff=CUTOFF)
    return near


# what other tools call these keys
MISNOMERS = {
    "seq_len": "sequence_length", "seq_length": "sequence_length",
    "sequence_len": "sequence_length", "max_seq_length": "sequence_length",
    "context_length": "sequence_length", "batch_size": "micro_batch",
    "micro_batch_size": "micro_batch", "per_device_train_batch_size": "micro_batch",
    "train_micro_batch_size_per_gpu": "micro_batch",
    "gradient_accumulation_steps": "gradient_accumulation",
    "accumulation": "gradient_accumulation", "max_steps": "steps", "num_train_epochs": "epochs",
    "max_tokens": "tokens", "dtype": "precision", "bf16": "precision", "fp16": "precision",
    "fp8": "precision", "mixed_precision": "precision", "torch_dtype": "precision",
    "fp8_recipe": "recipe", "nvfp4": "precision", "mxfp8": "precision",
    "zero_stage": "parallelism", "fsdp": "parallelism", "deepspeed": "parallelism",
    "strategy": "parallelism", "lora": "method", "qlora": "method", "finetuning_type": "method",
    "cutoff_len": "sequence_length", "max_length": "sequence_length", "optim": "optimizer",
    "model_name_or_path": "model", "lora_rank": "rank", "global_batch_size": "global_batch",
    "train_batch_size": "global_batch",
    "gradient_checkpointing": "activation_checkpointing", "recompute": "activation_checkpointing",
    "attn_implementation": "attention", "torch_compile": "compile", "base_model": "model",
    "r": "rank", "lora_r": "rank", "target_modules": "targets", "num_layers": "layers",
    "num_hidden_layers": "layers", "intermediate_size": "ffn_size",
    "num_attention_heads": "heads", "num_key_value_heads": "kv_heads",
    "max_position_embeddings": "max_positions", "dp_replicate": "replicate",
    "cp": "context_parallel", "tp": "tensor_parallel", "pp": "pipeline_parallel",
    "data_parallel_shard": "shard", "data_parallel_replicate": "replicate",
    "ep": "expert_parallel", "expert_parallel_degree": "expert_parallel",
    "tensor_parallel_degree": "tensor_parallel", "pipeline_parallel_degree": "pipeline_parallel",
    "num_nodes": "nodes", "gpu_count": "gpus", "gpus_per_node": "gpus",
    "num_gpus": "gpus", "bandwidth": "rate", "nic": "nics", "tdp": "power_limit",
    "power": "power_limit", "watts": "power_limit",
    "hbm_bandwidth": "memory_bandwidth", "price": "price_per_gpu_hour",
}  # fmt: skip
