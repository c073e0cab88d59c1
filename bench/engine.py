"""Times the engines on a training step of ring collectives; beside them SimPy and SimGrid.

    python -m bench.engine [--ranks 8,16,64,128] [--reference-ranks 8] [--simgrid] [--repeat 5]

Prints a table: CPU milliseconds (the least of a few runs, warm) to build and to run, events a
second, and how often faster than the peers on the same work, SimGrid in turns with ours; then peak
memory. SimGrid is compiled from bench/peers/ring.cpp where its library is installed (Debian:
libsimgrid-dev).
"""

from __future__ import annotations

import argparse
import platform
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numba
import numpy as np

from bench.ring import Level, ring_step
from sim.engine import run
from sim.malloc import keep_large_blocks
from sim.program import Program

LAYERS = 80


def least(repeat: int, job: Callable[[], object]) -> tuple[float, object]:
    """Least CPU seconds of a few runs, and the last result."""
    best, result = float("inf"), None
    for _ in range(repeat):
        began = time.process_time()
        result = job()
        best = min(best, time.process_time() - began)
    return best, result


def simgrid_program(folder: Path) -> Path | None:
    """The S4U peer, compiled, or None where SimGrid or a compiler is missing."""
    source = Path(__file__).parent / "peers" / "ring.cpp"
    compiler = shutil.which("g++")
    if compiler is None:
        return None
    binary = folder / "ring"
    made = subprocess.run(
        [compiler, "-O2", "-std=c++17", str(source), "-lsimgrid", "-o", str(binary)],
        capture_output=True,
        check=False,
    )
    return binary if made.returncode == 0 else None


def simgrid(binary: Path, ranks: int, level: str, jitter: float) -> tuple[float, float]:
    """Simulated seconds and CPU seconds of the peer."""
    line = subprocess.run(
        [str(binary), str(ranks), str(LAYERS), repr(jitter), level, "--log=root.t:critical"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    simulated, seconds, _ = (float(x) for x in line.split())
    return simulated, seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ranks", default="8,16,64,128")
    parser.add_argument("--reference-ranks", type=int, default=8, help="largest for SimPy")
    parser.add_argument("--simgrid", action="store_true")
    parser.add_argument("--repeat", type=int, default=5)
    options = parser.parse_args()
    keep_large_blocks()  # as the command line does
    out = sys.stdout.write
    out(f"{platform.processor() or platform.machine()}, Python {platform.python_version()}, ")
    out(f"numpy {np.__version__}, numba {numba.__version__}, {time.strftime('%Y-%m-%d')}\n")
    began = time.process_time()
    run(ring_step(2, layers=2), "compiled")
    out(f"import, load or compile: {time.process_time() - began:.2f} s\n")
    with tempfile.TemporaryDirectory() as folder:
        peer = simgrid_program(Path(folder)) if options.simgrid else None
        if options.simgrid and peer is None:
            out("SimGrid or g++ is not installed: its column stays empty\n")
        out(f"{'level':6} {'ranks':>5} {'jitter':>6} {'ops':>6} {'build ms':>9} {'run ms':>9} ")
        out(f"{'events':>8} {'M ev/s':>7} {'SimPy x':>8} {'SimGrid ms':>10} {'x':>6} {'dt':>8}\n")
        for level in ("steps", "flows", "ranks"):
            for ranks in (int(r) for r in options.ranks.split(",")):
                for jitter in (0.0, 0.05):
                    out(row(level, ranks, jitter, options, peer))  # type: ignore[arg-type]
                    sys.stdout.flush()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    out(f"peak memory of this process: {peak:.0f} MiB\n")


def row(
    level: Level, ranks: int, jitter: float, options: argparse.Namespace, peer: Path | None
) -> str:
    repeat = options.repeat
    build_s, built = least(repeat, lambda: ring_step(ranks, level, LAYERS, jitter))
    assert isinstance(built, Program)
    run_s, _ = least(repeat, lambda: run(built, "compiled"))
    simulated, peer_s = 0.0, float("inf")
    if peer is not None and level != "ranks":
        for _ in range(3 if ranks < 64 or level == "flows" else 1):  # in turns with ours
            simulated, seconds = simgrid(peer, ranks, level, jitter)
            peer_s = min(peer_s, seconds)
            run_s = min(run_s, least(repeat, lambda: run(built, "compiled"))[0])
    line = run(built, "compiled")
    text = f"{level:6} {ranks:5d} {jitter:6.2f} {built.lane.size:6d} {build_s * 1e3:9.2f} "
    text += f"{run_s * 1e3:9.2f} {line.events:8d} {line.events / run_s / 1e6:7.1f} "
    if ranks <= options.reference_ranks:
        reference_s, _ = least(1, lambda: run(built, "reference"))
        text += f"{reference_s / run_s:8.0f} "
    else:
        text += f"{'':8} "
    if simulated > 0.0:
        off = abs(simulated / line.end.max() - 1)
        text += f"{peer_s * 1e3:10.1f} {peer_s / run_s:6.1f} {off:8.0e}"
    return text.rstrip() + "\n"


if __name__ == "__main__":
    main()
