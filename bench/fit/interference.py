"""Fit COMPANY, the slow-down of kernels beside a collective, on training rows.

    python bench/fit/interference.py [VALUE ...]

Prints the error of the llm-foundry rows by GPU and edition for each value; rows of one node say it
(beyond one node, stragglers do), both GPUs together choose it.
"""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from pathlib import Path

import numpy as np

from sim.api import simulate
from sim.cost import kernel_cost

ROWS = Path(__file__).parents[2] / "sim/data/measured/training.jsonl"


def errors():
    found = defaultdict(list)
    for line in ROWS.read_text(encoding="utf-8").splitlines():
        r = json.loads(line)
        measured = r["tokens_per_s_per_gpu"]
        if "llm-foundry" not in r["id"] or not measured or r["status"] != "complete":
            continue
        result = simulate(
            r["topology"], r["workload"], overrides=r["sets"], scaling=False, fixes=False
        )
        predicted = json.loads(result.to_json())["throughput"]["tokens_per_s_per_gpu"]
        nodes = "one node" if r["gpus"] <= 8 else "more"
        found[r["topology"], r["id"].split(":")[0], nodes].append(predicted / measured - 1)
    return found


def main():
    for value in map(float, sys.argv[1:] or ("0", "0.15", "0.25", "0.35")):
        kernel_cost.COMPANY = value
        kernel_cost.cost_model.cache_clear()
        for key, found in errors().items():
            e = np.array(found)
            print(
                f"{value:.2f} {' '.join(key):50s} {len(e):3d} rows  mean |error| "
                f"{np.abs(e).mean():.2%}  mean {e.mean():+.2%}  90th "
                f"{np.percentile(np.abs(e), 90):.2%}"
            )


if __name__ == "__main__":
    main()
