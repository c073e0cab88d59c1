"""Whole processes, as a user starts them: cold, warm, and the first after installation."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench.table import Row

ROOT = Path(__file__).parents[1]
START = "from sim.cli import main; main()"
REFUSED = (
    "import sys\n"
    "from sim.cli import main\n"
    "try:\n    main()\nexcept SystemExit as stop:\n    sys.exit(stop.code != 2)\n"
)
SMALL = ("run", "dgx-h100", "llama3-8b-sft")
HUGE = ("run", "dgx-h100", "llama3-70b-full", "--set", "nodes=2048")
LARGE = ("run", "dgx-h100", "llama3-70b-full", "--set", "nodes=2")
SIZE = ("size", "llama3-8b-sft", "--deadline", "24 h", "--gpu", "h100")
SCREEN = (
    "sweep", "dgx-h100", "llama3-70b-full", "--screen", "cost_usd", "--vary", "nodes=1..64",
    "--vary", "micro_batch=1,2,3,4,6,8", "--vary", "gradient_accumulation=1,2,4,8",
    "--vary", "activation_checkpointing=none,full", "--vary", "optimizer=adamw,adamw-8bit",
)  # fmt: skip


def processes(repeat: int) -> list[Row]:
    """Rows of the command line, from a copy of the package that nothing has been run from."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        shutil.copytree(ROOT / "sim", folder / "sim", ignore=_caches)
        for part in ("topologies", "workloads"):  # where the wheel has them
            shutil.copytree(ROOT / part, folder / "sim" / "data" / part)
        rows = [
            _row(folder, "bare interpreter", 0.0, repeat, code="pass"),
            _row(folder, "import numpy, click", 0.0, repeat, code="import numpy, click"),
            _row(folder, "first run after installation, 8B", 1.5, 1, *SMALL,
                 note="compiles bytecode"),
            _row(folder, "`--help`", 0.1, repeat, "--help"),
            _row(folder, "an input error", 0.3, repeat, *SMALL, "--set", "nodse=2", code=REFUSED),
            _row(folder, "`run`, 8B on 8 GPUs, engine not compiled", 0.0, repeat, *SMALL),
            _row(folder, "the run that compiles the engine", 0.0, 1, *SMALL, "--engine",
                 "compiled", note="once after installation"),
            _row(folder, "`run`, 8B on 8 GPUs", 0.45, repeat, *SMALL),
            _row(folder, "the same, no curve", 0.0, repeat, *SMALL, "--no-scaling"),
            _row(folder, "`run`, 70B on 2 x 8 GPUs", 0.6, repeat, *LARGE),
            _row(folder, "`run`, 70B on 2,048 x 8 GPUs", 1.0, repeat, *HUGE),
            _row(folder, "`size`, the README's question", 1.0, 1, *SIZE),
            _row(folder, "`validate`", 3.0, 1, "validate"),
            _row(folder, "`sweep --screen`, 70B, 6,144 configurations", 0.0, 1, *SCREEN, "--store",
                 str(folder / "screen.sqlite")),
        ]  # fmt: skip
    return rows


def _caches(_folder: str, names: list[str]) -> list[str]:
    return [name for name in names if name == "__pycache__"]


def _row(
    folder: Path, case: str, target_s: float, repeat: int, *arguments: str, code: str = START,
    note: str = "",
) -> Row:  # fmt: skip
    environment = {
        k: v for k, v in os.environ.items()
        if k not in ("PYTHONDONTWRITEBYTECODE", "PYTHONPYCACHEPREFIX")
    } | {"PYTHONPATH": str(folder), "NUMBA_CACHE_DIR": str(folder / "numba")}  # fmt: skip
    wall, cpu, peak = [], [], 0
    for _ in range(repeat):
        began = time.perf_counter()
        process = subprocess.Popen(
            [sys.executable, "-c", code, *arguments], cwd=folder, env=environment,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        _, status, used = os.wait4(process.pid, 0)
        wall.append(time.perf_counter() - began)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            message = f"{' '.join(arguments)}: exit {process.returncode}"
            raise RuntimeError(message)
        cpu.append(used.ru_utime + used.ru_stime)
        peak = max(peak, used.ru_maxrss)
    return Row(case, target_s, wall, cpu, peak / 1024, note)
