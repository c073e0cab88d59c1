"""Fit attention constants on the kernel table and print TOML and errors.

    python bench/fit/attention.py

Backward follows from forward and both together. Where a table gives both together alone, forward is
taken to be FORWARD_OVER_BOTH times as fast, and the knees are those of both: FlashAttention-2 on
the A100 assumed (the H100's is 1.07); FlashAttention-1 from what its successor's paper says of it,
forward at 30 to 50 % of the peak, backward at 25 to 35 (arXiv 2307.08691, section 1): the middles.

Head sizes whose backward no table of the H100 has follow from an H200's (bench/gpu/h200, measured
by bench/gpu/measure_kernels.py): rate and knee over those of head size 128 there, times the H100's.
"""

from __future__ import annotations

import csv
from collections import defaultdict
from pathlib import Path

import numpy as np
from scipy.optimize import least_squares

from sim.inputs import catalogue

TABLE = Path(__file__).parents[2] / "sim/data/measured/attention_kernels.csv"
SECOND = Path(__file__).parents[2] / "bench/gpu/h200/attention.csv"
BOARDS = {"A100": "a100-sxm-80gb", "H100": "h100-sxm-80gb"}
FORWARD_OVER_BOTH = {
    ("A100", "flash2"): 1.127,
    ("A100", "flash1"): 1.238,
    ("H100", "flash1"): 1.238,
}
IMPL = {
    "FA2": "flash2",
    "FA3": "flash3",
    "cuDNN": "cudnn",
    "Triton": "triton",
    "FA_Triton": "triton",
    "FA1": "flash1",
}


def read():
    out = defaultdict(list)
    with TABLE.open() as f:
        for r in csv.DictReader(f):
            if (
                r["impl"] not in IMPL
                or r["dtype"] not in ("fp16/bf16", "fp16")
                or r["causal"] not in ("True", "False")
            ):
                continue
            gpu = r["gpu"][:4]
            if gpu not in BOARDS:
                continue
            key = (gpu, IMPL[r["impl"]], r["pass"], int(r["head_dim"]))
            out[key].append((int(r["seqlen"]), r["causal"] == "True", float(r["tflops"])))
    return out


def curve(x, s, causal):
    return x[0] * s / (s + np.where(causal, x[1], x[2]))


def fit(points):
    s, causal, rate = (np.array(v) for v in zip(*points, strict=True))
    f = least_squares(
        lambda x: np.log(curve(x, s, causal) / rate),
        (rate.max(), 300.0, 60.0),
        bounds=([1, 0, 0], [2000, 3000, 1000]),
    )
    error = curve(f.x, s, causal) / rate - 1
    return f.x, error


def constants():
    """(gpu, implementation, direction, head size) -> rate as a share of the peak, knees, errors."""
    data = read()
    found = {}
    for (gpu, impl, direction, dim), points in sorted(data.items()):
        if direction == "fwd":
            found[gpu, impl, "forward", dim] = fit(points)
        if direction != "fwd+bwd":
            continue
        if (gpu, impl, "fwd", dim) in data:
            ahead = {(s, c): r for s, c, r in data[gpu, impl, "fwd", dim]}
            found[gpu, impl, "backward", dim] = fit(
                [(s, c, backward(ahead[s, c], r)) for s, c, r in points if (s, c) in ahead]
            )
        elif (gpu, impl) in FORWARD_OVER_BOTH:
            (rate, *knees), error = fit(points)
            forward = rate * FORWARD_OVER_BOTH[gpu, impl]
            found[gpu, impl, "forward", dim] = (forward, *knees), error
            found[gpu, impl, "backward", dim] = (backward(forward, rate), *knees), error
        else:
            found[gpu, impl, "both", dim] = fit(points)
    for (impl, dim), (rate, knee) in by_head_size().items():
        key = ("H100", impl, "backward")
        if (*key, 128) in found and (*key, dim) not in found:
            x, error = found[*key, 128]
            found[*key, dim] = x * np.array([rate, knee, knee]), error
    peak = {gpu: catalogue.gpu(name).peak_bf16 * 1e-12 for gpu, name in BOARDS.items()}
    return {
        (gpu, *rest): ((x[0] / peak[gpu], x[1], x[2]), error)
        for (gpu, *rest), (x, error) in found.items()
    }


def by_head_size():
    """(implementation, head size) -> backward's rate and knee over those of head size 128."""
    points = defaultdict(list)
    with SECOND.open() as f:
        for r in csv.DictReader(f):
            if r["impl"] in IMPL and r["pass"] == "bwd":
                key = IMPL[r["impl"]], int(r["head_dim"])
                points[key].append((int(r["seqlen"]), True, float(r["tflops"])))
    found = {key: fit(rows)[0] for key, rows in points.items()}
    return {
        (impl, dim): (x[0] / found[impl, 128][0], x[1] / found[impl, 128][1])
        for (impl, dim), x in found.items()
        if dim != 128
    }


def backward(forward, both):
    """Rate of a backward (2.5 times the forward's FLOPs) from the rates of forward and of both."""
    return 2.5 / (3.5 / both - 1 / forward)


def main():
    for (gpu, impl, direction, dim), ((rate, knee, full), error) in sorted(constants().items()):
        print(
            f"{gpu} {impl:7s} {direction:8s} d{dim:<4d} rate {rate:.4f} knee {knee:.0f} "
            f"knee_full {full:.0f}   n {len(error):2d} "
            f"mean |error| {np.abs(error).mean():.1%} worst {np.abs(error).max():.1%}"
        )
    for (impl, dim), (rate, knee) in sorted(by_head_size().items()):
        print(f"H200 {impl:7s} backward d{dim:<4d} of d128's: rate {rate:.3f} knee {knee:.2f}")


if __name__ == "__main__":
    main()
