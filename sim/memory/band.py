"""How far a predicted peak may be off: 80 % bands from the errors of published peaks like it.

Rows count by likeness: method, what shards the state, whose trainer it is; many rows of a source
count as their square root. What no row shows widens the band. The errors stand in
`sim/data/measured/residuals.json`, made by `scripts/residuals.py`.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Sequence
from functools import cache

import numpy as np
import numpy.typing as npt

from sim.data import DATA
from sim.inputs.strategy import strategy_of
from sim.inputs.trainer import trainer_of
from sim.inputs.workload import Workload
from sim.records import NamedTuple

F8 = npt.NDArray[np.float64]
COVERAGE = 0.8
#: weight of a row that differs in one thing, and what a thing that no row shows adds in quadrature
#: to the half-width of the logarithm; both assumed
OTHER = {"method": 0.3, "shards": 0.3, "trainer": 0.5}
UNSEEN = {"method": 0.08, "shards": 0.05, "trainer": 0.03}


class PeakKind(NamedTuple):
    """What decides how well a peak is known."""

    method: str  # full, lora, or a quantization
    shards: str  # what spreads the state: nothing, fsdp, zero
    trainer: str


class MemoryResidual(NamedTuple):
    """One published peak."""

    id: str
    source: str
    kind: PeakKind
    error: float  # log of predicted over measured


def kind_of(workload: Workload) -> PeakKind:
    """The features by which peaks are comparable."""
    strategy, method = strategy_of(workload), workload.method
    whole = strategy.replicates(workload.parallelism)
    shards = "nothing" if whole else "zero" if strategy.deepspeed else "fsdp"
    return PeakKind(method.told, shards, trainer_of(workload).name)


@cache
def memory_residuals() -> tuple[MemoryResidual, ...]:
    """Of published peaks, all of the data file."""
    text = (DATA / "measured" / "residuals.json").read_text(encoding="utf-8")
    rows = json.loads(text)["memory"]
    return tuple(MemoryResidual(row[0], row[1], PeakKind(*row[2:-1]), row[-1]) for row in rows)


@cache
def memory_half_width(kind: PeakKind) -> float:
    """Half-width of the 80 % band of a peak, as a logarithm."""
    return half_width(kind, memory_residuals())


def half_width(kind: PeakKind, known: Sequence[MemoryResidual]) -> float:
    """The same, by some published peaks.

    Notes
    -----
    The weighted quantile of |error| at 0.8 + 0.2/(1 + n/2), n the effective number of rows, so that
    few rows give a wide band.
    """
    sources = Counter(r.source for r in known)
    weights = np.array([_likeness(kind, r.kind) / math.sqrt(sources[r.source]) for r in known])
    width = quantile_of(np.array([abs(r.error) for r in known]), weights)
    lacking = [
        UNSEEN[key] for key in UNSEEN
        if not any(getattr(r.kind, key) == getattr(kind, key) for r in known)
    ]  # fmt: skip
    return math.hypot(width, *lacking)


def _likeness(kind: PeakKind, row: PeakKind) -> float:
    return math.prod(f for key, f in OTHER.items() if getattr(kind, key) != getattr(row, key))


def effective(weights: F8) -> float:
    """How many rows of equal weight would say as much; 0 of none."""
    total = float(weights.sum())
    return total**2 / float((weights**2).sum()) if total > 0 else 0.0


def quantile_of(sizes: F8, weights: F8) -> float:
    """The size up to which 80 % of the weight lies, and more the fewer rows there are.

    Parameters
    ----------
    sizes, weights : (n,) float64
        Sizes of residuals, and how much each counts.
    """
    if not len(sizes):
        return 0.25
    share = COVERAGE + (1 - COVERAGE) / (1 + effective(weights) / 2)
    order = np.argsort(sizes, kind="stable")
    reached = np.cumsum(weights[order])
    at = int(np.searchsorted(reached, share * reached[-1]))
    return float(sizes[order[min(at, len(order) - 1)]])
