"""Constants that only training rows tell: variation from rank to rank, loss beside collectives.

    python bench/fit/training.py

Prints the error of all complete rows by source for trial values, and the fit of the variation with
whole GPU counts left out. `compute_loss` is not fitted: it comes from one kernel measurement, and
this shows what training rows say of it.
"""

from __future__ import annotations

import functools
import gc
from collections import defaultdict

import numpy as np

from sim.calibration.rows import training_rows
from sim.data import table
from sim.inputs.shares import batch_on
from sim.step.step import step
from sim.step.straggle import expected_largest


def use(compute_loss, a100, h100):
    """Put trial values in place of the data files', and forget what others gave."""
    table("constants/kernels")["interference"]["compute_loss"] = compute_loss
    table("constants/variation")["block"].update(a100=a100, h100=h100)
    for known in gc.get_objects():
        if isinstance(known, functools._lru_cache_wrapper) and known is not table:
            known.cache_clear()


def errors():
    """Predicted over measured time, less 1, of every complete row."""
    out = {}
    for row in training_rows():
        if row.status != "complete" or not row.tokens_per_s_per_gpu:
            continue
        w = row.workload
        tokens = batch_on(w).tokens_per_rank
        seconds = step(row.topology, w).time_s
        out[row] = seconds * row.tokens_per_s_per_gpu / tokens - 1
    return out


def main():
    ships = table("constants/kernels")["interference"]["compute_loss"]
    variation = dict(table("constants/variation")["block"])
    for compute_loss in (0.5 * ships, ships, 1.5 * ships, 2.0 * ships):
        use(compute_loss, **variation)
        groups = defaultdict(list)
        for row, e in errors().items():
            groups[row.group].append(e)
        text = (f"{g} {np.abs(e).mean():.1%}/{np.mean(e):+.1%}" for g, e in groups.items())
        print(f"compute_loss {compute_loss:.2f}:", *text)
    use(ships, 0.0, 0.0)
    found = errors()
    for name in variation:
        rows = [r for r in found if name in r.topology.first_gpu.name and "llm" in r.group]
        x = np.array([expected_largest(max(r.gpus, 8)) for r in rows])
        x -= expected_largest(8)
        y = np.array([1 / (1 + found[r]) - 1 for r in rows])
        design = np.stack((np.ones_like(x), x), axis=1)
        counts = np.array([r.gpus for r in rows])
        print(
            f"{name}, ships {variation[name]}; all:",
            np.linalg.lstsq(design, y, rcond=None)[0].round(4),
        )
        for n in sorted(set(counts)):
            kept = counts != n
            fit = np.linalg.lstsq(design[kept], y[kept], rcond=None)[0]
            off = np.abs(y[~kept] - design[~kept] @ fit).mean()
            print(f"  without {n} GPUs: {fit.round(4)}, error there {off:.2%}")


if __name__ == "__main__":
    main()
