"""Training scripts and notebooks in Python for Hugging Face's trainers, TRL, PEFT and Unsloth.

They are read, not run: `sim.inputs.python_calls` has what their calls are given.
"""

from __future__ import annotations

import re
from typing import Any

from sim.inputs.python_calls import CONDITION, LATER, NAME
from sim.inputs.python_values import UNKNOWN
from sim.inputs.registry import FORMATS
from sim.inputs.translation import Source, Translation
from sim.inputs.tree import Branch, Items, Leaf, Place, Tree, plain_of
from sim.interop.trainers import common, huggingface
from sim.interop.trainers.common import TrainerFormat
from sim.interop.trainers.keys import Keys
from sim.records import NamedTuple

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
_KINDS = {
    "tokenizer": "tokenizer", "LoraConfig": "adapters", "BitsAndBytesConfig": "bits",
    "prepare_model_for_kbit_training": "kbit", "prepare_model_for_int8_training": "kbit",
    "gradient_checkpointing_enable": "checkpointing", "args": "later",
}  # fmt: skip
_SILENT = ("tokenizer", "trainer", "later")  # of these a call without arguments says nothing
_SPREAD = ("auto", "balanced", "balanced_low_0", "sequential")
_UNSLOTH = "Unsloth's kernels"


def recognises(source: Source) -> bool:
    """A call that sets out a trainer's arguments."""
    return any(_ARGUMENTS.search(name) for name in source.keys)


def read(source: Source, job: Translation) -> None:
    """Read the trainer's arguments, the model, its adapters and how its weights are loaded."""
    found = Branch({}, Place(source.name))
    made = _made(source)
    calls = _chosen(made, job)
    for call in calls:
        _put(found, call)
    _set_later(made, calls, job)
    # else TRL of 2024 or none
    configured = any(call.kind == "arguments" and _TRL.search(call.name) for call in calls)
    keys = Keys(job, found)
    for name in _run_time(found):
        said = found.entries.pop(name)
        if isinstance(said, Leaf) and not re.fullmatch(common.NO_MATTER, name):
            why = f"{said.value[2:-1]} is known only at run time"
            job.skip(said.place, name, why, True)
            keys.unsaid[name] = f"{said.place.text.rpartition('/')[2]}: {why}"
    fast = any(_FAST.search(call.name) for call in calls)
    if fast:
        _unsloth(keys)
    kbit = found.entries.pop("prepare_kbit", None)
    if kbit is not None and keys.flag("load_in_4bit"):
        job.take("method.prepare_kbit", True, kbit.place, "prepare_model_for_kbit_training")
    trl = any(_TRL.search(call.name) for call in calls)
    huggingface.in_python(source, keys, trl, configured and not fast)
    spread = found.entries.pop("device_map", None)
    if isinstance(spread, Leaf) and spread.value in _SPREAD and not fast:
        job.skip(
            spread.place, f"device_map: {spread.value}",
            "over several GPUs of one process it spreads layers, which wait for each other: not "
            "modelled; taken as a model on each GPU", True,
        )  # fmt: skip
    keys.rest("Python scripts'")


class _Call(NamedTuple):
    """A call of a kind that counts: what it is, and what it says under the names of scripts."""

    kind: str
    name: str
    branch: Branch
    said: dict[str, Tree]

    @property
    def last(self) -> str:
        """What is called, without what it is an attribute of."""
        return self.name.rpartition(".")[2]

    @property
    def counts(self) -> dict[str, Any]:
        """What of it changes a step, to be held against another."""
        return {
            name: plain_of(tree) for name, tree in self.said.items()
            if not re.fullmatch(common.NO_MATTER, name)
        }  # fmt: skip

    def text(self, key: str) -> str:
        """A text that stands under a key of the call; "" where none does."""
        found = self.branch.entries.get(key)
        return str(found.value) if isinstance(found, Leaf) else ""


def _made(source: Source) -> list[_Call]:
    """Calls that count, by line."""
    tree = source.tree if isinstance(source.tree, Branch) else Branch({}, Place(source.name))
    found = []
    for name, calls in tree.entries.items():
        for branch in calls.items if isinstance(calls, Items) else ():
            if isinstance(branch, Branch) and (kind := _kind(name, branch)):
                said = {
                    ours: branch.entries[theirs]
                    for theirs, ours in _names(kind, name, branch).items()
                    if theirs in branch.entries
                }
                found.append(_Call(kind, name, branch, said))
    return sorted(found, key=lambda call: call.branch.place.line or 0)


def _kind(name: str, call: Branch) -> str:
    """What a call makes; "" where that says nothing of a job."""
    last = name.rpartition(".")[2]
    if _ARGUMENTS.search(name):
        return "arguments"
    if last == "from_pretrained":
        return "" if _NO_MODEL.search(name) else "model"
    if last == "get_peft_model":
        return "adapters" if "r" in call.entries else ""
    if last in _TF32 and ".cudnn." not in name:  # that is of convolutions
        value = call.entries.get("0")
        return "tf32" if isinstance(value, Leaf) and value.value in _TF32[last] else ""
    return _KINDS.get(last, "trainer" if last.endswith("Trainer") else "")


def _names(kind: str, name: str, call: Branch) -> dict[str, str]:
    """What arguments of a call are called as arguments of a script."""
    names: dict[str, str] = {}
    if kind == "arguments":
        names = {k: k for k in call.entries if k.isidentifier()}
    elif kind == "tokenizer":
        return _CUT
    elif kind == "trainer":
        named = call.entries.get("model")  # TRL's loads a model of that name
        loads = isinstance(named, Leaf) and not str(named.value).startswith(UNKNOWN)
        names = _ROWS | ({"model": "model_name_or_path"} if loads else {})
    elif kind == "adapters":
        names = _ADAPTERS | {"use_gradient_checkpointing": "gradient_checkpointing"}
    elif kind == "bits":
        names = _BITS
    elif kind == "model":
        first = "0" if "0" in call.entries else "pretrained_model_name_or_path"
        model = "model_name_or_path"
        names = {k: k for k in _SAME} | {first: model, "model_name": model}
    return names | {"**": f"{name.rpartition('.')[2]}(**)"} if names else {}


def _chosen(made: list[_Call], job: Translation) -> list[_Call]:
    """One call of each kind, as one trainer has it; those that say otherwise are told of.

    What the trainer is given by name comes first, then what is made whatever a run knows.
    """
    trainer = next((call for call in made if call.kind == "trainer"), None)
    given = {trainer.text(key + NAME) for key in ("model", "args", "0", "1")} if trainer else set()
    by_kind: dict[str, list[_Call]] = {}
    for call in made:
        if call.counts or call.kind not in _SILENT:
            by_kind.setdefault(call.kind, []).append(call)
    taken = []
    for calls in by_kind.values():
        first = min(
            calls, key=lambda c: (c.text(NAME) not in given - {""}, bool(c.text(CONDITION)))
        )
        taken.append(first)
        if under := first.text(CONDITION):
            why = f"taken as made, if {under}, which is known only at run time"
            job.skip(first.branch.place, f"{first.last}()", why, True)
        for call in calls:
            if call is not first and call.counts != first.counts:
                keys = sorted(
                    key
                    for key in {*call.counts, *first.counts}
                    if call.counts.get(key) != first.counts.get(key)
                )
                why = (
                    f"left out: line {first.branch.place.line} has {first.last}() with other "
                    f"{', '.join(keys)}, which is taken; name a file of one job"
                )
                job.skip(call.branch.place, f"{call.last}()", why, True)
    return sorted(taken, key=lambda call: call.branch.place.line or 0)


def _set_later(made: list[_Call], taken: list[_Call], job: Translation) -> None:
    """What is set on a trainer's arguments where it cannot be followed."""
    for call in made:
        if call.kind == "later" or (call.kind == "arguments" and call in taken):
            for key, tree in call.branch.entries.items():
                name = key.removesuffix(LATER)
                if name != key and not re.fullmatch(common.NO_MATTER, name):
                    why = f"{getattr(tree, 'value', '')} comes after the call that makes it"
                    job.skip(tree.place, name, why, True)


def _put(found: Branch, call: _Call) -> None:
    """What a call says, and that it is made at all; what is there stays."""
    place = call.branch.place
    if call.kind == "adapters":
        _flag(found, "use_peft", place)
    elif call.kind == "model" and _FAST.search(call.name):  # its own configuration of bitsandbytes
        _flag(found, "use_bnb_nested_quant", place)
    elif call.kind == "kbit":
        _flag(found, "prepare_kbit", place)
        if not _said_no(call.branch.entries.get("use_gradient_checkpointing")):
            _flag(found, "gradient_checkpointing", place)  # PEFT's default
    elif call.kind == "tf32":
        _flag(found, "tf32", place)
    elif call.kind == "checkpointing":
        _flag(found, "gradient_checkpointing", place)
    for name, tree in call.said.items():
        if name not in found.entries:
            found.entries[name] = tree
            found.keys[name] = tree.place


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
