"""Predicted against measured training runs: errors by source, GPU, size, length, count, precision.

report = validate_training()
report.points      # every row with a measured speed, complete or not
report.groups      # (dimension, value): rows, bias, mean, median and p90 of |error|, worst
report.pairs       # ratios of like-for-like runs: H100 over A100, FP8 over bf16

The error is that of the predicted speed: +5 % says tokens/s that nobody measured.
"""

from __future__ import annotations

import functools
import statistics
from collections import defaultdict
from collections.abc import Hashable, Iterable

from sim.blocks.parameters import count_parameters
from sim.calibration.validate_collectives import quantile
from sim.inputs.base import fields_but
from sim.inputs.shares import batch_on
from sim.malloc import seldom_collected
from sim.memory.report import MemoryReport
from sim.published.rows import MeasuredRow, training_rows
from sim.records import NamedTuple
from sim.step.breakdown import Breakdown
from sim.step.step import memory_of, steps
from sim.step.variation import Progress, silent

SIZES = (("< 500M", 5e8), ("500M-2B", 2e9), ("2-5B", 5e9), ("5-10B", 1e10), ("10-20B", 2e10),
         ("20-50B", 5e10), ("> 50B", float("inf")))  # fmt: skip
DIMENSIONS = ("source", "gpu", "parameters", "sequence", "gpus", "precision", "strategy")


class TrainingPoint(NamedTuple):
    """A row and what the model says about its step."""

    row: MeasuredRow
    breakdown: Breakdown
    memory: MemoryReport
    retries_s: float = 0.0

    @property
    def predicted(self) -> float:
        """Tokens per second and GPU."""
        return batch_on(self.row.workload).tokens_per_gpu / self.breakdown.time_s

    @property
    def error(self) -> float:
        """Predicted over measured speed, less 1."""
        return self.predicted / (self.row.tokens_per_s_per_gpu or 0.0) - 1.0


class TrainingGroup(NamedTuple):
    """Errors of the complete rows that share a value."""

    dimension: str
    value: str
    rows: int
    bias: float
    mean: float  # of |error|
    median: float
    p90: float
    worst: float


class SpeedPair(NamedTuple):
    """The same job twice, but for one thing: the ratio of its speeds."""

    what: str
    fast: str  # ids
    slow: str
    measured: float
    predicted: float

    @property
    def error(self) -> float:
        """Predicted over measured ratio, less 1."""
        return self.predicted / self.measured - 1.0


class Ratio(NamedTuple):
    """Errors of the ratios of one kind."""

    what: str
    pairs: int
    median: float  # of |error|
    mean: float
    worst: float


class TrainingValidation(NamedTuple):
    """All of it."""

    points: tuple[TrainingPoint, ...]
    groups: tuple[TrainingGroup, ...]
    pairs: tuple[SpeedPair, ...]

    @property
    def ratios(self) -> list[Ratio]:
        """Errors of like-for-like runs, by what differs."""
        found = []
        for what in dict.fromkeys(p.what for p in self.pairs):
            errors = [p.error for p in self.pairs if p.what == what]
            absolute = [abs(e) for e in errors]
            middle, mean = statistics.median(absolute), statistics.fmean(absolute)
            found.append(Ratio(what, len(errors), middle, mean, max(errors, key=abs)))
        return found

    @property
    def complete(self) -> list[TrainingPoint]:
        """Points whose sources specify the run."""
        return [p for p in self.points if p.row.status == "complete"]


#: rows whose steps are simulated together
_TOGETHER = 192
#: what rows of one plan may differ in
_A_PLAN = frozenset(("name", "sequence_length", "micro_batch"))
_points: dict[MeasuredRow, TrainingPoint] = {}


def predict(row: MeasuredRow) -> TrainingPoint:
    """What the model says about one row."""
    return predict_all((row,))[0]


def predict_all(
    rows: Iterable[MeasuredRow], progress: Progress | None = None
) -> tuple[TrainingPoint, ...]:
    """What it says about every row, in their order; steps of one structure are run together.

    `progress` is called with rows done and all that were not known, first with none.
    """
    told = progress or silent
    rows = tuple(rows)
    missing: dict[Hashable, list[MeasuredRow]] = {}
    for row in dict.fromkeys(rows):
        if row not in _points:
            key = (row.gpus, row.topology.nodes, fields_but(row.workload, _A_PLAN))
            missing.setdefault(key, []).append(row)
    order = [row for alike in missing.values() for row in alike]
    if order:
        told(0, len(order))
    with seldom_collected():
        for begin in range(0, len(order), _TOGETHER):
            part = order[begin : begin + _TOGETHER]
            jobs = [(row.topology, row.workload) for row in part]
            for row, found in zip(part, steps(jobs, causes=False, waits=False), strict=True):
                _points[row] = TrainingPoint(row, found.breakdown, found.memory, found.retries_s)
            told(begin + len(part), len(order))
    return tuple(_points[row] for row in rows)


def memory_said(row: MeasuredRow) -> MemoryReport:
    """What it says about the memory of one row; read off its step where that is known."""
    known = _points.get(row)
    return memory_of(row.topology, row.workload) if known is None else known.memory


def speed_rows() -> Iterable[MeasuredRow]:
    """Published training runs with a speed."""
    return (row for row in training_rows() if row.tokens_per_s_per_gpu)


@functools.cache
def validate_training() -> TrainingValidation:
    """Compare every published speed with the model."""
    points = predict_all(speed_rows())
    complete = [p for p in points if p.row.status == "complete"]
    return TrainingValidation(points, summarise(complete), tuple(_pairs(complete)))


def value_of(row: MeasuredRow, dimension: str) -> str:
    """Where a row belongs in a dimension of the table."""
    w = row.workload
    if dimension == "source":
        return row.group
    if dimension == "gpu":
        return row.topology.first_gpu.name
    if dimension == "parameters":
        total = count_parameters(w.model, w.method).total
        return next(name for name, limit in SIZES if total < limit)
    if dimension == "model":
        return w.model.name
    if dimension == "sequence":
        return str(w.sequence_length)
    if dimension == "gpus":
        return str(row.gpus)
    if dimension == "precision":
        return w.method.kind if w.method.frozen else w.precision.kind
    return w.parallelism.strategy


def summarise(points: Iterable[TrainingPoint]) -> tuple[TrainingGroup, ...]:
    """Errors by every dimension; "all" first."""
    cells: dict[tuple[str, str], list[float]] = defaultdict(list)
    for p in points:
        cells["all", "complete rows"].append(p.error)
        if p.row.group.startswith("llm-foundry"):
            cells["all", "llm-foundry, both editions"].append(p.error)
        for dimension in DIMENSIONS:
            cells[dimension, value_of(p.row, dimension)].append(p.error)
    return tuple(errors_of(*key, errors) for key, errors in sorted(cells.items(), key=_order))


def errors_of(dimension: str, value: str, errors: list[float]) -> TrainingGroup:
    """Statistics of some errors."""
    absolute = [abs(e) for e in errors]
    return TrainingGroup(
        dimension, value, len(errors), statistics.fmean(errors), statistics.fmean(absolute),
        statistics.median(absolute), quantile(absolute, 0.9), max(errors, key=abs),
    )  # fmt: skip


def _order(item: tuple[tuple[str, str], list[float]]) -> tuple[int, float, str]:
    (dimension, value), _ = item
    first = ("all", *DIMENSIONS).index(dimension)
    names = [name for name, _ in SIZES]
    if dimension == "parameters":
        return first, names.index(value), value
    return first, float(value) if value.isdigit() else 0.0, value


def _pairs(points: list[TrainingPoint]) -> Iterable[SpeedPair]:
    """H100 over A100 (8 GPUs, any micro-batch and accumulation) and FP8 over bf16."""
    found: dict[tuple[str, str, str, int, int], TrainingPoint] = {}
    for p in points:
        w = p.row.workload
        if p.row.group == "llm-foundry":
            gpu = value_of(p.row, "gpu")[:4]
            found[gpu, w.precision.kind, w.model.name, w.sequence_length, p.row.gpus] = p
    others = {("h100", "bf16"): ("H100 / A100", "a100"), ("h100", "fp8"): ("FP8 / bf16", "h100")}
    for (gpu, kind, model, length, gpus), fast in found.items():
        if (gpu, kind) not in others:
            continue
        what, beside = others[gpu, kind]
        slow = found.get((beside, "bf16", model, length, gpus))
        if slow is not None:
            speeds = [p.row.tokens_per_s_per_gpu or 0.0 for p in (fast, slow)]
            ratio = fast.predicted / slow.predicted
            yield SpeedPair(what, fast.row.id, slow.row.id, speeds[0] / speeds[1], ratio)
