"""Corrections of one cluster: multipliers on the shipped constants, 1 where nothing is known."""

from __future__ import annotations

import json
from os import PathLike
from pathlib import Path

from sim.errors import Fault, InputError
from sim.inputs.base import Factor, Spec

#: the multipliers, in the order in which they are fitted and printed
CONSTANTS = (
    "gemm_clock",
    "hbm_bandwidth",
    "nvlink_bandwidth",
    "pcie_bandwidth",
    "network_bandwidth",
    "collective_latency",
    "host_launch",
    "slowest_gpu",
)


class Calibration(Spec):
    """Multipliers on what the model takes from data sheets and published measurements.

    ``scaling-sim calibrate`` writes them; ``--calibration FILE``, ``calibration:`` in a topology
    and ``--set calibration.network_bandwidth=0.8`` apply them. All 1 changes no bit of a result.
    """

    gemm_clock: Factor = 1.0  # rate of matrix products and fused attention
    hbm_bandwidth: Factor = 1.0  # rate of memory-bound kernels
    nvlink_bandwidth: Factor = 1.0
    pcie_bandwidth: Factor = 1.0
    network_bandwidth: Factor = 1.0  # NICs and the fabric between nodes
    collective_latency: Factor = 1.0  # the fixed part of every collective
    host_launch: Factor = 1.0  # CPU time to launch a kernel: 2 is a host half as fast
    slowest_gpu: Factor = 1.0  # kernel speed of the slowest GPU, which all wait for
    fitted_on: tuple[str, ...] = ()  # the evidence


def read_calibration(path: str | PathLike[str]) -> Calibration:
    """Read a calibration file.

    Raises
    ------
    InputError
        With every fault of the file.
    """
    from sim.inputs.reader import Reader
    from sim.inputs.tree import read_file
    from sim.inputs.yaml import from_yaml

    source = str(path)
    faults: list[Fault] = []
    tree = from_yaml(read_file(Path(path)), source, faults)
    reader = Reader()
    found = None if faults else reader.read(Calibration, tree, "")
    faults.extend(reader.faults)
    if found is None or faults:
        raise InputError(faults)
    return found


def calibration_settings(known: str | PathLike[str] | Calibration) -> tuple[str, ...]:
    """A calibration or its file as ``key=value`` overrides of a topology, all constants named."""
    found = known if isinstance(known, Calibration) else read_calibration(known)
    return tuple(f"calibration.{name}={getattr(found, name)!r}" for name in CONSTANTS)


def written(calibration: Calibration, note: str = "") -> str:
    """The file's text; `note` goes into its head as comments."""
    lines = [f"# {line}".rstrip() for line in note.splitlines()]
    lines += [f"{name}: {getattr(calibration, name):.6g}" for name in CONSTANTS]
    if calibration.fitted_on:
        lines.append("fitted_on:")
        lines += [f"  - {json.dumps(text, ensure_ascii=False)}" for text in calibration.fitted_on]
    return "\n".join(lines) + "\n"
