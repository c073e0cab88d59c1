"""Corrections of one cluster: multipliers on the shipped constants, 1 where nothing is known."""

from __future__ import annotations

from sim.spec.base import Factor, Spec

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
