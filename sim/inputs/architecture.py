"""What is true of every GPU of an architecture (``data/architectures.toml``)."""

from __future__ import annotations

from typing import NamedTuple

from sim.data import table
from sim.inputs import catalogue
from sim.inputs.gpu import Gpu


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


def measured_gpu(architecture: str) -> str:
    """The catalogue GPU whose kernels an architecture takes."""
    rows = table("architectures")
    known = rows["architecture"].get(architecture, rows["architecture"][rows["stand_in"]])
    name: str = table(f"constants/{known['constants']}")["measured_on"][0]
    return name


def measured_board(architecture: str) -> Gpu:
    """That GPU, as the catalogue has it."""
    board = catalogue.gpu(measured_gpu(architecture))
    if board is None:
        msg = f"constants of {architecture} name no GPU of the catalogue"
        raise RuntimeError(msg)
    return board


def nvidia(gpu: Gpu) -> bool:
    """Whether NVIDIA makes a GPU, by its architecture."""
    return not gpu.architecture.startswith(tuple(table("architectures")["not_nvidia"]))


def facts_of(gpu: Gpu) -> Architecture:
    """Facts of a GPU's architecture; an unknown one takes those of ``stand_in``."""
    rows = table("architectures")
    known = gpu.architecture in rows["architecture"]
    row = rows["architecture"][gpu.architecture if known else rows["stand_in"]]
    own = tuple(row.get("attention", ())) if known else ()
    return Architecture(
        row["constants"], known, row.get("largest_nvswitch", 8), row.get("l2_partitions", 1), own
    )
