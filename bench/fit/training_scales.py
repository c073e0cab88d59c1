"""Which scale on each family of kernels would explain the training rows best? All should be near 1.

    python bench/fit/training_scales.py TABLE.csv TORCH_VERSION [TABLE.csv TORCH_VERSION ...]

TABLE has the llm-foundry columns; TORCH_VERSION is the image it was run with. One scale a family
and GPU (with a prior of 5 to 20 % around 1), one for communication, one for the slow-down per
doubling beyond a node; never per row or model. Where a scale is off, the family's kernels are
looked at, not the rows. The constants of the `triton` attention, `gemm_clock` and the loss's shares
in sim/data/constants were set with this script, since no kernel table pins them down.
"""

from __future__ import annotations

import csv
import sys
from collections import defaultdict

import numpy as np
import training_closed_form as closed
from scipy.optimize import least_squares

from sim.blocks.unroll import unroll
from sim.cost.kernel_cost import CostModel
from sim.inputs.workload import Stack

#: rows that measured/README.md lists as anomalies
ANOMALIES = {"L168", "L208", "L209", "L147"}
FAMILIES = ("gemm", "attention forward", "attention backward", "loss", "maps", "fp8", "quantize")
PRIOR = np.array([0.05, 0.15, 0.1, 0.1, 0.1, 0.1, 0.2])
KEPT = 0.2  # of communication's time that its overlap costs by default


def load(arguments):
    for path, torch in zip(arguments[::2], arguments[1::2], strict=True):
        with open(path) as f:
            for r in csv.DictReader(f):
                listed = "2023" not in path and r["row_id"] in ANOMALIES
                if r["gpu"] != "A100-40GB" and int(r["n_gpus"]) <= 64 and not listed:
                    yield r, torch


def family(kernel):
    if kernel.kind == "attention":
        return f"attention {'forward' if kernel.direction == 'forward' else 'backward'}"
    if kernel.kind == "gemm":
        return "fp8" if kernel.dtype == "fp8" else "gemm"
    return kernel.kind if kernel.kind in ("loss", "quantize") else "maps"


def decompose(rows, gpu, cost):
    out = []
    for r, torch in rows:
        if not r["gpu"].startswith(gpu):
            continue
        w = closed.workload(r).model_copy(update={"stack": Stack(torch=torch)})
        fixed = closed.parts(r, cost, w)
        found = defaultdict(float)
        for (kind, _), kernels in unroll(w).kernels.items():
            times = w.gradient_accumulation * (w.model.layers if kind == "layer" else 1)
            for kernel, s in zip(kernels, cost.costs(kernels).time_s, strict=True):
                found[family(kernel)] += s * times
        tokens = float(r["global_batch_tokens"]) / int(r["n_gpus"])
        out.append((r, found, fixed, tokens / float(r["tokens_per_s_per_gpu"])))
    return out


def predicted(x, r, found, fixed):
    kernels = sum(found[f] * np.exp(v) for f, v in zip(FAMILIES, x, strict=False))
    exposed = np.exp(x[-2]) * KEPT * fixed["comm"]
    doublings = max(0.0, np.log2(int(r["n_gpus"]) / 8))
    return (kernels + fixed["fsdp"] + exposed) * (1 + x[-1] * doublings) + fixed["update"]


def main():
    rows = list(load(sys.argv[1:]))
    for gpu, spec in (("A100", closed.A100), ("H100", closed.H100)):
        data = decompose(rows, gpu, CostModel(spec))

        def residual(x, data=data):
            error = [np.log(predicted(x, r, a, b) / t) / 0.02 for r, a, b, t in data]
            return np.array([*error, *(x[: len(FAMILIES)] / PRIOR), x[-2] / 0.5])

        fit = least_squares(residual, np.zeros(len(FAMILIES) + 2), loss="soft_l1")
        scales = {f: round(float(np.exp(v)), 3) for f, v in zip(FAMILIES, fit.x, strict=False)}
        print(gpu, scales, "comm", round(float(np.exp(fit.x[-2])), 2), "per doubling", fit.x[-1])
        for name, x in (("as they are", np.zeros(fit.x.size)), ("scaled", fit.x)):
            e = np.array([t / predicted(x, r, a, b) - 1 for r, a, b, t in data])
            print(
                f"  {name}: {len(e)} rows, mean |error| {np.abs(e).mean():.2%}, "
                f"90th {np.percentile(np.abs(e), 90):.2%}"
            )


if __name__ == "__main__":
    main()
