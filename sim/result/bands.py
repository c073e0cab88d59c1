"""How far a prediction may be off: 80 % bands from the residuals of comparable published runs.

Each residual is of a run predicted twice, by constants that have not seen its model and by
constants that have not seen its source: the mean of both sizes counts, since a new job is like
neither. It is held against what the run's doubts come to (`sim.result.likeness`): a step that waits
for its host or its links may be farther off than one that multiplies. Rows count by how comparable
they are; what no row shows widens the band. Every residual is of a fleet that was left out.
`sim/data/measured/residuals.json` holds them, made by `scripts/residuals.py`.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from functools import cache

import numpy as np
import numpy.typing as npt

from sim.inputs.topology import Topology
from sim.inputs.workload import Workload
from sim.memory.band import COVERAGE, effective, kind_of, memory_half_width, quantile_of
from sim.quantities import percent
from sim.records import NamedTuple
from sim.result.likeness import JobTraits, Residual, job_of, residuals
from sim.result.result import Interval, Result, Uncertainty

F8 = npt.NDArray[np.float64]
#: weight of a row that differs in one thing
OTHER = {
    "method": 0.3, "strategy": 0.3, "generation": 0.3, "trainer": 0.3, "link": 0.3, "fp8": 0.3,
    "compiled": 0.5,
}  # fmt: skip
#: a row counts e times less per so many doublings of the number of GPUs, tenfolds of parameters and
#: doublings of the tokens of a micro-step below a saturated one
DOUBLINGS, TENFOLDS, THIN = 2.5, 1.0, 1.0
SATURATED = 4096  # tokens of a micro-step on one GPU above which no launch is waited for
#: what no row shows widens the band, as a half-width of the logarithm: kernels of GPUs whose own
#: tables were not used; a way to train, a library around it, links that were not measured; assumed
UNSEEN = {
    "generation": 0.12, "strategy": 0.10, "method": 0.10, "trainer": 0.10, "link": 0.25,
    "fp8": 0.05, "compiled": 0.05,
}  # fmt: skip
STAND_IN = 0.12  # the same, of kernels that are all of another architecture; assumed
_SHOWN = 8  # published runs that are most like a job
LEAST_TOLD = 0.01  # of a job's half-width for rates that no run timed, to be told of
PER_DOUBLING = (
    0.015  # beyond the most GPUs of any row; spread of `straggle` between the A100 fleets
)
_NAMES = {"fp8": "FP8", "compiled": "a compiled model"}


class Band(NamedTuple):
    """Half-width of the band in the logarithm of the step time."""

    half_width: float
    rows: float  # effective number of comparable ones
    beyond: tuple[str, ...]  # what no row shows
    shown: float  # half-width by the rows alone

    @property
    def factors(self) -> tuple[float, float]:
        """Of a time: the lower and the upper end."""
        return math.exp(-self.half_width), math.exp(self.half_width)


class Evidence:
    """Published runs by feature, to compare a job with.

    Parameters
    ----------
    rows : sequence of Residual
        The runs. Arrays are of shape (n,).
    """

    def __init__(self, rows: Sequence[Residual]) -> None:
        jobs = [r.job for r in rows]
        sources = Counter(r.source for r in rows)
        self.kinds = {key: np.array([getattr(j, key) for j in jobs]) for key in OTHER}
        self.gpus = np.array([float(j.gpus) for j in jobs])
        self.parameters = np.array([j.parameters for j in jobs])
        self.thin = np.array([_thin(j) for j in jobs])
        # rows of a source are alike: four times as many say twice as much
        self.counts = np.array([1.0 / math.sqrt(sources[r.source]) for r in rows])
        both = np.array([abs(r.without_model) + abs(r.without_source) for r in rows])
        self.sizes = 0.5 * both / np.array([j.scale for j in jobs])

    def likeness(self, job: JobTraits) -> F8:
        """Weights of the runs. (n,)"""
        apart = np.abs(np.log2(job.gpus / self.gpus)) / DOUBLINGS
        apart += np.abs(np.log10(job.parameters / self.parameters)) / TENFOLDS
        apart += np.abs(_thin(job) - self.thin) / THIN
        weights = self.counts * np.exp(-apart)
        for key, factor in OTHER.items():
            weights[self.kinds[key] != getattr(job, key)] *= factor
        return weights

    def lacks(self, job: JobTraits) -> list[str]:
        """Features that no run shares."""
        return [key for key in UNSEEN if not (self.kinds[key] == getattr(job, key)).any()]


class LikeRun(NamedTuple):
    """A published run, how like a job it is, and how far off the model was on it."""

    id: str
    source: str
    model: str
    gpus: int
    strategy: str
    method: str
    likeness: float  # weight over that of a run which differs in nothing
    error: float  # predicted over measured time, less 1; by constants that had not seen its source


def like_runs(topology: Topology, workload: Workload, result: Result) -> tuple[LikeRun, ...]:
    """The published runs that a job is held against, the most like it first."""
    s = result.step
    job = job_of(topology, workload, s.breakdown, s.overlap_slowdown_s)
    known = evidence()
    weights = known.likeness(job) / known.counts
    order = np.argsort(-weights, kind="stable")[:_SHOWN].tolist()
    rows = residuals()
    return tuple(
        LikeRun(
            r.id, r.source, r.model, r.job.gpus, r.job.strategy, r.job.method, float(weights[i]),
            math.exp(-r.without_source) - 1.0,
        )
        for i, r in ((i, rows[i]) for i in order)
    )  # fmt: skip


@cache
def evidence() -> Evidence:
    """All published runs of the data file."""
    return Evidence(residuals())


def _thin(job: JobTraits) -> float:
    return math.log2(max(1.0, SATURATED / job.tokens))


def band(job: JobTraits, known: Evidence) -> Band:
    """The 80 % band of a job's step time.

    Parameters
    ----------
    job : JobTraits
        What is asked about.
    known : Evidence
        Rows to compare with.

    Returns
    -------
    Band

    Notes
    -----
    The weighted 80 % quantile of |residual| over its scale, times the job's own scale; rows are
    weighted by likeness, and the quantile is taken at
    0.8 + 0.2/(1 + n/2), n the effective number of rows, so that few rows give a wide band. Widths
    for what no row shows are added in quadrature.
    """
    weights = known.likeness(job)
    width = job.scale * quantile_of(known.sizes, weights)
    beyond = known.lacks(job)
    squares = width**2 + sum(UNSEEN[key] ** 2 for key in beyond)
    names = [_NAMES.get(key, f"{key} {getattr(job, key)}") for key in beyond]
    most = known.gpus.max(initial=1.0)
    if job.stand_in:
        squares += STAND_IN**2
        names.append("kernels of its architecture")
    if job.staged > LEAST_TOLD:
        squares += job.staged**2
        names.append("what this host's memory passes from GPU to GPU")
    if job.scans > LEAST_TOLD:
        squares += job.scans**2
        names.append("the speed of scans")
    if job.recipe > LEAST_TOLD:
        squares += job.recipe**2
        names.append("the speed of this recipe's products and casts")
    if job.own:  # as one whose own tables were not used
        squares += UNSEEN["generation"] ** 2
        names.append("a GPU that is not of the catalogue")
    if job.gpus > most:
        squares += (PER_DOUBLING * math.log2(job.gpus / most)) ** 2
        names.append(f"{job.gpus} GPUs")
    return Band(math.sqrt(squares), effective(weights), tuple(names), width)


def uncertainty(
    topology: Topology, workload: Workload, result: Result, retries_s: float = 0.0
) -> Uncertainty:
    """What `Result.uncertainty` says of a result's headline figures, its step time being off."""
    s = result.step
    job = job_of(topology, workload, s.breakdown, s.overlap_slowdown_s, retries_s)
    found = band(job, evidence())
    low, high = found.factors
    wide = math.exp(memory_half_width(kind_of(workload)))
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
    within, whole = (percent(math.exp(width) - 1) for width in (found.shown, found.half_width))
    text = (
        f"80 % of published runs like this one (about {found.rows:.0f}) were within "
        f"{within} when predicted by constants that had not seen them"
    )
    if found.beyond:
        text += f"; wider, {whole}, since no run shows {', '.join(found.beyond)}"
    return text
