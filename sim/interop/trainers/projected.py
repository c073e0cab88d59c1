"""GaLore and APOLLO as Hugging Face's trainers are told of them: their arguments and matrices."""

from __future__ import annotations

import re

from sim.inputs.check_optimizer import PROJECTED
from sim.inputs.tree import Branch
from sim.inputs.workload import Workload
from sim.interop.trainers.keys import Keys

LAYERWISE = "a step layer by layer, within backward, is not modelled: all gradients are kept"
_ARGUMENTS, _TARGETS = "optim_args", "optim_target_modules"
#: of a text of arguments: "rank=64, update_proj_gap=200"
_RANK = re.compile(r"\brank\s*=\s*(\d+)")
#: matrices of a layer as transformers' models name them
_MATRICES = [f"model.layers.0.self_attn.{name}_proj" for name in "qkvo"]
_MATRICES += [f"model.layers.0.mlp.{name}_proj" for name in ("gate", "up", "down")]
_ANY = re.compile(r"(?:\\?\.)?[*+]|[\^$]")  # of a pattern: whatever stands there


def projected(keys: Keys) -> None:
    """Take the rank of a projection; tell of one that is not of all matrices of a layer.

    Source: transformers 5, trainer_optimizer.py, `_setup_low_rank_optimizer`: arguments are a text,
    which axolotl makes of a mapping; names of modules are found in a matrix's as they stand, or as
    a pattern of all of it.
    """
    if isinstance(keys.tree(_ARGUMENTS), Branch):
        keys.inner(_ARGUMENTS).put_count("optimizer_rank", "rank")
    elif rank := _RANK.search(keys.text(_ARGUMENTS)):
        keys.put("optimizer_rank", int(rank[1]), _ARGUMENTS)
    words = keys.words(_TARGETS)
    missed = [name for name in _MATRICES if not any(_meant(word, name) for word in words)]
    if words and missed and words not in (["all-linear"], ["all_linear"]):
        last = ", ".join(name.rpartition(".")[2] for name in missed)
        why = f"{last} may have whole states of AdamW: all matrices of a layer are projected here"
        keys.matters(why, _TARGETS)


def _meant(word: str, matrix: str) -> bool:
    """Whether a name, or a pattern whose only turn is to skip some, is of a matrix."""
    parts = _ANY.sub("*", word).replace("\\.", ".").strip("*").split("*")
    at = 0
    for part in parts:
        at = matrix.find(part, at)
        if at < 0:
            return False
        at += len(part)
    return True


def written(workload: Workload) -> dict[str, str]:
    """What Hugging Face's trainers are told beside an optimizer's name: nothing of most."""
    if workload.optimizer not in PROJECTED:
        return {}
    return {_ARGUMENTS: f"rank={workload.optimizer_rank}", _TARGETS: "all-linear"}
