"""What an argument may be, on every face: one of a few words, or a number within bounds.

The signature of a function of `sim.api` names one of these types and a default: `sim.api.checked`
holds callers to it, `sim.commands.asked` makes an option of it, `sim.serve.requests` a key.
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable
from typing import Annotated, Any, Literal, get_args

from sim.records import NamedTuple


class Field(NamedTuple):
    """Marks a number that has bounds."""

    ge: float | None = None
    gt: float | None = None
    le: float | None = None
    lt: float | None = None


BOUNDS: dict[str, tuple[str, Callable[[Any, Any], bool]]] = {
    "ge": ("at least", operator.ge),
    "gt": ("more than", operator.gt),
    "le": ("at most", operator.le),
    "lt": ("less than", operator.lt),
}

EngineName = Literal["auto", "reference", "python", "compiled"]
#: equal ranks once; every rank's own lanes; every ring step of every rank too
StepLevel = Literal["folded", "ranks", "steps"]
TraceLevel = Literal["folded", "ranks"]
#: what a search makes least
Objective = Literal["cost", "time", "co2", "energy"]
#: which job of a cluster goes first
Policy = Literal["fifo", "sjf", "edf", "priority", "backfill"]
LargestOf = Literal["micro_batch", "sequence_length"]
FewestOf = Literal["nodes"]
BoundQuantity = LargestOf | FewestOf
#: what else people call them, as `quantity_named` reads it
_QUANTITIES = {
    "batch": "micro_batch", "batchsize": "micro_batch", "microbatchsize": "micro_batch",
    "context": "sequence_length", "contextlength": "sequence_length", "length": "sequence_length",
    "seq": "sequence_length", "seqlen": "sequence_length", "sequence": "sequence_length",
    "gpus": "nodes",
}  # fmt: skip
#: published measurements; layouts on a mesh take minutes and are no part of "all"
PublishedPart = Literal["all", "training", "finetune", "memory", "collectives", "mesh"]

GpuCount = Annotated[int, Field(ge=1, le=16_384)]
BatchSize = Annotated[int, Field(ge=1, le=1 << 24)]
StepCount = Annotated[int, Field(ge=1, le=10_000)]
ReplicaCount = Annotated[int, Field(ge=0, le=1000)]
ProcessCount = Annotated[int, Field(ge=1, le=512)]
ConfigurationCount = Annotated[int, Field(ge=1)]
#: 0.05, ``5%`` or ``5 %``: `share_of` reads it
WrittenShare = str | float
Portion = Annotated[WrittenShare, Field(ge=0, le=1)]
Efficiency = Annotated[WrittenShare, Field(gt=0, le=1.5)]
TokenRate = Annotated[float, Field(gt=0)]

#: kinds of entries of the catalogue; `entry_kind` knows what else they are called
ENTRY_KINDS = ("models", "gpus", "machines", "jobs", "strategies", "offers", "formats", "codes")
_PLURALS = {"topology": "topologies", "strategy": "strategies"}
_ALIASES = {"topologies": "machines", "workloads": "jobs", "prices": "offers"}  # as arguments are

#: share of deadlines that the fewest nodes meet where nobody says which
ON_TIME = 0.95
#: how far a search goes that somebody waits for, at a page or in a conversation [GPUs]
PROMPT_GPUS = 64

_WORDS = {
    "EngineName": EngineName, "StepLevel": StepLevel, "TraceLevel": TraceLevel,
    "Objective": Objective, "Policy": Policy, "LargestOf": LargestOf, "FewestOf": FewestOf,
    "PublishedPart": PublishedPart,
}  # fmt: skip
_NUMBERS = {
    "GpuCount": GpuCount, "BatchSize": BatchSize, "StepCount": StepCount,
    "ReplicaCount": ReplicaCount, "ProcessCount": ProcessCount,
    "ConfigurationCount": ConfigurationCount, "Portion": Portion, "Efficiency": Efficiency,
    "TokenRate": TokenRate,
}  # fmt: skip
#: shares within bounds, by the name of their type
SHARES = frozenset({"Portion", "Efficiency"})
#: words by the name of their type
CHOICES: dict[str, tuple[str, ...]] = {name: get_args(kind) for name, kind in _WORDS.items()}
CHOICES["BoundQuantity"] = CHOICES["LargestOf"] + CHOICES["FewestOf"]
#: int, float or `WrittenShare`, and bounds, by the name of their type
LIMITS: dict[str, tuple[Any, Field]] = {name: get_args(kind) for name, kind in _NUMBERS.items()}


def share_of(said: WrittenShare) -> float:
    """A share as a number, 0.05 of ``5%``. [1]

    Raises
    ------
    ValueError
        A text that is none.
    """
    text = str(said).strip()
    return float(text.removesuffix("%")) / (100.0 if text.endswith("%") else 1.0)


def beyond(value: float, bounds: Field) -> str:
    """What a number is not that it should be, such as ``at least 1``; empty where it is within.

    Without end is within no bounds.
    """
    for name, limit in bounds._asdict().items():
        if limit is not None:
            words, holds = BOUNDS[name]
            if not holds(value, limit):
                return f"{words} {limit:,}"
    return "" if abs(value) < math.inf else "finite"


def quantity_named(said: str) -> str:
    """What memory bounds by its name or what else it is called; as it is, where that is unknown."""
    bare = re.sub(r"[-_. ]", "", said.lower())
    names = {re.sub("_", "", name): name for name in CHOICES["BoundQuantity"]}
    return names.get(bare) or _QUANTITIES.get(bare, said)


def entry_kind(said: str) -> str | None:
    """The kind of `ENTRY_KINDS` of its name, its singular or what else it is called, if any."""
    word = said.lower()
    for name in (word, _PLURALS.get(word, f"{word}s")):
        if (named := _ALIASES.get(name, name)) in ENTRY_KINDS:
            return named
    return None
