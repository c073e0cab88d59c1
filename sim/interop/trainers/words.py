"""Words of trainers for optimizers, attention, dtypes and layers, as we read and write them.

Names of optimizers are those of transformers' `OptimizerNames`, axolotl's and torchtitan's.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from sim.errors import InputError
from sim.inputs.check_optimizer import PROJECTED
from sim.inputs.model import IN_PROJECTIONS, LINEARS
from sim.inputs.recipes import RECIPES
from sim.inputs.tree import Items, Leaf
from sim.inputs.versions import SOFTWARE, older, versions
from sim.inputs.workload import Stack, Workload
from sim.interop.trainers import projected
from sim.interop.trainers.keys import Keys

#: ours, and the implementation where the name says it
_OPTIMIZERS: dict[str, tuple[str, str | None]] = {
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
    "lion": ("lion", None),
    "lion_pytorch": ("lion", None),
    "lion_32bit": ("lion", None),
    "lion_8bit": ("lion-8bit", None),
    "paged_lion_32bit": ("lion", None),
    "paged_lion_8bit": ("lion-8bit", None),
    "muon": ("muon", None),
    "galore_adamw": ("galore", None),
    "galore_adamw_8bit": ("galore-8bit", None),
    "apollo_adamw": ("apollo", None),
}
_PAGED = ("paged_adamw_8bit", "paged_adamw_32bit", "paged_adamw", "paged_adam_8bit", "paged_adam")
_OPTIMIZERS |= {word: ("adamw-8bit" if "8" in word else "adamw", None) for word in _PAGED}
_LIKE = {
    "adamw_torch_4bit": ("adamw-8bit", "4-bit states are taken as 8-bit ones"),
    "ademamix": ("adamw", "its third state is not counted"),
    "galore_adafactor": ("adafactor", "GaLore's projection of Adafactor is not modelled"),
    "galore_adamw_layerwise": ("galore", projected.LAYERWISE),
    "galore_adamw_8bit_layerwise": ("galore-8bit", projected.LAYERWISE),
    "apollo_adamw_layerwise": ("apollo", projected.LAYERWISE),
}
#: both by the name without underscores, as a class is called
_OPTIMIZER_OF = {name.replace("_", ""): found for name, found in _OPTIMIZERS.items()}
_LIKE_OF = {name.replace("_", ""): found for name, found in _LIKE.items()}

_ATTENTION = {
    "sdpa": "sdpa", "eager": "eager", "disabled": "eager",
    "flash_attention_2": "flash2", "fa2": "flash2", "flash_attn": "flash2",
    "flash_attention": "flash2", "flash_attn_2": "flash2",
    "kernels-community/flash-attn2": "flash2",
    "flash_attention_3": "flash3", "fa3": "flash3", "flash_attn_3": "flash3",
    "kernels-community/flash-attn3": "flash3", "kernels-community/vllm-flash-attn3": "flash3",
}  # fmt: skip

DTYPES = {
    "bf16": "bf16", "bfloat16": "bf16", "torch.bfloat16": "bf16",
    "fp16": "fp16", "float16": "fp16", "half": "fp16", "torch.float16": "fp16",
    "fp32": "fp32", "float32": "fp32", "float": "fp32", "no": "fp32", "torch.float32": "fp32",
    "fp8": "fp8",
}  # fmt: skip

#: Transformer Engine's recipes of 8 bits by ours, as Megatron's --fp8-recipe calls them
TE_RECIPES = {
    "te-delayed": "delayed", "te-current": "tensorwise", "te-blockwise": "blockwise",
    "te-mxfp8": "mxfp8",
}  # fmt: skip
MEGATRON_FP4 = "te-nvfp4"  # the only recipe of --fp4-recipe

_PROJ = {f"{name}_proj": name for name in LINEARS[:7]}
_PROJECTIONS: dict[str, tuple[str, ...]] = {
    **{theirs: (ours,) for theirs, ours in _PROJ.items()},
    # of attention, and of a mixer; a model without any has but the first
    "out_proj": ("o", "out_proj"), **dict.fromkeys(("in_proj", *IN_PROJECTIONS), ("in_proj",)),
    "output_proj": ("o",), "dense": ("o",),
    "qkv_proj": ("q", "k", "v"), "query_key_value": ("q", "k", "v"), "Wqkv": ("q", "k", "v"),
    "wqkv": ("q", "k", "v"), "c_attn": ("q", "k", "v"), "c_proj": ("o", "down"), "wo": ("o",),
    "gate_up_proj": ("gate", "up"), "input_linear": ("gate", "up"), "output_linear": ("down",),
    "dense_h_to_4h": ("up",), "dense_4h_to_h": ("down",),
    "fc1": ("up",), "fc2": ("down",), "c_fc": ("up",),
    "w1": ("gate",), "w2": ("down",), "w3": ("up",),
}  # fmt: skip

#: what our files for Hugging Face trainers write
WRITTEN_OPTIMIZERS = {
    "adamw": "adamw_torch_fused", "adamw-bf16": "adamw_torch_fused", "adamw-8bit": "adamw_bnb_8bit",
    "adafactor": "adafactor", "sgd": "sgd", "lion": "lion_32bit", "lion-8bit": "lion_8bit",
    "galore": "galore_adamw", "galore-8bit": "galore_adamw_8bit", "apollo": "apollo_adamw",
}  # fmt: skip
WRITTEN_PAGED = {
    "adamw": "paged_adamw_32bit", "adamw-8bit": "paged_adamw_8bit",
    "lion": "paged_lion_32bit", "lion-8bit": "paged_lion_8bit",
}  # fmt: skip
#: kinds of files whose trainer brings a Muon of its own
OWN_MUON = ("axolotl", "llamafactory")
WRITTEN_IMPLEMENTATION = {("adamw", "foreach"): "adamw_torch"}  # others run as they do
WRITTEN_ATTENTION = {
    "flash2": "flash_attention_2", "flash3": "flash_attention_3", "sdpa": "sdpa", "eager": "eager",
    "triton": "flex_attention", "cudnn": "sdpa",
}  # fmt: skip


#: Megatron-LM's, ours first; which FlashAttention runs is Transformer Engine's choice
MEGATRON_OPTIMIZERS = {"adamw": "adam", "sgd": "sgd"}
MEGATRON_ATTENTION = {
    "te": "auto", "flash2": "flash", "flash3": "flash", "cudnn": "fused", "eager": "unfused",
}  # fmt: skip
MEGATRON_EXCHANGE = {"ring": "p2p", "all-gather": "all_gather", "ulysses": "a2a"}


def inverted(written: Mapping[str, str]) -> dict[str, str]:
    """Words that are written, by what they are read as: the first of those that share one."""
    return {theirs: ours for ours, theirs in reversed([*written.items()])}


def dtype(keys: Keys, *names: str) -> str:
    """Our name of a dtype; "" where it is left out or "auto". A word that is none is a fault."""
    word = keys.text(*names).lower()
    if word not in ("", "auto", *DTYPES):
        keys.fault(f'"{word}" is no dtype; {", ".join(sorted(set(DTYPES.values())))} are', *names)
    return DTYPES.get(word, "")


def put_dtype(keys: Keys, key: str, *names: str) -> None:
    """Take a dtype that is written."""
    if found := dtype(keys, *names):
        keys.put(key, found, *names)


def recipe(keys: Keys, ours: str, *names: str) -> None:
    """Take a recipe of 8 or 4 bits, and software that has it where no file says any."""
    keys.put("precision.recipe", ours, *names)
    for software, need in versions()["feature"][RECIPES[ours].feature].items():
        if software in SOFTWARE and older(Stack.model_fields[software].default, need):
            keys.job.suppose(f"stack.{software}", need, f"{ours} needs it")


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
    paged = bare.startswith("paged")  # bitsandbytes', whose states are fp32 or quantised
    keys.put("optimizer", adamw if like == "adamw" and not paged else like, *names)
    if how:
        keys.put("optimizer_implementation", how, *names)
    if paged:
        keys.put("optimizer_paged", True, *names)
    if bare not in _OPTIMIZER_OF:
        keys.matters(why, *names)
    if like in PROJECTED:
        projected.projected(keys)


def written_optimizer(workload: Workload) -> str:
    """The word of Hugging Face's trainers for a job's optimizer.

    Raises
    ------
    InputError
        They have none.
    """
    optimizer = workload.optimizer
    if optimizer not in WRITTEN_OPTIMIZERS:
        option = "--emit"
        able = f"; emit {' or '.join(OWN_MUON)} instead" if optimizer == "muon" else ""
        raise InputError.single(option, f"Hugging Face's Trainer has no {optimizer}{able}")
    if workload.optimizer_paged:
        return WRITTEN_PAGED[optimizer]
    how = (optimizer, workload.optimizer_implementation)
    return WRITTEN_IMPLEMENTATION.get(how, WRITTEN_OPTIMIZERS[optimizer])


def attention(keys: Keys, *names: str) -> None:
    """Whose attention kernel runs."""
    word = keys.text(*names)
    if not word or word == "auto":
        return
    if word in _ATTENTION:
        keys.put("attention", _ATTENTION[word], *names)
    else:
        keys.put("attention", "flash2", *names)
        keys.matters(f"{word} is not modelled: taken as FlashAttention 2", *names)


def written_attention(attention: str) -> dict[str, str]:
    """What Hugging Face's trainers are told of a kernel of ours: nothing of one they lack."""
    word = WRITTEN_ATTENTION.get(attention)
    return {} if word is None else {"attn_implementation": word}


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
            hits = [ours for theirs, ours in _PROJ.items() if theirs in word]
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
    """Names that stand in one text with commas, in brackets or not, unless it is a pattern."""
    listed = re.fullmatch(r"\[([\w., '\"]+)\]|([\w., ]+)", text)
    return re.split(r"[, '\"]+", (listed[1] or listed[2]).strip(" '\"")) if listed else [text]


def _fitting(pattern: str) -> list[str]:
    """Projections whose usual names a regular expression could be meant for."""
    inside = re.findall(r"\(([\w|]+)\)_proj", pattern)
    return [w for group in inside for w in group.split("|") if w in LINEARS]
