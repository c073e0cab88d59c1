"""Fit the HBM shares of element-wise, norm and loss kernels on the Liger table; print errors.

    python bench/fit/elementwise.py

Each case is the list of kernels that the eager (or fused) implementation runs, as bytes per element
and way of access; one share per way of access and GPU is fitted over all cases of more than 64 MB.
"""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
from scipy.optimize import least_squares

TABLE = Path(__file__).parents[2] / "sim/data/measured/kernels_nongemm.csv"
HBM = {"A100": 2.039e12, "H100": 3.35e12}
ACCESS = ("stream", "cast", "strided", "fused", "rows", "reduce")
# (kernel, provider, mode) -> bytes per element by access; modes "full" are forward and backward
RMS_BF16 = {"stream": 8 + 4 + 8 + 4, "cast": 12}
RMS_FP32 = {"stream": 12 + 8 + 4 + 8 + 8}
CASES = {
    ("rms_norm", "huggingface", "forward"): RMS_BF16,
    ("rms_norm", "huggingface", "backward"): {"stream": 4 + 4 + 24 + 32 + 12 + 6, "cast": 12},
    ("fused_add_rms_norm", "huggingface", "forward"): RMS_FP32,
    ("fused_add_rms_norm", "huggingface", "backward"): {"stream": 16 + 8 + 24 + 32 + 12 + 12},
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
    ("cross_entropy", "huggingface", "full"): {"reduce": 36, "stream": 4},
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


def main():
    for gpu, bandwidth in HBM.items():
        data = list(rows(gpu))
        need = np.array([d[2] for d in data])
        time = np.array([d[3] for d in data])
        used = need.sum(axis=0) > 0

        def model(x, need=need, used=used, bandwidth=bandwidth):
            return 3e-6 + need[:, used] @ (1 / x) / bandwidth

        fit = least_squares(
            lambda x, time=time, model=model: np.log(model(x) / time),
            np.full(used.sum(), 0.7),
            bounds=(0.2, 0.95),
            loss="soft_l1",
            f_scale=0.1,
        )
        print(
            gpu, {a: round(float(v), 3) for a, v in zip(np.array(ACCESS)[used], fit.x, strict=True)}
        )
        error = model(fit.x) / time - 1
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
