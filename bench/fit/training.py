"""Constants that only training rows tell: variation from rank to rank, and company.

    python bench/fit/training.py

Prints the error of all complete rows by source for trial values, and the fit of the variation with
whole GPU counts left out. `company` is not fitted: it comes from one kernel measurement, and this
shows that training rows do not contradict it.
"""

from __future__ import annotations

import dataclasses
from collections import defaultdict

import numpy as np

from sim.calibration.rows import training_rows
from sim.cost import constants, kernel_cost
from sim.inputs.shares import batch_on
from sim.step import straggle
from sim.step.step import step

STOCK = constants.load_constants


def use(company, a100, h100):
    """Put trial values in place of the data files'."""
    kernel_cost.load_constants = lambda gpu: dataclasses.replace(STOCK(gpu), company=company)
    kernel_cost.cost_model.cache_clear()
    straggle.block_variation = lambda generation: a100 if generation == "a100" else h100


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
    for company in (0.7, 1.37, 2.0, 3.0):
        use(company, 0.05, 0.02)
        groups = defaultdict(list)
        for row, e in errors().items():
            groups[row.group].append(e)
        text = (f"{g} {np.abs(e).mean():.1%}/{np.mean(e):+.1%}" for g, e in groups.items())
        print(f"company {company}:", *text)
    use(1.37, 0.0, 0.0)
    found = errors()
    for name, gpus in (("a100", "a100"), ("h100", "h100")):
        rows = [r for r in found if gpus in r.topology.first_gpu.name and "llm" in r.group]
        x = np.array([straggle.expected_largest(max(r.gpus, 8)) for r in rows])
        x -= straggle.expected_largest(8)
        y = np.array([1 / (1 + found[r]) - 1 for r in rows])
        design = np.stack((np.ones_like(x), x), axis=1)
        counts = np.array([r.gpus for r in rows])
        print(name, "all:", np.linalg.lstsq(design, y, rcond=None)[0].round(4))
        for n in sorted(set(counts)):
            kept = counts != n
            fit = np.linalg.lstsq(design[kept], y[kept], rcond=None)[0]
            off = np.abs(y[~kept] - design[~kept] @ fit).mean()
            print(f"  without {n} GPUs: {fit.round(4)}, error there {off:.2%}")


if __name__ == "__main__":
    main()
