"""What the files of several trainers share: their words for optimizers, attention, LoRA, FSDP."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sim.inputs.foreign import beside, source_of
from sim.inputs.translation import Keys, Source, Translation
from sim.inputs.tree import Branch, Items, Leaf, Place, read_file

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclass(frozen=True, slots=True)
class TrainerFormat:
    """A format by what tells it and what reads it (see `sim.inputs.foreign.Format`)."""

    name: str
    title: str
    recognises: Callable[[Source], bool]
    read: Callable[[Source, Translation], None]


#: names of optimizers (transformers' `OptimizerNames`, axolotl's, torchtitan's): ours, and the
#: implementation where the name says it
OPTIMIZERS: dict[str, tuple[str, str | None]] = {
    "adamw": ("adamw", None),
    "adam": ("adamw", None),
    "adamw_torch": ("adamw", "foreach"),
    "adamw_hf": ("adamw", "for-loop"),
    "adamw_torch_fused": ("adamw", "fused"),
    "adamw_apex_fused": ("adamw", "fused"),
    "adamw_bnb_8bit": ("adamw-8bit", None),
    "adamw_8bit": ("adamw-8bit", None),
    "adamw_torch_8bit": ("adamw-8bit", None),
    "adam_8bit": ("adamw-8bit", None),
    "adafactor": ("adafactor", None),
    "sgd": ("sgd", None),
}
_PAGED = "its states stay on the GPU here: paging is not modelled"
_LIKE = {
    "paged_adamw_8bit": ("adamw-8bit", _PAGED),
    "paged_adamw_32bit": ("adamw", _PAGED),
    "paged_adam_8bit": ("adamw-8bit", _PAGED),
    "paged_adam": ("adamw", _PAGED),
    "paged_adamw": ("adamw", _PAGED),
    "adamw_torch_4bit": ("adamw-8bit", "4-bit states are taken as 8-bit ones"),
    "ademamix": ("adamw", "its third state is not counted"),
}
#: both by the name without underscores, as a class is called
_OPTIMIZER_OF = {name.replace("_", ""): found for name, found in OPTIMIZERS.items()}
_LIKE_OF = {name.replace("_", ""): found for name, found in _LIKE.items()}

ATTENTION = {
    "flash_attention_2": "flash2",
    "flash_attention_3": "flash3",
    "sdpa": "sdpa",
    "eager": "eager",
    "fa2": "flash2",
    "fa3": "flash3",
    "flash_attn": "flash2",
    "flash_attention": "flash2",
    "flash_attn_2": "flash2",
    "flash_attn_3": "flash3",
    "disabled": "eager",
    "kernels-community/flash-attn2": "flash2",
    "kernels-community/flash-attn3": "flash3",
    "kernels-community/vllm-flash-attn3": "flash3",
}

DTYPES = {
    "bf16": "bf16",
    "bfloat16": "bf16",
    "torch.bfloat16": "bf16",
    "fp16": "fp16",
    "float16": "fp16",
    "half": "fp16",
    "torch.float16": "fp16",
    "fp32": "fp32",
    "float32": "fp32",
    "no": "fp32",
    "torch.float32": "fp32",
    "fp8": "fp8",
}

_PROJECTIONS: dict[str, tuple[str, ...]] = {
    "q_proj": ("q",),
    "k_proj": ("k",),
    "v_proj": ("v",),
    "o_proj": ("o",),
    "out_proj": ("o",),
    "output_proj": ("o",),
    "dense": ("o",),
    "gate_proj": ("gate",),
    "up_proj": ("up",),
    "down_proj": ("down",),
    "qkv_proj": ("q", "k", "v"),
    "query_key_value": ("q", "k", "v"),
    "Wqkv": ("q", "k", "v"),
    "c_attn": ("q", "k", "v"),
    "gate_up_proj": ("gate", "up"),
    "dense_h_to_4h": ("up",),
    "dense_4h_to_h": ("down",),
    "fc1": ("up",),
    "fc2": ("down",),
    "c_fc": ("up",),
    "w1": ("gate",),
    "w2": ("down",),
    "w3": ("up",),
}
_EVERY = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")

#: keys of any Hugging Face trainer that change neither the time nor the memory of a step
NO_MATTER = (
    r"learning_rate|lr|lr_scheduler\w*|scheduler|warmup\w*|weight_decay|adam_\w+|seed|data_seed"
    r"|output_dir|overwrite_\w+|logging_\w+|report_to|run_name|wandb\w*|mlflow\w*|comet\w*"
    r"|tensorboard\w*|swanlab\w*|plot_loss|hub_\w+|push_to_hub\w*|save_total_limit"
    r"|save_only_model|save_safetensors|save_first_step|saves_per_epoch|resume_from_checkpoint"
    r"|remove_unused_columns|ddp_timeout|include_\w+|disable_tqdm|log_level\w*|do_train|do_predict"
    r"|chat_template\w*|template|datasets?|dataset_\w+|special_tokens|tokens|tokenizer\w*"
    r"|trust_remote_code|val_set_size|test_datasets|strict|shuffle\w*|train_on_inputs"
    r"|group_by_length|early_stopping\w*|debug|load_best_model_at_end|metric_for_best_model"
    r"|greater_is_better|average_tokens_across_devices|model_init_kwargs|use_cache|model_revision"
    r"|lora_alpha|lora_fan_in_fan_out|peft_use_rslora|use_rslora|lora_model_dir"
    r"|ddp_find_unused_parameters|router_aux_loss_coef|neftune\w*|label_smoothing_factor"
)
WHY_NO_MATTER = "no effect on time or memory of a step"
_RUN_TIME = "counted in steps or epochs: `checkpoint.interval` and `evaluation` are set by hand"


def length(keys: Keys, epochs: str, default: float = 1.0, why: str = "") -> None:
    """How long the job is: steps where they are given, else epochs of the samples that a user says.

    Parameters
    ----------
    keys : Keys
        Of the file.
    epochs : str
        Its key for epochs.
    default : float
        Epochs where it has none.
    why : str
        Whose default that is.
    """
    steps = keys.count("max_steps")
    if steps and steps > 0:
        keys.put("steps", steps, "max_steps")
        keys.leave("max_steps ends the job first", epochs)
        return
    keys.leave("no limit", "max_steps")
    passes = keys.number(epochs)
    if passes is not None:
        keys.put("epochs", passes, epochs)
    elif default != 1.0:
        keys.job.suppose("epochs", default, why)


def optimizer(keys: Keys, *names: str) -> None:
    """Which optimizer runs."""
    optimizer_named(keys, keys.text(*names), *names)


def optimizer_named(keys: Keys, word: str, *names: str, adamw: str = "adamw") -> None:
    """Which optimizer a word says, that stands under the key of some names; "" says none.

    Parameters
    ----------
    keys : Keys
        Of the file.
    word : str
        As the library has it, or as its class is called: ``paged_adamw_8bit``, ``PagedAdamW8bit``.
    *names : str
        Its key.
    adamw : str
        What AdamW with states of their own precision is of ours.
    """
    if not word:
        return
    bare = word.lower().replace("_", "")
    ours, how = _OPTIMIZER_OF.get(bare, ("adamw", None))
    like, why = _LIKE_OF.get(bare, (ours, f"{word} is not modelled: taken as AdamW"))
    keys.put("optimizer", adamw if like == "adamw" else like, *names)
    if how:
        keys.put("optimizer_implementation", how, *names)
    if bare not in _OPTIMIZER_OF:
        keys.matters(why, *names)


def attention(keys: Keys, *names: str) -> None:
    """Whose attention kernel runs."""
    word = keys.text(*names)
    if not word or word == "auto":
        return
    if word in ATTENTION:
        keys.put("attention", ATTENTION[word], *names)
    else:
        keys.put("attention", "flash2", *names)
        keys.matters(f"{word} is not modelled: taken as FlashAttention 2", *names)


def targets(keys: Keys, *names: str) -> None:
    """Which matrices LoRA adapts: names, a regular expression, or all of them."""
    words = [word.strip() for text in keys.words(*names) for word in _listed(text)]
    if not words:
        return
    if {w.lower() for w in words} & {"all", "all-linear", "all_linear"}:
        keys.put("method.targets", "all-linear", *names)
        return
    found: list[str] = []
    unknown = []
    for word in words:
        last = word.rpartition(".")[2]
        if last in _PROJECTIONS:
            found += _PROJECTIONS[last]
        elif re.search(r"[\\|()*+?^$]", word) and len(word) < 1000:
            hits = [part for name in _EVERY if name in word for part in _PROJECTIONS[name]]
            found += hits or _fitting(word)
        else:
            unknown.append(word)
    if unknown:
        keys.matters(f"adapters of {', '.join(unknown)} are not counted", *names)
    if found:
        place = keys.place(*names)
        ordered = dict.fromkeys(found)
        keys.put("method.targets", Items([Leaf(w, place) for w in ordered], place), *names)


def _listed(text: str) -> list[str]:
    """Names that stand in one text with commas, unless it is a pattern."""
    return text.split(",") if re.fullmatch(r"[\w., ]+", text) else [text]


def _fitting(pattern: str) -> list[str]:
    """Projections whose usual names a regular expression could be meant for."""
    stems = {"q": "q", "k": "k", "v": "v", "o": "o", "gate": "gate", "up": "up", "down": "down"}
    if "_proj" not in pattern:
        return []
    inside = re.findall(r"\(([\w|]+)\)_proj", pattern)
    return [stems[w] for group in inside for w in group.split("|") if w in stems]


def lora(
    keys: Keys,
    *,
    kind: str,
    four_bit: bool,
    rank: int,
    why: str,
    dropout: float,
    rank_names: tuple[str, ...],
    target_names: tuple[str, ...],
    dropout_names: tuple[str, ...],
    place_names: tuple[str, ...],
    default_targets: str = "qv",
) -> None:
    """Put a LoRA method: its rank, its targets, and what the library takes where they are open."""
    method = "qlora" if four_bit or kind == "qlora" else "lora"
    keys.put("method.kind", method, *place_names)
    keys.put_count("method.rank", *rank_names)
    keys.job.suppose("method.rank", rank, why)
    value = keys.number(*dropout_names)
    if value is not None:
        keys.put("method.dropout", value, *dropout_names)
    keys.job.suppose("method.dropout", dropout, why)
    targets(keys, *target_names)
    keys.job.suppose("method.targets", default_targets, why)
    if keys.flag("use_dora", "peft_use_dora"):
        keys.matters("DoRA's norms are not modelled: taken as LoRA", "use_dora", "peft_use_dora")
    saved = keys.words("modules_to_save", "lora_modules_to_save", "additional_target")
    if saved:
        keys.matters(
            f"{', '.join(saved)} trained in full beside the adapters are not counted",
            "modules_to_save",
            "lora_modules_to_save",
            "additional_target",
        )


def experts(keys: Keys, job: Translation, name: str) -> int:
    """Ranks that experts are spread over; said to be left out where that is not modelled."""
    ranks = keys.count(name) or 1
    if ranks == 1:
        return 1
    full = job.text_at("method.kind") in ("", "full")
    if full and job.text_at("parallelism.strategy") == "fsdp2":
        keys.put("parallelism.expert_parallel", ranks, name)
        job.suppose("experts", "grouped", "experts on other ranks run as a group")
    else:
        why = (
            "experts are spread over ranks with FSDP2 and full training alone: here all are on each"
        )
        keys.matters(why, name)
    return ranks


def refer(source: Source, name: str, job: Translation, place: Place, theirs: str) -> Source | None:
    """A file that another names, read; None where it is not there."""
    path = beside(source, name)
    if path is None:
        return None
    job.titles.append(f"{path.name}, which it names")
    return source_of(read_file(path), str(path), path, job.faults)


def zero_by_name(name: str, job: Translation, place: Place, theirs: str) -> None:
    """What a DeepSpeed file that is not here says by its name: ``zero3``, ``ds_z2_offload``."""
    base = name.rpartition("/")[2].lower()
    stage = re.search(r"(?:zero|z)_?(?:stage_?)?([0-3])", base)
    if stage is None:
        job.faults.append(
            place.fault(theirs, f'"{name}" is not here; name it too, or put it beside this file')
        )
        return
    strategy = {"0": "ddp"}.get(stage[1], f"zero{stage[1]}")
    job.take("parallelism.strategy", strategy, place, theirs, name)
    if "offload" in base:
        both = "optim" not in base and stage[1] == "3"
        if "params" in base:
            both = True
        job.take("parallelism.offload", "all" if both else "optimizer", place, theirs, name)
    job.skip(place, theirs, f"{name} is not here: its stage is taken from its name", True)


def branch_of(source: Source) -> Branch:
    """The mapping of a source; a list or a scalar is an empty one."""
    return source.tree if isinstance(source.tree, Branch) else Branch({}, Place(source.name))


def checkpointing(keys: Keys, job: Translation, reentrant: bool, why: str) -> bool:
    """Gradient checkpointing of a Hugging Face trainer; True where it is on."""
    names = ("gradient_checkpointing", "activation_checkpointing")
    word = keys.text(*names).lower()
    offload = word.startswith("offload") or word == "unsloth"
    on = offload or bool(keys.flag(*names)) if word else False
    if not on:
        if word in ("false", "no"):
            keys.leave("the default", *names)
        return False
    keys.put("activation_checkpointing.kind", "full", *names)
    if offload:
        keys.put("activation_checkpointing.offload", True, *names)
    inner = keys.inner("gradient_checkpointing_kwargs", "activation_checkpointing_kwargs")
    inner.put_flag("activation_checkpointing.reentrant", "use_reentrant")
    job.suppose("activation_checkpointing.reentrant", reentrant, why)
    return True


def masked(keys: Keys, name: str) -> None:
    """Packed samples that do not see each other: less attention, if one knew their lengths."""
    keys.job.skip(
        keys.place(name), keys.named(name),
        "attention is counted over whole rows, as no file says how long samples are; add "
        "--set data.mean_length=N --set data.document_masks=true", True,
    )  # fmt: skip


def unpadded(keys: Keys, name: str) -> None:
    """Samples one after the other without padding: as many tokens as they have, were it known."""
    keys.put("data.packing", True, name)
    keys.matters(
        "rows are counted as full, as no file says how long samples are; add "
        "--set data.mean_length=N --set data.packing=padding-free", name,
    )  # fmt: skip


def saving(keys: Keys) -> None:
    """When checkpoints are saved and evaluation runs: in steps, which are no time."""
    if keys.text("save_strategy").lower() == "no":
        keys.put("checkpoint.interval", None, "save_strategy")
    keys.leave(
        _RUN_TIME,
        "save_strategy",
        "save_steps",
        "eval_strategy",
        "eval_steps",
        "evals_per_epoch",
        "saves_per_epoch",
        "per_device_eval_batch_size",
        "do_eval",
        "eval_sample_packing",
        "eval_table_size",
        "eval_max_new_tokens",
        "eval_accumulation_steps",
        "val_size",
        "eval_dataset",
    )
