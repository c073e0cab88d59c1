"""Training scripts and notebooks in Python for Hugging Face's trainers, TRL, PEFT and Unsloth.

They are read, not run: `sim.inputs.python_calls` has what their calls are given.
"""

from __future__ import annotations

import re

from sim.inputs.python_calls import UNKNOWN
from sim.inputs.registry import FORMATS
from sim.inputs.translation import Source, Translation
from sim.inputs.tree import Branch, Leaf, Place, Tree
from sim.interop.trainers import common, huggingface
from sim.interop.trainers.common import TrainerFormat
from sim.interop.trainers.keys import Keys

_OF_TRL = r"(?:SFT|DPO|ORPO|KTO|CPO|GRPO|RLOO|Reward)"
_TRL = re.compile(rf"(?:^|\.){_OF_TRL}(?:Trainer|Config)$")
_ARGUMENTS = re.compile(rf"(?:^|\.)(?:\w*TrainingArguments|{_OF_TRL}Config)$")
_NO_MODEL = re.compile(r"Tokenizer|Processor|Config|Peft|AutoPeft|load_dataset")
#: calls beside, and what their arguments are called as arguments of a script
_SAME = ("attn_implementation", "torch_dtype", "dtype", "load_in_4bit", "load_in_8bit",
         "max_seq_length", "use_flash_attention_2", "device_map")  # fmt: skip
_ADAPTERS = {
    "r": "lora_r", "target_modules": "lora_target_modules", "lora_dropout": "lora_dropout",
    "use_dora": "use_dora", "modules_to_save": "modules_to_save",
}  # fmt: skip
_BITS = {
    "load_in_4bit": "load_in_4bit", "load_in_8bit": "load_in_8bit",
    "bnb_4bit_use_double_quant": "use_bnb_nested_quant",
}  # fmt: skip
_CUT = {"max_length": "model_max_length"}  # where a script tokenizes
_ROWS = {name: name for name in ("max_seq_length", "packing", "dataset_text_field")}
#: what turns TF32 on for products, and what it is given
_TF32: dict[str, tuple[str | bool, ...]] = {
    "set_float32_matmul_precision": ("high", "medium"), "allow_tf32": (True,),
    "fp32_precision": ("tf32",),
}  # fmt: skip
_FAST = re.compile(r"Fast\w*Model\.from_pretrained$")
_SPREAD = ("auto", "balanced", "balanced_low_0", "sequential")
_UNSLOTH = "Unsloth's kernels"


def recognises(source: Source) -> bool:
    """A call that sets out a trainer's arguments."""
    return any(_ARGUMENTS.search(name) for name in source.keys)


def read(source: Source, job: Translation) -> None:
    """Read the trainer's arguments, the model, its adapters and how its weights are loaded."""
    calls = source.tree if isinstance(source.tree, Branch) else Branch({}, Place(source.name))
    arguments = [name for name in calls.entries if _ARGUMENTS.search(name)]
    configured = any(_TRL.search(name) for name in arguments)  # else TRL of 2024 or none
    found = Branch({}, calls.place)
    for name, call in calls.entries.items():
        if isinstance(call, Branch):
            _put(found, name, call)
    keys = Keys(job, found)
    for name in _run_time(found):
        said = found.entries.pop(name)
        if isinstance(said, Leaf) and not re.fullmatch(common.NO_MATTER, name):
            job.skip(said.place, name, f"{said.value[2:-1]} is known only at run time", True)
    fast = any(_FAST.search(name) for name in calls.entries)
    if fast:
        _unsloth(keys)
    kbit = found.entries.pop("prepare_kbit", None)
    if kbit is not None and keys.flag("load_in_4bit"):
        job.take("method.prepare_kbit", True, kbit.place, "prepare_model_for_kbit_training")
    trl = any(_TRL.search(name) for name in calls.entries)
    huggingface.in_python(source, keys, trl, configured and not fast)
    spread = found.entries.pop("device_map", None)
    if isinstance(spread, Leaf) and spread.value in _SPREAD and not fast:
        job.skip(
            spread.place, f"device_map: {spread.value}",
            "over several GPUs of one process it spreads layers, which wait for each other: not "
            "modelled; taken as a model on each GPU", True,
        )  # fmt: skip
    keys.rest("Python scripts'")


def _put(found: Branch, name: str, call: Branch) -> None:
    """Arguments of a call under the names that scripts have for them; those there stay."""
    last = name.rpartition(".")[2]
    names: dict[str, str] = {}
    if _ARGUMENTS.search(name):
        names = {k: k for k in call.entries if not k.isdigit()}
    elif last == "tokenizer":
        names = _CUT
    elif last.endswith("Trainer"):
        named = call.entries.get("model")  # TRL's loads a model of that name
        loads = isinstance(named, Leaf) and not str(named.value).startswith(UNKNOWN)
        names = _ROWS | ({"model": "model_name_or_path"} if loads else {})
    elif last == "LoraConfig" or (last == "get_peft_model" and "r" in call.entries):
        names = _ADAPTERS | {"use_gradient_checkpointing": "gradient_checkpointing"}
        _flag(found, "use_peft", call.place)
    elif last == "BitsAndBytesConfig":
        names = _BITS
    elif last == "from_pretrained" and not _NO_MODEL.search(name):
        first = "0" if "0" in call.entries else "pretrained_model_name_or_path"
        model = "model_name_or_path"
        names = {k: k for k in _SAME} | {first: model, "model_name": model}
        if _FAST.search(name):  # its own configuration of bitsandbytes
            _flag(found, "use_bnb_nested_quant", call.place)
    elif last in ("prepare_model_for_kbit_training", "prepare_model_for_int8_training"):
        _flag(found, "prepare_kbit", call.place)
        if not _said_no(call.entries.get("use_gradient_checkpointing")):
            _flag(found, "gradient_checkpointing", call.place)  # PEFT's default
    elif last in _TF32 and ".cudnn." not in name:  # that is of convolutions
        value = call.entries.get("0")
        if isinstance(value, Leaf) and value.value in _TF32[last]:
            _flag(found, "tf32", call.place)
    elif last == "gradient_checkpointing_enable":
        _flag(found, "gradient_checkpointing", call.place)
    if names and last != "tokenizer":
        names = names | {"**": f"{last}(**)"}
    _take(found, call, names)


def _take(found: Branch, call: Branch, names: dict[str, str]) -> None:
    for theirs, ours in names.items():
        tree = call.entries.get(theirs)
        if tree is not None and ours not in found.entries:
            found.entries[ours] = tree
            found.keys[ours] = tree.place


def _flag(found: Branch, name: str, place: Place) -> None:
    if name not in found.entries or _said_no(found.entries[name]):
        found.entries[name] = Leaf(True, place)
        found.keys[name] = place


def _said_no(tree: Tree | None) -> bool:
    return isinstance(tree, Leaf) and tree.value is False


def _run_time(found: Branch) -> list[str]:
    """Names of arguments that only a run knows."""
    return [
        name for name, tree in found.entries.items()
        if isinstance(tree, Leaf) and str(tree.value).startswith(UNKNOWN)
    ]  # fmt: skip


def _unsloth(keys: Keys) -> None:
    """Its loss with the head, kernels and adapters; checkpoints on the host where it says so."""
    job = keys.job
    common.unsloth(job, keys.flag("use_peft") is True)
    if keys.flag("fp16") is None and keys.flag("bf16") is None:
        job.suppose("precision.kind", "bf16", "Unsloth takes bf16 where the GPU has it")
    if "gradient_checkpointing" not in keys.branch.entries:
        job.suppose("activation_checkpointing.kind", "full", _UNSLOTH)
        job.suppose("activation_checkpointing.offload", True, _UNSLOTH)


FORMATS.register(TrainerFormat("python", "a Python training script", recognises, read))
