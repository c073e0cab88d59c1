"""Plots of the validation, as SVG."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sim.blocks.parameters import count_parameters
from sim.calibration.validate_collectives import quantile
from sim.calibration.validate_training import TrainingPoint, value_of
from sim.quantities import percent
from sim.report.svg import Scale, Series, scatter

PLOTS = {
    "measured": "predicted against measured speed",
    "size": "error by size of the model",
    "gpus": "error by number of GPUs",
}


def plots_of(points: Sequence[TrainingPoint]) -> dict[str, str]:
    """Plots of complete rows as SVG, by the keys of `PLOTS`."""
    by_source: dict[str, list[TrainingPoint]] = {}
    for p in points:
        by_source.setdefault(value_of(p.row, "source"), []).append(p)

    def series(x: Any, y: Any) -> list[Series]:
        return [
            Series(name, [x(p) for p in mine], [y(p) for p in mine],
                   [f"{p.row.id}: {percent(p.error, 1, '+')}" for p in mine])
            for name, mine in by_source.items()
        ]  # fmt: skip

    def measured(p: TrainingPoint) -> float:
        return p.row.tokens_per_s_per_gpu or 0.0

    def size(p: TrainingPoint) -> float:
        return float(count_parameters(p.row.workload.model, p.row.workload.method).total)

    speeds = [measured(p) for p in points]
    low, high = 0.8 * min(speeds), 1.25 * max(speeds)
    limit = 1.1 * quantile([abs(100 * p.error) for p in points], 1.0)
    error = Scale("error of the predicted speed [%]", -limit, limit)
    most = 1.25 * max(p.row.gpus for p in points)
    diagonal = [(low * f, low, high, high / f) for f in (1.0, 1.1)]
    diagonal.append((low, 1.1 * low, high / 1.1, high))
    return {
        "measured": scatter(
            "Predicted against measured, tokens per second and GPU (lines: equal, 10 % off)",
            Scale("measured", low, high, True), Scale("predicted", low, high, True),
            series(measured, lambda p: p.predicted), diagonal,
        ),
        "size": scatter(
            "Error by size of the model", Scale("parameters", 8e7, 1e11, True), error,
            series(size, lambda p: 100 * p.error), [(8e7, 0.0, 1e11, 0.0)],
        ),
        "gpus": scatter(
            "Error by number of GPUs", Scale("GPUs", 0.8, most, True), error,
            series(lambda p: float(p.row.gpus), lambda p: 100 * p.error), [(0.8, 0.0, most, 0.0)],
        ),
    }  # fmt: skip
