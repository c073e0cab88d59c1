"""Predicted against measured collectives: errors by machine, operation and size.

report = validate_collectives()
report.groups       # machine, operation, band of sizes: points, median and p90 of |error|
report.misses       # the worst points
report.anomalies    # what is kept out, and why
"""

from __future__ import annotations

import csv
import functools
import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sim.cost.collectives import CollectiveCost, plan_collective
from sim.data import DATA, table
from sim.fabric.fabric import Fabric, compile_fabric
from sim.inputs.loader import load_topology
from sim.records import NamedTuple
from sim.units import GIB, KIB, MIB

BANDS: tuple[tuple[str, float, float], ...] = (
    ("< 64 KiB", 0.0, 64 * KIB),
    ("64 KiB - 1 MiB", 64 * KIB, MIB),
    ("1 - 16 MiB", MIB, 16 * MIB),
    ("16 - 256 MiB", 16 * MIB, 256 * MIB),
    (">= 256 MiB", 256 * MIB, float("inf")),
)
SHOWN_FROM = 64 * KIB  # sizes below are launch latency; they stay in the table, not in the misses
MISS = 0.25


class Measurement(NamedTuple):
    """One published figure."""

    system: str
    op: str
    ranks: int
    size: float  # total bytes
    time_s: float
    nccl: str
    host_s: float = 0.0  # of it the timing program's own, before NCCL has work


class CollectivePoint(NamedTuple):
    """A figure and what the model says."""

    measured: Measurement
    predicted: CollectiveCost

    @property
    def error(self) -> float:
        """Relative error of the time; positive is too slow."""
        return self.time_s / self.measured.time_s - 1.0

    @property
    def time_s(self) -> float:
        """Predicted, with what the host that timed it adds. [s]"""
        return self.predicted.time_s + self.measured.host_s


class CollectiveGroup(NamedTuple):
    """Errors of one machine, operation and band of sizes."""

    system: str
    op: str
    band: str
    points: int
    bias: float  # median of the error
    median: float  # of |error|
    p90: float
    worst: float


class CollectiveValidation(NamedTuple):
    """All of it."""

    points: tuple[CollectivePoint, ...]
    groups: tuple[CollectiveGroup, ...]
    misses: tuple[CollectivePoint, ...]
    anomalies: tuple[tuple[str, int, str], ...]  # system, rows, reason


@functools.cache
def systems() -> Mapping[str, Mapping[str, Any]]:
    """Machines of the measurements, by name."""
    found = dict(table("measured/collectives"))
    default = found.pop("default_nccl")
    return {name: {"nccl": default, **entry} for name, entry in found.items()}


@functools.cache
def measurements() -> tuple[Measurement, ...]:
    """All published figures, out of place where both are given."""
    path = DATA / "measured" / "collectives.csv"
    known = systems()
    rows = []
    with path.open(encoding="utf-8") as file:
        for row in csv.DictReader(file):
            time = float(row["time_us"] or row["in_place_time_us"]) * 1e-6
            nccl = row["nccl"] or known[row["system"]]["nccl"]
            rows.append(
                Measurement(
                    row["system"],
                    row["op"],
                    int(row["ranks"]),
                    float(row["bytes"]),
                    time,
                    nccl,
                    known[row["system"]].get("host_us", 0.0) * 1e-6,
                )
            )
    return tuple(rows)


@functools.cache
def fabric_of(system: str) -> Fabric:
    """The machine a figure was measured on."""
    entry = systems()[system]
    if "same_as" in entry:
        return fabric_of(entry["same_as"])
    keys = {"name": system, "nodes": entry.get("nodes", 1), "node": entry["topology"]}
    return compile_fabric(load_topology(keys))


def predict(measured: Measurement) -> CollectivePoint:
    """What the model says about one figure."""
    cost = plan_collective(
        fabric_of(measured.system), measured.op, range(measured.ranks), measured.size,
        measured.nccl, algorithm=systems()[measured.system].get("algorithm"),
    )  # fmt: skip
    return CollectivePoint(measured, cost)


def quantile(values: Sequence[float], share: float) -> float:
    """Empirical quantile, by the nearest rank above."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def summarise(points: Iterable[CollectivePoint]) -> tuple[CollectiveGroup, ...]:
    """Errors by machine, operation and band."""
    cells: dict[tuple[str, str, str], list[float]] = defaultdict(list)
    for point in points:
        m = point.measured
        band = next(name for name, low, high in BANDS if low <= m.size < high)
        cells[m.system, m.op, band].append(point.error)
    groups = []
    order = {name: i for i, (name, _, _) in enumerate(BANDS)}
    for (system, op, band), errors in sorted(
        cells.items(), key=lambda item: (item[0][0], item[0][1], order[item[0][2]])
    ):
        absolute = [abs(e) for e in errors]
        groups.append(
            CollectiveGroup(
                system, op, band, len(errors), statistics.median(errors),
                statistics.median(absolute), quantile(absolute, 0.9), max(absolute),
            )
        )  # fmt: skip
    return tuple(groups)


def validate_collectives() -> CollectiveValidation:
    """Compare every published figure with the model.

    Returns
    -------
    CollectiveValidation
        Anomalous machines are listed with the reason and left out of the errors.
    """
    known = systems()
    points: list[CollectivePoint] = []
    left_out: dict[str, int] = defaultdict(int)
    for measured in measurements():
        if "anomaly" in known[measured.system]:
            left_out[measured.system] += 1
        else:
            points.append(predict(measured))
    misses = [p for p in points if abs(p.error) > MISS and p.measured.size >= SHOWN_FROM]
    misses.sort(key=lambda p: -abs(p.error))
    return CollectiveValidation(
        tuple(points), summarise(points), tuple(misses),
        tuple((name, rows, str(known[name]["anomaly"])) for name, rows in sorted(left_out.items())),
    )  # fmt: skip


def size_text(size: float) -> str:
    """Size as nccl-tests' arguments are written: 64K, 256M, 8G."""
    for unit, letter in ((GIB, "G"), (MIB, "M"), (KIB, "K")):
        if size >= unit and size % unit == 0:
            return f"{int(size // unit)}{letter}"
    return f"{size / MIB:.4g}M" if size >= MIB else f"{int(size)}"
