"""Kinds of models with parts that no block here is: what those are (`sim/data/refused.toml`)."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from sim.data import table

#: parts by what their keys start with, for kinds that are named nowhere
_KEYS = (
    ("mamba", "layers of a state-space model (Mamba)"),
    ("ssm_", "layers of a state-space model (Mamba)"), ("linear_", "layers of linear attention"),
    ("conv_L_cache", "layers of short convolutions"),
    ("index_", "sparse attention that an indexer chooses positions for"),
)  # fmt: skip


@lru_cache(maxsize=2)
def _by(key: str) -> dict[str, str]:
    """Parts by what a list of each has."""
    return {word: part["has"] for part in table("refused")["part"] for word in part.get(key, ())}


def strange_part(kind: str, values: Mapping[str, Any]) -> str:
    """What a kind has that no block here is; "" where nothing of it is known."""
    found = (part for start, part in _KEYS for key in values if str(key).startswith(start))
    return _by("kinds").get(kind) or next(found, "")


def named_part(name: str) -> str:
    """What a repository's model has that no block here is, by its name; "" where that says none."""
    bare = name.strip().rstrip("/").rpartition("/")[2].lower().replace("_", "-")
    starts = [start for start in _by("names") if bare.startswith(start)]
    return _by("names")[max(starts, key=len)] if starts else ""


def refusal(what: str, part: str) -> str:
    """Why a model with a part that no block here is cannot be modelled."""
    return (
        f"{what} cannot be modelled: it has {part}; an inline `model` of as many parameters tells"
        " the memory of its weights and optimizer, no more"
    )
