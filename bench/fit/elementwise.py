"""Fit the HBM shares of element-wise, norm and loss kernels on the Liger table; print errors.

    python bench/fit/elementwise.py

Each case is the list of kernels that the eager (or fused) implementation runs, as bytes per element
and way of access; one share per way of access and GPU is fitted over all cases of more than 64 MB.
"composite" is the eager RMSNorm, squares and means of fp32 copies. The [origin] of a data file says
which of the shares that ship are these, and what was done with the others.

What an SM moves at most (`[sm_bytes]`) follows from a second board of the generation with other
memory: an H200, measured by bench/gpu/measure_kernels.py (bench/gpu/h200). PyTorch's eager kernels
there, chains of them included, are fitted as above.
"""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
from scipy.optimize import least_squares

from sim.cost.constants import part_of
from sim.inputs import catalogue

ROOT = Path(__file__).parents[2]
TABLE = ROOT / "sim/data/measured/kernels_nongemm.csv"
SECOND = ROOT / "bench/gpu/h200/nongemm.csv"
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
# what bench/gpu/measure_kernels.py runs; "up" and "down" are the two ways of a cast
SECOND_CASES = {
    ("rms_norm", "torch", "forward"): {"up": 6, "composite": 20, "down": 6, "stream": 4},
    ("swiglu_gate", "torch", "forward"): {"stream": 10},
    ("swiglu_gate", "torch", "backward"): {"stream": 18},
    ("residual_add", "torch", "forward"): {"stream": 6},
    ("cast_fp32", "torch", "forward"): {"up": 6},
    ("cast_fp32", "torch", "backward"): {"down": 6},
    ("layer_norm", "torch", "forward"): {"rows": 4},
    ("layer_norm", "torch", "backward"): {"rows": 10},
    ("rope", "torch", "forward"): {"strided": 20},
    ("swiglu_gate", "torch_compile", "forward"): {"fused": 6},
    ("cast_fp32", "torch_compile", "forward"): {"fused": 6},
    ("cross_entropy", "torch", "forward"): {"up": 6, "reduce": 12},
    ("cross_entropy", "torch", "backward"): {"down": 6, "reduce": 16},
    ("adamw", "fused", "step"): {"multi": 28},
    ("clip_grad_norm", "foreach", "step"): {"multi": 12},
}
SECOND_ACCESS = ("up", "down", "composite", "strided", "fused", "rows", "reduce", "stream", "multi")
#: accesses that reach a smaller share of the H200's memory than of the H100's
LIMITED = ("composite", "cast", "strided", "rows", "reduce", "multi")


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
    return fit_shares(data, ACCESS, catalogue.gpu(BOARDS[gpu]).memory_bandwidth)


def second_rows():
    """Case, size, elements and seconds of each row of the H200's that moves over 500 MB."""
    with SECOND.open() as f:
        for r in csv.DictReader(f):
            key = (r["kernel_name"], r["kernel_provider"], r["kernel_operation_mode"])
            if key not in SECOND_CASES:
                continue
            extra = json.loads(r["extra_benchmark_config_str"])
            n = float(r["x_value"]) * {"H": extra.get("T"), "V": 2048, "N": 1}[r["x_name"]]
            if n * sum(SECOND_CASES[key].values()) > 500e6:
                yield key, r["x_value"], n, float(r["y_value_50"]) * 1e-3


def second():
    """Shares of the H200, the two casts of a bf16 norm or loss together."""
    data = []
    for key, x, n, time_s in second_rows():
        need = np.array([SECOND_CASES[key].get(a, 0.0) for a in SECOND_ACCESS])
        data.append((key, x, n * need, time_s))
    bandwidth = catalogue.gpu("h200-sxm-141gb").memory_bandwidth
    shares, data, error = fit_shares(data, SECOND_ACCESS, bandwidth)
    shares["cast"] = 2 / (1 / shares.pop("up") + 1 / shares.pop("down"))
    return shares, data, error


def sm_bytes():
    """What an SM moves at most per clock, by way of access. [B]

    The H200's rate, where it is no more share of its memory than the H100's is; views are as quick
    on both.
    """
    first, other = catalogue.gpu(BOARDS["H100"]), catalogue.gpu("h200-sxm-141gb")
    ships, found = part_of("h100", "bandwidth"), second()[0]
    clocks = other.sms * other.boost_clock
    return {
        name: max(ships[name] * first.memory_bandwidth, found[name] * other.memory_bandwidth)
        / clocks
        for name in LIMITED
    }


def fit_shares(data, accesses, bandwidth):
    """Shares by way of access, the rows, and their relative errors."""
    need = np.array([d[2] for d in data])
    time = np.array([d[3] for d in data])
    used = need.sum(axis=0) > 0

    def model(x):
        return LAUNCHES_S + need[:, used] @ (1 / x) / bandwidth

    found = least_squares(
        lambda x: np.log(model(x) / time),
        np.full(used.sum(), 0.7),
        bounds=(0.2, 0.95),
        loss="soft_l1",
        f_scale=0.1,
    )
    names = [name for name, has in zip(accesses, used, strict=True) if has]
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
    shares, data, error = second()
    print("H200", *(f"{name} {x:.3f}" for name, x in shares.items()))
    for (key, x, *_), e in zip(data, error, strict=True):
        print(f"   {' '.join(key):45s} {x:>10s} {e:+.1%}")
    print("bytes an SM and clock:", *(f"{name} {x:.2f}" for name, x in sm_bytes().items()))


if __name__ == "__main__":
    main()
