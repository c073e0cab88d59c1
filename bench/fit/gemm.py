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
from sim.inputs import catalogue

TABLE = Path(__file__).parents[2] / "sim/data/measured/gemm_efficiency.csv"
SIDES = {
    "1k-2k": (1024, 1536),
    "2k-4k": (2048, 2560, 3072, 3584),
    "4k-8k": (4096, 5120, 6144, 7168),
    "8k-16k": (8192, 10240, 12288, 16384),
    ">16k": (51200, 65536),
}
BOARDS = {
    "A100": "a100-sxm-80gb", "H100": "h100-sxm-80gb", "B200": "b200-sxm-180gb",
    "L40S": "l40s-pcie-48gb",
}  # fmt: skip
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


def peak(board, dtype):
    return board.peak_fp8 if dtype == "fp8" else board.peak_bf16


def evaluate(x, table, board, dtype):
    shapes, ptr = table
    size, most = 1 if dtype == "fp8" else 2, peak(board, dtype)
    t = gemm_times(
        shapes, size, 2, most, board.memory_bandwidth, board.sms, constants(x), True
    )  # fmt: skip
    eff = 2 * shapes[:, :3].prod(axis=1) / t.seconds / most
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

    board = catalogue.gpu(BOARDS[gpu])
    # fewer than 16 rows: latency of the serving stack, nothing training runs
    data = [r for r in rows(gpu, dtype) if r[0] >= 16 and r[1] != ">16k"]
    table = build(data)
    want = np.array([r[2:] for r in data])
    weight = np.array([1.0 if r[0] >= 512 else 0.5 for r in data])

    def loss(x):
        got = evaluate(x, table, board, dtype)
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
    got = evaluate(best.x, table, board, dtype)
    return best.x, data, got, want


def main():
    for gpu in sys.argv[1:] or list(BOARDS):
        board = catalogue.gpu(BOARDS[gpu])
        for dtype in ("bfloat16", "fp8") if board.peak_fp8 else ("bfloat16",):
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
