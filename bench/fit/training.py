"""Constants that only training rows tell: loss beside collectives, and how ranks differ.

    python bench/fit/training.py

Fits `compute_loss`, `network_channel` (data/constants/kernels.toml) and `board`, `unit_s`
(variation.toml) together: weighted least squares about the shipped values on the step times of all
complete rows of several GPUs, in which rows of one model and of one source share an error of their
own. Prints the fit with each source, GPU count and generation left out, then what the law says of
llm-foundry's series that differ in the number of GPUs alone.
"""

from __future__ import annotations

import functools
import gc
import sys

import numpy as np

from sim.data import table
from sim.inputs.architecture import facts_of
from sim.inputs.shares import batch_on
from sim.published.rows import training_rows
from sim.step import kept
from sim.step.step import step

KERNELS = table("constants/kernels")["interference"]
VARIATION = table("constants/variation")
SIZES = {  # of a finite difference
    "compute_loss": 0.4, "network_channel": 0.25, "board": 0.01, "unit_s a100": 1e-3,
    "unit_s h100": 1e-3,
}  # fmt: skip
NOISE, MODEL, SOURCE = 0.012, 0.01, 0.01  # of a row, a source's rows of a model, a source
MOST = 0.1  # one far-off row must not decide


def place(name):
    """The table that holds a constant, and its key there."""
    if name in KERNELS:
        return KERNELS, name
    return (VARIATION["board"], "share") if name == "board" else (VARIATION["unit_s"], name[7:])


def forget():
    """Forget what other constants gave."""
    for known in gc.get_objects():
        # not isinstance(), which asks a weak proxy for what it stands for, and that may be gone
        if type(known) is functools._lru_cache_wrapper and known is not table:
            known.cache_clear()
    kept.forget()


def predicted(rows):
    """Step time of each row. [s]"""
    forget()
    return np.array([step(row.topology, row.workload).time_s for row in rows])


def sensitivities(rows, base):
    """Change of each row's step time, over its own, by a unit of each constant."""
    columns = []
    for name, size in SIZES.items():
        where, key = place(name)
        where[key] += size
        columns.append((predicted(rows) / base - 1.0) / size)
        where[key] -= size
    return np.stack(columns, axis=1)


def fit(rows, x, y):
    """Corrections of the constants and their standard errors."""
    sources = [(row.group, facts_of(row.topology.first_gpu).constants) for row in rows]
    models = [(*s, row.workload.model.name) for s, row in zip(sources, rows, strict=True)]
    covariance = NOISE**2 * np.eye(len(rows))
    for groups, size in ((models, MODEL), (sources, SOURCE)):
        covariance += size**2 * np.array([[a == b for b in groups] for a in groups])
    told = np.abs(x).max(axis=0) > 0.0
    weight = np.linalg.inv(covariance)
    spread = np.linalg.inv(x[:, told].T @ weight @ x[:, told])
    found, error = np.full(x.shape[1], np.nan), np.full(x.shape[1], np.nan)
    found[told] = spread @ x[:, told].T @ weight @ y
    error[told] = np.sqrt(np.diag(spread))
    return found, error


def said(label, found, error):
    """A line of the table."""
    now = [place(name)[0][place(name)[1]] for name in SIZES]
    parts = [
        f"{name} {value + move:.3g} +- {e:.2g}"
        for name, value, move, e in zip(SIZES, now, found, error, strict=True)
    ]
    print(f"{label:24}", " | ".join(parts))


def series(rows, base, measured):
    """Loss from 8 GPUs on, measured and by the law, of jobs that differ in nothing else."""
    at = {}
    for row, law, seen in zip(rows, base, measured, strict=True):
        if row.group.startswith("llm-foundry"):
            generation = facts_of(row.topology.first_gpu).constants
            key = (generation, row.group, row.workload.model.name)
            at.setdefault(key, {}).setdefault(row.gpus, []).append((seen / law, law, row))
    print(
        "\nmeasured over predicted at 8 GPUs (mean of the model's rows), then of more GPUs over it"
    )
    for key, counts in sorted(at.items()):
        if 8 not in counts or len(counts) < 2:
            continue
        own = np.mean([ratio for ratio, _, _ in counts[8]])
        for gpus in sorted(set(counts) - {8}):
            for ratio, law, row in counts[gpus]:
                w = row.workload
                unit = law / (w.model.layers * w.gradient_accumulation)
                waits = step(row.topology, w).breakdown.waiting_s / law
                print(
                    f"{key[0]} {key[2]:10} {gpus:3d} GPUs: step {law:7.2f} s, {1e3 * unit:5.0f} ms "
                    f"a unit; lost by the law {waits:.1%}, measured {waits + ratio / own - 1:.1%}"
                )


def main():
    """Fit, with groups left out."""
    rows = [
        row for row in training_rows()
        if row.status == "complete" and row.tokens_per_s_per_gpu and row.gpus > 1
    ]  # fmt: skip
    tokens = np.array([batch_on(row.workload).tokens_per_rank for row in rows])
    measured = tokens / np.array([row.tokens_per_s_per_gpu for row in rows])
    base = predicted(rows)
    if "--series" not in sys.argv:
        x, y = sensitivities(rows, base), np.clip(measured / base - 1.0, -MOST, MOST)
        said("all", *fit(rows, x, y))
        for what, of in (
            ("source", lambda row: row.group), ("GPUs", lambda row: row.gpus),
            ("generation", lambda row: facts_of(row.topology.first_gpu).constants),
        ):  # fmt: skip
            for left in sorted({of(row) for row in rows}, key=str):
                kept = [i for i, row in enumerate(rows) if of(row) != left]
                said(f"without {what} {left}", *fit([rows[i] for i in kept], x[kept], y[kept]))
    base = predicted(rows)
    series(rows, base, measured)


if __name__ == "__main__":
    main()
