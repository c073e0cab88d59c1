"""The job, cost and energy sections of a Result, and the verdict on waiting for data."""

from __future__ import annotations

import math
from typing import Any

from sim.inputs.topology import Topology
from sim.job.plan import JobReport
from sim.result.result import Bottleneck, Fix

_DATA_BOUND = 1 / 6  # of the wall time, as for the other bottlenecks


def job_section(job: JobReport | None) -> dict[str, Any]:
    """Wall-clock, goodput broken down, data, checkpoints, failures."""
    if job is None:
        return {}
    outcome, spec = job.outcome, job.spec
    rate = 1.0 / spec.mtbf_s + 1.0 / spec.preemption_s
    return {
        "steps": job.steps,
        "tokens": job.tokens,
        "wall_clock_s": outcome.wall_p50_s,
        "wall_clock_p10_s": outcome.wall_p10_s,
        "wall_clock_p90_s": outcome.wall_p90_s,
        "wall_clock_mean_s": outcome.wall_mean_s,
        "replicas": outcome.replicas,
        "goodput": outcome.goodput,
        "shares": outcome.shares,
        "failures": outcome.failures,
        "preemptions": outcome.preemptions,
        "checkpoints": outcome.checkpoints,
        "mtbf_s": spec.mtbf_s,
        "mean_uptime_s": 1.0 / rate if rate else math.inf,  # between interruptions of any kind
        "pace_spread": spec.spread,
        "step_with_data_s": job.stall.step_s,
        "data_idle_share": job.stall.idle_share,
        "data_workers": job.pipeline.workers,
        "data_workers_needed": job.stall.workers_needed,
        "evaluation_s": spec.evaluation_s,
        "checkpoint_bytes": job.save.size_bytes,
        "checkpoint_blocking_s": job.save.blocking_s,
        "checkpoint_durable_s": job.save.write_s,
        "checkpoint_interval_s": job.interval_s,
        "checkpoint_interval_young_s": job.young_s,
        "checkpoint_interval_daly_s": job.daly_s,
        "checkpoint_interval_best_s": job.best_s,
        "storage_gb": job.storage_gb,
        "egress_gb": job.egress_gb,
    }


def cost_section(job: JobReport | None, topology: Topology) -> dict[str, Any]:
    """What it costs, and where the price is from."""
    if job is None or job.cost is None:
        return {}
    section = {name: getattr(job.cost, name) for name in type(job.cost).__slots__}
    offer = topology.offer
    assert offer is not None
    where = {"provider": offer.provider, "region": offer.region, "price_date": offer.date}
    return section | where | {"price_source": offer.source}


def energy_section(job: JobReport | None, model_flops_per_step: float) -> dict[str, Any]:
    """Energy, per token and per useful FLOP, and CO2."""
    if job is None:
        return {}
    section = {name: getattr(job.energy, name) for name in type(job.energy).__slots__}
    section["joule_per_token"] = job.energy.energy_j / job.tokens
    section["joule_per_model_flop"] = job.energy.energy_j / (model_flops_per_step * job.steps)
    return section


def data_bottleneck(job: JobReport | None, found: Bottleneck, memory_bytes: float) -> Bottleneck:
    """The bottleneck, or waiting for data where that takes more of the time.

    A step that waits for data gains nothing from faster kernels, so that the number of workers
    that cures it is then the only fix.
    """
    if job is None or found.kind == "memory":
        return found
    idle, stall, pipeline = job.stall.idle_share, job.stall, job.pipeline
    other = 0.0 if found.kind == "compute" else found.share * (1.0 - idle)
    if idle < max(_DATA_BOUND, other):
        return found
    text = f"data-bound: the GPUs wait {100 * idle:.0f} % of the time for data; "
    needed = stall.workers_needed
    if needed is None:
        text += "storage delivers less than a step needs, whatever the number of workers"
        return Bottleneck("data", idle, text)
    text += f"{needed} loader workers per GPU instead of {pipeline.workers} would cure it"
    cure = f"{needed} loader workers per GPU"
    fix = Fix({"data.workers": needed}, cure, 1.0 - idle, memory_bytes, True)
    return Bottleneck("data", idle, text, (fix,))
