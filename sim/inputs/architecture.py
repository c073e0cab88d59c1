"""What is true of every GPU of an architecture (``data/architectures.toml``)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from sim.data import table
from sim.inputs import catalogue
from sim.inputs.gpu import Gpu
from sim.records import NamedTuple


class Architecture(NamedTuple):
    """Of an architecture.

    Attributes
    ----------
    constants : str
        The file of ``data/constants`` that its kernels take.
    known : bool
        False where the architecture is none of ours and another's facts stand in.
    largest_nvswitch : int
        GPUs that one NVSwitch fabric joins at most, racks apart.
    l2_partitions : int
        Parts of the L2 that each keep a copy of what all SMs read.
    attention : tuple of str
        Kernels that run on this architecture alone.
    """

    constants: str
    known: bool
    largest_nvswitch: int
    l2_partitions: int
    attention: tuple[str, ...]


def measured_gpu(architecture: str, capability: float = 0.0) -> str:
    """The catalogue GPU whose kernels an architecture takes, chips of some capability others."""
    known = _row(architecture, capability)
    name: str = table(f"constants/{known['constants']}")["measured_on"][0]
    return name


def measured_board(gpu: Gpu) -> Gpu:
    """That of a GPU, as the catalogue has it."""
    return board_of(_row(gpu.architecture, gpu.compute_capability)["constants"])


def board_of(constants: str) -> Gpu:
    """The catalogue GPU on which a file of ``data/constants`` was measured."""
    name = table(f"constants/{constants}")["measured_on"][0]
    board = catalogue.gpu(name)
    if board is None:
        msg = f"constants/{constants}: {name} is no GPU of the catalogue"
        raise RuntimeError(msg)
    return board


def whole_board(gpu: Gpu) -> Gpu | None:
    """The board of a GPU's chip that has all of its tensor cores and the power for them."""
    name = table("architectures")["whole_chip"].get(f"{gpu.compute_capability:.1f}")
    return catalogue.gpu(name) if name and nvidia(gpu) else None


def same_chip(gpu: Gpu, other: Gpu) -> bool:
    """Whether two GPUs take as many watts for a FLOP: boards of one chip do."""
    alike = table("architectures")["same_chip"]
    one, two = (
        (g.architecture, alike.get(f"{g.compute_capability:.1f}", g.compute_capability))
        for g in (gpu, other)
    )
    return bool(one == two)


def tensor_ratio(gpu: Gpu, measured: Gpu) -> float:
    """What cut tensor cores do a clock, over those of a board that was measured: 1/2, 1/4 ...

    1 of a board with all that its chip can. Others are sold with less (GeForce: products that add
    up in fp32 at half the rate; H20, L20, L40). Powers of two alone: clocks at which peaks are
    quoted differ by a tenth.
    """
    whole = table("architectures")["tensor_flops"].get(f"{gpu.compute_capability:.1f}")
    if whole is None or not nvidia(gpu) or _power_of_two(_per_clock(gpu) / whole) == 1.0:
        return 1.0
    return _power_of_two(_per_clock(gpu) / _per_clock(measured))


def _per_clock(gpu: Gpu) -> float:
    """Dense 16-bit FLOPs an SM does a clock."""
    return gpu.peak_half / (gpu.sms * gpu.boost_clock)


def _power_of_two(share: float) -> float:
    """The nearest one, up to 1."""
    return float(min(1.0, 2.0 ** round(math.log2(share))))


def nvidia(gpu: Gpu) -> bool:
    """Whether NVIDIA makes a GPU, by its architecture."""
    return not gpu.architecture.startswith(tuple(table("architectures")["not_nvidia"]))


def facts_of(gpu: Gpu) -> Architecture:
    """Facts of a GPU's architecture; an unknown one takes those of ``stand_in``."""
    rows = table("architectures")
    known = gpu.architecture in rows["architecture"]
    row = _row(gpu.architecture, gpu.compute_capability)
    own = tuple(row.get("attention", ())) if known else ()
    return Architecture(
        row["constants"], known, row.get("largest_nvswitch", 8), row.get("l2_partitions", 1), own
    )


def _row(architecture: str, capability: float) -> Mapping[str, Any]:
    """Facts of an architecture, and those of its chips of some compute capability."""
    rows = table("architectures")
    row: Mapping[str, Any] = rows["architecture"].get(
        architecture, rows["architecture"][rows["stand_in"]]
    )
    return {**row, **row.get("capability", {}).get(f"{capability:.0f}", {})}
