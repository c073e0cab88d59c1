"""The dense peak that MFU and HFU are shares of."""

from __future__ import annotations

from sim.inputs.gpu import Gpu
from sim.inputs.topology import Topology
from sim.inputs.workload import Workload
from sim.records import NamedTuple


class PeakRate(NamedTuple):
    """The dense peak of a GPU that MFU refers to; of unlike GPUs the mean of each one's own."""

    gpu: str
    dtype: str
    flops_per_s: float


def peak_of(topology: Topology, workload: Workload) -> PeakRate:
    """Dense datasheet peak of the job's dtype: of FP32 TF32's where it is on."""
    counts = topology.gpu_counts
    p = workload.precision
    each = [_peak(gpu, "tf32" if p.kind == "fp32" and p.tf32 else p.kind) for gpu in counts]
    if len(each) == 1:
        return each[0]
    total = sum(n * peak.flops_per_s for n, peak in zip(counts.values(), each, strict=True))
    names = " and ".join(f"{n} {gpu.name}" for gpu, n in counts.items())
    dtypes = " and ".join(dict.fromkeys(peak.dtype for peak in each))
    return PeakRate(f"mean of {names},", dtypes, total / topology.world_size)


def _peak(gpu: Gpu, kind: str) -> PeakRate:
    chain = {
        "fp8": (("fp8", gpu.peak_fp8), ("bf16", gpu.peak_bf16)),
        "fp4": (("fp4", gpu.peak_fp4), ("fp8", gpu.peak_fp8)),
        "bf16": (("bf16", gpu.peak_bf16), ("fp16", gpu.peak_fp16)),
        "fp16": (("fp16", gpu.peak_fp16),),
        "tf32": (("tf32", gpu.peak_tf32),),
        "fp32": (("fp32", gpu.peak_fp32),),
    }[kind]
    for dtype, peak in chain:
        if peak:
            return PeakRate(gpu.name, dtype, peak)
    return PeakRate(gpu.name, "fp32", gpu.peak_fp32)
