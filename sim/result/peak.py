"""The dense peak that MFU and HFU are shares of."""

from __future__ import annotations

from typing import NamedTuple

from sim.fabric import compile_fabric
from sim.inputs.topology import Topology
from sim.inputs.workload import Workload


class Peak(NamedTuple):
    """The dense peak that MFU refers to."""

    gpu: str
    dtype: str
    flops_per_s: float


def peak_of(topology: Topology, workload: Workload) -> Peak:
    """Dense datasheet peak of the job's dtype; FP8 jobs are held against the FP8 peak."""
    gpu = compile_fabric(topology).gpu(0)
    kind = workload.precision.kind
    chain = {
        "fp8": (("fp8", gpu.peak_fp8), ("bf16", gpu.peak_bf16)),
        "bf16": (("bf16", gpu.peak_bf16), ("fp16", gpu.peak_fp16)),
        "fp16": (("fp16", gpu.peak_fp16),),
        "fp32": (("tf32", gpu.peak_tf32),),
    }[kind]
    for dtype, peak in chain:
        if peak:
            return Peak(gpu.name, dtype, peak)
    return Peak(gpu.name, "fp32", gpu.peak_fp32)
