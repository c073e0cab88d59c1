"""Kernel constants of a GPU: its generation's data file, and what that borrows from others."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from typing import Any

from sim.cost.attention import AttentionConstants
from sim.cost.gemm import CUDA_CORES, GemmConstants
from sim.cost.power import PowerConstants
from sim.data import table
from sim.inputs.architecture import board_of, facts_of, measured_board, tensor_ratio
from sim.inputs.gpu import Gpu


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
    l2_speed : float
        Bandwidth of the L2 over that of HBM; see `beyond_l2`.
    l2_partitions : int
        Parts of the L2 that each keep a copy of what all SMs read.
    power : PowerConstants
        Clocks under power.
    compute_loss : float
        Loss of compute beside a collective; see `rate_by_units`.
    network_channel : float
        SMs' worth that a channel of a collective between nodes takes.
    bus_share : float
        Share of the SMs that a collective is worth whose GPUs meet over PCIe, of any channels.
    fallbacks : tuple of str
        What was borrowed from another GPU.
    """

    generation: str
    gemm: dict[str, GemmConstants]
    attention: dict[tuple[str, str, int], AttentionConstants]
    bandwidth: dict[str, float]
    floor_s: float
    ramp_bytes: float
    l2_speed: float
    l2_partitions: int
    power: PowerConstants
    compute_loss: float
    network_channel: float
    bus_share: float
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
    facts = facts_of(gpu)
    data = table(f"constants/{facts.constants}")
    measured = data["measured_on"]
    notes = []
    if not facts.known:
        notes.append(f"{gpu.name}: the architecture {gpu.architecture} is unknown")
    if gpu.name not in measured:
        notes.append(f"kernels of {gpu.name}: shares of peak taken from {measured[0]}")
    if gpu.borrowed:
        notes.append(f"what {gpu.name} does not say: {gpu.borrowed}")
    for part in ("attention", "bandwidth"):
        if (borrow := data[part].get("borrow")) is not None:
            notes.append(f"{part} of {gpu.name}: {_borrowed(borrow)}")
    power = PowerConstants(**part_of(facts.constants, "power"))
    ease = partial(eased, slower=tensor_ratio(gpu, measured_board(gpu)))
    gemm = {
        dtype: GemmConstants(**{**c, "tile": tuple(ease(x, power.table_clock) for x in c["tile"])})
        for dtype, c in data["gemm"].items()
    }
    whole = replace(gemm["bf16"], tile=tuple(data["gemm"]["bf16"]["tile"]))
    for dtype in ("fp16", "tf32", "fp8"):
        gemm.setdefault(dtype, gemm["bf16"])
    gemm.setdefault("fp4", gemm["fp8"])  # no table was measured: the shares of peak of 8 bits
    # a GeForce is cut where it adds up in fp32: its int8 is four times its 16 bits, of an H20 twice
    spared = (gpu.peak_int8 or 0.0) > 3.0 * gpu.peak_half
    gemm["int8"] = whole if spared else gemm["bf16"]
    gemm["fp32"] = replace(whole, tiling=CUDA_CORES)
    if gpu.form_factor == "pcie" and gpu.power_limit < measured_board(gpu).power_limit:
        notes.append(
            f"clock of {gpu.name} under {gpu.power_limit:.0f} W from the SXM board's power curve"
        )
    launch = part_of(facts.constants, "launch")
    return KernelConstants(
        generation=facts.constants,
        gemm=gemm,
        attention=attention_of(facts.constants, gpu),
        bandwidth=_shares(facts.constants, gpu),
        floor_s=launch["floor_s"],
        ramp_bytes=launch["ramp_bytes"],
        l2_speed=part_of(facts.constants, "l2")["speed"],
        l2_partitions=facts.l2_partitions,
        power=power,
        **part_of(facts.constants, "interference"),
        fallbacks=tuple(notes),
    )


def eased(share: float, clock: float = 1.0, *, slower: float = 1.0) -> float:
    """Share of peak of a kernel on tensor cores that do less a clock than those measured.

    Parameters
    ----------
    share : float
        Measured, of the peak at the quoted clock.
    clock : float
        Clock of that measurement over the quoted one.
    slower : float
        Rate of the tensor cores, over that of those measured.

    Notes
    -----
    A tile takes t + o clocks, t of its products and o of what feeds them, rescales rows and takes
    exponentials. Cores of the rate x take t / x + o: s' = s / (s + (1 - s) x), s at that clock.
    FlashAttention 2 on an RTX 5090 (x = 1/4 of an A100's): 0.909 from the A100's 0.714 (185 TFLOP/s
    at 4,096 tokens); measured 190.6 of 209.5. Source: Gau Nernst, "Writing Speed-of-Light Flash
    Attention for 5090". Of boards with all of their chip's cores the share stays: their watts bound
    them. An L40S (x = 1/2) would be 4 % quick at 8,192 tokens of a 7B, and is 2 % so; a T4 does 40
    of 65 TFLOP/s without, 44 with, 41 measured.
    """
    s = share / clock
    return clock * s / (s + (1.0 - s) * slower)


def _shares(generation: str, gpu: Gpu) -> dict[str, float]:
    """Shares of this board's HBM bandwidth by way of access, as far as its SMs keep up."""
    clocks_per_byte = gpu.sms * gpu.boost_clock / gpu.memory_bandwidth
    limits = part_of(generation, "sm_bytes")
    return {
        access: min(share, limits.get(access, math.inf) * clocks_per_byte)
        for access, share in part_of(generation, "bandwidth").items()
    }


def part_of(generation: str, part: str) -> dict[str, float]:
    """A part of a generation's constants: what all have in common, what is borrowed, its own.

    Parameters
    ----------
    generation : str
        File of ``data/constants``.
    part : str
        ``bandwidth``, ``sm_bytes``, ``power``, ``launch``, ``l2`` or ``interference``.

    Notes
    -----
    ``borrow = {from = "a100", factor = 1.17, most = 0.9}`` takes the numbers of another file times
    the factor, none above ``most``; those that the file says itself are its own.
    """
    own = dict(table(f"constants/{generation}").get(part, {}))
    borrow = own.pop("borrow", None)
    found = dict(table("constants/kernels").get(part, {}))
    if borrow is not None:
        factor, most = borrow.get("factor", 1.0), borrow.get("most", math.inf)
        lent = part_of(borrow["from"], part)
        found |= {key: min(factor * value, most) for key, value in lent.items()}
    return found | own


def attention_of(
    generation: str, gpu: Gpu | None = None
) -> dict[tuple[str, str, int], AttentionConstants]:
    """Attention constants by implementation, direction, head size; ``only`` some are borrowed.

    Those of a GPU are `eased` to its tensor cores, each from those it was measured on.
    """
    part = table(f"constants/{generation}")["attention"]
    borrow = part.get("borrow")
    found = {}
    if borrow is not None:
        factor, only = borrow.get("factor", 1.0), borrow.get("only")
        for key, lent in attention_of(borrow["from"], gpu).items():
            if only is None or key[0] in only:
                found[key] = replace(lent, rate=factor * lent.rate)
    slower = tensor_ratio(gpu, board_of(generation)) if gpu else 1.0
    for kind, direction, size, rate, *knees in part.get("table", ()):
        found[kind, direction, size] = AttentionConstants(eased(rate, slower=slower), *knees)
    return found


def _borrowed(borrow: Mapping[str, Any]) -> str:
    """What a ``borrow`` says, in words: ``h100-sxm-80gb's x 0.528 (flash2)``."""
    text = f"{table('constants/' + borrow['from'])['measured_on'][0]}'s"
    if "factor" in borrow:
        text += f" x {borrow['factor']:g}"
    if "most" in borrow:
        text += f", at most {borrow['most']:g}"
    return text + (f" ({', '.join(borrow['only'])})" if "only" in borrow else "")
