"""Fit GEMM constants on the efficiency table, one set per GPU generation and dtype.

    python bench/fit/gemm.py            # all, prints TOML and the error table
    python bench/fit/gemm.py A100       # one GPU

The table gives the median (and 10th, 90th percentile) efficiency over the (n, k) pairs of a grid,
per m and band of min(n, k). The grid is inferred from the counts per band (60, 96, 64, 32, 3).
"""

from __future__ import annotations

import csv
import sys
from pathlib import Path

import numpy as np

from sim.cost.gemm import GemmConstants, gemm_times

TABLE = Path(__file__).parents[2] / "sim/data/measured/gemm_efficiency.csv"
SIDES = {
    "1k-2k": (1024, 1536),
    "2k-4k": (2048, 2560, 3072, 3584),
    "4k-8k": (4096, 5120, 6144, 7168),
    "8k-16k": (8192, 10240, 12288, 16384),
    ">16k": (51200, 65536),
}
# SMs, HBM bytes/s, bf16 and fp8 dense peak (facts of the catalogue)
GPUS = {
    "A100": (108, 2.039e12, {"bfloat16": 312e12}),
    "H100": (132, 3.35e12, {"bfloat16": 989.4e12, "fp8": 1978.9e12}),
    "B200": (148, 8.0e12, {"bfloat16": 2250e12, "fp8": 4500e12}),
    "L40S": (142, 0.864e12, {"bfloat16": 362e12, "fp8": 733e12}),
}
NAMES = (
    "tile0",
    "tile1",
    "tile2",
    "tile3",
    "quantisation",
    "fill_us",
    "launch_us",
    "memory",
    "extra_us",
    "extra_bytes",
    "burst",
    "burst_us",
)


def pairs(band):
    names = list(SIDES)
    sides = [s for name in names[names.index(band) :] for s in SIDES[name]]
    low = SIDES[band]
    return [(n, k) for n in sides for k in sides if min(n, k) in low and (n, k) != (65536, 65536)]


def rows(gpu, dtype):
    with TABLE.open() as f:
        for r in csv.DictReader(f):
            if r["gpu"].startswith(gpu) and r["dtype"] == dtype and float(r["eff_median"]) > 0:
                yield (
                    int(r["m"]),
                    r["min(n,k) band"],
                    *(float(r[c]) for c in ("eff_median", "eff_p10", "eff_p90")),
                )


def constants(x):
    # smaller tiles are never better: each class is given by its ratio to the one before
    return GemmConstants(
        (x[0], x[0] * x[1], x[0] * x[1] * x[2], x[0] * x[1] * x[2] * x[3]),
        x[4],
        x[5] * 1e-6,
        x[6] * 1e-6,
        x[7],
        x[8] * 1e-6,
        x[9],
    )


def evaluate(x, table, spec, dtype):
    sms, bandwidth, peaks = spec
    shapes, ptr = table
    t = gemm_times(
        shapes, 1 if dtype == "fp8" else 2, 2, peaks[dtype], bandwidth, sms, constants(x), True
    )
    eff = 2 * shapes[:, :3].prod(axis=1) / t.seconds / peaks[dtype]
    return np.array([np.percentile(eff[a:b], (50, 10, 90)) for a, b in ptr])


def build(data):
    shapes, ptr = [], []
    for m, band, *_ in data:
        start = len(shapes)
        shapes += [(m, n, k, 1) for n, k in pairs(band)]
        ptr.append((start, len(shapes)))
    return np.array(shapes, dtype=float), ptr


def fit(gpu, dtype, seed=0):
    from scipy.optimize import differential_evolution

    spec = GPUS[gpu]
    # fewer than 16 rows: latency of the serving stack, nothing training runs
    data = [r for r in rows(gpu, dtype) if r[0] >= 16 and r[1] != ">16k"]
    table = build(data)
    want = np.array([r[2:] for r in data])
    weight = np.array([1.0 if r[0] >= 512 else 0.5 for r in data])

    def loss(x):
        got = evaluate(x, table, spec, dtype)
        error = np.log(got) - np.log(np.maximum(want, 1e-4))
        return float(
            (
                weight
                * (np.abs(error[:, 0]) + 0.3 * np.abs(error[:, 1]) + 0.3 * np.abs(error[:, 2]))
            ).mean()
        )

    top = 0.9 if dtype == "fp8" else 0.99
    extra = [(0, 15), (0, 12)] if dtype == "fp8" else [(0, 1e-9), (0, 1e-9)]
    ratios = [(0.75, 1.0), (0.65, 1.0), (0.6, 1.0)]
    burst = [(0, 1e-9), (1, 2)] if gpu == "A100" else [(0, 0.4), (20, 2000)]
    bounds = [(0.4, top), *ratios, (0.2, 1), (0, 4), (1, 8), (0.6, 0.95), *extra, *burst]
    best = differential_evolution(
        loss, bounds, seed=seed, maxiter=30, popsize=6, tol=1e-4, polish=False
    )
    got = evaluate(best.x, table, spec, dtype)
    return best.x, data, got, want


def main():
    chosen = sys.argv[1:] or list(GPUS)
    for gpu in chosen:
        for dtype in GPUS[gpu][2]:
            x, data, got, want = fit(gpu, dtype)
            error = got[:, 0] / want[:, 0] - 1
            big = np.array([r[0] >= 1024 for r in data])
            print(
                f"[{gpu} {dtype}] "
                + ", ".join(f"{n} {v:.4g}" for n, v in zip(NAMES, x, strict=True))
            )
            print("  tile", [round(float(v), 4) for v in constants(x).tile])
            print(
                f"  medians: mean |error| {np.abs(error).mean():.1%} all, "
                f"{np.abs(error[big]).mean():.1%} m >= 1024, worst {np.abs(error[big]).max():.1%}"
            )
            for (m, band, *_), e, g, w in zip(data, error, got, want, strict=True):
                if m in (64, 256, 1024, 4096, 16384):
                    print(
                        f"    m {m:6d} {band:7s} median {w[0]:.3f} model {g[0]:.3f} "
                        f"({e:+.1%})  p10 {w[1]:.2f} {g[1]:.2f}  p90 {w[2]:.2f} {g[2]:.2f}"
                    )


if __name__ == "__main__":
    main()
