"""Small sweeps that tests run."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from sim.study.axes import Grid
from sim.study.grid import grid_of

ROOT = Path(__file__).parents[2]
JOB = {
    "name": "small", "model": "gpt2", "sequence_length": 512, "tokens": "1e8",
    "parallelism": "fsdp2",
}  # fmt: skip


def job_file(folder: Path) -> Path:
    path = folder / "small.yaml"
    path.write_text("\n".join(f"{k}: {v}" for k, v in JOB.items()))
    return path


def small(folder: Path, *varied: str, **more: Any) -> Grid:
    return replace(grid_of(["dgx-h100", str(job_file(folder))], varied), **more)
