"""Kernel constants against the published kernel tables they were fitted on: errors may not grow."""

import csv
from pathlib import Path

import numpy as np
import pytest

from bench.fit import gemm
from sim.cost.attention import attention_rate
from sim.cost.constants import load_constants
from sim.cost.gemm import gemm_times
from sim.inputs import catalogue

TABLES = Path(__file__).parents[2] / "sim/data/measured"
NAMES = {
    "A100": "a100-sxm-80gb",
    "H100": "h100-sxm-80gb",
    "B200": "b200-sxm-180gb",
    "L40S": "l40s-pcie-48gb",
}


@pytest.mark.parametrize(
    ("gpu", "bound"), [("A100", 0.02), ("H100", 0.025), ("B200", 0.035), ("L40S", 0.085)]
)
def test_bf16_products(gpu, bound):
    """Medians over shapes of the table, m >= 1024, burst clocks of short loops included."""
    spec = catalogue.gpu(NAMES[gpu])
    constants = load_constants(spec).gemm["bf16"]
    rows = [r for r in gemm.rows(gpu, "bfloat16") if r[0] >= 1024 and r[1] != ">16k"]
    errors = []
    for m, band, median, *_ in rows:
        shapes = np.array([(m, n, k, 1) for n, k in gemm.pairs(band)], dtype=float)
        t = gemm_times(
            shapes, 2, 2, spec.peak_bf16, spec.memory_bandwidth, spec.sms, constants, True
        )
        efficiency = np.median(2 * shapes[:, :3].prod(axis=1) / t.seconds) / spec.peak_bf16
        errors.append(efficiency / median - 1)
    assert np.abs(errors).mean() < bound


@pytest.mark.parametrize(
    ("gpu", "impl", "family", "bound"),
    [
        ("A100", "FA2", "flash2", 0.03),
        ("H100", "FA2", "flash2", 0.03),
        ("H100", "FA3", "flash3", 0.05),
        ("H100", "cuDNN", "cudnn", 0.05),
    ],
)
def test_causal_attention(gpu, impl, family, bound):
    """Forward, or forward and backward together, of every head size and length in the table."""
    spec = catalogue.gpu(NAMES[gpu])
    table = load_constants(spec).attention
    errors = []
    with (TABLES / "attention_kernels.csv").open() as f:
        for r in csv.DictReader(f):
            if not (
                r["gpu"].startswith(f"{gpu}-80GB-SXM")
                and r["impl"] == impl
                and r["causal"] == "True"
            ):
                continue
            s, dim = int(r["seqlen"]), int(r["head_dim"])
            forward = attention_rate(
                table[family, "forward", dim], spec.peak_bf16, 2**40, s, 0, True
            )
            rate = forward
            if r["pass"] == "fwd+bwd":
                backward = attention_rate(
                    table[family, "backward", dim], spec.peak_bf16, 2**40, s, 0, True
                )
                rate = 3.5 / (1 / forward + 2.5 / backward)
            errors.append(rate / (float(r["tflops"]) * 1e12) - 1)
    assert len(errors) >= 12
    assert np.abs(errors).mean() < bound
