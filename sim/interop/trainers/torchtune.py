"""torchtune's YAML as a job: keys of its recipes for full fine-tuning, LoRA and QLoRA."""

from __future__ import annotations

import re

from sim.inputs.registry import FORMATS
from sim.inputs.translation import Source, Translation
from sim.inputs.tree import Branch, Items, Leaf
from sim.interop.trainers import common, preferences, words
from sim.interop.trainers.common import TrainerFormat
from sim.interop.trainers.keys import WHY_NO_MATTER, Keys

#: ``lora_llama3_1_8b``: how it is trained, the family and the size
_BUILDER = re.compile(
    r"(?P<how>q?lora_)?(?P<family>[a-z]+\d*(?:_\d+)?)_(?P<size>[\d_]+b|mini)"
    r"(?:_(?:instruct|base|reasoning|chat))?"
)
#: losses of pairs, by torchtune's names until 0.6, and its data sets of them
_OF_PAIRS = re.compile(r"\b(?:DPO|RSO|IPO|SimPO)Loss$")
_PAIRED = re.compile(r"paired|preference|hh_rlhf")
_NO_MATTER = (
    r"tokenizer|checkpointer|resume_from_checkpoint|seed|shuffle|lr_scheduler|output_dir"
    r"|metric_logger|log_\w+|profiler|device|save_\w+|dataset\w*|model|optimizer|loss"
    r"|enable_kv_cache|low_cpu_ram|tasks|max_seq_length|collate_fn|quantizer|prompt|max_new_tokens"
    r"|temperature|top_k|teacher_\w+|kd_\w+|ref_checkpointer|dataloader|batch_size_\w+|limit"
    r"|early_exit\w*|clip_grad_norm|run_val_\w+|batch_size_val|enable_async_checkpointing"
)


def recognises(source: Source) -> bool:
    """A model that is a component of torchtune's."""
    tree = source.tree
    model = tree.entries.get("model") if isinstance(tree, Branch) else None
    built = model.entries.get("_component_") if isinstance(model, Branch) else None
    return isinstance(built, Leaf) and "." in str(built.value)


def read(source: Source, job: Translation) -> None:
    """Read a recipe's configuration."""
    keys = Keys.of(source, job, "torchtune's default")
    _model(keys.inner("model"))
    keys.inner("tokenizer").put_count("sequence_length", "max_seq_len")
    data = keys.inner("dataset")
    packed = data.flag("packed")
    data.put("data.packing", bool(packed), "packed")
    if packed:
        common.masked(data, "packed")
    keys.put_count("micro_batch", "batch_size")
    keys.put_count("gradient_accumulation", "gradient_accumulation_steps", default=1)
    steps = keys.count("max_steps_per_epoch")
    if steps:
        keys.put("steps", steps * (keys.count("epochs") or 1), "max_steps_per_epoch")
    else:
        common.length(keys, "epochs")
    kind = words.dtype(keys, "dtype") or "fp32"
    _optimizer(keys.inner("optimizer"), kind)
    words.put_dtype(keys, "precision.kind", "dtype")
    keys.suppose("precision.kind", "fp32")
    if kind == "bf16":  # weights, gradients and states are all in the model's dtype
        keys.put("precision.master", "bf16", "dtype")
    _memory(keys)
    _preferences(keys)
    job.suppose("parallelism.strategy", "fsdp2", "recipes of several GPUs shard with FSDP2")
    job.suppose("trainer", "torchtune", "torchtune's loop")
    job.suppose("attention", "sdpa", "torchtune's attention")
    keys.leave_matching(WHY_NO_MATTER, _NO_MATTER)
    keys.rest("torchtune")


def _preferences(keys: Keys) -> None:
    """Pairs by the loss, or by the data set; of what is rolled out a plain step."""
    for name, pattern in (("loss", _OF_PAIRS), ("dataset", _PAIRED)):
        component = keys.inner(name).text("_component_")
        if pattern.search(component):
            preferences.of_kind(keys, "dpo", keys.place(name), f"{name}._component_")
        elif component.endswith(("PPOLoss", "GRPOLoss")):
            why = f"{component.rpartition('.')[2]} is of rollouts: taken as a plain step"
            keys.matters(why, name)
    if keys.has("teacher_model"):
        preferences.of_kind(keys, "gkd", keys.place("teacher_model"), "teacher_model")


def _model(keys: Keys) -> None:
    builder = keys.text("_component_").rpartition(".")[2]
    found = _BUILDER.fullmatch(builder)
    if found is None:
        keys.fault(f'"{builder}" is no model known here; add --set model=...', "_component_")
        return
    family = re.sub(r"^(llama|gemma|phi)(?=\d)", r"\1-", found["family"].replace("_", "."))
    keys.put("model", f"{family}-{found['size'].replace('_', '.')}", "_component_")
    four = bool(found["how"]) and keys.flag("quantize_base") is True
    keys.put("method.kind", "qlora" if four else (found["how"] or "full").rstrip("_"),
             *("quantize_base",) * four, "_component_")  # fmt: skip
    if not found["how"]:
        return
    keys.put_count("method.rank", "lora_rank")
    keys.put("method.dropout", keys.number("lora_dropout") or 0, "lora_dropout")
    named = keys.words("lora_attn_modules")
    if keys.flag("apply_lora_to_mlp"):
        named += ["gate_proj", "up_proj", "down_proj"]
    place = keys.place("lora_attn_modules")
    modules = Items([Leaf(word, place) for word in named], place)
    adapted = Branch({"lora_attn_modules": modules}, place)
    words.targets(Keys(keys.job, adapted, keys.whose, keys.prefix), "lora_attn_modules")
    keys.put_flag("method.dora", "use_dora")
    if keys.flag("apply_lora_to_output"):
        keys.matters("adapters of the head are not counted", "apply_lora_to_output")
    keys.leave(WHY_NO_MATTER, "lora_alpha apply_lora_to_output")
    keys.rest("torchtune")


#: bitsandbytes' optimizers that are AdamW with states of 32 bits on the GPU
_STATES_OF_32_BITS = ("Adam", "Adam32bit", "AdamW", "AdamW32bit")


def _optimizer(keys: Keys, kind: str) -> None:
    adamw = "adamw-bf16" if kind == "bf16" else "adamw"
    module, _, word = keys.text("_component_").rpartition(".")
    words.optimizer_named(keys, word, "_component_", adamw=adamw)
    if module.startswith("bitsandbytes") and kind == "bf16" and word in _STATES_OF_32_BITS:
        why = "bitsandbytes keeps its states in fp32: taken as bf16, half as many bytes"
        keys.matters(why, "_component_")
    keys.suppose("optimizer", adamw)
    keys.put_on("optimizer_implementation", "fused", value="fused")


def _memory(keys: Keys) -> None:
    """What saves memory: checkpoints, offload, the loss, the compiler."""
    if keys.flag("enable_activation_checkpointing"):
        keys.put("activation_checkpointing.kind", "full", "enable_activation_checkpointing")
        keys.put_on("activation_checkpointing.offload", "enable_activation_offloading")
    elif keys.flag("enable_activation_offloading"):
        why = "only checkpointed inputs go to the host here"
        keys.matters(why, "enable_activation_offloading")
    keys.put_on("parallelism.offload", "fsdp_cpu_offload", value="all")
    keys.put_on("optimizer_in_backward", "optimizer_in_bwd")
    if not keys.number("clip_grad_norm"):
        keys.suppose("parallelism.clip_gradients", False)
    keys.put_flag("compile", "compile")
    loss = keys.inner("loss").text("_component_")
    if "Linear" in loss:
        keys.job.take("loss", "fused-linear", keys.place("loss"), "loss._component_", loss)
    keys.suppose("loss", "chunked" if "Chunked" in loss or not loss else "eager")
    apart = set(keys.words("custom_sharded_layers"))
    if apart == {"tok_embeddings", "output"}:
        keys.put("parallelism.wrap", "torchtitan", "custom_sharded_layers")
    elif apart:
        why = "read where it names tok_embeddings and output, not otherwise"
        keys.matters(why, "custom_sharded_layers")
    keys.inner("fsdp").put_on("parallelism.offload", "cpu_offload", value="all")
    if keys.text("ac_mode") == "selective":
        keys.matters("blocks of which some are checkpointed are taken as all", "ac_mode")
    keys.leave("taken with what they are of", "fsdp ac_mode ac_option tensor_parallel_plan")
    for name in ("fsdp_reshard_after_forward", "tensor_parallel_dim", "memory_efficient_fsdp_wrap"):
        if keys.text(name).lower() not in ("", "1", "true", "[]"):
            keys.matters("this reader of torchtune files does not follow it", name)


FORMATS.register(TrainerFormat("torchtune", "a torchtune recipe", recognises, read))
