"""The error on rows that constants were not fitted to: whole models, GPU counts, sources left out.

What training rows decide, of all constants: per GPU generation how fast products, attention and
element-wise kernels run beside the kernel tables, what collectives cost the kernels beside them,
and the variation from rank to rank. Without the rows left out these five are fitted anew (least
squares on the logarithm of the time, with a prior around the shipped constants), then the rows left
out are predicted.
"""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from sim.calibration.validate_training import TrainingPoint, validate_training, value_of
from sim.inputs.architecture import facts_of
from sim.result.bands import band, residuals
from sim.step.straggle import typical_speed

F8 = npt.NDArray[np.float64]

SCHEMES = {"models": "model", "GPU counts": "gpus", "sources": "source"}
NOISE = 0.02  # of one measurement: the same job in two editions differs by 3.7 % on average
#: how far a constant may be off: products, attention, maps, loss beside collectives, variation (the
#: last two as shares of themselves)
PRIOR = np.array([0.05, 0.15, 0.15, 0.5, 1.0])
_BUSY = ("gemm", "attention")


class Left(NamedTuple):
    """One row, predicted by constants that have not seen its group."""

    point: TrainingPoint
    error: float  # of the speed


def features(point: TrainingPoint) -> F8:
    """Sensitivity of a step's log time to the five constants. (5,)"""
    b, row = point.breakdown, point.row
    t = b.time_s
    products, attention = (b.kernels.get(kind, 0.0) / t for kind in _BUSY)
    rest = b.compute_s / t - products - attention
    gpu = row.topology.first_gpu
    speed = typical_speed(gpu, row.workload, row.gpus)
    return np.array([products, attention, rest, b.slowdown_s / t, (1.0 - speed) * b.compute_s / t])


def generation(point: TrainingPoint) -> str:
    """Whose constants a row uses."""
    return facts_of(point.row.topology.first_gpu).constants


def fit(points: list[TrainingPoint]) -> dict[str, F8]:
    """Corrections of the five constants, by generation."""
    found = {}
    for name in {generation(p) for p in points}:
        mine = [p for p in points if generation(p) == name]
        x = np.array([features(p) for p in mine])
        # measured over predicted time; one far-off source must not decide
        y = np.clip(np.array([np.log1p(p.error) for p in mine]), -0.1, 0.1)
        prior = np.diag((NOISE / PRIOR) ** 2)
        found[name] = np.linalg.solve(x.T @ x + prior, x.T @ y)
    return found


@functools.cache
def cross_validate(scheme: str) -> tuple[Left, ...]:
    """Every complete row, predicted without its group.

    Parameters
    ----------
    scheme : str
        A key of `SCHEMES`: what is left out together.
    """
    points = validate_training().complete
    groups = [value_of(p.row, SCHEMES[scheme]) for p in points]
    without = {
        group: fit([p for p, g in zip(points, groups, strict=True) if g != group])
        for group in dict.fromkeys(groups)
    }
    out = []
    for p, group in zip(points, groups, strict=True):
        correction = without[group].get(generation(p))
        shift = 0.0 if correction is None else float(features(p) @ correction)
        out.append(Left(p, math.exp(math.log1p(p.error) - shift) - 1.0))
    return tuple(out)


class Covered(NamedTuple):
    """How many of some rows lie within their 80 % bands."""

    source: str
    rows: int
    share: float
    half_width: float  # mean, of the step time


def coverage(by_source: bool = False) -> tuple[Covered, ...]:
    """Shares of rows within bands made without their model, or without their source.

    Reads the shipped residuals; "all" comes first.
    """
    found: dict[str, list[tuple[bool, float]]] = {"all": []}
    for row in residuals():
        source = row.group.split()[0]
        known = [
            r for r in residuals()
            if (r.group.split()[0] != source if by_source else r.group != row.group)
        ]  # fmt: skip
        width = band(row.job, known).half_width
        hit = abs(row.source if by_source else row.model) <= width
        for key in ("all", source):
            found.setdefault(key, []).append((hit, width))
    return tuple(
        Covered(
            key, len(rows), sum(hit for hit, _ in rows) / len(rows),
            sum(width for _, width in rows) / len(rows),
        )
        for key, rows in found.items()
    )  # fmt: skip
