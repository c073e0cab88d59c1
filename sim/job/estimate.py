"""The whole job in closed form: what `forecast_job` simulates, for sweeps and searches.

Wall-clock is steps x the slower of step and input pipeline, divided by the goodput that failures
and checkpoints leave on average (`expected_goodput`); `forecast_job` gives quantiles by simulation.
"""

from __future__ import annotations

import math

from sim.inputs.topology import Topology
from sim.inputs.workload import Workload
from sim.job.checkpoints import expected_goodput
from sim.job.cost import Cost
from sim.job.energy import Energy
from sim.job.forecast import (
    bill_of,
    copy_of,
    job_steps,
    links_of,
    pipeline_of,
    save_of,
)
from sim.job.hazards import job_spec
from sim.job.pipeline import Stall
from sim.job.spares import standing
from sim.job.spec import JobSpec
from sim.records import dataclass
from sim.step.breakdown import Breakdown

_HOPELESS = 600.0


@dataclass(frozen=True, slots=True)
class JobEstimate:
    """Expected figures of a whole job.

    Attributes
    ----------
    steps, tokens
        Length of the job.
    pace_s : float
        A step with waiting for data. [s]
    wall_s : float
        Expected wall-clock. [s]
    goodput : float
        Share of it that is not spent on checkpoints, failures and lost work.
    checkpoint_blocking_s : float
        One save. [s]
    resume_s : float
        Starting again from a checkpoint. [s]
    cost : Cost or None
        None without a price.
    energy : Energy
        Of all nodes.
    spec : JobSpec
        What a simulation of it would play.
    """

    steps: int
    tokens: float
    pace_s: float
    wall_s: float
    goodput: float
    checkpoint_blocking_s: float
    resume_s: float
    cost: Cost | None
    energy: Energy
    spec: JobSpec


def mean_goodput(spec: JobSpec) -> float:
    """Share of the time of a job that is useful: no saves, failures, lost work, waiting; 0: no end.

    Evaluation and setup are left to the simulation.

    Notes
    -----
    `expected_goodput` while it runs, `standing` for the rest. `expected_goodput` counts
    interruptions after which the job reads storage. Those that a copy in memory outlives cost half
    the time between copies, the time until one is whole, and a restart; they are rare enough to be
    added up.
    """
    busy, rate = spec.steps * spec.step_s, spec.storage_rate
    # a job shorter than the interval saves nothing and starts over after a failure
    short = spec.interval_s >= busy
    segment, blocking = (busy, 0.0) if short else (spec.interval_s, spec.blocking_s)
    stand = standing(spec, busy)
    start = spec.restart_s
    if spec.warm_restart_s is not None:
        start += stand.stood_by * (spec.warm_restart_s - start)
    away = spec.detect_s * spec.failure_rate
    if spec.spares is None:
        away += spec.preemption_wait_s / spec.preemption_s
    down = (away / spec.interruption_rate if spec.interruption_rate else 0.0) + start
    # exp(600) attempts: it will never get through
    if max(segment + blocking + spec.restart_s, down + spec.load_s) * rate > _HOPELESS:
        return 0.0
    mtbf = 1.0 / rate if rate else math.inf
    goodput = expected_goodput(segment, blocking, down + spec.load_s, mtbf)
    goodput *= stand.running * stand.pace
    goodput /= 1.0 + stand.regains_hz * (spec.blocking_s + spec.restart_s + spec.load_s)
    if not math.isfinite(spec.memory_interval_s):
        return goodput
    lost = spec.memory_interval_s / 2.0 + spec.memory_durable_s + down + spec.memory_load_s
    outlived = spec.interruption_rate - rate
    return goodput / (1.0 + outlived * lost + spec.memory_blocking_s / spec.memory_interval_s)


def estimate_job(topology: Topology, workload: Workload, step: Breakdown) -> JobEstimate | None:
    """Expected wall-clock, cost and energy of a job.

    Parameters
    ----------
    step : Breakdown
        An optimizer step that never waits for data; its parts are for the power model.

    Returns
    -------
    JobEstimate or None
        None if the workload states no length.
    """
    length = job_steps(workload, topology.world_size)
    if length is None:
        return None
    steps, tokens = length
    pace = pipeline_of(topology, workload).pace_s(step.time_s)
    links = links_of(topology)
    save, copy = save_of(topology, workload, links), copy_of(topology, workload, links)
    busy = steps * pace
    stall = Stall(pace, pace - step.time_s, 1.0 - step.time_s / pace, None)
    spec = job_spec(topology, workload, steps, stall, save, copy, 0.0, step)
    goodput = mean_goodput(spec)
    wall = busy / goodput if goodput else math.inf
    resume = spec.restart_s + spec.load_s
    bill = bill_of(topology, workload, step, wall, steps * step.time_s, tokens)
    return JobEstimate(
        steps, tokens, pace, wall, goodput, save.blocking_s, resume, bill.cost, bill.energy, spec
    )  # fmt: skip
