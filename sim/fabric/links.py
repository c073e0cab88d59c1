"""Link rates by generation: raw as the data sheet says, effective as NCCL counts them."""

from __future__ import annotations

from typing import Any

from sim.data import table
from sim.inputs.gpu import Gpu
from sim.inputs.topology import NvLink


def constants() -> dict[str, Any]:
    """The table of link constants."""
    return table("constants/links")


def nvlink_rates(nvlink: NvLink, gpu: Gpu) -> tuple[float, float]:
    """Raw and effective rate of one NVLink.

    Parameters
    ----------
    nvlink : NvLink
        Of the node. An own ``link_rate`` counts as raw.
    gpu : Gpu
        Its raw rate is taken where the generations agree.

    Returns
    -------
    tuple of float
        Raw and effective, per direction. [B/s]

    Notes
    -----
    effective = raw x (NCCL's rate / data-sheet rate) of the generation, about 0.8.
    """
    row = constants()["nvlink"][str(nvlink.generation)]
    raw = nvlink.link_rate
    if raw is None:
        raw = gpu.nvlink_link_rate if gpu.nvlink_generation == nvlink.generation else row["raw"]
    return raw, raw * row["effective"] / row["raw"]


def pcie_rates(generation: int, lanes: int) -> tuple[float, float]:
    """Raw and effective rate of a PCIe link, per direction. [B/s]"""
    row = constants()["pcie"][str(generation)]
    return lanes * row["raw"], lanes * row["effective"]
