"""One configuration as a flat row of figures: what sweeps store and searches compare."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from sim.documents import round_significant
from sim.inputs.topology import Topology
from sim.inputs.workload import CheckpointSave, Data, Workload
from sim.job.estimate import estimate_job
from sim.memory.report import memory
from sim.result.sections import throughput_section
from sim.step.breakdown import Breakdown
from sim.step.quick import quick_breakdown

#: name -> (unit, whether less is better, what it is); the columns of a sweep, in order
MEASURES: dict[str, tuple[str, bool | None, str]] = {
    "fits": ("", None, "whether it fits in memory"),
    "gpus": ("", True, "GPUs in all"),
    "step_time_s": ("s", True, "one optimizer step"),
    "compute_s": ("s", True, "of which the compute lane is busy"),
    "communication_s": ("s", True, "of which a collective is in flight"),
    "exposed_communication_s": ("s", True, "of which communication is not hidden"),
    "tokens_per_s": ("1/s", False, "throughput of all GPUs"),
    "tokens_per_s_per_gpu": ("1/s", False, "throughput of one GPU"),
    "mfu": ("", False, "model FLOPs against the dense peak"),
    "hfu": ("", False, "with recompute"),
    "memory_bytes": ("B", True, "peak reserved on a GPU"),
    "capacity_bytes": ("B", None, "what a GPU offers"),
    "wall_clock_s": ("s", True, "the whole job, failures and checkpoints included"),
    "goodput": ("", False, "useful share of it"),
    "cost_usd": ("USD", True, "total cost of compute"),
    "usd_per_million_tokens": ("USD", True, "cost of a million tokens"),
    "energy_j": ("J", True, "energy of the whole job"),
    "co2_kg": ("kg", True, "CO2e of the whole job, where the region is known"),
}


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
    step = _breakdown(topology, workload)
    rates = throughput_section(topology, workload, step.time_s)
    reserved, capacity, fits = _memory(topology, workload)
    job = estimate_job(topology, workload, step)
    cost = job.cost if job else None
    row: dict[str, Any] = {
        "fits": fits,
        "gpus": topology.world_size,
        "step_time_s": step.time_s,
        "compute_s": step.compute_s,
        "communication_s": step.communication_s,
        "exposed_communication_s": step.exposed_s,
        "tokens_per_s": rates.tokens_per_s,
        "tokens_per_s_per_gpu": rates.tokens_per_s_per_gpu,
        "mfu": rates.mfu,
        "hfu": rates.hfu,
        "memory_bytes": reserved,
        "capacity_bytes": capacity,
        "wall_clock_s": job.wall_s if job else None,
        "goodput": job.goodput if job else None,
        "cost_usd": cost.total_usd if cost else None,
        "usd_per_million_tokens": cost.usd_per_million_tokens if cost else None,
        "energy_j": job.energy.energy_j if job else None,
        "co2_kg": job.energy.co2_kg if job else None,
    }
    return {k: round_significant(v) if isinstance(v, float) else v for k, v in row.items()}


# --- what configurations share -------------------------------------------------------------------
#
# Neighbours in a sweep often differ in what neither step nor memory depends on (length, price,
# data, checkpoints), so that is put aside before looking up what was computed last.

_ASIDE: dict[str, Any] = {
    "name": "", "tokens": None, "steps": None, "samples": None, "epochs": 1.0,
    "global_batch": None, "data": Data(), "sources": (),
}  # fmt: skip


def _machine(topology: Topology) -> Topology:
    return topology.model_copy(update={"name": "", "offer": None, "sources": ()})


def _breakdown(topology: Topology, workload: Workload) -> Breakdown:
    job = workload.model_copy(update={**_ASIDE, "checkpoint": CheckpointSave()})
    return _step(_machine(topology), job)


@lru_cache(maxsize=64)
def _step(topology: Topology, workload: Workload) -> Breakdown:
    return quick_breakdown(topology, workload)


def _memory(topology: Topology, workload: Workload) -> tuple[float, float, bool]:
    """Reserved bytes, capacity and verdict; the second micro-batch is like all later ones."""
    steps = min(2, workload.gradient_accumulation)
    update = {**_ASIDE, "gradient_accumulation": steps}
    return _report(_machine(topology), workload.model_copy(update=update))


@lru_cache(maxsize=64)
def _report(topology: Topology, workload: Workload) -> tuple[float, float, bool]:
    report = memory(topology, workload)
    return report.peak_reserved_bytes, report.capacity_bytes, report.fits
