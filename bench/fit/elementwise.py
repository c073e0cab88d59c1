"""Fit the HBM shares of element-wise, norm and loss kernels on the Liger table; print errors.

    python bench/fit/elementwise.py

Each case is the list of kernels that the eager (or fused) implementation runs, as bytes per element
and way of access; one share per way of access and GPU is fitted over all cases of more than 64 MB.
"composite" is the eager RMSNorm, squares and means of fp32 copies. The [origin] of a data file says
which of the shares that ship are these, and what was done with the others.
"""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
from scipy.optimize import least_squares

from sim.cost.constants import part_of
from sim.inputs import catalogue

TABLE = Path(__file__).parents[2] / "sim/data/measured/kernels_nongemm.csv"
LAUNCHES_S = 3e-6  # of a case, whatever its number of kernels
BOARDS = {"A100": "a100-sxm-80gb", "H100": "h100-sxm-80gb"}
ACCESS = ("composite", "cast", "strided", "fused", "rows", "reduce")
# (kernel, provider, mode) -> bytes per element by access; modes "full" are forward and backward
RMS_BF16 = {"composite": 8 + 4 + 8 + 4, "cast": 12}
RMS_FP32 = {"composite": 12 + 8 + 4 + 8 + 8}
CASES = {
    ("rms_norm", "huggingface", "forward"): RMS_BF16,
    ("rms_norm", "huggingface", "backward"): {"composite": 4 + 4 + 24 + 32 + 12 + 6, "cast": 12},
    ("fused_add_rms_norm", "huggingface", "forward"): RMS_FP32,
    ("fused_add_rms_norm", "huggingface", "backward"): {"composite": 16 + 8 + 24 + 32 + 12 + 12},
    ("layer_norm", "huggingface", "forward"): {"rows": 8},
    ("layer_norm", "huggingface", "backward"): {"rows": 20},
    ("megatron_rms_norm", "torch", "forward"): {"rows": 4},
    ("rms_norm", "liger", "forward"): {"fused": 4},
    ("megatron_rms_norm", "liger", "forward"): {"fused": 4},
    ("layer_norm", "liger", "forward"): {"fused": 8},
    ("megatron_swiglu", "liger", "forward"): {"fused": 6},
    ("megatron_swiglu", "torch", "forward"): {"strided": 10},
    ("rope", "huggingface", "forward"): {"strided": 20},
    ("rope", "huggingface", "backward"): {"strided": 23},
    ("rope", "liger", "forward"): {"fused": 4},
    ("cross_entropy", "huggingface", "forward"): {"reduce": 16},
    ("cross_entropy", "huggingface", "full"): {"reduce": 36, "composite": 4},
}


def elements(r, extra):
    x = float(r["x_value"])
    name = r["kernel_name"]
    if name in ("rms_norm", "fused_add_rms_norm", "layer_norm"):
        return x * extra["M"]
    if name == "megatron_rms_norm":
        return x * extra["S"] * extra["B"]
    if name == "megatron_swiglu":
        return x * extra["S"] * extra["B"]
    if name == "rope":
        heads = 1 + extra["num_kv_heads"] / extra["num_q_heads"]
        return extra.get("seq_len", x) * heads * (extra.get("hidden_size", x))
    return x * extra["B"] * extra["T"]


def rows(gpu):
    with TABLE.open() as f:
        for r in csv.DictReader(f):
            key = (r["kernel_name"], r["kernel_provider"], r["kernel_operation_mode"])
            if r["metric_name"] != "speed" or key not in CASES or gpu not in r["gpu_name"]:
                continue
            n = elements(r, json.loads(r["extra_benchmark_config_str"]))
            need = np.array([CASES[key].get(a, 0.0) for a in ACCESS])
            if key[0] == "cross_entropy" and float(r["x_value"]) <= 16384:
                continue  # rows that fit on chip are read once: another kernel
            if n * need.sum() > 64e6:
                yield key, r["x_value"], n * need, float(r["y_value_50"]) * 1e-3


def fit(gpu):
    """Shares of a GPU by way of access, rows and their relative errors."""
    data = list(rows(gpu))
    need = np.array([d[2] for d in data])
    time = np.array([d[3] for d in data])
    used = need.sum(axis=0) > 0
    bandwidth = catalogue.gpu(BOARDS[gpu]).memory_bandwidth

    def model(x):
        return LAUNCHES_S + need[:, used] @ (1 / x) / bandwidth

    found = least_squares(
        lambda x: np.log(model(x) / time),
        np.full(used.sum(), 0.7),
        bounds=(0.2, 0.95),
        loss="soft_l1",
        f_scale=0.1,
    )
    names = [name for name, has in zip(ACCESS, used, strict=True) if has]
    shares = dict(zip(names, found.x.tolist(), strict=True))
    return shares, data, model(found.x) / time - 1


def main():
    for gpu in BOARDS:
        shares, data, error = fit(gpu)
        shipped = part_of(gpu.lower(), "bandwidth")
        print(gpu, *(f"{name} {x:.3f} (ships {shipped[name]:g})" for name, x in shares.items()))
        for key in CASES:
            mine = [i for i, d in enumerate(data) if d[0] == key]
            if mine:
                print(
                    f"   {' '.join(key):45s} n {len(mine)} mean error {error[mine].mean():+.1%} "
                    f"worst {np.abs(error[mine]).max():.1%}"
                )
        print(f"   all {len(data)}: mean |error| {np.abs(error).mean():.1%}")


if __name__ == "__main__":
    main()
