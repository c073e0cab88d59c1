"""10,000 configurations of Llama 3 70B on 1 to 64 nodes: points per second, storing included.

python -m bench.sweep            # all of them on 2 processes
python -m bench.sweep 1000       # every tenth, so that all axes are covered
python -m bench.sweep 1000 1     # in this process alone
"""

import itertools
import json
import os
import platform
import resource
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


def _cpu_s() -> float:
    """Of this process and of its children that have ended. [s]"""
    used = [resource.getrusage(w) for w in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000
    points = list(itertools.product(*([str(v) for v in values] for values in AXES.values())))
    processes = int(sys.argv[2]) if len(sys.argv) > 2 else 2
    chosen = tuple(points[i * len(points) // count] for i in range(count))
    grid = Grid("bench", "dgx-h100", "llama3-70b-full", (Axis(tuple(AXES), chosen),))
    with tempfile.TemporaryDirectory() as folder:
        began, cpu = time.perf_counter(), _cpu_s()
        outcome = sweep(grid, Path(folder) / "s.sqlite", processes=processes)
        seconds, cpu = time.perf_counter() - began, _cpu_s() - cpu
    print(
        json.dumps(
            {
                "bench": "sweep llama3-70b-full, 1 to 64 nodes of dgx-h100, stored",
                "processes": processes,
                "configurations": len(outcome.rows),
                "failed": outcome.failed,
                "seconds": round(seconds, 2),
                "points_per_s": round(len(outcome.rows) / seconds, 1),
                "cpu_ms_a_point": round(cpu / len(outcome.rows) * 1e3, 2),
                "load": os.getloadavg()[0],
                "machine": f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores",
                "python": platform.python_version(),
            }
        )
    )


if __name__ == "__main__":
    main()
