"""A step of Llama 3 70B at level ranks: CPU seconds and peak memory by the number of ranks.

    python -m bench.ranks [--nodes 8,32,128] [--level ranks] [--repeat 2] [--unequal]

One micro-step of 4,096 tokens a GPU on DGX H100, eager, full checkpointing, FSDP over all ranks.
`--unequal`: jitter of 5 % and two slow GPUs. Each row is a fresh process: load (imports, files),
then the step (plan, costs, program, engine, measures) with the compiled engine, whose loading is
counted apart. The least of the repeats.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import time

JOB = ("dgx-h100", "llama3-70b-full")


def once(nodes: int, level: str, unequal: bool) -> str:
    """Load s, engine s, step s, ops, events, peak MiB, simulated s."""
    began = time.process_time()
    from sim.inputs.loader import load
    from sim.step.run import run_replicas
    from sim.step.variation import Slow, Variation

    pair = load(*JOB, [f"nodes={nodes}", "gradient_accumulation=1"])
    loaded = time.process_time()
    import numpy as np

    from sim.engine import crowd, run
    from sim.program import assemble

    run(assemble(lane=np.zeros(1, dtype=np.int32), latency=1.0)[0], "compiled")
    crowd.machine().load()
    ready = time.process_time()
    how = {"engine": "compiled", "level": level, "every_rank": False}
    slow = (Slow("rank", "3", 0.9), Slow("rank", "77", 0.8))
    variation = Variation(jitter=0.05, slow=slow) if unequal else Variation()
    outcome, _ = run_replicas(pair.topology, pair.workload, variation, **how)
    done = time.process_time()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return (
        f"{loaded - began:.2f} {ready - loaded:.2f} {done - ready:.2f} "
        f"{outcome.ops} {outcome.timeline.events} {peak:.0f} "
        f"{outcome.time_s:.6g}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nodes", default="8,32,128")
    parser.add_argument("--level", default="ranks")
    parser.add_argument("--repeat", type=int, default=2)
    parser.add_argument("--unequal", action="store_true")
    parser.add_argument("--once", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    out = sys.stdout.write
    if options.once:
        out(once(options.once, options.level, options.unequal) + "\n")
        return
    out(f"{'ranks':>6} {'load s':>7} {'engine s':>8} {'step s':>7} {'ops':>9} {'events':>9} ")
    out(f"{'MiB':>6} {'simulated s':>11}\n")
    for nodes in (int(n) for n in options.nodes.split(",")):
        command = [sys.executable, "-m", "bench.ranks", "--once", str(nodes)]
        command += ["--level", options.level, *(["--unequal"] if options.unequal else [])]
        runs = [
            subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
            for _ in range(options.repeat)
        ]
        least = min(runs, key=lambda cells: float(cells[2]))
        for width, cell in zip((6, 7, 8, 7, 9, 9, 6, 11), (str(nodes * 8), *least), strict=True):
            out(f"{cell:>{width}} ")
        out("\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
