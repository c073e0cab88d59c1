"""10,000 configurations of Llama 3 70B on 1 to 64 nodes: points per second, storing included.

python bench/sweep.py            # all of them on 2 processes
python bench/sweep.py 1000       # the first so many
"""

import itertools
import json
import os
import platform
import sys
import tempfile
import time
from pathlib import Path

from sim.study.axes import Axis, Grid
from sim.study.sweep import sweep

AXES = {
    "nodes": (1, 2, 3, 4, 6, 8, 12, 16, 20, 24, 28, 32, 40, 48, 56, 64),
    "sequence_length": (2048, 4096, 6144, 8192),
    "micro_batch": (1, 2, 3, 4, 6, 8),
    "gradient_accumulation": (1, 2, 4, 8),
    "activation_checkpointing": ("none", "{selective: op}", "full"),
    "parallelism.reshard_after_forward": ("true", "false"),
    "optimizer": ("adamw", "adamw-8bit"),
}  # 18,432 in all; every 1.8th is taken, so that all axes are covered


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000
    points = list(itertools.product(*([str(v) for v in values] for values in AXES.values())))
    chosen = tuple(points[i * len(points) // 10_000] for i in range(10_000))[:count]
    grid = Grid("bench", "dgx-h100", "llama3-70b-full", (Axis(tuple(AXES), chosen),))
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        outcome = sweep(grid, Path(folder) / "s.sqlite", processes=2)
        seconds = time.perf_counter() - began
    print(
        json.dumps(
            {
                "bench": "sweep llama3-70b-full, 1 to 64 nodes of dgx-h100, 2 processes, stored",
                "configurations": len(outcome.rows),
                "failed": outcome.failed,
                "seconds": round(seconds, 2),
                "points_per_s": round(len(outcome.rows) / seconds, 1),
                "load": os.getloadavg()[0],
                "machine": f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores",
                "python": platform.python_version(),
            }
        )
    )


if __name__ == "__main__":
    main()
