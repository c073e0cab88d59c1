"""Energy of a job from what its GPUs spend their time on, and the CO2 of a region."""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

from sim.blocks.kernels import STREAMED
from sim.cost.constants import load_constants
from sim.cost.power import ATTENTION_INTENSITY, board_power
from sim.data import DATA, table
from sim.inputs.gpu import Gpu
from sim.records import NamedTuple, dataclass
from sim.units import HOUR_S

_STATE = {
    "gemm": "compute", "attention": "attention", "scan": "attention",
    "exposed_communication": "communication",
    **dict.fromkeys((*STREAMED, "optimizer"), "memory"),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Energy:
    """Energy of a job on all GPUs, at the meter of the site."""

    gpu_w: float  # mean power of one GPU while stepping
    node_w: float  # mean power of a node while stepping
    energy_j: float  # all nodes, PUE included
    gpu_energy_j: float  # the GPUs alone
    pue: float
    co2_kg: float | None
    g_co2_per_kwh: float | None
    co2_region: str  # the entry of the carbon table that was used
    co2_year: str  # of which it is; "" where its source gives none
    machine_co2_kg: float  # of making the machine: its share for the hours of the job


def _constants() -> dict[str, Any]:
    return table("constants/energy")


@cache
def carbon_table() -> dict[str, tuple[float, str]]:
    """Grams of CO2e per kWh and the year, by country (ISO 3166 alpha-3) and ``provider:region``."""
    with (DATA / "carbon" / "intensity.csv").open(encoding="utf-8", newline="") as file:
        return {
            row["region"]: (float(row["g_co2_per_kwh"]), row["year"])
            for row in csv.DictReader(file)
        }


def carbon_intensity(provider: str, region: str, country: str) -> tuple[str, float] | None:
    """Entry of the carbon table and its intensity: the provider's region, else the country.

    A region may itself be a country code or a key of the table. [g/kWh]
    """
    known = carbon_table()
    for key in (f"{provider.lower()}:{region.lower()}", region, country.upper()):
        if key in known:
            return key, known[key][0]
    return None


def embodied_kg(gpus: int, nodes: int, wall_s: float) -> float:
    """CO2e of making a machine, its share for so many hours of its life. [kg]

    Notes
    -----
    (nodes x server + GPUs x GPU) x hours / (life x share in use); every GPU as an A100, of which
    there is a figure. Source: Luccioni et al. 2023 (``data/carbon/embodied.toml``).
    """
    c = {key: float(row["value"]) for key, row in table("carbon/embodied").items()}
    whole = nodes * c["server_kg"] + gpus * c["gpu_kg"]
    return whole * wall_s / HOUR_S / (c["life_hours"] * c["in_use"])


@cache
def gpu_states(gpu: Gpu) -> dict[str, float]:
    """Power of a GPU by what it does. [W]

    Matrix products run at the limit, or below it where the clock holds; attention keeps tensor
    cores less busy (`sim.cost.power`). Waiting in a collective and idling are shares of the limit.
    """
    share = _constants()["gpu_share_of_limit"]
    power = board_power(gpu, load_constants(gpu).power)
    return {
        "compute": power.watts(1.0),
        "attention": power.watts(ATTENTION_INTENSITY),
        "memory": power.memory_bound_watts(),
        "communication": float(share["communication"]) * gpu.power_limit,
        "idle": max(gpu.idle_power, float(share["idle"]) * gpu.power_limit),
    }


def mean_gpu_power(breakdown: Mapping[str, float], gpu: Gpu) -> float:
    """Power of a GPU averaged over a step. [W]

    Parameters
    ----------
    breakdown : mapping of str to float
        Seconds by kind, as `Step.breakdown`; adds up to the step.
    gpu : Gpu
        Its limits.
    """
    states = gpu_states(gpu)
    total = sum(breakdown.values())
    if total <= 0.0:
        return states["idle"]
    weighted = sum(seconds * states[_STATE.get(k, "idle")] for k, seconds in breakdown.items())
    return weighted / total


def full_site_watts(gpu: Gpu, pue: float | None = None) -> float:
    """Power of a GPU at its limit, with its share of the node and of the site's cooling. [W]"""
    c = _constants()
    node = 1.0 + float(c["node"]["overhead_share_of_gpu_limit"])
    return gpu.power_limit * node * (pue or float(c["site"]["pue"]))


class PowerDraw(NamedTuple):
    """What GPUs of one model do in a step."""

    gpu: Gpu
    gpus: int
    breakdown: Mapping[str, float]  # seconds by kind


def job_energy(
    draws: Sequence[PowerDraw],
    *,
    nodes: int,
    busy_s: float,
    wall_s: float,
    provider: str = "",
    region: str = "",
    country: str = "",
    pue: float | None = None,
) -> Energy:
    """Energy and CO2 of a job.

    Parameters
    ----------
    draws : sequence of PowerDraw
        GPUs of each model, all of the machine's.
    nodes : int
        Machine.
    busy_s, wall_s : float
        Time spent stepping, lost steps included, and in all; in the rest the GPUs idle. [s]
    provider, region, country : str
        Where; unknown: no CO2 figure.
    pue : float, optional
        Power usage effectiveness of the site.
    """
    constants = _constants()
    gpus = sum(draw.gpus for draw in draws)

    def mean(of: Callable[[PowerDraw], float]) -> float:
        return sum(draw.gpus * of(draw) for draw in draws) / gpus

    gpu_w = mean(lambda draw: mean_gpu_power(draw.breakdown, draw.gpu))
    idle_w = mean(lambda draw: gpu_states(draw.gpu)["idle"])
    overhead_share = float(constants["node"]["overhead_share_of_gpu_limit"])
    overhead = overhead_share * mean(lambda draw: draw.gpu.power_limit) * gpus / nodes
    node_w = gpu_w * gpus / nodes + overhead
    idle_s = max(0.0, wall_s - busy_s) if math.isfinite(wall_s) else wall_s
    gpu_j = gpus * (busy_s * gpu_w + idle_s * idle_w)
    site = float(constants["site"]["pue"]) if pue is None else pue
    joules = site * (gpu_j + nodes * wall_s * overhead)
    found = carbon_intensity(provider, region, country)
    return Energy(
        gpu_w=gpu_w,
        node_w=node_w,
        energy_j=joules,
        gpu_energy_j=gpu_j,
        pue=site,
        co2_kg=joules / 3.6e6 * found[1] / 1000.0 if found else None,
        g_co2_per_kwh=found[1] if found else None,
        co2_region=found[0] if found else "",
        co2_year=carbon_table()[found[0]][1] if found else "",
        machine_co2_kg=embodied_kg(gpus, nodes, wall_s),
    )
