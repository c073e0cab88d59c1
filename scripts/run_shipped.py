"""Run every shipped topology with one workload, and every shipped workload on one machine."""

import sys
from pathlib import Path

from sim import simulate

ROOT = Path(__file__).parents[1]
TOPOLOGIES = sorted(p.stem for p in (ROOT / "topologies").glob("*.yaml"))
WORKLOADS = sorted(p.stem for p in (ROOT / "workloads").glob("*.yaml"))
# What every shipped GPU runs on, Blackwell included; the shipped workloads name an older stack.
NEWER = ("stack.torch=2.7", "stack.cuda=12.8", "stack.nccl=2.26")


def main() -> int:
    """Simulate and report one line each; any fault ends it."""
    pairs = [(t, "mistral-7b-lora", NEWER) for t in TOPOLOGIES]
    pairs += [("dgx-h100", w, ()) for w in WORKLOADS]
    for topology, workload, overrides in pairs:
        result = simulate(topology, workload, overrides=overrides)
        fits = "fits" if result.memory.fits else "does not fit"
        print(f"{topology:24} {workload:28} {result.step.time_s:9.3f} s  {fits}")
    print(f"{len(pairs)} runs")
    return 0


if __name__ == "__main__":
    sys.exit(main())
