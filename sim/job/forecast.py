"""From a step and two specs to the whole job: what is expected of it, and replicas of its days."""

from __future__ import annotations

from sim.inputs.topology import Topology
from sim.inputs.workload import Workload
from sim.job.basis import Links, copy_of, links_of, pipeline_of, save_of
from sim.job.checkpoints import CheckpointCost, best_interval, daly_interval, young_interval
from sim.job.estimate import JobEstimate, estimate_job, evaluation_s
from sim.job.hazards import job_spec
from sim.job.outcome import JobOutcome, simulate_job
from sim.job.pipeline import Pipeline, Stall, simulate_stall
from sim.job.spec import JobSpec
from sim.records import dataclass
from sim.step.breakdown import Breakdown

RARE = 0.01  # expected failures below which the best interval is not simulated


@dataclass(frozen=True, slots=True)
class JobForecast:
    """The whole job: `expected` of it, by the closed form that sweeps and searches have too.

    Quantiles, counts and shares of its time are those of the replicas in `outcome`.
    """

    expected: JobEstimate
    pipeline: Pipeline
    stall: Stall
    save: CheckpointCost
    copy: CheckpointCost | None  # in host memory
    spec: JobSpec
    outcome: JobOutcome
    interval_s: float | None
    young_s: float | None
    daly_s: float | None
    best_s: float | None  # None also where failures are rare


def forecast_job(
    topology: Topology,
    workload: Workload,
    step: Breakdown,
    *,
    links: Links | None = None,
    replicas: int = 32,
) -> JobForecast | None:
    """Simulate the whole job.

    Parameters
    ----------
    step : Breakdown
        One step that never waits for data.
    links : Links, optional
        The machine's own, unless told otherwise.
    replicas : int
        Of the failure simulation.

    Returns
    -------
    JobForecast or None
        None if the workload states no length.
    """
    links = links or links_of(topology)
    expected = estimate_job(topology, workload, step, links=links)
    if expected is None:
        return None
    pipeline = pipeline_of(topology, workload)
    stall = simulate_stall(pipeline, step.time_s)
    save, copy = save_of(topology, workload, links), copy_of(topology, workload, links)
    evaluating_s = evaluation_s(workload, step, expected.tokens / expected.steps)
    before_s = expected.spec.setup_s
    spec = job_spec(
        topology, workload, expected.steps, stall, save, copy, evaluating_s, before_s, step
    )
    outcome = simulate_job(spec, replicas)
    rate = spec.storage_rate
    breaks = save.blocking_s > 0.0 and rate > 0.0
    return JobForecast(
        expected=expected,
        pipeline=pipeline,
        stall=stall,
        save=save,
        copy=copy,
        spec=spec,
        outcome=outcome,
        interval_s=workload.checkpoint.interval,
        young_s=young_interval(save.blocking_s, 1.0 / rate) if breaks else None,
        daly_s=daly_interval(save.blocking_s, 1.0 / rate) if breaks else None,
        # a job that hardly ever breaks has nothing to simulate
        best_s=best_interval(spec) if breaks and outcome.failures > RARE else None,
    )
