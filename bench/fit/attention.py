"""Fit attention constants on the kernel table and print TOML and errors.

    python bench/fit/attention.py

Tables that give forward and backward together are split: forward at FORWARD_OVER_BOTH of the
combined rate where no forward measurement of the same implementation exists (H100 FlashAttention-2,
which has both, gives the ratio).
"""

from __future__ import annotations

import csv
from collections import defaultdict
from pathlib import Path

import numpy as np
from scipy.optimize import least_squares

TABLE = Path(__file__).parents[2] / "sim/data/measured/attention_kernels.csv"
PEAK = {"A100": 312.0, "H100": 989.4}
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
            if gpu not in PEAK:
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


def main():
    data = read()
    for key, points in sorted(data.items()):
        gpu, impl, direction, dim = key
        x, error = fit(points)
        print(
            f"{gpu} {impl:7s} {direction:8s} d{dim:<4d} rate {x[0] / PEAK[gpu]:.4f} "
            f"knee {x[1]:.0f} knee_full {x[2]:.0f}   n {len(points):2d} "
            f"mean |error| {np.abs(error).mean():.1%} worst {np.abs(error).max():.1%}"
        )
    print("backward from forward and both together (2.5 and 3.5 times the forward's FLOPs):")
    for (gpu, impl, direction, dim), points in sorted(data.items()):
        if direction != "fwd+bwd":
            continue
        ahead = {(s, c): r for s, c, r in data.get((gpu, impl, "fwd", dim), [])}
        out = []
        for s, c, r in points:
            f = ahead.get((s, c))
            if f is None:
                continue
            out.append((s, c, 2.5 / (3.5 / r - 1 / f)))
        if out:
            x, error = fit(out)
            print(
                f"{gpu} {impl} bwd d{dim} rate {x[0] / PEAK[gpu]:.4f} knee {x[1]:.0f} "
                f"knee_full {x[2]:.0f}  mean |error| {np.abs(error).mean():.1%}"
            )


if __name__ == "__main__":
    main()
