"""A step by what a reader calls its parts, and their shares in whole per cent that add up."""

from __future__ import annotations

from collections.abc import Mapping

from sim.blocks.kernels import STREAMED
from sim.quantities import whole_percents
from sim.result.figures import Step

_KINDS = {
    "GEMM": ("gemm",),
    "attention": ("attention",),
    "scans": ("scan",),
    "other kernels": STREAMED,
    "optimizer": ("optimizer",),
    "slowest rank": ("waiting",),
    "exposed comm": ("exposed_communication",),
    "host and copies": ("host", "copies"),
}


def parts_of(step: Step) -> dict[str, float]:
    """The step by what a reader calls its parts, which add up to it. [s]"""
    return labelled(step.breakdown)


def labelled(found: Mapping[str, float]) -> dict[str, float]:
    """Parts of a step, or of what is lost of them, by what a reader calls them. [s]"""
    kinds = {label: keys for label, keys in _KINDS.items() if label != "scans" or "scan" in found}
    return {label: sum(found.get(key, 0.0) for key in keys) for label, keys in kinds.items()}


def told(step: Step) -> dict[str, int]:
    """Shares of the step in per cent, as every sentence and bar says them."""
    parts = parts_of(step)
    shares = whole_percents([seconds / step.time_s for seconds in parts.values()])
    return dict(zip(parts, shares, strict=True))
