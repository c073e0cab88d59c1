"""Kernel constants of a GPU: its generation's data file, and what was borrowed from others."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, lru_cache

from sim.cost.attention import AttentionConstants
from sim.cost.gemm import GemmConstants
from sim.cost.power import PowerConstants
from sim.data import table
from sim.inputs.architecture import facts_of
from sim.inputs.gpu import Gpu


@dataclass(frozen=True, slots=True)
class HostConstants:
    """CPU time to issue one kernel. [s]"""

    forward_s: float
    backward_s: float
    optimizer_s: float


@dataclass(frozen=True, slots=True, eq=False)
class KernelConstants:
    """Everything the kernel costs of one GPU need.

    Attributes
    ----------
    generation : str
        Data file the constants come from.
    gemm : dict of str to GemmConstants
        By dtype.
    attention : dict
        (implementation, direction, head size) to its constants.
    bandwidth : dict of str to float
        Share of HBM bandwidth by way of access.
    floor_s, ramp_bytes : float
        Shortest kernel [s]; see `stream_time` [B].
    power : PowerConstants
        Clocks under power.
    company : float
        Loss of compute beside a collective; see `rate_by_units`.
    fallbacks : tuple of str
        What was borrowed from another GPU.
    """

    generation: str
    gemm: dict[str, GemmConstants]
    attention: dict[tuple[str, str, int], AttentionConstants]
    bandwidth: dict[str, float]
    floor_s: float
    ramp_bytes: float
    power: PowerConstants
    company: float
    fallbacks: tuple[str, ...]


@lru_cache(maxsize=32)
def load_constants(gpu: Gpu) -> KernelConstants:
    """Constants of a GPU.

    Parameters
    ----------
    gpu : Gpu
        The GPU; its architecture chooses the data file.

    Returns
    -------
    KernelConstants
        With `fallbacks` saying what was borrowed.
    """
    generation = facts_of(gpu).constants
    data = table(f"constants/{generation}")
    notes = []
    if gpu.name not in data["measured_on"]:
        notes.append(f"kernels of {gpu.name}: shares of peak taken from {data['measured_on'][0]}")
    notes += [
        f"{part} of {gpu.name}: {source}" for part, source in data.get("borrowed", {}).items()
    ]
    gemm = {
        dtype: GemmConstants(**{**c, "tile": tuple(c["tile"])}) for dtype, c in data["gemm"].items()
    }
    for dtype, other in (("fp16", "bf16"), ("tf32", "bf16"), ("fp32", "bf16"), ("fp8", "bf16")):
        gemm.setdefault(dtype, gemm[other])
    attention = {
        (i, d, dim): AttentionConstants(*rest) for i, d, dim, *rest in data["attention"]["table"]
    }
    power = dict(data["power"])
    if gpu.form_factor == "pcie" and gpu.power_limit < power["stock_watts"]:
        notes.append(
            f"clock of {gpu.name} under {gpu.power_limit:.0f} W from the SXM board's power curve"
        )
    return KernelConstants(
        generation=generation,
        gemm=gemm,
        attention=attention,
        bandwidth=data["bandwidth"],
        floor_s=data["launch"]["floor_s"],
        ramp_bytes=data["launch"]["ramp_bytes"],
        power=PowerConstants(**power),
        company=data["interference"]["company"],
        fallbacks=tuple(notes),
    )


@cache
def host_constants(stack: str) -> HostConstants:
    """Launch costs of a stack: ``eager | compiled | graphs``."""
    return HostConstants(**table("constants/host")[stack])


@cache
def zero3_hook_s() -> float:
    """CPU time of one of DeepSpeed's hooks around a module. [s]"""
    return float(table("constants/host")["hooks"]["zero3_s"])
