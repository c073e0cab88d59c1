"""Versions of software: how they are read and compared, and the oldest that works."""

from __future__ import annotations

import re
from functools import cache
from typing import Any

from sim.data import table
from sim.inputs.gpu import Gpu

#: what an architecture or a feature may need a version of, as sentences call it
SOFTWARE = {"cuda": "CUDA", "torch": "PyTorch", "nccl": "NCCL"}


def versions() -> dict[str, Any]:
    """Oldest software by architecture and feature."""
    return table("versions")


def oldest_for(gpu: Gpu) -> dict[str, Any]:
    """Oldest software that works on a GPU; empty where nothing is known of its architecture."""
    found: dict[str, Any] = versions()["architecture"].get(gpu.architecture, {})
    return found | versions()["capability"].get(f"{gpu.compute_capability:g}", {}) if found else {}


@cache
def version(text: str) -> tuple[int, ...]:
    """``"12.4"`` as (12, 4); what follows the numbers (``+cu124``, ``rc1``) is dropped."""
    match = re.match(r"v?(\d+(?:\.\d+)*)", text.strip())
    return tuple(int(p) for p in match[1].split(".")) if match else ()


@cache
def older(have: str, need: str) -> bool:
    """Whether a version is older than another; unreadable texts are not."""
    left, right = version(have), version(need)
    length = max(len(left), len(right))
    return bool(left) and left + (0,) * (length - len(left)) < right + (0,) * (length - len(right))


@cache
def sdpa_since(torch: str) -> str:
    """The release since which a PyTorch's fused attention is as it is; "" where it is plain.

    A version without its last number, ``2.5``, is the latest of that series.
    """
    latest = torch if len(version(torch)) > 2 else f"{torch.strip()}.99"
    for entry in versions()["sdpa"]:
        before = entry.get("before")
        if not older(latest, entry["since"]) and (not before or older(latest, before)):
            return str(entry["since"])
    return ""


@cache
def sdpa_on_cudnn(since: str) -> tuple[float, ...]:
    """Compute capabilities on which such a PyTorch's fused attention is cuDNN's."""
    return next((tuple(e["cudnn"]) for e in versions()["sdpa"] if e["since"] == since), ())


@cache
def sdpa_flash(since: str) -> str:
    """The FlashAttention that such a PyTorch carries."""
    found = (e.get("flash") for e in versions()["sdpa"] if e["since"] == since)
    return next((str(kind) for kind in found if kind), "flash2")


@cache
def deepspeed_of(torch: str) -> str | None:
    """The DeepSpeed of a PyTorch's time; None of one as new as the newest that is known here."""
    entries = versions()["deepspeed"]
    return next((str(e["release"]) for e in entries if older(torch, e["before"])), None)
