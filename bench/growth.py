"""How time and memory grow: fitted exponents of CPU seconds and of memory beyond the start.

    python -m bench.growth [--repeat 3]

Each point is a fresh process; what it takes to import and to load the engine is not counted. An
exponent of 1 is twice the time for twice the size.
"""

from __future__ import annotations

import argparse
import math
import resource
import subprocess
import sys
import time
from typing import NamedTuple


class Growth(NamedTuple):
    """What is made larger, and to which sizes."""

    title: str
    sizes: tuple[int, ...]
    sets: str  # of the job, with {n}
    level: str = "folded"


CASES = {
    "nodes": Growth("nodes, equal ranks once", (128, 256, 512, 1024, 2048), "nodes={n}"),
    "ranks": Growth("nodes, each rank by itself", (32, 64, 128, 256, 512), "nodes={n}", "ranks"),
    "micro-batches": Growth(
        "micro-batches of a 1F1B pipeline of 16", (64, 256, 1024, 4096, 16384),
        "nodes=32 parallelism.pipeline_parallel=16 parallelism.tensor_parallel=8 "
        "gradient_accumulation={n}",
    ),
    **{
        schedule: Growth(
            f"of {title}", (256, 1024, 4096, 16384),
            "nodes=32 parallelism.pipeline_parallel=16 parallelism.tensor_parallel=8 "
            f"gradient_accumulation={{n}} parallelism.pipeline_schedule={schedule}",
        )
        for schedule, title in (
            ("interleaved-zero-bubble", "interleaved zero bubble"), ("zbv", "ZBV"),
        )
    },
    "layers": Growth("layers, each simulated", (10, 20, 40, 80), "model.layers={n}"),
    "configurations": Growth("configurations of a sweep", (50, 100, 200, 400), "{n}"),
}  # fmt: skip


def once(case: str, size: int) -> str:
    """CPU seconds, and MiB more at the peak than before."""
    import itertools

    import numpy as np

    from bench.inside import changes
    from sim.engine import crowd, run
    from sim.inputs.loader import load, prepare
    from sim.program import assemble
    from sim.step.run import run_replicas
    from sim.step.step import step
    from sim.step.variation import Variation

    growth = CASES[case]
    run(assemble(lane=np.zeros(1, dtype=np.int32), latency=1.0)[0], "compiled")
    crowd.machine().load()
    small = load("dgx-h100", "llama3-70b-full", ["nodes=2", "gradient_accumulation=1"])
    step(small.topology, small.workload)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    prepared = prepare("dgx-h100", "llama3-70b-full")
    began = time.process_time()
    if case == "configurations":
        for change in itertools.islice(changes(), size):
            pair = prepared.vary(change).loaded()
            step(pair.topology, pair.workload, engine="compiled")
    else:
        sets = ("gradient_accumulation=1", *growth.sets.format(n=size).split())
        pair = prepared.vary(sets).loaded()
        if "gradient_accumulation={n}" in growth.sets:
            step(pair.topology, pair.workload, engine="compiled")
        else:
            how = {"engine": "compiled", "level": growth.level, "every_rank": False}
            run_replicas(pair.topology, pair.workload, Variation(), **how)
    seconds = time.process_time() - began
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return f"{seconds:.4f} {(peak - before) / 1024:.1f}"


def exponent(sizes: tuple[int, ...], amounts: list[float]) -> float:
    """Slope of the least-squares line through the logarithms."""
    x, y = [math.log(n) for n in sizes], [math.log(max(a, 1e-9)) for a in amounts]
    mean_x, mean_y = sum(x) / len(x), sum(y) / len(y)
    over = sum((a - mean_x) * (b - mean_y) for a, b in zip(x, y, strict=True))
    return over / sum((a - mean_x) ** 2 for a in x)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--once", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    out = sys.stdout.write
    if options.once:
        out(once(options.once[0], int(options.once[1])) + "\n")
        return
    out("| larger | sizes | CPU s | exponent | MiB more | exponent |\n|---|---|---|--:|---|--:|\n")
    for case, growth in CASES.items():
        seconds, memory = [], []
        for size in growth.sizes:
            command = [sys.executable, "-m", "bench.growth", "--once", case, str(size)]
            runs = [
                [float(x) for x in subprocess.run(
                    command, capture_output=True, text=True, check=True).stdout.split()]
                for _ in range(options.repeat)
            ]  # fmt: skip
            seconds.append(min(run[0] for run in runs))
            memory.append(min(run[1] for run in runs))
        cells = (
            growth.title, ", ".join(map(str, growth.sizes)),
            ", ".join(f"{s:.2g}" for s in seconds), f"{exponent(growth.sizes, seconds):.2f}",
            ", ".join(f"{m:.0f}" for m in memory), f"{exponent(growth.sizes, memory):.2f}",
        )  # fmt: skip
        out(f"| {' | '.join(cells)} |\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
