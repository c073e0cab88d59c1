"""Training scripts and notebooks in Python for Hugging Face's trainers, TRL, PEFT and Unsloth.

They are read, not run: `sim.inputs.python_calls` has what their calls are given.
"""

from __future__ import annotations

import re

from sim.inputs.python_calls import NAME, PARSED
from sim.inputs.python_values import is_unknown
from sim.inputs.registry import FORMATS
from sim.inputs.translation import Begun, Source, Translation
from sim.inputs.tree import Branch, Leaf, Tree
from sim.interop.trainers import (
    common,
    huggingface,
    preferences,
    script_calls,
    trl_kinds,
    unfollowed,
)
from sim.interop.trainers.common import TrainerFormat
from sim.interop.trainers.keys import Keys

_OF_TRL = r"(?:SFT|DPO|ORPO|KTO|CPO|GRPO|RLOO|GKD|Reward)"
TRL = re.compile(rf"(?:^|\.){_OF_TRL}(?:Trainer|Config)$")
_ARGUMENTS = re.compile(rf"(?:^|\.)(?:\w*TrainingArguments|{_OF_TRL}Config)$")
_KIND = re.compile(r"(?:^|\.)(DPO|ORPO|KTO|CPO|GRPO|RLOO|GKD|Reward)(?:Trainer|Config)$")
#: models of sentence-transformers
_EMBEDS = {"SentenceTransformer": "embeddings", "CrossEncoder": "scores"}
_ROWS = {name: name for name in ("max_seq_length", "packing", "dataset_text_field")}
_MODEL = "model_name_or_path"
_FROM_COMMAND = (
    "a command line has the rest of it: defaults are taken; name the script that starts it too"
)
_UNSLOTH = "Unsloth's kernels"


def recognises(source: Source) -> bool:
    """A call that sets out a trainer's arguments."""
    return any(_ARGUMENTS.search(name) for name in source.keys)


def read(source: Source, job: Translation) -> None:
    """Read the trainer's arguments, the model, its adapters and how its weights are loaded."""
    made, reference = _apart(script_calls.made(source, own_call))
    calls = script_calls.chosen(made, job)
    script_calls.set_later(made, calls, job)
    for call in calls:
        if PARSED in call.branch.entries:
            job.skip(call.branch.place, call.last, _FROM_COMMAND, True)
    # else TRL of 2024 or none
    configured = any(call.kind == "arguments" and TRL.search(call.name) for call in calls)
    keys = script_calls.gathered(calls, source, job)
    fast = any(script_calls.FAST.search(call.name) for call in calls)
    if fast:
        _unsloth(keys)
        keys.branch.entries.pop("device_map", None)
    script_calls.kbit(keys)
    trl = any(TRL.search(call.name) for call in calls)
    for call in calls:
        if found := _KIND.search(call.name):
            job.begun = Begun(found[1].lower(), call.branch.place, f"{call.last}()")
            break
    by_name = any(c.kind == "trainer" and _MODEL in c.said and TRL.search(c.name) for c in calls)
    huggingface.in_python(source, keys, trl, configured and not fast, by_name)
    if reference is not None:
        own = keys.branch.entries.get(_MODEL, reference)  # of which it is a copy
        keys.branch.entries["ref_model"] = own if is_unknown(reference) else reference
        keys.branch.keys["ref_model"] = reference.place
    _preferences(keys, calls)
    common.spread(keys)
    unfollowed.tell(source, job)
    keys.rest("Python scripts'")


def _preferences(keys: Keys, calls: list[script_calls.ScriptCall]) -> None:
    """Rows of pairs by the trainer's name, and a head of scores by the model's class."""
    scores = next((c for c in calls if "ForSequenceClassification" in c.name), None)
    embeds = next((c for c in calls if c.last in _EMBEDS), None)
    if keys.job.begun is not None:
        trl_kinds.tell(keys, keys.job.begun)
    elif embeds is not None:
        preferences.of_kind(keys, _EMBEDS[embeds.last], embeds.branch.place, embeds.name)
    elif scores is not None:
        preferences.of_kind(keys, "scores", scores.branch.place, scores.name)


def _apart(
    calls: list[script_calls.ScriptCall],
) -> tuple[list[script_calls.ScriptCall], Tree | None]:
    """Calls without what loads a trainer's frozen reference, and which model that is, if given."""
    trainer = next(
        (c for c in calls if c.kind == "trainer" and "ref_model" in c.branch.entries), None
    )
    if trainer is None:
        return calls, None
    given = trainer.branch.entries["ref_model"]
    if isinstance(given, Leaf) and given.value is None:
        return calls, None
    named, trained = (trainer.text(key + NAME) for key in ("ref_model", "model"))
    loading = [c for c in calls if c.kind == "model" and named and c.text(NAME) == named != trained]
    model = next((c.said[_MODEL] for c in loading if _MODEL in c.said), given)
    return [c for c in calls if c not in loading], model


def own_call(name: str, call: Branch) -> tuple[str, dict[str, str]] | None:
    """A trainer, and its arguments."""
    if _ARGUMENTS.search(name):
        return "arguments", {k: k for k in call.entries if k.isidentifier()}
    if name.rpartition(".")[2] in _EMBEDS:
        return "model", {"0": _MODEL, _MODEL: _MODEL, "max_seq_length": "model_max_length"}
    if name.endswith("Trainer"):
        named = call.entries.get("model")  # TRL's loads a model of that name
        loads = isinstance(named, Leaf) and not is_unknown(named)
        return "trainer", _ROWS | ({"model": _MODEL} if loads else {})
    return None


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
