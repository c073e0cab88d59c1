"""What the calls of a Python script say of a job, under the names that scripts' options have.

Calls that any script may have are known here (the model, its adapters, how its weights are loaded);
`sim.interop.trainers.python` adds those of trainers, `sim.interop.trainers.python_loop` those of
loops of one's own.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from sim.inputs.python_calls import CONDITION, LATER, NAME, calls_of
from sim.inputs.python_values import is_unknown
from sim.inputs.translation import Source, Translation
from sim.inputs.tree import Branch, Leaf, Place, Tree, plain_of
from sim.interop.trainers.keys import Keys, idle
from sim.records import NamedTuple

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
#: what turns TF32 on for products, and what it is given
_TF32: dict[str, tuple[str | bool, ...]] = {
    "set_float32_matmul_precision": ("high", "medium"), "allow_tf32": (True,),
    "fp32_precision": ("tf32",),
}  # fmt: skip
FAST = re.compile(r"Fast\w*Model\.from_pretrained$")
_LIGER = re.compile(r"apply_liger_kernel_to_\w+$|_apply_liger_kernel\w*$")
_KINDS = {
    "tokenizer": "tokenizer", "LoraConfig": "adapters", "BitsAndBytesConfig": "bits",
    "prepare_model_for_kbit_training": "kbit", "prepare_model_for_int8_training": "kbit",
    "gradient_checkpointing_enable": "checkpointing", "args": "later",
}  # fmt: skip
_SILENT = ("tokenizer", "trainer", "later")  # of these a call without arguments says nothing
_IN_LOOPS = ("clip", "backward")  # these run at some steps alone: no choice between jobs
#: calls that start as many processes, and what says how many; Modal's GPUs are ``H100:8``
_GPUS = {"ScalingConfig": "num_workers", "notebook_launcher": "num_processes", "spawn": "nprocs"}
_COUNTED = re.compile(r"(?:[\w-]+:)?([1-9][0-9]{0,5})")


class ScriptCall(NamedTuple):
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
            if not re.fullmatch(idle("huggingface"), name)
        }  # fmt: skip

    def text(self, key: str) -> str:
        """A text that stands under a key of the call; "" where none does."""
        found = self.branch.entries.get(key)
        return str(found.value) if isinstance(found, Leaf) else ""


#: of a call's name and arguments, what it makes and what these are called; None where it is not
#: known there
Naming = Callable[[str, Branch], "tuple[str, dict[str, str]] | None"]


def made(source: Source, own: Naming) -> list[ScriptCall]:
    """Calls that count, by line: those of a format's own first."""
    found = []
    for name, branch in calls_of(source.branch):
        kind, names = own(name, branch) or of_any(name, branch)
        if kind:
            names |= {"**": f"{name.rpartition('.')[2]}(**)"} if names else {}
            said = {
                ours: branch.entries[theirs]
                for theirs, ours in names.items()
                if theirs in branch.entries
            }
            found.append(ScriptCall(kind, name, branch, said))
    return sorted(found, key=lambda call: call.branch.place.line or 0)


def of_any(name: str, call: Branch) -> tuple[str, dict[str, str]]:
    """What a call of any script makes, and what its arguments are called; "" says nothing."""
    last = name.rpartition(".")[2]
    if last == "from_pretrained":
        if _NO_MODEL.search(name):
            return "", {}
        first = "0" if "0" in call.entries else "pretrained_model_name_or_path"
        model = "model_name_or_path"
        return "model", {k: k for k in _SAME} | {first: model, "model_name": model}
    if last == "get_peft_model" and "r" not in call.entries:
        return "", {}
    if last in _TF32 and ".cudnn." not in name:  # that is of convolutions
        value = call.entries.get("0")
        return "tf32" if isinstance(value, Leaf) and value.value in _TF32[last] else "", {}
    if _LIGER.search(last):
        return "liger", {}
    kind = "adapters" if last == "get_peft_model" else _KINDS.get(last, "")
    names = {
        "tokenizer": _CUT, "bits": _BITS,
        "adapters": _ADAPTERS | {"use_gradient_checkpointing": "gradient_checkpointing"},
    }.get(kind, {})  # fmt: skip
    return kind, dict(names)


def chosen(calls: list[ScriptCall], job: Translation) -> list[ScriptCall]:
    """One call of each kind, as one trainer has it; those that say otherwise are told of.

    What the trainer is given by name comes first, then what is made whatever a run knows.
    """
    trainer = next((call for call in calls if call.kind == "trainer"), None)
    given = {trainer.text(key + NAME) for key in ("model", "args", "0", "1")} if trainer else set()
    by_kind: dict[str, list[ScriptCall]] = {}
    for call in calls:
        if call.counts or call.kind not in _SILENT:
            by_kind.setdefault(call.kind, []).append(call)
    taken = []
    for alike in by_kind.values():
        first = min(
            alike, key=lambda c: (c.text(NAME) not in given - {""}, bool(c.text(CONDITION)))
        )
        taken.append(first)
        under = first.text(CONDITION)
        if under and first.kind not in _IN_LOOPS:
            why = f"taken as made, if {under}, which is known only at run time"
            job.skip(first.branch.place, f"{first.last}()", why, True)
        for call in alike:
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


def set_later(calls: list[ScriptCall], taken: list[ScriptCall], job: Translation) -> None:
    """What is set on a trainer's arguments where it cannot be followed."""
    for call in calls:
        if call.kind == "later" or (call.kind == "arguments" and call in taken):
            for key, tree in call.branch.entries.items():
                name = key.removesuffix(LATER)
                if name != key and not re.fullmatch(idle("huggingface"), name):
                    why = f"{getattr(tree, 'value', '')} comes after the call that makes it"
                    job.skip(tree.place, name, why, True)


def gathered(calls: list[ScriptCall], source: Source, job: Translation) -> Keys:
    """What the chosen calls say together, as options of a script; what only a run knows is told."""
    found = Branch({}, Place(source.name))
    for call in calls:
        _put(found, call)
        _beside(call, job)
    keys = Keys(job, found)
    tell_unknown(keys)
    _machines(source, job)
    return keys


def tell_unknown(keys: Keys) -> None:
    """Take out what only a run knows, and tell of what matters."""
    found = keys.branch
    for name in [name for name, tree in found.entries.items() if is_unknown(tree)]:
        said = found.entries.pop(name)
        if isinstance(said, Leaf) and not re.fullmatch(idle("huggingface"), name):
            why = f"{said.value[2:-1]} is known only at run time"
            keys.job.skip(said.place, name, why, True)
            keys.unsaid[name] = f"{said.place.text.rpartition('/')[2]}: {why}"


#: kinds of calls by which a script settles what its trainer's arguments have no word of
_OF_MODEL = ("arguments", "model", "adapters", "bits", "kbit", "checkpointing", "liger")


def add_model(options: Branch, script: Source, job: Translation, own: Naming) -> None:
    """Put what a script says of its model, and its arguments' own defaults, beside those given.

    What is made under a condition is not taken, of adapters that is told; what the arguments say
    stays, and what only a run knows is told where they do not say it.
    """
    calls = [call for call in made(script, own) if call.kind in _OF_MODEL]
    always = [call for call in calls if not call.text(CONDITION)]
    for call in calls:
        if call.kind == "adapters" and call not in always:
            why = f"made if {call.text(CONDITION)}, which is known only at run time: not taken"
            job.skip(call.branch.place, f"{call.last}()", why, True)
    found = Branch({}, Place(script.name))
    for call in chosen(always, job):
        _put(found, call)
        _beside(call, job)
    for name in [n for n in found.entries if n in options.entries or n == "device_map"]:
        del found.entries[name]
    tell_unknown(Keys(job, found))
    options.entries.update(found.entries)
    options.keys.update({name: tree.place for name, tree in found.entries.items()})


def _machines(source: Source, job: Translation) -> None:
    """GPUs that a script asks Ray, Modal or a launcher in a notebook for."""
    for name, call in calls_of(source.branch):
        key = _GPUS.get(name.rpartition(".")[2], "gpu" if name.endswith(".function") else "")
        said = call.entries.get(key)
        found = _COUNTED.fullmatch(str(said.value)) if isinstance(said, Leaf) else None
        if found and said is not None:
            job.world = (int(found[1]), said.place)


def _put(found: Branch, call: ScriptCall) -> None:
    """What a call says, and that it is made at all; what is there stays."""
    place = call.branch.place
    if call.kind == "adapters":
        _flag(found, "use_peft", place)
    elif call.kind == "model" and FAST.search(call.name):  # its own configuration of bitsandbytes
        _flag(found, "use_bnb_nested_quant", place)
    elif call.kind == "kbit":
        _flag(found, "prepare_kbit", place)
        if not _said_no(call.branch.entries.get("use_gradient_checkpointing")):
            _flag(found, "gradient_checkpointing", place)  # PEFT's default
    elif call.kind == "tf32":
        _flag(found, "tf32", place)
    elif call.kind == "checkpointing":
        _flag(found, "gradient_checkpointing", place)
    if call.kind == "liger" or call.name.startswith("AutoLigerKernel"):
        _flag(found, "use_liger_kernel", place)
    for name, tree in call.said.items():
        if name not in found.entries:
            found.entries[name] = tree
            found.keys[name] = tree.place


def _beside(call: ScriptCall, job: Translation) -> None:
    """What else an adapter's configuration says, as its file does."""
    if call.last != "LoraConfig":
        return
    left = {
        key: tree
        for key, tree in call.branch.entries.items()
        if key.isidentifier() and key not in _ADAPTERS and not is_unknown(tree)
    }
    keys = Keys(job, Branch(left, call.branch.place))
    keys.settle("peft")
    keys.rest("PEFT")


def _flag(found: Branch, name: str, place: Place) -> None:
    if name not in found.entries or _said_no(found.entries[name]):
        found.entries[name] = Leaf(True, place)
        found.keys[name] = place


def _said_no(tree: Tree | None) -> bool:
    return isinstance(tree, Leaf) and tree.value is False


def kbit(keys: Keys) -> None:
    """PEFT's preparation of a model of 4 bits, where a script calls it."""
    found = keys.branch.entries.pop("prepare_kbit", None)
    if found is not None and keys.flag("load_in_4bit"):
        where, said = found.place, "prepare_model_for_kbit_training"
        keys.job.take("method.prepare_kbit", True, where, said)
