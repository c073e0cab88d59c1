"""The error on rows that constants were not fitted to: whole models, GPU counts, sources left out.

What training rows decide, of all constants: per GPU generation how fast products, attention and
element-wise kernels run beside the kernel tables, what collectives cost the kernels beside them,
and the variation from rank to rank. Without the rows left out these five are fitted anew (least
squares on the logarithm of the time, with a prior around the shipped constants), then the rows left
out are predicted. Fine-tuning runs also decide how long kernels wait for the host and for links.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from sim.calibration.validate_finetune import machine_of, shape_of, validate_finetune
from sim.calibration.validate_training import TrainingPoint, validate_training, value_of
from sim.inputs.architecture import facts_of
from sim.memory.band import half_width, memory_residuals
from sim.published.rows import MeasuredRow
from sim.records import NamedTuple
from sim.result.bands import Evidence, band
from sim.result.likeness import DOUBT, NOISE, Residual, doubts, residuals

SCHEMES = {"models": "model", "GPU counts": "gpus", "sources": "source"}
FINETUNE_SCHEMES: dict[str, Callable[[MeasuredRow], str]] = {
    "models": shape_of, "GPU kinds": machine_of, "sources": lambda row: row.group,
}  # fmt: skip
#: how far a constant may be off: those of `DOUBT`, and variation as a share of itself
PRIOR = {
    **{key: DOUBT[key] for key in ("products", "attention", "maps", "slowdown")}, "waiting": 1.0,
}  # fmt: skip
#: of fine-tuning, where nothing hides them: waits for the host, for links, for the allocator
FINETUNE_PRIOR = {**PRIOR, **{key: DOUBT[key] for key in ("host", "exposed", "retries")}}
_FAR = {"training": 0.1, "finetune": 0.5}  # of log time: one far-off group must not decide
#: of one row: what a fit of few constants leaves. Rows of the fine-tuning table come by the dozen
#: with one machine, model and method, and are off together.
_LEAVES = {"training": NOISE, "finetune": 0.3}

Sensitivities = dict[tuple[str, str], float]  # of a step's log time, by (whose, constant)


class Left(NamedTuple):
    """One row, predicted by constants that have not seen its group."""

    point: TrainingPoint
    error: float  # of the speed


def sensitivities(point: TrainingPoint) -> Sensitivities:
    """How a step's log time moves with five constants of its GPU's generation."""
    b = point.breakdown
    shares = doubts(b.parts, b.slowdown_s, point.retries_s)
    whose = facts_of(point.row.topology.first_gpu).constants
    return {(whose, name): shares[name] for name in PRIOR}


def finetune_sensitivities(point: TrainingPoint) -> Sensitivities:
    """The same, with the host, which is one for all GPUs, and what links make wait."""
    b, node = point.breakdown, point.row.topology.groups[0].node
    shares = doubts(b.parts, b.slowdown_s, point.retries_s)
    link = "nvlink" if node.nvlink else "pcie"
    return {
        **sensitivities(point), ("all", "host"): shares["host"],
        ("all", "retries"): shares["retries"],
        (link, "exposed"): shares["exposed"],
    }  # fmt: skip


def fit(
    points: Sequence[TrainingPoint], of: Callable[[TrainingPoint], Sensitivities],
    prior: Mapping[str, float], family: str,
) -> Sensitivities:  # fmt: skip
    """Corrections of the constants that points are sensitive to: least squares with a prior."""
    rows = [of(p) for p in points]
    columns = list(dict.fromkeys(name for row in rows for name in row))
    x = np.array([[row.get(name, 0.0) for name in columns] for row in rows])
    # measured over predicted time
    y = np.clip(np.array([np.log1p(p.error) for p in points]), -_FAR[family], _FAR[family])
    about = np.diag([(_LEAVES[family] / prior[name]) ** 2 for _, name in columns])
    return dict(zip(columns, np.linalg.solve(x.T @ x + about, x.T @ y).tolist(), strict=True))


def without(
    points: Sequence[TrainingPoint], groups: Sequence[str],
    of: Callable[[TrainingPoint], Sensitivities], prior: Mapping[str, float], family: str,
) -> tuple[Left, ...]:  # fmt: skip
    """Every point, predicted by constants fitted to those of other groups."""
    fits = {
        group: fit(
            [p for p, g in zip(points, groups, strict=True) if g != group], of, prior, family
        )
        for group in dict.fromkeys(groups)
    }
    out = []
    for p, group in zip(points, groups, strict=True):
        shift = sum(fits[group].get(name, 0.0) * value for name, value in of(p).items())
        out.append(Left(p, math.exp(math.log1p(p.error) - shift) - 1.0))
    return tuple(out)


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
    return without(points, groups, sensitivities, PRIOR, "training")


@functools.cache
def cross_validate_finetune(scheme: str) -> tuple[Left, ...]:
    """Every fine-tuning run without flag, predicted without its group.

    Parameters
    ----------
    scheme : str
        A key of `FINETUNE_SCHEMES`.
    """
    points = validate_finetune().unflagged
    groups = [FINETUNE_SCHEMES[scheme](p.row) for p in points]
    return without(points, groups, finetune_sensitivities, FINETUNE_PRIOR, "finetune")


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
    others: dict[tuple[str, ...], Evidence] = {}

    def group(row: Residual) -> tuple[str, ...]:
        return (row.source,) if by_source else (row.source, row.model)

    for row in residuals():
        source, mine = row.source, group(row)
        if mine not in others:
            others[mine] = Evidence([r for r in residuals() if group(r) != mine])
        width = band(row.job, others[mine]).half_width
        hit = abs(row.without_source if by_source else row.without_model) <= width
        for key in ("all", source):
            found.setdefault(key, []).append((hit, width))
    return _covered(found)


def memory_coverage() -> tuple[Covered, ...]:
    """Shares of published peaks within bands made without their source; "all" comes first."""
    found: dict[str, list[tuple[bool, float]]] = {"all": []}
    for row in memory_residuals():
        width = half_width(row.kind, [r for r in memory_residuals() if r.source != row.source])
        for key in ("all", row.source):
            found.setdefault(key, []).append((abs(row.error) <= width, width))
    return _covered(found)


def _covered(found: Mapping[str, Sequence[tuple[bool, float]]]) -> tuple[Covered, ...]:
    return tuple(
        Covered(
            key, len(rows), sum(hit for hit, _ in rows) / len(rows),
            sum(width for _, width in rows) / len(rows),
        )
        for key, rows in found.items()
    )  # fmt: skip
