"""One configuration as a flat row of figures: what sweeps store and searches compare."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sim.documents import round_significant
from sim.inputs.topology import Topology
from sim.inputs.workload import Workload
from sim.job.estimate import estimate_job
from sim.result.sections import throughput_section
from sim.step.step import StepReport, steps

#: name -> (unit, whether less is better, what it is); the columns of a sweep, in order
MEASURES: dict[str, tuple[str, bool | None, str]] = {
    "fits": ("", None, "whether it fits in memory, more likely than not"),
    "verdict": ("", None, "fits, at risk or does not fit"),
    "fit_probability": ("", False, "that it runs, from the errors of published peaks"),
    "gpus": ("", True, "GPUs in all"),
    "step_time_s": ("s", True, "one optimizer step"),
    "compute_s": ("s", True, "of which the compute lane is busy"),
    "communication_s": ("s", True, "of which a collective is in flight"),
    "exposed_communication_s": ("s", True, "of which communication is not hidden"),
    "tokens_per_s": ("1/s", False, "throughput of all GPUs"),
    "tokens_per_s_per_gpu": ("1/s", False, "throughput of one GPU"),
    "mfu": ("", False, "model FLOPs against the dense peak"),
    "hfu": ("", False, "with recompute"),
    "memory_bytes": ("B", True, "what must live on a GPU"),
    "capacity_bytes": ("B", None, "what a GPU offers"),
    "wall_clock_s": ("s", True, "the whole job, failures and checkpoints included"),
    "goodput": ("", False, "useful share of it"),
    "cost_usd": ("USD", True, "total cost of compute"),
    "usd_per_million_tokens": ("USD", True, "cost of a million tokens"),
    "energy_j": ("J", True, "energy of the whole job"),
    "co2_kg": ("kg", True, "CO2e of the whole job, where the region is known"),
}
#: those that one can be better by
RANKED = tuple(name for name, (_, less, _) in MEASURES.items() if less is not None)


def measures(topology: Topology, workload: Workload) -> dict[str, Any]:
    """Figures of one configuration.

    Parameters
    ----------
    topology, workload : specs
        Checked by the loader.

    Returns
    -------
    dict
        By the names of `MEASURES`; None where there is no figure (no price, no job length).
        A job that does not fit gets all its figures too.
    """
    return measures_of([(topology, workload)])[0]


def measures_of(jobs: Sequence[tuple[Topology, Workload]]) -> list[dict[str, Any]]:
    """`measures` of many configurations, whose steps are simulated together."""
    found = steps(jobs, causes=False, waits=False)
    return [_row(*job, step) for job, step in zip(jobs, found, strict=True)]


def _row(topology: Topology, workload: Workload, found: StepReport) -> dict[str, Any]:
    measured, memory, verdict = found.breakdown, found.memory, found.memory.verdict
    rates = throughput_section(topology, workload, found.time_s)
    job = estimate_job(topology, workload, measured)
    cost = job.cost if job else None
    row: dict[str, Any] = {
        "fits": verdict.fits,
        "verdict": verdict.word,
        "fit_probability": verdict.probability,
        "gpus": topology.world_size,
        "step_time_s": measured.time_s,
        "compute_s": measured.compute_s,
        "communication_s": measured.communication_s,
        "exposed_communication_s": measured.exposed_s,
        "tokens_per_s": rates.tokens_per_s,
        "tokens_per_s_per_gpu": rates.tokens_per_s_per_gpu,
        "mfu": rates.mfu,
        "hfu": rates.hfu,
        "memory_bytes": memory.needed_bytes,
        "capacity_bytes": memory.capacity_bytes,
        "wall_clock_s": job.wall_s if job else None,
        "goodput": job.goodput if job else None,
        "cost_usd": cost.total_usd if cost else None,
        "usd_per_million_tokens": cost.usd_per_million_tokens if cost else None,
        "energy_j": job.energy.energy_j if job else None,
        "co2_kg": job.energy.co2_kg if job else None,
    }
    return {k: round_significant(v) if isinstance(v, float) else v for k, v in row.items()}
