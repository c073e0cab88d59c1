"""The whole job in closed form: what is expected of it, the same for `run`, sweeps and searches.

Wall-clock is steps x the slower of step and input pipeline, and evaluations, divided by the share
of time that failures and checkpoints leave on average (`mean_goodput`), after what a reference
looks at before the first step; `forecast_job` plays replicas of it for quantiles.
"""

from __future__ import annotations

import math

from sim.blocks.flops import token_flops
from sim.inputs.topology import Topology
from sim.inputs.workload import Workload
from sim.job.basis import (
    Links,
    bill_of,
    copy_of,
    job_steps,
    links_of,
    pipeline_of,
    save_of,
)
from sim.job.cost import Cost
from sim.job.energy import Energy
from sim.job.goodput import mean_goodput
from sim.job.hazards import job_spec
from sim.job.pipeline import Stall
from sim.job.spec import JobSpec
from sim.records import dataclass
from sim.step.breakdown import Breakdown
from sim.step.reference import before_training_s


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
        Share of it in which steps that count are worked on: no waiting for data, evaluation, saves,
        failures or lost work.
    checkpoint_blocking_s : float
        One save. [s]
    resume_s : float
        Starting again from a checkpoint. [s]
    cost : Cost or None
        None without a price.
    energy : Energy
        Of all nodes.
    storage_gb, egress_gb : float
        What is stored while it runs, and taken away at its end.
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
    storage_gb: float
    egress_gb: float
    spec: JobSpec


def evaluation_s(workload: Workload, step: Breakdown, step_tokens: float) -> float:
    """One evaluation, which is forward alone, beside a step of so many tokens. [s]"""
    tokens = workload.evaluation.tokens
    if not tokens:
        return 0.0
    flops = token_flops(workload)
    return step.time_s * flops.forward / flops.hardware * tokens / step_tokens


def estimate_job(
    topology: Topology, workload: Workload, step: Breakdown, *, links: Links | None = None
) -> JobEstimate | None:
    """Expected wall-clock, cost and energy of a job.

    Parameters
    ----------
    step : Breakdown
        An optimizer step that never waits for data; its parts are for the power model.
    links : Links, optional
        The machine's own, unless told otherwise.

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
    links = links or links_of(topology)
    save, copy = save_of(topology, workload, links), copy_of(topology, workload, links)
    stall = Stall(pace, pace - step.time_s, 1.0 - step.time_s / pace, None)
    evaluating_s = evaluation_s(workload, step, tokens / steps)
    passes = workload.epochs if workload.samples is not None else 1.0
    before_s = before_training_s(topology, workload, steps / passes)
    spec = job_spec(topology, workload, steps, stall, save, copy, evaluating_s, before_s, step)
    kept = mean_goodput(spec)
    working, evaluated = steps * step.time_s, spec.evaluated_s
    wall = (steps * pace + evaluated) / kept.useful if kept.useful else math.inf
    stepping = before_s + working + evaluated + (wall * kept.again if kept.useful else 0.0)
    wall += before_s
    bill = bill_of(topology, workload, step, wall, min(wall, stepping), tokens)
    return JobEstimate(
        steps=steps,
        tokens=tokens,
        pace_s=pace,
        wall_s=wall,
        goodput=working / wall,
        checkpoint_blocking_s=save.blocking_s,
        resume_s=spec.restart_s + spec.load_s,
        cost=bill.cost,
        energy=bill.energy,
        storage_gb=bill.storage_gb,
        egress_gb=bill.egress_gb,
        spec=spec,
    )
