"""Energy of a job from what its GPUs spend their time on, and the CO2 of a region."""

from __future__ import annotations

import csv
import tomllib
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

DATA = Path(__file__).parents[1] / "data"
_COMPUTE = ("gemm", "attention")
_MEMORY = ("norm", "elementwise", "reduction", "embedding", "loss", "optimizer", "quantize", "copy")


@dataclass(frozen=True, slots=True)
class Energy:
    """Energy of a span of training on all GPUs, at the wall plug of the site."""

    gpu_w: float  # mean power of one GPU
    node_w: float  # mean power of a node
    energy_j: float  # all nodes, PUE included
    co2_kg: float | None
    g_co2_per_kwh: float | None


@cache
def _constants() -> dict[str, Any]:
    with (DATA / "constants" / "energy.toml").open("rb") as file:
        return tomllib.load(file)


@cache
def carbon_table() -> dict[str, float]:
    """Grams of CO2e per kWh by country code (ISO 3166 alpha-3) and ``provider:region``."""
    with (DATA / "carbon" / "intensity.csv").open(encoding="utf-8", newline="") as file:
        return {row["region"]: float(row["g_co2_per_kwh"]) for row in csv.DictReader(file)}


def mean_gpu_power(breakdown: dict[str, float], limit_w: float) -> float:
    """Power of a GPU averaged over a step. [W]

    Parameters
    ----------
    breakdown : dict of str to float
        Seconds by kind, as `Step.breakdown`; adds up to the step.
    limit_w : float
        The GPU's power limit. [W]
    """
    share = _constants()["gpu_share_of_limit"]
    total = sum(breakdown.values())
    if total <= 0.0:
        return float(share["idle"]) * limit_w
    compute = sum(breakdown.get(key, 0.0) for key in _COMPUTE)
    memory = sum(breakdown.get(key, 0.0) for key in _MEMORY)
    waiting = breakdown.get("exposed_communication", 0.0)
    idle = total - compute - memory - waiting
    weighted = (
        compute * share["compute"]
        + memory * share["memory"]
        + waiting * share["communication"]
        + idle * share["idle"]
    )
    return float(weighted / total * limit_w)


def job_energy(
    breakdown: dict[str, float],
    limit_w: float,
    *,
    nodes: int,
    gpus_per_node: int,
    busy_s: float,
    wall_s: float,
    region: str = "",
    pue: float | None = None,
) -> Energy:
    """Energy and CO2 of a job.

    Parameters
    ----------
    breakdown : dict of str to float
        Of one step. [s]
    limit_w : float
        Power limit of a GPU. [W]
    nodes, gpus_per_node : int
        Machine.
    busy_s, wall_s : float
        Time spent stepping, and in all; in the rest the GPUs idle. [s]
    region : str
        Country code or ``provider:region``; unknown: no CO2 figure.
    pue : float, optional
        Power usage effectiveness of the site.
    """
    constants = _constants()
    gpu_w = mean_gpu_power(breakdown, limit_w)
    idle_w = float(constants["gpu_share_of_limit"]["idle"]) * limit_w
    overhead = float(constants["node"]["overhead_share_of_gpu_limit"]) * limit_w * gpus_per_node
    node_w = gpu_w * gpus_per_node + overhead
    joules = busy_s * node_w + (wall_s - busy_s) * (idle_w * gpus_per_node + overhead)
    joules *= nodes * (float(constants["site"]["pue"]) if pue is None else pue)
    intensity = carbon_table().get(region)
    co2 = None if intensity is None else joules / 3.6e6 * intensity / 1000.0
    return Energy(gpu_w, node_w, joules, co2, intensity)
