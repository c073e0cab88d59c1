"""Rows of the table of timings, and what machine they were taken on."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

LIBRARIES = ("numpy", "click", "ruamel.yaml", "numba", "simpy")


class Row(NamedTuple):
    """One case; seconds of wall clock and of CPU, each the least and the median of the runs."""

    case: str
    target_s: float  # 0: none
    wall: Sequence[float]
    cpu: Sequence[float]
    peak_mib: float = 0.0
    note: str = ""


def measured(repeat: int, job: Callable[[], object]) -> tuple[list[float], list[float]]:
    """Seconds of wall clock and of CPU of each run."""
    wall, cpu = [], []
    for _ in range(repeat):
        w, c = time.perf_counter(), time.process_time()
        job()
        wall.append(time.perf_counter() - w)
        cpu.append(time.process_time() - c)
    return wall, cpu


def header() -> str:
    """Machine, versions and date."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    name = next((x.partition(":")[2].strip() for x in lines if x.startswith("model name")), "")
    libraries = ", ".join(f"{x} {version(x)}" for x in LIBRARIES)
    return (
        f"{time.strftime('%Y-%m-%d')}, {name or platform.machine()}, "
        f"Python {platform.python_version()}, {libraries}, load {os.getloadavg()[0]:.1f} on "
        f"{os.cpu_count()} cores. Milliseconds, least / median; the ratio is least CPU time over "
        "the target."
    )


def markdown(rows: Sequence[Row]) -> str:
    """The table."""
    lines = [
        "| case | target | wall | CPU | CPU / target | peak | note |",
        "|---|--:|--:|--:|--:|--:|---|",
    ]
    for row in rows:
        ratio = f"{min(row.cpu) / row.target_s:.2f}" if row.target_s else ""
        target = _ms(row.target_s) if row.target_s else ""
        peak = f"{row.peak_mib:.0f} MiB" if row.peak_mib else ""
        lines.append(
            f"| {row.case} | {target} | {_pair(row.wall)} | {_pair(row.cpu)} | {ratio} | {peak} "
            f"| {row.note} |"
        )
    return "\n".join(lines)


def _pair(seconds: Sequence[float]) -> str:
    ordered = sorted(seconds)
    return f"{_ms(ordered[0])} / {_ms(ordered[len(ordered) // 2])}"


def _ms(seconds: float) -> str:
    value = seconds * 1e3
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"
