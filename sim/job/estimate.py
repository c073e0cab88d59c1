"""The whole job in closed form: what `forecast_job` simulates, for sweeps and searches.

Wall-clock is steps x the slower of step and input pipeline, divided by the goodput that failures
and checkpoints leave on average (`expected_goodput`); `forecast_job` gives quantiles by simulation.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from sim.inputs.topology import Topology
from sim.inputs.workload import Workload
from sim.job.checkpoints import expected_goodput
from sim.job.cost import Cost
from sim.job.energy import Energy
from sim.job.forecast import bill_of, job_spec, job_steps, links_of, pipeline_of, save_of
from sim.job.pipeline import Stall
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


def estimate_job(topology: Topology, workload: Workload, step: Breakdown) -> JobEstimate | None:
    """Expected wall-clock, cost and energy of a job.

    Parameters
    ----------
    topology, workload : specs
        Machine and job.
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
    save = save_of(topology, workload, links_of(topology))
    busy = steps * pace
    # a job shorter than the interval saves nothing and starts over after a failure
    interval = workload.checkpoint.interval or math.inf
    segment, blocking = (interval, save.blocking_s) if interval < busy else (busy, 0.0)
    stall = Stall(pace, pace - step.time_s, 1.0 - step.time_s / pace, None)
    spec = job_spec(topology, workload, steps, stall, save, 0.0, step)
    rate = 1.0 / spec.mtbf_s + 1.0 / spec.preemption_s
    # an interruption of either kind, each as likely as it is frequent
    away = spec.detect_s / spec.mtbf_s + spec.preemption_wait_s / spec.preemption_s
    resume = spec.restart_s + spec.load_s
    if (segment + blocking) * rate > _HOPELESS:  # exp(600) attempts: it will never get through
        goodput, wall = 0.0, math.inf
    else:
        down = (away / rate if rate else 0.0) + resume
        goodput = expected_goodput(segment, blocking, down, 1.0 / rate if rate else math.inf)
        wall = busy / goodput
    bill = bill_of(topology, workload, step, wall, steps * step.time_s, tokens)
    return JobEstimate(
        steps, tokens, pace, wall, goodput, save.blocking_s, resume, bill.cost, bill.energy
    )  # fmt: skip
