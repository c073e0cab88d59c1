"""Run every shipped workload on a small and a large machine, and every shipped topology once."""

import sys
from pathlib import Path

from sim import simulate

ROOT = Path(__file__).parents[1]
TOPOLOGIES = sorted(p.stem for p in (ROOT / "topologies").glob("*.yaml"))
WORKLOADS = sorted(p.stem for p in (ROOT / "workloads").glob("*.yaml"))


def main() -> int:
    """Simulate and report one line each; fail if any raises."""
    pairs = [(t, "mistral-7b-lora") for t in TOPOLOGIES] + [("dgx-h100", w) for w in WORKLOADS]
    for topology, workload in pairs:
        result = simulate(topology, workload, scaling=False)
        fits = "fits" if result.memory.fits else "does not fit"
        print(f"{topology:24} {workload:28} {result.step.time_s:9.3f} s  {fits}")
    print(f"{len(pairs)} runs")
    return 0


if __name__ == "__main__":
    sys.exit(main())
