"""How far a prediction may be off: 80 % bands from the residuals of comparable published runs.

Each residual is of a run predicted twice, by constants that have not seen its model and by
constants that have not seen its source: the mean of both sizes counts, since a new job is like
neither. Rows count by how comparable they are; what no row shows widens the band.
`sim/data/measured/residuals.json` holds them, made by `scripts/residuals.py`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from typing import Any, NamedTuple

from sim.blocks.parameters import count_parameters
from sim.data import table
from sim.inputs.architecture import facts_of
from sim.inputs.gpu import Gpu
from sim.inputs.shares import batch_on
from sim.inputs.strategy import strategy_of
from sim.inputs.topology import Topology
from sim.inputs.workload import Workload
from sim.memory.verdict import COVERAGE, memory_half_width
from sim.result.result import Interval, Result, Uncertainty

#: weight of a row that differs in one thing: method (full, LoRA), strategy, GPU generation
OTHER = {"method": 0.15, "strategy": 0.3, "generation": 0.3}
#: a row counts e times less per so many doublings of the number of GPUs, tenfolds of parameters and
#: doublings of the tokens of a micro-step below a saturated one
DOUBLINGS, TENFOLDS, THIN = 2.5, 1.0, 1.0
SATURATED = 4096  # tokens of a micro-step on one GPU above which no launch is waited for
#: residuals where nothing comparable is known, as a half-width of the logarithm: kernels of GPUs
#: whose own tables were not used; a strategy of which there is no row; both assumed
UNSEEN = {"generation": 0.12, "strategy": 0.10, "method": 0.10}
STAND_IN = 0.12  # the same, of kernels that are all of another architecture; assumed
PER_DOUBLING = (
    0.015  # beyond the most GPUs of any row; spread of `straggle` between the A100 fleets
)


class Job(NamedTuple):
    """What is asked about, as far as residuals know."""

    generation: str
    strategy: str
    method: str
    gpus: int
    parameters: float
    tokens: float
    stand_in: bool = False  # its kernels are another architecture's


class Residual(NamedTuple):
    """One published run."""

    id: str
    group: str  # source and model
    generation: str
    strategy: str
    method: str
    gpus: int
    parameters: float
    tokens: float  # of a micro-step on one GPU
    model: float  # log of measured over predicted time, whole models left out
    source: float  # the same, whole sources left out

    @property
    def job(self) -> Job:
        """Its features, as of a job asked about."""
        return Job(
            self.generation, self.strategy, self.method, self.gpus, self.parameters, self.tokens
        )


class Band(NamedTuple):
    """Half-width of the band in the logarithm of the step time."""

    half_width: float
    rows: float  # effective number of comparable ones
    beyond: tuple[str, ...]  # what no row shows

    @property
    def factors(self) -> tuple[float, float]:
        """Of a time: the lower and the upper end."""
        return math.exp(-self.half_width), math.exp(self.half_width)


def job_of(topology: Topology, workload: Workload) -> Job:
    """The features by which rows are comparable."""
    return Job(
        generation=_generation(topology.slowest_gpu),
        strategy=strategy_of(workload).measured_as or workload.parallelism.strategy,
        method=workload.method.kind,
        gpus=topology.world_size,
        parameters=float(count_parameters(workload.model, workload.method).total),
        tokens=float(batch_on(workload).local_tokens),
        stand_in=not _own_constants(topology.slowest_gpu),
    )


def _own_constants(gpu: Gpu) -> bool:
    """Whether the constants a GPU takes are of its own architecture."""
    known: str = table(f"constants/{facts_of(gpu).constants}")["architecture"]
    return known == gpu.architecture


def _generation(gpu: Gpu) -> str:
    """The generation that was measured, or the architecture itself where none was."""
    name = facts_of(gpu).constants
    measured = name in {r.generation for r in residuals()}
    return name if measured and _own_constants(gpu) else gpu.architecture


@cache
def _table() -> dict[str, Any]:
    text = (files("sim.data") / "measured" / "residuals.json").read_text(encoding="utf-8")
    table: dict[str, Any] = json.loads(text)
    return table


@cache
def residuals() -> tuple[Residual, ...]:
    """Of step times, all of the data file."""
    return tuple(Residual(*row) for row in _table()["rows"])


def band(job: Job, known: Sequence[Residual]) -> Band:
    """The 80 % band of a job's step time.

    Parameters
    ----------
    job : Job
        What is asked about.
    known : sequence of Residual
        Rows to compare with.

    Returns
    -------
    Band

    Notes
    -----
    The weighted 80 % quantile of |residual|, rows weighted by likeness; the quantile is taken at
    0.8 + 0.2/(1 + n/2), n the effective number of rows, so that few rows give a wide band. Widths
    for what no row shows are added in quadrature.
    """
    seen = {key: any(getattr(r, key) == getattr(job, key) for r in known) for key in UNSEEN}
    weights = [_likeness(job, r) for r in known]
    absolute = [0.5 * (abs(r.model) + abs(r.source)) for r in known]
    total = sum(weights)
    effective = total**2 / sum(w * w for w in weights) if total > 0 else 0.0
    share = COVERAGE + (1 - COVERAGE) / (1 + effective / 2)
    width = _weighted_quantile(absolute, weights, share)
    beyond = [key for key, found in seen.items() if not found]
    squares = width**2 + sum(UNSEEN[key] ** 2 for key in beyond)
    names = [f"{key} {getattr(job, key)}" for key in beyond]
    most = max((r.gpus for r in known), default=1)
    if job.stand_in:
        squares += STAND_IN**2
        names.append("kernels of its architecture")
    if job.gpus > most:
        squares += (PER_DOUBLING * math.log2(job.gpus / most)) ** 2
        names.append(f"{job.gpus} GPUs")
    return Band(math.sqrt(squares), effective, tuple(names))


def _likeness(job: Job, row: Residual) -> float:
    weight = 1.0
    for key, factor in OTHER.items():
        if getattr(job, key) != getattr(row, key):
            weight *= factor
    weight *= math.exp(-abs(math.log2(job.gpus / row.gpus)) / DOUBLINGS)
    weight *= math.exp(-abs(math.log10(job.parameters / row.parameters)) / TENFOLDS)
    thin = [math.log2(max(1.0, SATURATED / x.tokens)) for x in (job, row)]
    return weight * math.exp(-abs(thin[0] - thin[1]) / THIN)


def _weighted_quantile(values: Sequence[float], weights: Sequence[float], share: float) -> float:
    order = sorted(range(len(values)), key=values.__getitem__)
    reached, total = 0.0, sum(weights)
    for i in order:
        reached += weights[i]
        if reached >= share * total:
            return values[i]
    return values[order[-1]] if order else 0.25


def uncertainty(topology: Topology, workload: Workload, result: Result) -> Uncertainty:
    """What `Result.uncertainty` says of a result's headline figures, its step time being off."""
    found = band(job_of(topology, workload), residuals())
    low, high = found.factors
    wide = math.exp(memory_half_width())
    memory, rates = result.memory, result.throughput

    def grows(value: float) -> Interval:
        return Interval(value * low, value * high)

    def shrinks(value: float) -> Interval:
        return Interval(value / high, value / low)

    def held(value: float) -> Interval:
        return Interval(value / wide, value * wide)

    return Uncertainty(
        coverage=COVERAGE,
        step_time_s=grows(result.step.time_s),
        tokens_per_s=shrinks(rates.tokens_per_s),
        tokens_per_s_per_gpu=shrinks(rates.tokens_per_s_per_gpu),
        tflops_per_gpu=shrinks(rates.tflops_per_gpu),
        mfu=shrinks(rates.mfu),
        hfu=shrinks(rates.hfu),
        wall_clock_s=grows(result.job.wall_clock_s) if result.job else None,
        total_usd=grows(result.cost.total_usd) if result.cost else None,
        energy_j=grows(result.energy.energy_j) if result.energy else None,
        peak_allocated_bytes=held(memory.peak_allocated_bytes),
        peak_reserved_bytes=held(memory.peak_reserved_bytes),
        comparable_rows=found.rows,
        beyond_data=found.beyond,
        provenance=_provenance(found),
    )


def _provenance(found: Band) -> str:
    text = (
        f"80 % of published runs like this one (about {found.rows:.0f}) were within "
        f"{100 * (found.factors[1] - 1):.1f} % when predicted by constants that had not seen them"
    )
    if found.beyond:
        text += f"; wider, since no run shows {', '.join(found.beyond)}"
    return text
